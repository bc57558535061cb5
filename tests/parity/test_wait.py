"""`wait`, `as_completed` and `to_thread`: turns, what is given back, cancellation."""

import asyncio
import contextvars
import gc
import inspect
import sys
import threading

import pytest
from observe import Turns, chain, outcome

pytestmark = pytest.mark.kinds("all")

ASYNC_FORM = sys.version_info >= (3, 13)


async def idle(turns, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fail(turns, error=LookupError):
    """Take a number of turns, then raise."""
    await idle(turns)
    raise error("failed")


def names(futures):
    """Give the names of tasks, sorted."""
    return sorted(future.get_name() for future in futures)


@pytest.mark.parametrize("when", ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"])
def test_wait_turns(lib, when):
    async def main():
        turns = Turns(lib)

        def make(name, coro):
            return lib.loop.create_task(coro, name=name)

        for case in range(5):
            tasks = [make("a", idle(2)), make("b", idle(4))]
            if case in (1, 2):
                tasks.append(make("bad", fail(case)))
            if case == 3:
                tasks.append(make("cancelled", idle(50)))
                lib.loop.call_later(0, tasks[-1].cancel)
            if case == 4:
                await turns.take(8)
            done, pending = await asyncio.wait(tasks, return_when=when)
            turns.note(case, names(done), names(pending))
            await asyncio.wait(tasks)
            turns.note([t.cancelled() or repr(t.exception()) for t in tasks])
        turns.stop()

    lib.run(main)


def test_wait_timeout(lib):
    async def main():
        for timeout in (0, -1, 0.001):
            task = lib.loop.create_task(idle(10**6), name="t")
            done, pending = await asyncio.wait([task], timeout=timeout)
            lib.note(names(done), names(pending), task._callbacks)
            task.cancel()
            await asyncio.wait({task})
        future = lib.loop.create_future()
        future.set_result(1)
        done, pending = await asyncio.wait([future], timeout=1000)
        lib.note(len(done), len(pending))
        assert [h for h in lib.loop._scheduled if not h.cancelled()] == []

    lib.run(main)


def test_wait_cancelled(lib):
    async def main():
        tasks = [lib.loop.create_task(idle(10), name=n) for n in "ab"]
        waiter = lib.loop.create_task(outcome(asyncio.wait(tasks, timeout=1000)))
        await idle(3)
        waiter.cancel("stop waiting")
        lib.note(await waiter, [t.done() for t in tasks], [t._callbacks for t in tasks])
        await asyncio.gather(*tasks)
        assert [h for h in lib.loop._scheduled if not h.cancelled()] == []

    lib.run(main)


def test_wait_takes(lib):
    class Strange:
        def __init__(self):
            self.future = lib.loop.create_future()

        def __getattr__(self, name):
            return getattr(self.future, name)

    async def main():
        task = lib.loop.create_task(idle(1))
        for given in (iter([task]), {task: 1}, (task, task), frozenset([task])):
            done, pending = await asyncio.wait(given)
            lib.note(len(done), len(pending), type(done).__name__)
        coro = idle(1)
        for wrong in ([], (), task, coro, [coro], [task, 5], 5, None, iter([]), [[]]):
            error = await outcome(asyncio.wait(wrong))
            lib.note(error[0], error[1] if wrong != 5 else None)
        coro.close()
        for wrong in ("", None, 1, "all_completed"):
            lib.note(await outcome(asyncio.wait([task], return_when=wrong)))
        lib.note(await outcome(asyncio.wait([task], timeout="1")))
        for args, options in (((), {}), (([task], 1), {}), (([task],), {"loop": None})):
            with pytest.raises(TypeError, match=r"wait\(\)"):
                asyncio.wait(*args, **options)
        strange = Strange()
        lib.loop.call_soon(strange.future.set_result, 1)
        done, pending = await asyncio.wait([strange])
        lib.note(done == {strange}, pending)

    lib.run(main)
    lib.warnings_taken()


def test_wait_outside_of_a_loop(lib):
    future = lib.Future(loop=lib.loop)
    coro = asyncio.wait([future])
    lib.catch(coro.send, None)


def test_wait_on_one_future_by_many(lib):
    async def main():
        turns = Turns(lib)
        future = lib.loop.create_future()
        for name in "abc":
            turns.start(name, asyncio.wait([future]))
        future.add_done_callback(lambda _: turns.note("called"))
        await turns.take(3)
        future.set_result(1)
        await turns.take(4)
        turns.stop()

    lib.run(main)


def test_nobody_is_kept_alive(lib):
    async def main():
        future = lib.loop.create_future()
        await asyncio.wait([future], timeout=0)
        for _ in range(3):
            shielded = asyncio.shield(future)
            shielded.cancel()
            await idle(2)
        lib.note(future._callbacks)
        kept = [r for r in gc.get_referrers(future) if not inspect.isframe(r)]
        del future, shielded
        lib.note(len(kept) <= 2)

    lib.run(main)


def test_as_completed_turns(lib):
    async def main():
        turns = Turns(lib)
        # A set gives coroutines in the order of their addresses, so tasks are made here.
        coros = [idle(5, "late"), fail(3), idle(1, "soon"), idle(0, "at once")]
        given = [lib.loop.create_task(coro) for coro in coros]
        for waiting in asyncio.as_completed(given):
            turns.note(await outcome(waiting))
        done = lib.loop.create_future()
        done.set_result("done")
        for waiting in asyncio.as_completed([done, done]):
            turns.note(await outcome(waiting))
        turns.note(list(asyncio.as_completed([])))
        turns.stop()

    lib.run(main)


def test_as_completed_all_asked_at_once(lib):
    async def main():
        turns = Turns(lib)
        given = [lib.loop.create_task(idle(n, n)) for n in (4, 2, 6)]
        asked = list(asyncio.as_completed(given))
        for number, waiting in enumerate(asked):
            turns.start(f"asked {number}", waiting)
        await turns.take(12)
        turns.stop()

    lib.run(main)


def test_as_completed_timeout(lib):
    async def main():
        tasks = [lib.loop.create_task(idle(10**6)) for _ in range(2)]
        tasks.append(lib.loop.create_task(idle(1, "in time")))
        seen = [await outcome(w) for w in asyncio.as_completed(tasks, timeout=0.001)]
        lib.note(seen, [not task._callbacks for task in tasks])
        if ASYNC_FORM:
            done = asyncio.as_completed(tasks, timeout=0.001)
            lib.note(await (await done.__anext__()))
            lib.note(await outcome(done.__anext__()), await outcome(done.__anext__()))
            lib.note(await outcome(done.__anext__()))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for waiting in asyncio.as_completed([idle(1)], timeout=1000):
            await waiting
        assert [h for h in lib.loop._scheduled if not h.cancelled()] == []

    lib.run(main)


def test_as_completed_takes(lib):
    async def main():
        coro = idle(1)
        for wrong in (coro, lib.loop.create_future(), 5, None):
            lib.catch(lambda wrong=wrong: list(asyncio.as_completed(wrong)))
        coro.close()
        with pytest.raises(TypeError):
            asyncio.as_completed([], 1)
        lib.note([await w for w in asyncio.as_completed(fs=iter([idle(1, 1)]), timeout=None)])

    lib.run(main)


def test_as_completed_cancelled(lib):
    async def main():
        inner = lib.loop.create_future()
        waiting = list(asyncio.as_completed([inner, idle(3, "other")]))
        waiter = lib.loop.create_task(outcome(waiting[0]))
        await idle(1)
        waiter.cancel("stop waiting")
        lib.note(await waiter)
        lib.note(await outcome(waiting[1]))
        inner.cancel("inner")
        if ASYNC_FORM:
            future = lib.loop.create_future()
            done = asyncio.as_completed([future])
            lib.note(done.__aiter__() is done, iter(done) is done)
            waiter = lib.loop.create_task(outcome(done.__anext__()))
            await idle(1)
            waiter.cancel("stop waiting")
            lib.note(await waiter)
            future.set_result("kept")
            error = await outcome(done.__anext__())
            lib.note(error is future or error)

    lib.run(main)


@pytest.mark.skipif(not ASYNC_FORM, reason="3.13 brought the asynchronous form")
def test_as_completed_asynchronously(lib):
    async def main():
        turns = Turns(lib)
        tasks = [lib.loop.create_task(idle(n, n), name=f"t{n}") for n in (4, 2, 6)]
        async for done in asyncio.as_completed(tasks):
            assert done in tasks
            turns.note(done.get_name(), await done)
        async for done in asyncio.as_completed([idle(2, "made here")]):
            turns.note(type(done) is type(tasks[0]), await outcome(done))
        tasks = [lib.loop.create_task(idle(n, n)) for n in (1, 3, 5)]
        mixed = asyncio.as_completed(tasks)
        turns.note(await next(mixed))
        turns.note(await (await anext(mixed)))
        for waiting in mixed:
            turns.note(await waiting)
        lib.note(await outcome(mixed.__anext__()))
        turns.stop()

    lib.run(main)


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_to_thread(lib):
    def work(*args, **options):
        VARIABLE.set("changed in the thread")
        assert threading.current_thread() is not threading.main_thread()
        return args, options

    async def main():
        VARIABLE.set("of the caller")
        lib.note(await asyncio.to_thread(work, 1, "two", key="word", func="f"))
        lib.note(await asyncio.to_thread(VARIABLE.get), VARIABLE.get())
        lib.note(await outcome(asyncio.to_thread(int, "x")))
        lib.note(await outcome(asyncio.to_thread(5)))
        with pytest.raises(TypeError):
            asyncio.to_thread()
        event = threading.Event()
        task = lib.loop.create_task(asyncio.to_thread(event.wait, 10))
        await idle(2)
        task.cancel("stop waiting")
        lib.note(await outcome(task))
        event.set()

    lib.run(main)
    coro = asyncio.to_thread(print)
    lib.note(chain(lib.catch(coro.send, None)))

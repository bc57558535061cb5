"""`wait_for` and `shield`: turns, cancellation from both sides, what is raised from what."""

import asyncio
import gc
import sys

import pytest
from observe import Turns, chain, outcome

pytestmark = pytest.mark.kinds("all")


async def idle(turns, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def stubborn(answer):
    """Answer a cancellation: by a value, an error of another class, or some more turns."""
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        if isinstance(answer, type):
            raise answer("own") from None
        if isinstance(answer, int):
            await idle(answer)
            raise
        return answer


class Awaitable:
    """Neither coroutine nor future."""

    def __init__(self, turns):
        self.turns = turns

    def __await__(self):
        yield from idle(self.turns).__await__()
        return "awaited"


@pytest.mark.parametrize("limit", [None, 1000, 0, -1])
def test_in_time(lib, limit):
    async def main():
        turns = Turns(lib)
        done = lib.loop.create_future()
        done.set_result("future")
        failed = lib.loop.create_future()
        failed.set_exception(LookupError("failed"))
        cancelled = lib.loop.create_future()
        cancelled.cancel("cancelled")
        for given in (done, failed, cancelled, idle(0, "at once"), idle(2, "later"), Awaitable(2)):
            turns.note("waits")
            turns.note(await outcome(asyncio.wait_for(given, limit)))
        task = lib.loop.create_task(idle(2, "task"))
        turns.note(await outcome(asyncio.wait_for(task, limit)), task.done())
        turns.stop()

    lib.run(main)


def test_arguments(lib):
    async def main():
        for wrong in ("1", [], object):
            coro = idle(0)
            lib.note(type(await caught(asyncio.wait_for(coro, wrong))).__name__)
            coro.close()
        for limit in (None, 1, 0):
            lib.note(await outcome(asyncio.wait_for(5, limit)))
        for args in ((), (1,), (1, 2, 3)):
            with pytest.raises(TypeError, match=r"wait_for\(\)"):
                asyncio.wait_for(*args)
        lib.note(await asyncio.wait_for(fut=idle(0, 1), timeout=None))

    lib.run(main)
    lib.warnings_taken()


async def caught(awaitable):
    """Give the exception that is raised."""
    try:
        await awaitable
    except BaseException as error:
        return error


def test_outside_of_a_task(lib):
    # Before 3.14 the last one makes a loop, which nobody would close.
    for limit in (None, 1, 0) if sys.version_info >= (3, 14) else (None, 1):
        inner = idle(0)
        coro = asyncio.wait_for(inner, limit)
        error = lib.catch(coro.send, None)
        assert error is not None
        inner.close()
    lib.warnings_taken()


@pytest.mark.parametrize(
    "answer", ["value", 0, 2, LookupError, asyncio.CancelledError, TimeoutError]
)
@pytest.mark.parametrize("as_task", [False, True])
@pytest.mark.parametrize("limit", [0.001, 0])
def test_too_late(lib, answer, as_task, limit):
    async def main():
        inner = stubborn(answer)
        if as_task:
            inner = lib.loop.create_task(inner)
            await idle(1)
        lib.note(await outcome(asyncio.wait_for(inner, limit)))
        if as_task:
            lib.note(inner.done(), inner.cancelled())
        lib.note(asyncio.current_task().cancelling())

    lib.run(main)


def test_too_late_for_a_future(lib):
    async def main():
        for limit in (0.001, 0, -1):
            future = lib.loop.create_future()
            lib.note(await outcome(asyncio.wait_for(future, limit)), future.cancelled())

    lib.run(main)


def test_turns_of_an_expiry(lib):
    async def main():
        for as_task in (False, True):
            turns = Turns(lib)
            inner = stubborn(1)
            if as_task:
                inner = lib.loop.create_task(inner)
                await turns.take(2)
            turns.start("waiter", asyncio.wait_for(inner, 0))
            await turns.take(8)
            turns.stop()

    lib.run(main)


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("as_task", [False, True])
@pytest.mark.parametrize("answer", ["value", 0, 2, LookupError])
def test_cancelled_from_outside(lib, limit, as_task, answer):
    async def main():
        turns = Turns(lib)
        inner = stubborn(answer)
        if as_task:
            inner = lib.loop.create_task(inner)
        waiter = turns.start("waiter", asyncio.wait_for(inner, limit))
        await turns.take(4)
        turns.note(waiter.cancel("from outside"))
        await turns.take(8)
        turns.note(waiter.done(), waiter.cancelling())
        turns.stop()

    lib.run(main)
    # 3.11 loses an error that comes after the cancellation; its log shows it.
    gc.collect()
    lib.note([line.split("\n")[0] for line in lib.logged()])


def test_cancelled_at_the_same_time(lib):
    """The inner one is done and the waiter cancelled in one turn, in either order."""

    async def main():
        for first in ("done", "cancel"):
            for limit in (None, 1000):
                turns = Turns(lib)
                future = lib.loop.create_future()
                waiter = turns.start("waiter", asyncio.wait_for(future, limit))
                await turns.take(3)
                if first == "done":
                    future.set_result("result")
                    waiter.cancel("late")
                else:
                    waiter.cancel("early")
                    turns.note(future.done())
                await turns.take(6)
                turns.stop()

    lib.run(main)


def test_cancelled_twice(lib):
    async def main():
        turns = Turns(lib)
        inner = lib.loop.create_task(stubborn(6))
        waiter = turns.start("waiter", asyncio.wait_for(inner, 1000))
        await turns.take(3)
        waiter.cancel("one")
        await turns.take(2)
        waiter.cancel("two")
        await turns.take(8)
        turns.note(inner.done(), waiter.done())
        inner.cancel()
        await turns.take(8)
        turns.stop()

    lib.run(main)


def test_while_handling_an_error(lib):
    async def main():
        try:
            raise LookupError("handled meanwhile")
        except LookupError:
            lib.note(await outcome(asyncio.wait_for(stubborn(ValueError), 0.001)))
            lib.note(await outcome(asyncio.wait_for(stubborn(0), 0.001)))
            lib.note(await outcome(asyncio.wait_for(lib.loop.create_task(stubborn(0)), 0.001)))

    lib.run(main)


def test_nested(lib):
    async def main():
        inner = asyncio.wait_for(asyncio.sleep(1000), 0.001)
        lib.note(await outcome(asyncio.wait_for(inner, 1000)))
        inner = asyncio.wait_for(asyncio.sleep(1000), 1000)
        lib.note(await outcome(asyncio.wait_for(inner, 0.001)))
        lib.note(await outcome(asyncio.wait_for(asyncio.wait_for(idle(2, "in time"), 5), 5)))

    lib.run(main)


def test_timers_do_not_stay(lib):
    async def main():
        await asyncio.wait_for(idle(1), 1000)
        lib.note(await outcome(asyncio.wait_for(asyncio.gather(idle(1)), 1000)))
        pending = [h for h in lib.loop._scheduled if not h.cancelled()]
        assert pending == []

    lib.run(main)


def test_shield_turns(lib):
    async def main():
        turns = Turns(lib)

        async def fails():
            await turns.take(2)
            raise LookupError("failed")

        turns.start("result", asyncio.shield(idle(2, "result")))
        turns.start("error", asyncio.shield(fails()))
        inner = lib.loop.create_task(idle(100))
        turns.start("inner cancelled", asyncio.shield(inner))
        future = lib.loop.create_future()
        turns.start("future", asyncio.shield(future))
        await turns.take(3)
        inner.cancel("message")
        future.set_result("set")
        await turns.take(6)
        turns.stop()

    lib.run(main)


def test_shield_cancelled(lib):
    async def main():
        turns = Turns(lib)
        inner = lib.loop.create_task(idle(6, "inner"))
        outer = asyncio.shield(inner)
        waiter = turns.start("waiter", outer)
        second = asyncio.shield(inner)
        await turns.take(2)
        lib.note(waiter.cancel("message"), outer.cancelled(), inner.cancelling())
        await turns.take(2)
        lib.note(outer.cancelled(), second.done())
        turns.note(await second, await inner)
        outer = asyncio.shield(lib.loop.create_future())
        lib.note(outer.cancel(), outer.cancelled())
        turns.stop()

    lib.run(main)


def test_shield_takes(lib):
    async def main():
        done = lib.loop.create_future()
        done.set_exception(LookupError(1))
        assert asyncio.shield(done) is done
        lib.note(chain(done.exception()))
        lib.note(await outcome(asyncio.shield(Awaitable(1))))
        for wrong in (5, None, idle):
            lib.catch(asyncio.shield, wrong)
        with pytest.raises(TypeError, match=r"shield\(\)"):
            asyncio.shield()
        outer = asyncio.shield(idle(1))
        assert asyncio.isfuture(outer)
        assert outer.get_loop() is lib.loop
        await outer

    lib.run(main)


def test_shield_of_a_done_pair(lib):
    """Inner ends in the turn in which outer is cancelled."""

    async def main():
        for error in (None, LookupError("unseen")):
            seen = lib.contexts()
            inner = lib.loop.create_future()
            outer = asyncio.shield(inner)
            if error:
                inner.set_exception(error)
            else:
                inner.set_result(1)
            outer.cancel()
            await idle(3)
            lib.note(outer.cancelled())
            del inner, outer
            gc.collect()
            lib.note([(sorted(c), c["message"]) for c in seen])

    lib.run(main)


def test_shield_outside_of_a_loop(lib):
    coro = idle(1)
    if sys.version_info >= (3, 14):
        lib.catch(asyncio.shield, coro)
    coro.close()
    future = lib.Future(loop=lib.loop)
    outer = asyncio.shield(future)
    future.set_result("done")
    lib.note(lib.loop.run_until_complete(outer))


def test_awaited_by(lib):
    """The edges that 3.14's tools read: who waits for whom through wait_for and shield."""
    if not hasattr(asyncio, "capture_call_graph"):
        pytest.skip("3.14 brought call graphs")

    def waiters(task):
        graph = asyncio.capture_call_graph(task)
        return sorted(waiter.future.get_name() for waiter in graph.awaited_by)

    async def main():
        for how in (asyncio.wait_for, asyncio.shield):
            inner = lib.loop.create_task(idle(10), name="inner")
            args = (1000,) if how is asyncio.wait_for else ()

            async def wait(how=how, inner=inner, args=args):
                await how(inner, *args)

            outer = lib.loop.create_task(wait(), name="outer")
            await idle(2)
            lib.note(waiters(inner))
            await inner
            await outer
            lib.note(waiters(inner))

    lib.run(main)

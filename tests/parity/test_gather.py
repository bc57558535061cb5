"""`gather`: what it returns, in which order it wakes, what becomes of errors and cancellations."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest

import aioxide

pytestmark = pytest.mark.kinds("all")


def gather_of(lib):
    """The `gather` of this kind: asyncio's own for the stock run, the native one else."""
    return asyncio.gather if lib.kind == "asyncio" else aioxide.gather


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fail(turns=1, error=None):
    """Take a number of turns, then raise."""
    await idle(turns)
    raise error or LookupError("failed")


async def settled(awaitable):
    """Give the outcome back, also where it is an exception."""
    try:
        return await awaitable
    except BaseException as exc:
        return exc


def test_results_in_order(lib):
    gather = gather_of(lib)

    async def main():
        lib.note(await gather(idle(3, 1), idle(1, 2), idle(0, 3)))
        lib.note(await gather(idle(1, 1)))
        future = lib.loop.create_future()
        lib.loop.call_soon(future.set_result, "late")
        lib.note(await gather(idle(1, 1), future, lib.loop.create_task(idle(4, "task"))))
        lib.note(await gather(*(idle(n % 3, n) for n in range(100))))

    lib.run(main)


def test_nothing(lib):
    gather = gather_of(lib)

    async def main():
        outer = gather()
        lib.note(type(outer).__name__, outer.done(), outer.result())
        lib.note(await outer, await gather(return_exceptions=True))

    lib.run(main)


def test_the_same_twice(lib):
    gather = gather_of(lib)

    async def main():
        future = lib.loop.create_future()
        task = lib.loop.create_task(idle(2, "task"))
        coro = idle(1, "coro")
        outer = gather(future, task, coro, future, coro, task)
        lib.note(len(outer._children), len(set(outer._children)))
        future.set_result("future")
        lib.note(await outer)
        many = [idle(1, n) for n in range(20)]
        lib.note(await gather(*many, *many, *reversed(many)))

    lib.run(main)


def test_equal_awaitables_are_one(lib):
    gather = gather_of(lib)
    made = []

    class Named:
        def __init__(self, name):
            self.name = name

        def __hash__(self):
            return hash(self.name)

        def __eq__(self, other):
            return isinstance(other, Named) and other.name == self.name

        def __await__(self):
            made.append(self.name)
            yield
            return self.name

    class Unhashable(Named):
        __hash__ = None

    async def main():
        lib.note(await gather(Named("a"), Named("b"), Named("a"), idle(1, "c")), made)
        pending = lib.loop.create_future()
        lib.catch(gather, pending, Unhashable("x"))
        pending.cancel()

    lib.run(main)


def test_arguments(lib):
    gather = gather_of(lib)

    async def main():
        lib.catch(gather, 1)
        lib.catch(gather, None, return_exceptions=True)
        lib.catch(gather, loop=None)
        other = lib.new_loop().create_future()
        lib.catch(gather, idle_task := lib.loop.create_task(idle()), other)
        other.cancel()
        await idle_task

    lib.run(main)
    lib.warnings_taken()


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_errors(lib, return_exceptions):
    gather = gather_of(lib)

    async def main():
        slow = lib.loop.create_task(idle(9, "slow"))
        outer = gather(
            slow, fail(3), fail(1, KeyError("first")), return_exceptions=return_exceptions
        )
        lib.note(await settled(outer), slow.done(), outer.cancelled())
        lib.note(outer.cancel(), await slow)
        error = fail(0)
        cancelled = lib.loop.create_task(idle(50))
        lib.loop.call_soon(cancelled.cancel, "why")
        outer = gather(cancelled, error, idle(7), return_exceptions=return_exceptions)
        lib.note(await settled(outer))
        future = lib.loop.create_future()
        future.cancel("before")
        lib.note(await settled(gather(future, idle(), return_exceptions=return_exceptions)))
        await idle(9)

    lib.run(main)


def test_order_of_wake_ups(lib):
    gather = gather_of(lib)
    order = []

    async def child(name, turns):
        await idle(turns)
        order.append(name)

    async def watcher(name, awaitable):
        await settled(awaitable)
        order.append(name)

    async def main():
        one, two = (lib.loop.create_task(child(n, 1)) for n in ("one", "two"))
        early = lib.loop.create_task(watcher("early", one))
        outer = gather(one, two)
        whole = lib.loop.create_task(watcher("whole", outer))
        two.add_done_callback(lambda _: order.append("callback"))
        late = lib.loop.create_task(watcher("late", two))
        for turn in range(8):
            order.append(turn)
            await idle()
        lib.note(order)
        await asyncio.wait([early, whole, late])
        order.clear()
        futures = [lib.loop.create_future() for _ in range(3)]
        tasks = [lib.loop.create_task(watcher(n, f)) for n, f in enumerate(futures)]
        whole = lib.loop.create_task(watcher("whole", gather(*futures)))
        await idle(2)
        for future in futures:
            future.set_result(None)
            lib.loop.call_soon(order.append, "soon")
        for turn in range(4):
            order.append(f"turn {turn}")
            await idle()
        lib.note(order)
        await asyncio.wait([*tasks, whole])

    lib.run(main)


def test_done_children(lib):
    gather = gather_of(lib)

    async def main():
        ready = lib.loop.create_future()
        ready.set_result("ready")
        outer = gather(ready, ready)
        lib.note(outer.done())
        lib.note(await outer)
        outer = gather(ready, idle(1, "idle"))
        lib.note(outer.done(), await outer)
        failed = lib.loop.create_future()
        failed.set_exception(LookupError("before"))
        outer = gather(failed, ready)
        lib.note(outer.done(), await settled(outer))

    lib.run(main)


def test_cancel(lib):
    gather = gather_of(lib)

    async def main():
        children = [lib.loop.create_task(idle(50, n)) for n in range(3)]
        outer = gather(*children)
        waiter = lib.loop.create_task(settled(outer))
        await idle(2)
        lib.note(outer.cancel("msg"), outer._cancel_requested, outer.done())
        lib.note(await waiter, [c.cancelled() for c in children], outer.cancelled())
        lib.note(outer.cancel())
        nested = gather(gather(idle(50), idle(50)), idle(50), return_exceptions=True)
        await idle()
        lib.note(nested.cancel(msg="nested"))
        lib.note(await settled(nested))
        waiter = lib.loop.create_task(settled(gather(idle(50), idle(50), return_exceptions=True)))
        await idle(2)
        waiter.cancel("by the task")
        lib.note(await waiter)

    lib.run(main)


def test_cancel_that_children_refuse(lib):
    gather = gather_of(lib)

    async def refuses():
        try:
            await idle(50)
        except asyncio.CancelledError:
            return "refused"

    async def main():
        for return_exceptions in (False, True):
            outer = gather(refuses(), refuses(), return_exceptions=return_exceptions)
            await idle(2)
            lib.note(outer.cancel("msg"))
            lib.note(await settled(outer), [c.result() for c in outer._children])

    lib.run(main)


def test_cancel_after_the_first_error(lib):
    gather = gather_of(lib)

    async def main():
        slow = lib.loop.create_task(idle(9, "slow"))
        outer = gather(slow, fail(1))
        lib.note(await settled(outer))
        lib.note(outer.cancel(), slow.cancelling() if hasattr(slow, "cancelling") else 0)
        lib.note(await slow)

    lib.run(main)


def test_unretrieved(lib):
    gather = gather_of(lib)

    async def main():
        seen = lib.contexts()
        outer = gather(fail(1), fail(2, KeyError("second")), idle(3))
        await idle(6)
        lib.note(outer.done())
        del outer
        gc.collect()
        lib.note([(c["message"], c["exception"]) for c in seen])
        seen.clear()
        outer = gather(fail(1), fail(1), return_exceptions=True)
        await idle(4)
        del outer
        gc.collect()
        lib.note(len(seen))

    lib.run(main)


def test_children_made_here_die_quietly(lib):
    gather = gather_of(lib)

    async def main():
        pending = gather(idle(0), lib.loop.create_future())
        lib.note([getattr(c, "_log_destroy_pending", None) for c in pending._children][0])
        own = lib.loop.create_task(idle(1))
        outer = gather(own)
        lib.note(own._log_destroy_pending)
        await outer
        pending._children[1].set_result(None)
        await pending

    lib.run(main)


def test_it_is_a_future(lib):
    gather = gather_of(lib)

    async def main():
        outer = gather(idle(1, 1), idle(1, 2))
        lib.note(type(outer).__name__, asyncio.isfuture(outer), isinstance(outer, asyncio.Future))
        lib.note(isinstance(outer, asyncio.tasks._GatheringFuture), outer.get_loop() is lib.loop)
        lib.note(outer, outer._asyncio_future_blocking)
        called = []
        outer.add_done_callback(called.append)
        outer.extra = 5
        lib.note(await asyncio.wait_for(outer, 100), outer)
        lib.note(called == [outer], outer.extra, weakref.ref(outer)() is outer)

    lib.run(main)


def test_the_callback_can_be_seen(lib):
    gather = gather_of(lib)

    async def main():
        future = lib.loop.create_future()
        outer = gather(future, future)
        callbacks = [callback for callback, _ in future._callbacks]
        lib.note(len(callbacks), "_done_callback" in repr(future))
        lib.note(future.remove_done_callback(callbacks[0]), future._callbacks)
        future.add_done_callback(callbacks[0])
        future.set_result("again")
        lib.note(await outer)

    lib.run(main)


def test_context(lib):
    gather = gather_of(lib)
    var = contextvars.ContextVar("var", default="unset")

    async def child(name):
        seen = var.get()
        var.set(name)
        await idle()
        return seen, var.get()

    async def main():
        var.set("caller")
        lib.note(await gather(child("a"), child("b")), var.get())

    lib.run(main)


def test_without_a_running_loop(lib):
    gather = gather_of(lib)
    asyncio.set_event_loop(lib.loop)
    try:
        future = lib.loop.create_future()
        outer = gather(future, idle(1, "coro"))
        lib.loop.call_soon(future.set_result, 1)
        lib.note(lib.loop.run_until_complete(outer))
        outer = gather(idle(1, "only"))
        lib.note(outer.get_loop() is lib.loop, lib.loop.run_until_complete(outer))
        lib.note(lib.loop.run_until_complete(gather()))
        asyncio.set_event_loop(None)
        future = lib.loop.create_future()
        future.set_result("its own loop")
        lib.note(lib.loop.run_until_complete(gather(future, future)))
    finally:
        asyncio.set_event_loop(None)
    lib.warnings_taken()


def test_a_loop_that_makes_its_own_tasks(lib):
    gather = gather_of(lib)
    made = []

    async def main():
        original = lib.loop.create_task

        def create_task(coro, **options):
            made.append(coro.__name__)
            return original(coro, **options)

        lib.loop.create_task = create_task
        try:
            lib.note(await gather(idle(1, 1), idle(1, 2)), made)
        finally:
            del lib.loop.create_task

        def factory(loop, coro, **options):
            made.append("factory")
            return lib.Task(coro, loop=loop, **options)

        lib.loop.set_task_factory(factory)
        if lib.kind in ("asyncio", "aioxide", "loose", "visiting"):
            lib.note(await gather(idle(1, 1), idle(1, 2)), made)

    lib.run(main)
    if lib.kind not in ("asyncio", "aioxide", "loose", "visiting"):
        # Their loops do not look at the factory.
        lib.note([1, 2], [*made, "factory", "factory"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.kinds("asyncio", "aioxide", "loose", "visiting")
def test_eager_tasks(lib):
    gather = gather_of(lib)

    async def main():
        lib.loop.set_task_factory(asyncio.eager_task_factory)
        outer = gather(idle(0, 1), idle(0, 2))
        lib.note(outer.done(), await outer)
        outer = gather(idle(0, 1), idle(1, 2))
        lib.note(outer.done(), await outer)
        outer = gather(idle(2), fail(0), fail(0))
        lib.note(outer.done(), await settled(outer))
        lib.note(await gather(idle(0, 1), fail(0), return_exceptions=True))

    lib.run(main)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio shows who awaits whom from 3.14 on")
def test_who_awaits(lib):
    gather = gather_of(lib)

    def awaited_by(future):
        return sorted(task.get_name() for task in future._asyncio_awaited_by or ())

    async def main():
        asyncio.current_task().set_name("main")
        children = [lib.loop.create_task(idle(n)) for n in (1, 3)]
        outer = gather(*children)
        lib.note([awaited_by(child) for child in children])
        await idle(3)
        lib.note([awaited_by(child) for child in children])
        await outer
        lib.note([awaited_by(child) for child in children])
        children = [lib.loop.create_task(idle(9)), lib.loop.create_task(fail(1))]
        outer = gather(*children)
        lib.note(await settled(outer))
        lib.note([awaited_by(child) for child in children])
        await children[0]

    lib.run(main)


def test_debug_mode(lib):
    gather = gather_of(lib)

    async def main():
        outer = gather(idle(1, 1), lib.loop.create_task(fail(2)))
        lib.note(outer._source_traceback is not None)
        lib.note(await settled(outer))

    lib.run(main, debug=True)


def test_an_exit_in_a_child(lib):
    gather = gather_of(lib)

    async def main():
        await gather(idle(5), fail(1, SystemExit(3)))

    lib.catch(lib.run, main)
    gc.collect()
    lib.note([line.split("\n")[0] for line in lib.logged()])

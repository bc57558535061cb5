"""Types of several makers on one loop: native, stock, pure Python and hand-made ones."""

import asyncio
import asyncio.futures
import asyncio.tasks
import contextvars
import gc
import itertools

import pytest

pytestmark = pytest.mark.kinds("asyncio", "aioxide", "loose", "foreign", "guest", "pure")


class HandMade:
    """A future-like object that owes nothing to asyncio's classes."""

    _asyncio_future_blocking = False

    def __init__(self, loop):
        self._loop = loop
        self._value = None
        self._done = False
        self._callbacks = []
        self.cancels = 0

    def get_loop(self):
        """Give the loop."""
        return self._loop

    def add_done_callback(self, callback, *, context=None):
        """Keep a callback."""
        self._callbacks.append((callback, context))

    def remove_done_callback(self, callback):
        """Forget a callback."""
        self._callbacks = [c for c in self._callbacks if c[0] != callback]

    def done(self):
        """Tell whether there is a value."""
        return self._done

    def cancel(self, msg=None):
        """Refuse to be cancelled, but count it."""
        self.cancels += 1
        return False

    def result(self):
        """Give the value."""
        return self._value

    def exception(self):
        """Give no exception."""

    def finish(self, value):
        """Set the value and schedule the callbacks."""
        self._value, self._done = value, True
        for callback, context in self._callbacks:
            self._loop.call_soon(callback, self, context=context)

    def __await__(self):
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self._value


def task_types(lib):
    """Give every task type that exists on this kind's side."""
    return list(dict.fromkeys([lib.Task, asyncio.tasks.Task, asyncio.tasks._PyTask]))


def future_types(lib):
    """Give every future type that exists on this kind's side."""
    return list(dict.fromkeys([lib.Future, asyncio.futures.Future, asyncio.futures._PyFuture]))


def each_pair(lib):
    """Give every pair of task and future type."""
    return itertools.product(task_types(lib), future_types(lib))


def agree(lib, seen):
    """Note one observation that all pairs must share."""
    assert all(s == seen[0] for s in seen), seen
    lib.note(seen[0])


def test_every_task_awaits_every_future(lib):
    async def waits(future):
        return ("got", await future)

    async def main():
        seen = []
        for task_type, future_type in each_pair(lib):
            future = future_type(loop=lib.loop)
            task = task_type(waits(future), loop=lib.loop)
            await asyncio.sleep(0)
            future.set_result("value")
            seen.append(await task)
        agree(lib, seen)

    lib.run(main)


def test_every_task_fails_with_every_future(lib):
    async def waits(future):
        await future

    async def main():
        seen = []
        for task_type, future_type in each_pair(lib):
            future = future_type(loop=lib.loop)
            task = task_type(waits(future), loop=lib.loop)
            await asyncio.sleep(0)
            future.set_exception(LookupError("failed"))
            try:
                await task
            except LookupError as exc:
                seen.append(str(exc))
        agree(lib, seen)

    lib.run(main)


def test_every_cancellation(lib):
    async def waits(future):
        await future

    async def main():
        seen = []
        for task_type, future_type in each_pair(lib):
            future = future_type(loop=lib.loop)
            task = task_type(waits(future), loop=lib.loop)
            await asyncio.sleep(0)
            assert task.cancel("why")
            try:
                await task
            except asyncio.CancelledError as exc:
                seen.append((exc.args, future.cancelled(), task.cancelled(), task.cancelling()))
        agree(lib, seen)

    lib.run(main)


def test_every_future_cancelled_under_every_task(lib):
    async def waits(future):
        await future

    async def main():
        seen = []
        for task_type, future_type in each_pair(lib):
            future = future_type(loop=lib.loop)
            task = task_type(waits(future), loop=lib.loop)
            await asyncio.sleep(0)
            future.cancel("the future's")
            await asyncio.wait([task])
            seen.append((task.cancelled(), task.cancelling()))
        agree(lib, seen)

    lib.run(main)


def test_every_task_awaits_every_task(lib):
    async def leaf():
        await asyncio.sleep(0)
        return "leaf"

    async def waits(task):
        return await task

    async def main():
        seen = []
        for outer, inner in itertools.product(task_types(lib), repeat=2):
            task = outer(waits(inner(leaf(), loop=lib.loop)), loop=lib.loop)
            seen.append(await task)
        agree(lib, seen)

    lib.run(main)


def test_hand_made_futures(lib):
    async def waits(future):
        return await future

    async def main():
        for task_type in task_types(lib):
            future = HandMade(lib.loop)
            task = task_type(waits(future), loop=lib.loop)
            await asyncio.sleep(0)
            assert len(future._callbacks) == 1
            lib.loop.call_soon(future.finish, "hand made")
            assert await task == "hand made"
            future = HandMade(lib.loop)
            task = task_type(waits(future), loop=lib.loop)
            await asyncio.sleep(0)
            assert task.cancel()
            assert future.cancels == 1
            future.finish("late")
            try:
                await task
            except asyncio.CancelledError:
                pass
            assert task.cancelled()
        lib.note("done")

    lib.run(main)


def test_mixed_crowd(lib):
    async def leaf(number):
        for _ in range(number % 4):
            await asyncio.sleep(0)
        if number % 5 == 0:
            raise LookupError(number)
        return number

    async def main():
        types = task_types(lib)
        tasks = [types[n % len(types)](leaf(n), loop=lib.loop) for n in range(30)]
        lib.note(await asyncio.gather(*tasks, return_exceptions=True))
        tasks = [types[n % len(types)](leaf(n), loop=lib.loop) for n in range(1, 5)]
        done, pending = await asyncio.wait(tasks)
        lib.note(len(done), len(pending))
        tasks = [types[n % len(types)](leaf(n), loop=lib.loop) for n in range(1, 5)]
        lib.note([await f for f in asyncio.as_completed(tasks)] != [])
        # From 3.14 on a pure Python task is not asyncio's current one, which timeouts ask for.
        if lib.kind != "pure":
            for task_type in types:
                assert await asyncio.wait_for(task_type(leaf(1), loop=lib.loop), 100) == 1
        lib.note([await asyncio.shield(t(leaf(1), loop=lib.loop)) for t in types[:1]])

    lib.run(main)


def test_callbacks_on_every_future(lib):
    var = contextvars.ContextVar("var", default="unset")

    async def main():
        seen = []
        for future_type in future_types(lib):
            order = []
            future = future_type(loop=lib.loop)
            var.set("set")
            future.add_done_callback(lambda f: order.append((1, var.get())))
            future.add_done_callback(lambda f: order.append(2))
            future.set_result(None)
            order.append("set")
            await asyncio.sleep(0)
            seen.append(order)
        agree(lib, seen)

    lib.run(main)


def test_wake_up_order_of_mixed_waiters(lib):
    async def waits(name, future, order):
        await future
        order.append(name)

    async def main():
        seen = []
        for future_type in future_types(lib):
            order = []
            future = future_type(loop=lib.loop)
            tasks = []
            for name in range(6):
                kind = task_types(lib)[name % len(task_types(lib))]
                tasks.append(kind(waits(name, future, order), loop=lib.loop))
            await asyncio.sleep(0)
            future.add_done_callback(lambda f: order.append("callback"))
            future.set_result(None)
            await asyncio.gather(*tasks)
            seen.append(order)
        agree(lib, seen)

    lib.run(main)


def test_isfuture_and_isinstance(lib):
    for future_type in future_types(lib):
        future = future_type(loop=lib.loop)
        assert asyncio.isfuture(future)
        future.cancel()
    if lib.native_types:
        assert issubclass(lib.Task, asyncio.Task)
        assert issubclass(lib.Future, asyncio.Future)
        future = lib.loop.create_future()
        assert isinstance(future, asyncio.Future)
        assert type(future) is lib.Future
        future.cancel()
        stock = asyncio.futures.Future(loop=lib.loop)
        lib_isinstance = isinstance(stock, lib.Future)
        assert lib_isinstance in (True, False)
        stock.cancel()


def test_wrong_loops_for_every_pair(lib):
    other = lib.new_loop()

    async def waits(future):
        await future

    async def main():
        seen = []
        for task_type, future_type in each_pair(lib):
            future = future_type(loop=other)
            task = task_type(waits(future), loop=lib.loop)
            try:
                await task
            except RuntimeError as exc:
                seen.append("attached to a different loop" in str(exc))
            future.cancel()
        agree(lib, seen)

    lib.run(main)


def test_subclass_of_another_library(lib):
    """Some libraries subclass Task and override what asyncio calls."""

    class Traced(lib.Task):
        steps = 0

        def cancel(self, *args, **options):
            Traced.steps += 1
            return super().cancel(*args, **options)

        def set_name(self, name):
            super().set_name(f"traced {name}")

    async def main():
        lib.loop.set_task_factory(lambda loop, coro, **o: Traced(coro, loop=loop, **o))
        if lib.kind in ("asyncio", "aioxide", "loose"):
            task = asyncio.create_task(asyncio.sleep(100))
            assert type(task) is Traced
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert Traced.steps == 1
        lib.loop.set_task_factory(None)
        lib.note("done")

    lib.run(main)


def test_patched_current_task(lib):
    """Tools replace `asyncio.current_task`; the types must not depend on it."""

    async def main():
        real = asyncio.current_task
        asyncio.current_task = asyncio.tasks.current_task = lambda loop=None: None
        try:
            await asyncio.sleep(0)
            task = lib.loop.create_task(asyncio.sleep(0, "patched"))
            lib.note(await task)
        finally:
            asyncio.current_task = asyncio.tasks.current_task = real

    lib.run(main)


def test_patched_handle_run(lib):
    """Tools count callbacks by replacing `asyncio.Handle._run`; a subclass call super."""
    calls = []
    real = asyncio.Handle._run

    def patched(self):
        calls.append(1)
        return real(self)

    asyncio.Handle._run = patched
    try:
        lib.loop.call_soon(lib.note, "ran")
        lib.turns()
    finally:
        asyncio.Handle._run = real
    assert lib.trace == ["ran"]


def test_stock_handles_on_the_loop(lib):
    """A handle made by hand can be run by hand; it is asyncio's business."""
    handle = asyncio.Handle(lib.note, ("by hand",), lib.loop)
    handle._run()
    timer = asyncio.TimerHandle(lib.loop.time(), lib.note, ("timer by hand",), lib.loop)
    timer._run()
    timer.cancel()
    assert lib.trace == ["by hand", "timer by hand"]


def test_garbage_of_mixed_types(lib):
    async def waits(future):
        await future

    for task_type, future_type in each_pair(lib):
        future = future_type(loop=lib.loop)
        task = task_type(waits(future), loop=lib.loop)
        lib.turns()
        task.cancel()
        lib.turns(2)
        assert task.cancelled()
    del task, future
    gc.collect()
    assert asyncio.all_tasks(lib.loop) == set()

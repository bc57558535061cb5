"""`timeout`, `timeout_at` and `Timeout`."""

import asyncio
import gc
import inspect
import sys
import weakref
from types import SimpleNamespace

import pytest
from observe import Turns, chain, outcome

pytestmark = pytest.mark.kinds("all")


async def idle(turns):
    """Take a number of turns."""
    for _ in range(turns):
        await asyncio.sleep(0)


def test_states(lib):
    async def main():
        for when in (None, lib.loop.time() + 1000.12345, 10**9):
            limit = asyncio.timeout_at(when)
            lib.note(repr(limit), limit.expired(), limit.when() == when)
            assert isinstance(limit, asyncio.Timeout)
            lib.catch(limit.reschedule, 5)
            async with limit as entered:
                assert entered is limit
                lib.note("when=" in repr(limit), repr(limit)[:16], limit.expired())
                lib.note(await outcome(limit.__aenter__()))
            lib.note(repr(limit), limit.expired(), limit.when() == when)
            lib.catch(limit.reschedule, 5)
            lib.note(await outcome(limit.__aenter__()))
            lib.note(await outcome(limit.__aexit__(None, None, None)))
        limit = asyncio.timeout(0)
        try:
            async with limit:
                lib.note(repr(limit)[:16])
                try:
                    await asyncio.sleep(10)
                finally:
                    lib.note(repr(limit), limit.expired())
                    lib.catch(limit.reschedule, None)
        except TimeoutError:
            lib.note(repr(limit), limit.expired())
            lib.catch(limit.reschedule, None)

    lib.run(main)


def test_repr_rounds(lib):
    async def main():
        async with asyncio.timeout_at(10**9 + 0.12345) as limit:  # noqa: ASYNC100
            assert repr(limit) == f"<Timeout [active] when={round(10**9 + 0.12345, 3)}>"
            limit.reschedule(2 * 10**9)
            assert repr(limit) == f"<Timeout [active] when={2 * 10**9}>"
            limit.reschedule(None)
            lib.note(repr(limit))

    lib.run(main)


def test_arguments(lib):
    async def main():
        for wrong in ("1", [], 1j):
            lib.catch(asyncio.timeout, wrong)
            limit = asyncio.timeout_at(wrong)
            lib.note(await outcome(limit.__aenter__()), limit.when())
        for args, options in (((), {}), ((1, 2), {}), ((1,), {"delay": 1}), ((), {"x": 1})):
            for make in (asyncio.timeout, asyncio.timeout_at, asyncio.Timeout):
                with pytest.raises(TypeError):
                    make(*args, **options)
        assert asyncio.Timeout(when=None).when() is None
        assert asyncio.timeout(delay=None).when() is None
        assert asyncio.timeout_at(when=5).when() == 5

    lib.run(main)


def test_without_task_or_loop(lib):
    lib.catch(asyncio.timeout, 1)
    lib.catch(asyncio.timeout, None)
    limit = asyncio.timeout_at(1)
    lib.note(repr(limit))
    coro = limit.__aenter__()
    lib.catch(coro.send, None)

    async def main():
        seen = []

        def enter():
            try:
                asyncio.timeout(1).__aenter__().send(None)
            except BaseException as error:
                seen.append(error)

        lib.loop.call_soon(enter)
        await idle(2)
        lib.note(seen)

    lib.run(main)


@pytest.mark.parametrize("delay", [0, -1, 0.001])
def test_turns(lib, delay):
    async def main():
        turns = Turns(lib) if delay <= 0 else SimpleNamespace(note=lib.note, stop=lambda: None)
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(delay):
                turns.note("entered")
                lib.loop.call_soon(turns.note, "called")
                try:
                    await lib.loop.create_future()
                except asyncio.CancelledError as error:
                    turns.note("cancelled", task.cancelling(), chain(error))
                    raise
        except TimeoutError as error:
            turns.note("timed out", task.cancelling(), chain(error))
        turns.stop()

    lib.run(main)


def test_errors_on_the_way_out(lib):
    class Odd(asyncio.CancelledError):
        pass

    async def body(kind):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError as error:
            if kind == "swallow":
                return "swallowed"
            if kind == "other":
                raise LookupError("other") from None
            if kind == "caused":
                raise LookupError("caused") from error
            if kind == "group":
                raise ExceptionGroup("group", [ValueError(1), KeyError(2)]) from None
            if kind == "nested":
                try:
                    raise LookupError("first")
                except LookupError:
                    raise ValueError("second") from None
            if kind == "subclass":
                raise Odd("odd") from None
            if kind == "exit":
                raise GeneratorExit from None
            if kind == "again":
                raise asyncio.CancelledError("again") from None
            raise

    async def main():
        kinds = "swallow other caused group nested subclass exit again plain".split()
        for kind in kinds:
            try:
                async with asyncio.timeout(0) as limit:
                    lib.note(kind, await body(kind))
            except BaseException as error:
                lib.note(chain(error))
                if isinstance(error, ExceptionGroup):
                    lib.note([chain(e) for e in error.exceptions])
            lib.note(repr(limit), asyncio.current_task().cancelling())

    lib.run(main)


def test_cancelled_from_outside(lib):
    async def worker(delay, twice):
        try:
            async with asyncio.timeout(delay) as limit:
                await asyncio.sleep(10)
        except BaseException as error:
            lib.note(chain(error), limit.expired(), asyncio.current_task().cancelling())
        if twice:
            await asyncio.sleep(0)

    async def main():
        for delay in (100, None):
            task = lib.loop.create_task(worker(delay, False))
            await idle(1)
            task.cancel("from outside")
            await task
        # Both in one turn: first the deadline, then a request from outside.
        task = lib.loop.create_task(worker(0, False))
        await idle(1)
        lib.loop.call_soon(task.cancel, "from outside")
        await task
        # ... and a request from outside before the deadline.
        task = lib.loop.create_task(worker(0, True))
        lib.loop.call_soon(task.cancel, "from outside")
        await asyncio.wait([task])
        lib.note(task.cancelled())

    lib.run(main)


def test_cancelling_before_entering(lib):
    async def main():
        task = asyncio.current_task()
        task.cancel()
        lib.note(await outcome(asyncio.sleep(0)))
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(10)
        except BaseException as error:
            lib.note(chain(error), task.cancelling())
        while task.uncancel():
            pass

    lib.run(main)


def test_nesting(lib):
    async def main():
        for outer, inner in ((0, 100), (100, 0), (0, 0)):
            try:
                async with asyncio.timeout(outer) as first:
                    try:
                        async with asyncio.timeout(inner) as second:
                            await asyncio.sleep(10)
                    except TimeoutError as error:
                        lib.note("inner", chain(error))
                        await asyncio.sleep(0)
            except TimeoutError as error:
                lib.note("outer", chain(error))
            lib.note(repr(first), repr(second), asyncio.current_task().cancelling())

    lib.run(main)


def test_reschedule(lib):
    async def main():
        turns = Turns(lib)
        for when in (lib.loop.time() - 1, lib.loop.time(), -(10**9)):
            try:
                async with asyncio.timeout(1000) as limit:
                    limit.reschedule(when)
                    assert limit.when() is when
                    turns.note("rescheduled")
                    await asyncio.sleep(10)
            except TimeoutError:
                turns.note("timed out")
        async with asyncio.timeout(0) as limit:
            limit.reschedule(None)
            await idle(3)
        lib.note(repr(limit))
        async with asyncio.timeout(None) as limit:
            limit.reschedule(lib.loop.time() + 1000)
            await idle(3)
            lib.catch(limit.reschedule, "wrong")
        lib.note(repr(limit))
        turns.stop()

    lib.run(main)


def test_timers_do_not_stay(lib):
    async def main():
        for delay in (1000, 0):
            async with asyncio.timeout(delay):  # noqa: ASYNC100
                pass
        async with asyncio.timeout(1000) as limit:  # noqa: ASYNC100
            limit.reschedule(None)
            limit.reschedule(lib.loop.time() + 1000)
        pending = [h for h in lib.loop._scheduled if not h.cancelled()]
        assert pending == []

    lib.run(main)


def test_subclass(lib):
    class Mine(asyncio.Timeout):
        def __init__(self, when, tag):
            super().__init__(when)
            self.tag = tag
            self.moves = []

        def reschedule(self, when):
            self.moves.append(when)
            super().reschedule(when)

        def __repr__(self):
            return f"Mine {super().__repr__()}"

        async def __aexit__(self, *args):
            self.args = args
            return await super().__aexit__(*args)

    async def main():
        limit = Mine(-5, tag="tag")
        try:
            async with limit:
                await asyncio.sleep(10)
        except TimeoutError as error:
            lib.note(chain(error))
        lib.note(limit.tag, limit.moves, repr(limit), [type(a).__name__ for a in limit.args])
        lib.note(isinstance(limit, asyncio.Timeout), issubclass(Mine, asyncio.Timeout))

    lib.run(main)


def test_object(lib):
    limit = asyncio.Timeout(None)
    limit.extra = 5
    lib.note(limit.extra, sorted(vars(limit))[:1] in (["_state"], ["_task"], ["extra"]))
    reference = weakref.ref(limit)
    limit.itself = limit
    del limit
    gc.collect()
    assert reference() is None
    lib.note(asyncio.Timeout.__name__, asyncio.Timeout.__qualname__)
    # Before 3.13 inspect knows Python functions only.
    if sys.version_info >= (3, 13):
        for name in ("__aenter__", "__aexit__"):
            assert inspect.iscoroutinefunction(getattr(asyncio.Timeout, name))


def test_private_state(lib):
    """What debuggers and CPython's own tests look at."""

    async def main():
        limit = asyncio.timeout(1000)
        lib.note(limit._state.value, limit._task, limit._timeout_handler)
        async with limit:
            assert limit._task is asyncio.current_task()
            lib.note(limit._state.value, limit._cancelling, limit._when == limit.when())
            assert isinstance(limit._timeout_handler, asyncio.TimerHandle)
            assert limit._timeout_handler.when() == limit.when()
        lib.note(limit._state.value, limit._timeout_handler)

    lib.run(main)


def test_foreign_tasks(lib):
    """A task class of the user's own: its methods are asked."""

    class Mine(lib.Task):
        calls = []

        def cancel(self, *args, **options):
            self.calls.append(("cancel", args, options))
            return super().cancel(*args, **options)

        def cancelling(self):
            self.calls.append("cancelling")
            return super().cancelling()

        def uncancel(self):
            self.calls.append("uncancel")
            return super().uncancel()

    async def body():
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(10)
        except TimeoutError as error:
            return chain(error)

    async def main():
        task = Mine(body(), loop=lib.loop)
        lib.note(await task, Mine.calls)

    lib.run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12 brought eager tasks")
def test_in_eager_tasks(lib):
    async def body():
        async with asyncio.timeout(0):
            await asyncio.sleep(10)

    async def main():
        task = lib.Task(body(), loop=lib.loop, eager_start=True)
        lib.note(await outcome(task))

    lib.run(main)

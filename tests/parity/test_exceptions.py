"""Errors that travel through futures and tasks: never retrieved, chained, exits."""

import asyncio
import gc
import sys

import pytest

pytestmark = pytest.mark.kinds("all")


async def idle():
    """Take one turn."""
    await asyncio.sleep(0)


async def fail(error=None):
    """Take one turn, then raise."""
    await asyncio.sleep(0)
    raise error or LookupError("failed")


def test_never_retrieved_from_a_task(lib):
    seen = lib.contexts()
    lib.loop.create_task(fail(), name="fails")
    lib.turns(3)
    gc.collect()
    lib.note([(sorted(c), c["message"], c["exception"]) for c in seen])
    lib.note(repr(seen[0]["future"]))


def test_never_retrieved_from_a_future(lib):
    seen = lib.contexts()
    future = lib.loop.create_future()
    future.set_exception(LookupError("lost"))
    del future
    gc.collect()
    lib.note([(sorted(c), c["message"], c["exception"]) for c in seen])
    lib.note(repr(seen[0]["future"]))


def test_never_retrieved_is_logged(lib):
    lib.loop.create_task(fail(), name="fails")
    lib.turns(3)
    gc.collect()
    lib.note("LookupError: failed" in lib.records[0].exc_text)
    lib.note(lib.logged())
    future = lib.loop.create_future()
    future.set_exception(LookupError("lost"))
    del future
    gc.collect()
    lib.note(lib.logged())


@pytest.mark.parametrize("how", ["result", "exception", "await", "cancelled", "fine", "flag"])
def test_retrieved_is_not_reported(lib, how):
    seen = lib.contexts()
    future = lib.loop.create_future()
    if how == "cancelled":
        future.cancel()
    elif how == "fine":
        future.set_result(1)
    else:
        future.set_exception(LookupError("taken"))
    if how == "result":
        with pytest.raises(LookupError):
            future.result()
    elif how == "exception":
        future.exception()
    elif how == "flag":
        future._log_traceback = False
    elif how == "await":

        async def body(future):
            with pytest.raises(LookupError):
                await future

        lib.loop.run_until_complete(body(future))
    del future
    gc.collect()
    assert seen == []


def test_never_retrieved_after_the_loop_has_closed(lib):
    loop = lib.new_loop()
    seen = lib.contexts(loop)
    task = loop.create_task(fail())
    lib.turns(3, loop)
    loop.close()
    del task
    gc.collect()
    lib.note([c["message"] for c in seen])


def test_reports_from_a_broken_handler(lib):
    def broken(loop, context):
        raise ZeroDivisionError("broken")

    lib.loop.set_exception_handler(broken)
    future = lib.loop.create_future()
    future.set_exception(LookupError("lost"))
    del future
    gc.collect()
    lib.note(lib.logged(), lib.unraisable_taken())


def test_resurrection_in_the_handler(lib):
    kept = []
    lib.loop.set_exception_handler(lambda loop, context: kept.append(context["future"]))
    future = lib.loop.create_future()
    future.set_exception(LookupError("kept"))
    del future
    gc.collect()
    lib.note(len(kept), kept[0].exception())
    kept.clear()
    gc.collect()


def test_gather_marks_as_retrieved(lib):
    seen = lib.contexts()

    async def main():
        lib.note(await asyncio.gather(fail(), fail(), return_exceptions=True))
        try:
            await asyncio.gather(fail(KeyError("first")), fail(KeyError("second")))
        except KeyError as exc:
            lib.note(exc)

    lib.loop.run_until_complete(main())
    lib.turns(2)
    gc.collect()
    lib.note([(c["message"], c["exception"]) for c in seen])
    seen.clear()


def test_chaining_after_an_await(lib):
    async def main():
        try:
            raise KeyError(3)
        except KeyError:
            try:
                await lib.loop.create_task(fail(ValueError("v")))
            except ValueError as exc:
                lib.note(exc.__context__, exc.__cause__)
        try:
            try:
                raise KeyError(4)
            except KeyError as first:
                try:
                    await idle()
                    raise ValueError("from") from first
                except ValueError as second:
                    lib.note(second.__cause__, second.__suppress_context__)
                    raise
        except ValueError as exc:
            lib.note(exc.__context__)

    lib.loop.run_until_complete(main())


def test_chaining_with_a_cycle(lib):
    async def process(exc):
        raise exc

    async def main():
        try:
            raise KeyError(3)
        except KeyError as first:
            first.__context__ = first2 = RuntimeError("inner")
            first2.__context__ = None
            task = lib.loop.create_task(process(first))
            try:
                await task
            except BaseException as second:
                lib.note(second, second.__context__)

    lib.loop.run_until_complete(main())


def test_exc_info_is_kept_apart(lib):
    async def main():
        try:
            raise KeyError("mine")
        except KeyError:
            task = lib.loop.create_task(other())
            await task
            lib.note(sys.exc_info()[1])
        lib.note(sys.exc_info()[1])

    async def other():
        lib.note(sys.exc_info()[1])
        await idle()
        lib.note(sys.exc_info()[1])

    lib.loop.run_until_complete(main())


def test_handled_error_does_not_leak_into_callbacks(lib):
    async def main():
        try:
            raise KeyError("mine")
        except KeyError:
            lib.loop.call_soon(lambda: lib.note(sys.exc_info()[1]))
            await idle()

    lib.loop.run_until_complete(main())


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, GeneratorExit])
def test_iteration_errors_from_a_coroutine(lib, error):
    async def body():
        raise error("out")

    task = lib.loop.create_task(body())
    lib.turns(2)
    lib.note(task.done(), task.cancelled())
    exc = lib.catch(task.result)
    lib.note(exc.__cause__)


def test_stop_iteration_values(lib):
    class Value:
        def __await__(self):
            return self

        def __iter__(self):
            return self

        def __init__(self, value):
            self.value = value

        def __next__(self):
            raise StopIteration(self.value)

    async def main():
        for value in (None, 1, (1, 2), (), ((1,),), StopIteration(5), ValueError("v")):
            lib.note(await Value(value))
            task = lib.loop.create_task(returns(value))
            lib.note(await task)
            future = lib.loop.create_future()
            future.set_result(value)
            lib.note(await future)

    async def returns(value):
        await idle()
        return value

    lib.loop.run_until_complete(main())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exits_leave_and_stay_in_the_task(lib, error):
    async def body():
        await idle()
        raise error("leaves")

    task = lib.loop.create_task(body())
    lib.catch(lib.turns, 3)
    lib.note(task.done())
    lib.catch(task.result)
    lib.turns()


def test_exception_from_throw_is_the_same_object(lib):
    error = LookupError("same")
    future = lib.loop.create_future()

    async def body():
        try:
            await future
        except LookupError as exc:
            assert exc is error
            raise

    task = lib.loop.create_task(body())
    lib.turns()
    future.set_exception(error)
    lib.turns(2)
    assert task.exception() is error


def test_tracebacks_do_not_grow(lib):
    future = lib.loop.create_future()
    future.set_exception(LookupError("again"))
    depths = []
    for _ in range(5):
        try:
            future.result()
        except LookupError as exc:
            depth, trace = 0, exc.__traceback__
            while trace:
                depth, trace = depth + 1, trace.tb_next
            depths.append(depth)
    lib.note(depths)


def test_destroyed_pending_tasks(lib):
    seen = lib.contexts()
    loop = lib.loop

    async def body():
        await loop.create_future()

    task = lib.Task(body(), loop=loop, name="destroyed")
    lib.turns()
    loop.close()
    task.get_coro().close()
    del task
    lib._loop = None
    gc.collect()
    lib.note([(sorted(c), c["message"]) for c in seen])
    lib.note([repr(c["task"]) for c in seen])
    seen.clear()


def test_log_destroy_pending_can_be_switched_off(lib):
    seen = lib.contexts()

    async def body():
        await lib.loop.create_future()

    task = lib.Task(body(), loop=lib.loop)
    lib.turns()
    task._log_destroy_pending = False
    lib.loop.close()
    task.get_coro().close()
    del task
    gc.collect()
    assert seen == []


def test_done_callback_errors_reach_the_handler(lib):
    seen = lib.contexts()

    async def main():
        task = lib.loop.create_task(idle())
        task.add_done_callback(lambda t: 1 / 0)
        await task
        await idle()

    lib.loop.run_until_complete(main())
    lib.note([(c["exception"], sorted(c)) for c in seen])


def test_error_in_a_destructor_of_a_frame(lib):
    class Last:
        def __del__(self):
            raise LookupError("in a destructor")

    async def body():
        last = Last()
        await idle()
        del last
        await idle()
        return "went on"

    lib.note(lib.loop.run_until_complete(body()))
    lib.note(lib.unraisable_taken())


def test_scheduling_from_a_frames_destructor(lib):
    class Last:
        def __del__(self):
            lib.loop.call_soon(lib.note, "scheduled")

    async def body():
        last = Last()
        await idle()
        return last is None

    lib.note(lib.loop.run_until_complete(body()))
    lib.turns(2)
    gc.collect()


def test_cancelled_error_classes(lib):
    lib.note(issubclass(asyncio.CancelledError, Exception), asyncio.CancelledError.__mro__[1])
    for name in (
        "CancelledError",
        "InvalidStateError",
        "TimeoutError",
        "QueueFull",
        "QueueEmpty",
        "IncompleteReadError",
        "LimitOverrunError",
        "BrokenBarrierError",
    ):
        assert getattr(lib.module, name) is getattr(asyncio, name)

"""Future: states, callbacks, waiting, reprs, wrapping, iteration by hand."""

import asyncio
import contextvars
import sys
import threading

import pytest

import aioxide

pytestmark = pytest.mark.kinds("all")

# The iterator of early versions answers a send() after the end with a SystemError.
SOUND_ITERATORS = sys.version_info >= (3, 13)


def callback(future):
    """Have a name and a place that a repr can show."""


def test_is_a_future(lib):
    future = lib.loop.create_future()
    assert isinstance(future, lib.Future)
    if lib.kind != "pure":
        assert isinstance(future, asyncio.Future)
    assert asyncio.isfuture(future)
    assert not asyncio.isfuture(type(future))
    assert future.get_loop() is lib.loop
    assert future._loop is lib.loop
    future.cancel()


def test_life_with_a_result(lib):
    future = lib.loop.create_future()
    lib.note(future.done(), future.cancelled(), repr(future), future._state)
    lib.catch(future.result)
    lib.catch(future.exception)
    lib.note(future.set_result(["r"]))
    lib.note(future.done(), future.cancelled(), repr(future), future._state)
    lib.note(future.result(), future.exception(), future._result, future._exception)
    assert future.result() is future.result()
    lib.catch(future.set_result, 2)
    lib.catch(future.set_exception, ValueError())
    lib.note(future.cancel())


def test_life_with_an_exception(lib):
    future = lib.loop.create_future()
    error = LookupError("gone")
    lib.note(future.set_exception(error))
    lib.note(future.done(), future.cancelled(), repr(future), future._state)
    lib.note(future._log_traceback)
    assert future.exception() is error
    lib.note(future._log_traceback)
    assert lib.catch(future.result) is error
    lib.catch(future.set_result, 2)
    lib.catch(future.set_exception, ValueError())
    lib.note(future.cancel(), future._exception)


def test_life_with_a_cancellation(lib):
    future = lib.loop.create_future()
    lib.note(future.cancel(), future.cancel())
    lib.note(future.done(), future.cancelled(), repr(future), future._state)
    lib.catch(future.result)
    lib.catch(future.exception)
    lib.catch(future.set_result, 2)
    lib.catch(future.set_exception, ValueError())


def test_cancel_messages(lib):
    for options in ({}, {"msg": None}, {"msg": "why"}, {"msg": 5}):
        future = lib.loop.create_future()
        future.cancel(**options)
        lib.note(future._cancel_message)
        lib.catch(future.result)
        lib.catch(future.exception)
        future._cancel_message = "changed"
        lib.catch(future.result)
    future = lib.loop.create_future()
    lib.catch(future.cancel, "positional")
    lib.catch(future.result)


def test_kinds_of_exceptions(lib):
    class Needs(Exception):
        def __init__(self, argument):
            super().__init__(argument)

    class Odd(BaseException):
        pass

    bad = (None, 5, "text", object, int, StopIteration, StopIteration(1), Needs)
    good = (
        ValueError,
        ValueError("v"),
        Odd("odd"),
        KeyboardInterrupt,
        GeneratorExit(),
        TypeError,
        asyncio.CancelledError("set by hand"),
        Odd,
        StopAsyncIteration(1),
    )
    for what in bad + good:
        future = lib.loop.create_future()
        lib.catch(future.set_exception, what)
        lib.note(future.done(), future.cancelled())
        if future.done() and not future.cancelled():
            caught = lib.catch(future.result)
            lib.note(caught.__cause__, caught.__context__)


def test_stop_iteration_subclass(lib):
    class Mine(StopIteration):
        pass

    future = lib.loop.create_future()
    lib.catch(future.set_exception, Mine("stop"))
    if future.done():
        caught = lib.catch(future.result)
        lib.note(caught.__cause__, caught.__context__)


def test_callbacks_run_in_their_turn(lib):
    future = lib.loop.create_future()
    for name in "abc":
        future.add_done_callback(lambda f, name=name: lib.note(name, f is future, f.result()))
    future.set_result(1)
    lib.note("set")
    future.add_done_callback(lambda f: lib.note("late"))
    lib.turns()
    lib.note("turn over")
    future.add_done_callback(lambda f: lib.note("very late"))
    lib.turns()


@pytest.mark.parametrize("end", ["result", "exception", "cancel"])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_callback_counts(lib, end, count):
    future = lib.loop.create_future()
    for number in range(count):
        future.add_done_callback(lambda f, n=number: lib.note(n, f.done()))
    lib.note(future._callbacks is None or len(future._callbacks), repr(future))
    if end == "result":
        future.set_result(None)
    elif end == "exception":
        future.set_exception(ValueError())
        future.exception()
    else:
        future.cancel()
    lib.note(future._callbacks or None)
    lib.turns()


def test_remove_done_callback(lib):
    future = lib.loop.create_future()
    calls = []
    first, second = calls.append, lambda f: calls.append("second")
    for cb in (first, second, first, callback, first):
        future.add_done_callback(cb)
    lib.note(future.remove_done_callback(print))
    lib.note(future.remove_done_callback(first))
    lib.note(future.remove_done_callback(first))
    lib.note(len(future._callbacks), repr(future))
    lib.note(future.remove_done_callback(second), future.remove_done_callback(callback))
    lib.note(not future._callbacks, repr(future))
    future.set_result(None)
    lib.turns()
    lib.note(calls, future.remove_done_callback(first))


def test_remove_with_an_odd_equality(lib):
    future = lib.loop.create_future()

    class Odd:
        def __init__(self, act):
            self.act = act

        def __eq__(self, other):
            return self.act()

        def __call__(self, f):
            lib.note("odd called")

    def fail():
        raise LookupError("in eq")

    future.add_done_callback(callback)
    future.add_done_callback(Odd(lambda: False))
    future.add_done_callback(Odd(lambda: True))
    future.add_done_callback(callback)
    lib.note(future.remove_done_callback("anything") >= 1)
    future.add_done_callback(Odd(fail))
    lib.catch(future.remove_done_callback, "anything")
    future.cancel()
    lib.turns()


def test_callback_contexts(lib):
    var = contextvars.ContextVar("var", default="none")
    future = lib.loop.create_future()
    var.set("first")
    future.add_done_callback(lambda f: lib.note(var.get()))
    var.set("second")
    future.add_done_callback(lambda f: lib.note(var.get()))
    own = contextvars.Context()
    own.run(var.set, "own")
    future.add_done_callback(lambda f: lib.note(var.get()), context=own)
    var.set("third")
    future.set_result(None)
    future.add_done_callback(lambda f: lib.note(var.get()))
    future.add_done_callback(lambda f: lib.note(var.get()), context=own)
    lib.turns()
    assert lib.trace == ["first", "second", "own", "third", "own"]


def test_callback_arguments(lib):
    future = lib.loop.create_future()
    for args, options in (((), {}), ((callback, 1), {}), ((callback,), {"other": 1})):
        with pytest.raises(TypeError):
            future.add_done_callback(*args, **options)
    future.cancel()
    lib.turns()


def test_callbacks_that_act_on_the_future(lib):
    future = lib.loop.create_future()
    seen = lib.contexts()

    def act(f):
        lib.note(f.cancel(), f.remove_done_callback(act))
        f.add_done_callback(lambda f: lib.note("added in a callback"))
        f.set_result("again")

    future.add_done_callback(act)
    future.add_done_callback(lambda f: lib.note("second"))
    future.set_result(1)
    lib.turns(2)
    lib.note([(c["message"], c["exception"]) for c in seen])


def test_callback_errors(lib):
    seen = lib.contexts()

    class Odd(BaseException):
        pass

    future = lib.loop.create_future()
    for error in (ValueError("v"), Odd("o"), asyncio.CancelledError(), StopIteration()):

        def fail(f, error=error):
            raise error

        future.add_done_callback(fail)
    future.add_done_callback(None)
    future.add_done_callback(lambda f: lib.note("goes on"))
    future.set_result(None)
    lib.turns()
    lib.note([(c["exception"], sorted(c)) for c in seen])
    lib.note([c["message"].split("(")[0] for c in seen])


def test_await(lib):
    async def main():
        loop = lib.loop
        future = loop.create_future()
        loop.call_soon(future.set_result, "value")
        lib.note(await future)
        lib.note(await future)
        future = loop.create_future()
        error = LookupError("gone")
        loop.call_soon(future.set_exception, error)
        for _ in range(2):
            try:
                await future
            except LookupError as exc:
                assert exc is error
        future = loop.create_future()
        future.set_exception(ValueError("at once"))
        try:
            await future
        except ValueError as exc:
            lib.note(exc)
        future.exception()

    lib.run(main)


def test_set_result_unless_cancelled(lib):
    from asyncio.futures import _set_result_unless_cancelled

    future = lib.loop.create_future()
    future.cancel()
    _set_result_unless_cancelled(future, 2)
    lib.note(future.cancelled())


def test_setting_from_another_thread_through_the_loop(lib):
    async def main():
        future = lib.loop.create_future()
        thread = threading.Thread(
            target=lib.loop.call_soon_threadsafe, args=(future.set_result, "threaded")
        )
        thread.start()
        lib.note(await future)
        thread.join()

    lib.run(main)


def listen(lib, future, listener):
    """Have somebody told when a future is done; what must be kept for that."""

    async def wait():
        await future

    if listener == "callback":
        return future.add_done_callback(lib.note)
    if listener == "gather":
        return (asyncio.gather if lib.kind == "asyncio" else aioxide.gather)(future)
    task = lib.loop.create_task(wait())
    task._log_destroy_pending = False
    lib.turns(2)
    return task


@pytest.mark.parametrize("listener", ["callback", "task", "gather"])
@pytest.mark.parametrize("how", ["set_result", "set_exception", "cancel"])
def test_an_outcome_after_the_loop_was_closed(lib, listener, how):
    future = lib.loop.create_future()
    kept = listen(lib, future, listener)
    lib.loop.close()
    outcome = {"set_result": [1], "set_exception": [LookupError("reason")], "cancel": []}[how]
    lib.catch(getattr(future, how), *outcome)
    lib.note(future.done(), future.cancelled() or future.exception())
    del kept


@pytest.mark.parametrize("listener", ["callback", "gather"])
def test_an_outcome_from_another_thread_for_a_loop_that_debugs_by_now(lib, listener):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        kept = listen(lib, future, listener)
        loop.set_debug(True)
        await loop.run_in_executor(None, lib.catch, future.set_result, 1)
        loop.set_debug(False)
        lib.note(future.done(), kept is None or kept.done())

    lib.loop.run_until_complete(main())


def test_a_future_remembers_where_it_was_made_in_debug_mode(lib):
    for debug in (False, True, False):
        lib.loop.set_debug(debug)
        traceback = lib.Future(loop=lib.loop)._source_traceback
        lib.note(traceback and traceback[-1].name)

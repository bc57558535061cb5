"""call_soon, call_soon_threadsafe and their handles."""

import asyncio
import contextvars
import functools
import gc
import threading
import weakref

import pytest


class Target:
    """Something with a method to call, and a callable in its own right."""

    def __init__(self, lib):
        self.lib = lib

    def method(self, *args):
        self.lib.note("method", args)

    def __call__(self, *args):
        self.lib.note("called", args)


def plain_function(*args):
    """Have a name and a place that a repr can show."""


@pytest.mark.parametrize("count", range(7))
def test_arguments_arrive(lib, count):
    args = tuple(f"argument {i}" for i in range(count))
    handles = [
        lib.loop.call_soon(lambda *got: lib.note(got), *args),
        lib.loop.call_soon(Target(lib).method, *args),
        lib.loop.call_soon(Target(lib), *args),
        lib.loop.call_soon(functools.partial(lib.note, "partial"), *args),
        lib.loop.call_soon(lib.trace.append, len(args)),
        lib.loop.call_soon_threadsafe(lambda *got: lib.note("threadsafe", got), *args),
    ]
    assert all(type(h) is type(handles[0]) for h in handles[:-1])
    assert all(isinstance(h, asyncio.Handle) for h in handles)
    lib.turns(2)
    assert len(lib.trace) == len(handles)


def test_keyword_arguments_are_refused(lib):
    for call in (lib.loop.call_soon, lib.loop.call_soon_threadsafe):
        for options in ({"other": 1}, {"args": ()}, {"callback": print, "x": 1}):
            with pytest.raises(TypeError):
                call(print, **options)
        with pytest.raises(TypeError):
            call()
    handle = lib.loop.call_soon(callback=lib.note, context=None)
    handle.cancel()


def test_callbacks_run_once_and_in_order(lib):
    for number in range(5):
        lib.loop.call_soon(lib.note, number)
    lib.turns(3)
    assert lib.trace == [0, 1, 2, 3, 4]


def test_coroutines_are_refused_in_debug_mode(lib):
    async def coro():
        pass

    lib.loop.set_debug(True)
    made = coro()
    for bad in (made, coro, functools.partial(coro), None, 5, "text", object()):
        for call in (lib.loop.call_soon, lib.loop.call_soon_threadsafe):
            lib.catch(call, bad)
        lib.catch(lib.loop.call_later, 1, bad)
        lib.catch(lib.loop.call_at, 1, bad)
        lib.catch(lib.loop.run_in_executor, None, bad)
    made.close()
    assert ["raised", ["TypeError", ["a callable object was expected by call_soon(), got None"]]]


def test_callbacks_that_cannot_be_called(lib):
    seen = lib.contexts()
    for bad in (None, 5, "text"):
        lib.loop.call_soon(bad)
        lib.loop.call_soon_threadsafe(bad, 1)
        lib.loop.call_later(-1, bad)
    lib.loop.call_soon(lib.note, "goes on")
    lib.turns(2)
    lib.note([(c["message"], c["exception"]) for c in seen])


def test_a_coroutine_function_is_just_called_without_debug(lib):
    async def coro():
        pass

    lib.loop.call_soon(coro)
    lib.turns()
    gc.collect()
    lib.note(lib.warnings_taken())


def test_handle_surface(lib):
    loop = lib.loop
    handle = loop.call_soon(plain_function, 1, "two")
    lib.note(repr(handle))
    lib.note(handle._callback is plain_function, handle._args, handle._loop is loop)
    lib.note(handle.cancelled(), handle._cancelled, handle._source_traceback)
    lib.note(isinstance(handle._context, contextvars.Context))
    lib.note(hasattr(handle, "__dict__"), hasattr(handle, "when"))
    assert weakref.ref(handle)() is handle
    handle.cancel()
    lib.note(repr(handle), handle.cancelled(), handle._callback, handle._args)
    handle.cancel()
    lib.note(repr(handle))
    lib.turns()


def test_get_context_of_a_handle(lib):
    own = contextvars.copy_context()
    handle = lib.loop.call_soon(plain_function, context=own)
    if hasattr(asyncio.Handle, "get_context"):
        assert handle.get_context() is own
    assert handle._context is own
    handle.cancel()


def test_handles_are_unlike_each_other(lib):
    first = lib.loop.call_soon(plain_function)
    second = lib.loop.call_soon(plain_function)
    lib.note(first == second, first != second, first == first, hash(first) == hash(first))
    first.cancel()
    second.cancel()


def test_reprs_of_many_callbacks(lib):
    target = Target(lib)
    callbacks = (
        plain_function,
        target.method,
        target,
        functools.partial(plain_function, 1, key=2),
        functools.partial(functools.partial(plain_function), 3),
        print,
        [].append,
        lambda: None,
        Target,
        "not callable",
        functools.lru_cache(plain_function),
    )
    for callback in callbacks:
        handle = lib.loop.call_soon(callback, 1, [2], "x" * 200)
        lib.note(repr(handle).replace(repr(target), "TARGET"))
        handle.cancel()
    lib.turns()


def test_handle_lets_go_after_cancel(lib):
    class Argument:
        def use(self):
            """Serve as a callback."""

    argument = Argument()
    ref = weakref.ref(argument)
    handle = lib.loop.call_soon(argument.use, argument)
    del argument
    gc.collect()
    assert ref() is not None
    handle.cancel()
    gc.collect()
    lib.note(ref() is None)
    lib.turns()


def test_arguments_are_let_go_after_the_run(lib):
    class Argument:
        pass

    argument = Argument()
    ref = weakref.ref(argument)
    lib.loop.call_soon(plain_function, argument)
    del argument
    lib.turns()
    gc.collect()
    assert ref() is None


def test_run_of_a_handle(lib):
    """Tools call and patch `Handle._run`: calling it by hand must work on every loop."""
    handle = lib.loop.call_soon(lib.note, "ran")
    handle._run()
    assert lib.trace == ["ran"]
    lib.turns()
    assert lib.trace == ["ran", "ran"]


def test_cancel_while_running(lib):
    handles = []

    def cancel_me():
        handles[0].cancel()
        lib.note(handles[0].cancelled(), repr(handles[0]))

    handles.append(lib.loop.call_soon(cancel_me))
    lib.turns(2)
    assert len(lib.trace) == 1


def test_cancel_after_the_run(lib):
    handle = lib.loop.call_soon(lib.note, "ran")
    lib.turns()
    lib.note(handle.cancelled(), handle._callback == lib.note)
    handle.cancel()
    lib.note(handle.cancelled())
    lib.turns()


def test_destructor_that_schedules(lib):
    loop = lib.loop

    class Last:
        def __del__(self):
            loop.call_soon(lib.note, "from a destructor")

    loop.call_soon(plain_function, Last())
    cancelled = loop.call_soon(plain_function, Last())
    cancelled.cancel()
    del cancelled
    lib.turns(3)
    gc.collect()
    assert lib.trace == ["from a destructor", "from a destructor"]


def test_destructor_that_raises(lib):
    class Last:
        def __del__(self):
            raise LookupError("in a destructor")

    lib.loop.call_soon(plain_function, Last())
    lib.loop.call_soon(lib.note, "goes on")
    lib.turns()
    gc.collect()
    lib.note(lib.unraisable_taken())


def test_threadsafe_from_another_thread(lib):
    main_thread = threading.get_ident()

    def arrive(word):
        lib.note(word, threading.get_ident() == main_thread)
        lib.loop.stop()

    handles = []
    thread = threading.Thread(
        target=lambda: handles.append(lib.loop.call_soon_threadsafe(arrive, "hello"))
    )
    lib.loop.call_soon(thread.start)
    lib.loop.run_forever()
    thread.join()
    lib.note(isinstance(handles[0], asyncio.Handle), handles[0].cancelled())


def test_threadsafe_wakes_a_sleeping_loop(lib):
    loop, rounds = lib.loop, []
    go, done = threading.Event(), threading.Event()

    def work():
        while True:
            go.wait()
            go.clear()
            if done.is_set():
                return
            loop.call_soon_threadsafe(again)

    def again():
        rounds.append(1)
        if len(rounds) == 50:
            done.set()
            loop.stop()
        go.set()

    thread = threading.Thread(target=work)
    thread.start()
    loop.call_soon(go.set)
    loop.run_forever()
    thread.join()
    assert len(rounds) == 50


def test_threadsafe_keeps_the_order_of_each_thread(lib):
    loop, count, seen = lib.loop, 300, {}

    def arrive(name, number):
        seen.setdefault(name, []).append(number)
        if sum(map(len, seen.values())) == 4 * count:
            loop.stop()

    def work(name):
        for number in range(count):
            loop.call_soon_threadsafe(arrive, name, number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        loop.call_soon(thread.start)
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert all(numbers == list(range(count)) for numbers in seen.values())


def test_threadsafe_mixes_in_order_with_call_soon(lib):
    lib.loop.call_soon(lib.note, 1)
    lib.loop.call_soon_threadsafe(lib.note, 2)
    lib.loop.call_soon(lib.note, 3)
    lib.loop.call_soon_threadsafe(lib.note, 4)
    lib.turns(2)
    lib.note("end")


def test_threadsafe_cancel_from_another_thread(lib):
    loop = lib.loop

    def work():
        handle = loop.call_soon_threadsafe(lib.note, "never")
        handle.cancel()
        lib.note(handle.cancelled())
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    loop.run_forever()
    assert lib.trace == [True]


def test_threadsafe_handle_surface(lib):
    handle = lib.loop.call_soon_threadsafe(plain_function, 1, 2)
    lib.note(repr(handle), handle._args, handle._callback is plain_function)
    handle.cancel()
    lib.note(repr(handle), handle._args, handle._callback)


def test_threadsafe_after_close(lib):
    caught = []

    def work():
        try:
            lib.loop.call_soon_threadsafe(print)
        except RuntimeError as exc:
            caught.append(exc)

    lib.loop.close()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    lib.note(caught)


def test_threadsafe_runs_in_the_callers_context(lib):
    var = contextvars.ContextVar("var", default="unset")
    loop = lib.loop

    def work():
        var.set("thread")
        loop.call_soon_threadsafe(lambda: lib.note(var.get()))
        own = contextvars.Context()
        own.run(var.set, "own")
        loop.call_soon_threadsafe(lambda: lib.note(var.get()), context=own)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert lib.trace == ["thread", "own"]


def test_threads_racing_a_close(lib):
    loop, start = lib.new_loop(), threading.Barrier(5)
    errors = []

    def work():
        start.wait()
        try:
            for _ in range(2000):
                loop.call_soon_threadsafe(plain_function)
        except RuntimeError as exc:
            errors.append(str(exc))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    loop.close()
    for thread in threads:
        thread.join()
    assert set(errors) <= {"Event loop is closed"}


def test_call_soon_takes_a_context_of_the_right_type(lib):
    for bad in (5, "context", {}):
        lib.loop.call_soon(plain_function, context=bad)
    seen = lib.contexts()
    lib.turns()
    lib.note([type(c["exception"]).__name__ for c in seen])

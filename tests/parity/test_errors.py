"""Exception handlers: who is called with which keys, what is logged, what raises where."""

import asyncio
import contextvars
import logging
import socket
import sys

import pytest


def fail(*args):
    """Raise, whatever comes."""
    raise LookupError("failed")


def test_handler_is_kept(lib):
    loop = lib.loop
    lib.note(loop.get_exception_handler())

    def handler(loop, context):
        pass

    lib.note(loop.set_exception_handler(handler))
    assert loop.get_exception_handler() is handler
    for bad in (5, "handler", object()):
        lib.catch(loop.set_exception_handler, bad)
        lib.trace[-1] = str(lib.trace[-1]).split("got")[0]
    assert loop.get_exception_handler() is handler
    loop.set_exception_handler(None)
    lib.note(loop.get_exception_handler())


@pytest.mark.parametrize("how", ["soon", "threadsafe", "later", "at", "reader", "writer", "signal"])
def test_context_of_a_failed_callback(lib, how):
    import os
    import signal
    import socket

    loop = lib.loop
    seen = lib.contexts()
    left, right = socket.socketpair()
    with left, right:
        handle = None
        if how == "soon":
            handle = loop.call_soon(fail, 1)
        elif how == "threadsafe":
            handle = loop.call_soon_threadsafe(fail, 1)
        elif how == "later":
            handle = loop.call_later(0, fail, 1)
        elif how == "at":
            handle = loop.call_at(0, fail, 1)
        elif how == "reader":
            right.send(b"x")
            loop.add_reader(left, lambda: (loop.remove_reader(left), fail()))
        elif how == "writer":
            loop.add_writer(left, lambda: (loop.remove_writer(left), fail()))
        else:
            loop.add_signal_handler(signal.SIGUSR1, fail, 1)
            loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.call_later(0.005, loop.stop)
        loop.run_forever()
        if how == "signal":
            loop.remove_signal_handler(signal.SIGUSR1)
    assert len(seen) == 1
    context = seen[0]
    lib.note(sorted(context), context["message"], context["exception"])
    lib.note(repr(context["handle"]))
    assert handle is None or context["handle"] is handle
    names, trace = [], context["exception"].__traceback__
    while trace:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert names[-1] == "fail"


def test_log_of_a_failed_callback(lib):
    lib.loop.call_soon(fail, 1, 2)
    lib.loop.call_later(0, fail)
    lib.turns(2)
    assert all("LookupError: failed" in r.exc_text for r in lib.records)
    assert all(r.levelno == logging.ERROR for r in lib.records)
    lib.note(lib.logged())


def test_debug_adds_the_source(lib):
    lib.loop.set_debug(True)
    seen = lib.contexts()
    lib.loop.call_soon(fail)
    lib.turns()
    context = seen[0]
    lib.note(sorted(context))
    last = context["source_traceback"][-1]
    lib.note(last.name, last.lineno, last.line)
    lib.loop.set_exception_handler(None)
    lib.loop.call_soon(fail)
    lib.turns()
    text = lib.logged()[0]
    lib.note(text.splitlines()[0], text.splitlines()[-1])
    assert "Object created at (most recent call last):" in text or "source_traceback" in text


def test_default_handler_formats_every_key(lib):
    loop = lib.loop

    class Odd:
        def __repr__(self):
            return "odd repr"

    try:
        fail()
    except LookupError as exc:
        error = exc
    for context in (
        {},
        {"message": "only a message"},
        {"message": "with an exception", "exception": error},
        {"message": "keys", "b": 1, "a": Odd(), "future": None, "handle": "h"},
        {"message": None},
        {"message": "sources", "source_traceback": []},
        {"message": "handles", "handle_traceback": []},
        {"exception": error},
    ):
        loop.call_exception_handler(dict(context))
        loop.default_exception_handler(dict(context))
    lib.note(lib.logged())


def test_default_handler_prints_tracebacks(lib):
    import traceback

    stack = traceback.extract_stack(limit=1)
    lib.loop.default_exception_handler(
        {"message": "m", "source_traceback": stack, "handle_traceback": stack}
    )
    lib.note(lib.logged())


def test_handler_that_raises(lib):
    loop = lib.loop

    def broken(loop, context):
        raise ZeroDivisionError("in the handler")

    loop.set_exception_handler(broken)
    loop.call_soon(fail)
    loop.call_soon(lib.note, "goes on")
    lib.turns()
    assert "ZeroDivisionError" in lib.records[0].exc_text
    lib.note(lib.logged())
    loop.call_exception_handler({"message": "by hand"})
    lib.note(lib.logged())


def test_handler_runs_while_the_error_is_handled(lib):
    # So that `logging.exception()` in a handler logs the traceback.
    def handler(loop, context):
        lib.note("handled", sys.exc_info()[1], sys.exc_info()[1] is context["exception"])
        raise ValueError("of the handler")

    def overridden(context):
        lib.note("context", context["exception"].__context__)

    async def main():
        lib.note("in a coroutine", sys.exc_info()[1])
        try:
            raise KeyError("of the coroutine")
        except KeyError:
            lib.loop.call_soon(fail)
            await asyncio.sleep(0)
            lib.note("still", sys.exc_info()[1])
        lib.note("no more", sys.exc_info()[1])

    lib.loop.set_exception_handler(handler)
    lib.loop.default_exception_handler = overridden
    for call in (lib.loop.call_soon, lib.loop.call_soon_threadsafe):
        call(fail)
        lib.turns(2)
    lib.loop.call_later(0, fail)
    lib.loop.call_soon(fail, context=contextvars.copy_context())
    kept = lib.loop.call_soon(fail)
    lib.turns(2)
    lib.note(kept.cancelled())
    lib.loop.run_until_complete(main())


def test_what_was_handled_before_is_handled_after(lib):
    """A transport that fails is given up at once, in the frame that handles something else."""
    seen = []

    def handler(loop, context):
        seen.append((repr(sys.exc_info()[1]), context["message"]))

    class Protocol(asyncio.Protocol):
        def pause_writing(self):
            raise LookupError("of the protocol")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        left, right = socket.socketpair()
        with right:
            transport, _protocol = await loop.create_connection(Protocol, sock=left)
            transport.set_write_buffer_limits(0)
            later = loop.create_task(outside(transport))
            try:
                raise KeyError("of the coroutine")
            except KeyError:
                transport.write(bytes(10_000_000))
                lib.note("handled", sys.exc_info()[1])
            lib.note("no more", sys.exc_info()[1])
            await later
            transport.abort()

    async def outside(transport):
        transport.set_write_buffer_limits(1 << 30)
        transport.set_write_buffer_limits(0)
        transport.write(b"more")
        lib.note("nothing", sys.exc_info()[1])
        await asyncio.sleep(0)
        lib.note("nothing", sys.exc_info()[1])

    try:
        raise OSError("of whoever runs the loop")
    except OSError:
        lib.run(main())
        lib.note(sys.exc_info()[1])
    lib.note(sys.exc_info()[1], seen)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_handler_that_leaves(lib, error):
    def leaves(loop, context):
        raise error("from the handler")

    lib.loop.set_exception_handler(leaves)
    lib.loop.call_soon(fail)
    lib.loop.call_soon(lib.note, "later")
    lib.catch(lib.loop.run_forever)
    lib.note("out", lib.loop.is_running())
    lib.turns(2)


def test_handler_with_an_odd_error(lib):
    class Odd(BaseException):
        pass

    def broken(loop, context):
        raise Odd("odd")

    lib.loop.set_exception_handler(broken)
    lib.loop.call_soon(fail)
    lib.loop.call_soon(lib.note, "goes on")
    lib.turns()
    lib.note(lib.logged())


def test_default_handler_overridden_and_broken(lib):
    class Mine(lib.loop_type):
        def default_exception_handler(self, context):
            raise ZeroDivisionError("in the default handler")

    loop = Mine()
    lib.loops.append(loop)
    loop.call_soon(fail)
    loop.call_soon(lib.note, "goes on")
    lib.turns(1, loop)
    lib.note(lib.logged())
    loop.set_exception_handler(lambda loop, context: 1 / 0)
    loop.call_soon(fail)
    lib.turns(1, loop)
    lib.note(lib.logged())


def test_handler_that_delegates(lib):
    def handler(loop, context):
        lib.note("mine", sorted(context))
        loop.default_exception_handler(context)

    lib.loop.set_exception_handler(handler)
    lib.loop.call_soon(fail)
    lib.turns()
    lib.note(lib.logged())


def test_handler_that_acts_on_the_loop(lib):
    loop = lib.loop

    def handler(loop_, context):
        lib.note(context["message"])
        loop.set_exception_handler(None)
        loop.call_soon(lib.note, "from the handler")
        loop.stop()
        try:
            loop.close()
        except RuntimeError as exc:
            lib.note(exc)
        try:
            loop.run_forever()
        except RuntimeError as exc:
            lib.note(type(exc).__name__)
            asyncio._set_running_loop(loop)

    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    import sys

    lib.stock_defect(sys.version_info[:3] == (3, 13, 0), "3.13.0 forgets the running loop")
    loop.run_forever()
    lib.turns(2)


def test_handler_of_a_failed_step_is_not_called(lib):
    """A task keeps its error for whoever awaits it."""
    seen = lib.contexts()

    async def body():
        raise LookupError("kept")

    task = lib.loop.create_task(body())
    lib.turns(2)
    lib.note(seen, task.exception())


def test_callback_names_in_the_message(lib):
    import functools

    seen = lib.contexts()

    class Target:
        def method(self):
            fail()

        def __call__(self):
            fail()

        def __repr__(self):
            return "<target>"

    for callback in (fail, Target().method, Target(), functools.partial(fail, 1), lambda: fail()):
        lib.loop.call_soon(callback)
    lib.turns()
    lib.note([c["message"] for c in seen])


def test_repr_that_raises(lib):
    seen = lib.contexts()

    class Broken:
        def __call__(self):
            fail()

        def __repr__(self):
            raise ZeroDivisionError("in repr")

    lib.loop.call_soon(Broken())
    lib.loop.call_soon(lib.note, "goes on")
    try:
        lib.turns()
    except ZeroDivisionError:
        lib.note("the loop stopped")
        lib.turns()
    lib.note([c["message"].split("<")[0] for c in seen])


def test_errors_while_the_loop_closes(lib):
    class Last:
        def __init__(self, loop):
            self.loop = loop

        def __del__(self):
            self.loop.call_soon(print)

    loop = lib.new_loop()
    loop.call_soon(print, Last(loop))
    loop.close()
    import gc

    gc.collect()
    lib.note(lib.unraisable_taken())


def test_many_failures_do_not_stall(lib):
    seen = lib.contexts()
    for _ in range(100):
        lib.loop.call_soon(fail)
    lib.loop.call_soon(lib.note, "end")
    lib.turns()
    lib.note(len(seen))


def test_memory_errors_and_the_like(lib):
    seen = lib.contexts()
    for error in (MemoryError, RecursionError, OSError, UnicodeError, AssertionError):

        def raises(error=error):
            raise error

        lib.loop.call_soon(raises)
    lib.turns()
    lib.note([c["exception"] for c in seen])


def test_handler_runs_in_the_callbacks_context_where_python_says_so(lib):
    import contextvars

    var = contextvars.ContextVar("var", default="unset")

    def handler(loop, context):
        lib.note(var.get())

    lib.loop.set_exception_handler(handler)
    own = contextvars.Context()
    own.run(var.set, "callback's")
    lib.loop.call_soon(fail, context=own)
    lib.turns()


def test_handler_runs_in_the_tasks_context_where_python_says_so(lib):
    import contextvars
    import gc

    var = contextvars.ContextVar("var", default="unset")

    async def body():
        var.set("task's")
        raise LookupError("never retrieved")

    lib.loop.set_exception_handler(lambda loop, context: lib.note(var.get(), context["message"]))
    task = lib.loop.create_task(body())
    lib.turns(2)
    del task
    gc.collect()


@pytest.mark.parametrize("debug", [False, True])
def test_arguments_in_the_message(lib, debug):
    # From 3.13 on only debug mode shows them.
    seen = lib.contexts()
    lib.loop.set_debug(debug)
    lib.loop.call_soon(fail, 1, "two")
    lib.loop.call_later(0, fail, 3)
    lib.turns(2)
    lib.note([context["message"] for context in seen])

"""What the loop calls besides raises: exception handlers, done callbacks, finalizers."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import socket
import sys
import weakref
from typing import Any

import pytest
from provoke import told
from wire import Recorder, io_turns, join, link, on_loop, stock_at, until


class Unusual(BaseException):
    """An exception that no `except Exception` catches."""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError, asyncio.CancelledError, Unusual, StopIteration]
)
@on_loop
async def test_exception_handler_raises(lib: Any, error: Any) -> None:
    """A handler that raises is logged with what it was told; connections end as they should."""
    loop = asyncio.get_running_loop()

    def handler(loop: Any, context: Any) -> None:
        raise error("the handler")

    loop.set_exception_handler(handler)
    async with link(lambda: Recorder(data_received=lambda p, d: 1 // 0)) as (_, protocol, peer):
        peer.send(b"x")
        await protocol.seen("CL")
        loop.call_soon(lambda: 1 // 0)
        loop.call_later(0, lambda: 1 // 0)
        await io_turns()
        lines = [text.split("\n")[0] for text in lib.logged(logging.ERROR)]
        lib.note(protocol.calls, type(protocol.lost_with), lines)
        assert len(lines) == 3
    loop.set_exception_handler(None)


@pytest.mark.parametrize("base", [SystemExit, KeyboardInterrupt])
def test_exception_handler_exits(lib: Any, base: Any) -> None:
    """SystemExit from an exception handler comes out of the run."""
    loop = lib.loop

    def handler(loop: Any, context: Any) -> None:
        raise base("the handler")

    transport, protocol, peer = loop.run_until_complete(join(Recorder))
    protocol.hooks["data_received"] = lambda p, d: 1 // 0
    loop.set_exception_handler(handler)
    peer.send(b"x")
    loop.call_later(20, loop.stop)
    with pytest.raises(base):
        loop.run_forever()
    loop.set_exception_handler(None)
    protocol.hooks.clear()
    lib.note(loop.is_running(), transport.is_closing())
    if not transport.is_closing():
        transport.abort()
    peer.close()
    loop.run_until_complete(protocol.seen("CL"))
    loop.run_until_complete(asyncio.sleep(0))


@on_loop
async def test_exception_handler_acts(lib: Any) -> None:
    """A handler may close, abort, stop and replace itself."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []

    def second(loop: Any, context: Any) -> None:
        calls.append("second")

    def handler(loop: Any, context: Any) -> None:
        calls.append("first")
        context["transport"].abort()
        context["transport"].set_protocol(other)
        loop.set_exception_handler(second)
        gc.collect()

    loop.set_exception_handler(handler)
    other = Recorder()
    async with link(lambda: Recorder(data_received=lambda p, d: 1 // 0)) as (_, protocol, peer):
        peer.send(b"x")
        await until(lambda: "CL" in protocol.calls + other.calls)
        loop.call_soon(lambda: 1 // 0)
        await io_turns()
        lib.note(calls, protocol.calls, other.calls, other.lost_with)


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, Unusual])
@on_loop
async def test_done_callbacks_raise(lib: Any, error: Any) -> None:
    """Each done callback that raises is told; the other ones, and the waiting task, go on."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    order: list[str] = []

    def bad(future: Any) -> None:
        order.append("bad")
        raise error("done callback")

    future = loop.create_future()
    task = loop.create_task(asyncio.sleep(0, "result"))
    for awaited in (future, task):
        awaited.add_done_callback(bad)
        awaited.add_done_callback(lambda f: order.append("good"))
    loop.call_soon(future.set_result, 5)
    lib.note(await future, await task)
    await io_turns()
    lib.note(order, [told(c)[1:] for c in seen])


@pytest.mark.parametrize("base", [SystemExit, KeyboardInterrupt])
def test_done_callbacks_exit(lib: Any, base: Any) -> None:
    """SystemExit in a done callback comes out of the run; what is left runs in the next one."""
    loop = lib.loop
    order: list[str] = []

    def bad(future: Any) -> None:
        raise base("done callback")

    future = loop.create_future()
    future.add_done_callback(bad)
    future.add_done_callback(lambda f: order.append("after"))
    loop.call_soon(future.set_result, 5)
    with pytest.raises(base):
        loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))
    lib.note(order, loop.is_running())


@on_loop
async def test_finalizers_raise(lib: Any) -> None:
    """__del__ of protocols, callbacks, arguments and data that raise: unraisable, nothing else."""
    loop = asyncio.get_running_loop()
    count = 0

    class Touchy(Recorder):
        def __del__(self) -> None:
            raise ZeroDivisionError("protocol")

    class Argument:
        def __del__(self) -> None:
            nonlocal count
            count += 1
            raise ZeroDivisionError("argument")

    transport, protocol, peer = await join(Touchy)
    peer.send(b"x")
    await protocol.has(1)
    transport.close()
    await protocol.seen("CL")
    protocol.transport = None
    peer.close()
    del transport, protocol
    loop.call_soon(lambda a: None, Argument())
    loop.call_later(0, lambda a: None, Argument())
    loop.call_later(1000, lambda a: None, Argument()).cancel()
    loop.call_soon(lambda a: None, Argument()).cancel()
    await asyncio.sleep(0.001)
    await io_turns()
    gc.collect()
    assert count == 4
    lib.note(sorted(str(e) for e in lib.unraisable_taken()))


@on_loop
async def test_finalizers_act(lib: Any) -> None:
    """__del__ that schedules, closes and collects garbage while the loop drops things."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    transport, protocol, peer = await join(Recorder)

    class Busy:
        def __del__(self) -> None:
            calls.append("del")
            loop.call_soon(calls.append, "scheduled")
            transport.close()
            gc.collect()

    for delay in (0, 1000):
        handle = loop.call_later(delay, lambda a: None, Busy())
        if delay:
            handle.cancel()
        del handle
    await protocol.seen("CL")
    await until(lambda: calls.count("scheduled") == 2)
    peer.close()
    lib.note(sorted(calls))


@on_loop
async def test_weakref_callbacks_raise(lib: Any) -> None:
    """A weak reference's callback that raises while a transport goes."""

    def gone(ref: Any) -> None:
        raise ZeroDivisionError("weakref")

    transport, protocol, peer = await join(Recorder)
    refs = [weakref.ref(transport, gone), weakref.ref(protocol, gone)]
    transport.close()
    await protocol.seen("CL")
    protocol.transport = None
    peer.close()
    del transport, protocol
    await io_turns()
    gc.collect()
    lib.note([r() for r in refs], lib.unraisable_taken())


@on_loop
async def test_contexts_are_kept(lib: Any) -> None:
    """A connection's callbacks share one copy of its creator's context (in stock from 3.15 on)."""
    if stock_at(lib, (3,), (3, 15)):
        return  # the context of whoever last resumed reading
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="default")
    seen: list[Any] = []

    def hook(name: str) -> Any:
        def call(protocol: Any, *args: Any) -> None:
            seen.append((name, var.get()))
            var.set(name)

        return call

    names = ("connection_made", "data_received", "eof_received", "connection_lost")
    var.set("creator")
    async with link(lambda: Recorder(**{n: hook(n) for n in names})) as (transport, protocol, peer):
        var.set("later")
        peer.send(b"one")
        await protocol.has(3)
        peer.send(b"two")
        await protocol.has(6)
        transport.pause_reading()
        transport.resume_reading()
        peer.send(b"three")
        await protocol.has(11)
        peer.shutdown()
        await protocol.seen("CL")
    assert seen == [
        ("connection_made", "creator"),
        ("data_received", "connection_made"),
        *[("data_received", "data_received")] * 2,
        ("eof_received", "data_received"),
        ("connection_lost", "eof_received"),
    ]
    assert var.get() == "later"


@on_loop
async def test_contexts_of_a_server(lib: Any) -> None:
    """Connections of one server do not see each other's changes, as in stock."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="default")
    seen: list[Any] = []
    made: list[Recorder] = []

    def factory() -> Recorder:
        seen.append(("factory", var.get()))
        number = len(made)

        def received(protocol: Any, data: bytes) -> None:
            seen.append((data, var.get()))
            var.set(f"set by {number}")

        made.append(Recorder(data_received=received))
        return made[-1]

    var.set("creator")
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    var.set("later")
    peers = []
    for number in range(2):
        peers.append(socket.create_connection(server.sockets[0].getsockname()))
        await until(lambda number=number: len(made) > number and made[number].calls)
    for text in (b"a", b"b"):
        for number, peer in enumerate(peers):
            peer.send(text)
            await made[number].has(1 if text == b"a" else 2)
    for number, peer in enumerate(peers):
        peer.close()
        await made[number].seen("CL")
    server.close()
    await server.wait_closed()
    lib.note(seen, var.get())


def test_contexts_that_cannot_be_entered(lib: Any) -> None:
    """Callbacks whose context is entered already are told of and skipped; the loop goes on."""
    loop = lib.loop
    seen = lib.contexts(loop)
    context = contextvars.copy_context()
    calls: list[str] = []

    def main() -> None:
        loop.call_soon(calls.append, "soon", context=context)
        loop.call_later(0, calls.append, "later", context=context)
        loop.call_soon_threadsafe(calls.append, "threadsafe", context=context)
        future = loop.create_future()
        future.add_done_callback(lambda f: calls.append("done"), context=context)
        future.set_result(None)
        loop.call_soon(calls.append, "other")
        loop.call_later(0.01, loop.stop)
        loop.run_forever()

    context.run(main)
    # From 3.12 on the handler is called in the same context, in vain, and the log has it.
    lines = [line.split("\n")[0].split(" at ")[0] for line in lib.logged()]
    lib.note(calls, len(seen), sorted(lines), sorted({c["message"][:20] for c in seen}))
    assert calls == ["other"] and len(seen) + len(lines) == 4
    lib.turns(3)


def test_a_task_whose_context_cannot_be_entered(lib: Any) -> None:
    """A task's step whose context is entered already is told of, and the loop goes on."""
    loop = lib.loop
    seen = lib.contexts(loop)
    context = contextvars.copy_context()
    calls: list[str] = []

    async def work() -> None:
        calls.append("worked")

    def main() -> None:
        tasks.append(loop.create_task(work(), context=context))
        loop.call_later(0.01, loop.stop)
        loop.run_forever()

    tasks: list[Any] = []
    context.run(main)
    lib.note(calls, tasks[0].done(), len(seen) + len(lib.logged()))
    # Nobody steps the task again, in stock: let it go.
    tasks[0].get_coro().close()
    tasks.clear()
    gc.collect()
    lib.turns(3)
    lib.logged()
    lib.warnings_taken()
    lib.unraisable_taken()


def test_a_descriptor_closed_behind_the_transport(lib: Any) -> None:
    """os.close() of a transport's descriptor: errors, no abort."""

    async def main() -> None:
        seen = lib.contexts(asyncio.get_running_loop())
        transport, protocol, peer = await join(Recorder)
        fd = transport.get_extra_info("socket").fileno()
        os.close(fd)
        transport.write(b"x")
        assert transport.is_closing()
        await protocol.seen("CL")
        lib.note(protocol.calls, type(protocol.lost_with))
        await io_turns()
        peer.close()
        seen.clear()

    lib.run(main)
    gc.collect()
    lib.warnings_taken()
    lib.unraisable_taken()
    lib.logged()


@on_loop
async def test_out_of_memory_like_errors(lib: Any) -> None:
    """MemoryError and RecursionError from data_received are errors like any other."""
    for error in (MemoryError, RecursionError):
        seen = lib.contexts(asyncio.get_running_loop())

        def hook(protocol: Any, data: bytes, error: Any = error) -> None:
            raise error

        async with link(lambda hook=hook: Recorder(data_received=hook)) as (_, protocol, peer):
            peer.send(b"x")
            await protocol.seen("CL")
            lib.note(protocol.calls, type(protocol.lost_with), [told(c) for c in seen])
        seen.clear()


def test_closing_the_loop_with_work_left(lib: Any) -> None:
    """A loop closed with connections and callbacks pending: nothing runs, nothing aborts."""
    loop = lib.new_loop()
    transport, protocol, peer = loop.run_until_complete(join(Recorder))
    calls: list[str] = []
    loop.call_soon(calls.append, "soon")
    loop.call_later(0, calls.append, "later")
    loop.add_reader(peer.sock, calls.append, "reader")
    transport.write(b"x")
    loop.close()
    lib.note(calls, protocol.calls, transport.is_closing())
    del transport, protocol, loop
    gc.collect()
    told_of = [name for name, text in lib.warnings_taken() if "unclosed transport" in text]
    lib.note(told_of)
    lib.loops.clear()
    gc.collect()
    peer.close()


def test_interpreter_exit_with_open_transports(lib: Any) -> None:
    """A program that ends with everything open and raising exits by itself, with its own status."""
    done = lib.program(
        """
import asyncio, socket, sys
class Bad(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def connection_lost(self, exc): raise ZeroDivisionError
    def __del__(self): raise ZeroDivisionError
keep = []
async def main():
    a, b = socket.socketpair()
    keep.append(await asyncio.get_running_loop().create_connection(Bad, sock=a))
    keep.append(b)
    keep.append(asyncio.get_running_loop())
loop = LIB.new_event_loop()
loop.run_until_complete(main())
print("end", flush=True)
sys.exit(7)
"""
    )
    lib.note(done.returncode, done.stdout)
    assert done.returncode == 7, (done.returncode, done.stderr)
    assert sys.version_info and "Fatal Python error" not in done.stderr

"""Each callback of a protocol raises: who is told what, and what becomes of the connection."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from typing import Any

import pytest
from provoke import CALLBACKS, hears, provoke, recorder_for, settled, told
from wire import Recorder, join, link, listening, on_loop, stock_at, turns

callbacks = pytest.mark.parametrize("callback", CALLBACKS)


class Unusual(BaseException):
    """An exception that no `except Exception` catches."""


ERRORS = {
    "ordinary": lambda: ZeroDivisionError("as asked"),
    "os": lambda: OSError(5, "as asked"),
    "reset": lambda: ConnectionResetError(104, "as asked"),
    "blocking": lambda: BlockingIOError(11, "as asked"),
    "cancelled": lambda: asyncio.CancelledError("as asked"),
    "unusual": lambda: Unusual("as asked"),
    "stop": lambda: StopIteration("as asked"),
    "group": lambda: ExceptionGroup("as asked", [ValueError()]),
}


@callbacks
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("route", ["connect-sock", "served"])
@on_loop
async def test_raises(lib: Any, callback: str, error: str, route: str) -> None:
    """The same calls, contexts and endings as stock."""
    seen = lib.contexts(asyncio.get_running_loop())

    def hook(*args: Any) -> Any:
        raise ERRORS[error]()

    async with link(recorder_for(callback, hook), route) as (transport, protocol, peer):
        await provoke(callback, transport, peer)
        if callback == "get_buffer":
            await protocol.seen("CL")
        await settled(callback, protocol)
        lib.note(protocol.calls, type(protocol.lost_with), transport.is_closing(), hears(peer))
        lib.note([told(c) for c in seen])
        for context in seen:
            assert context.get("transport", transport) is transport
            assert context.get("protocol", protocol) is protocol
        if not transport.is_closing():
            protocol.hooks.clear()
            transport.write(b"usable")
    seen.clear()


@callbacks
@on_loop
async def test_raises_every_time(lib: Any, callback: str) -> None:
    """A protocol all of whose callbacks raise ends without a leak and without a stall."""
    seen = lib.contexts(asyncio.get_running_loop())

    def hook(*args: Any) -> Any:
        raise ZeroDivisionError

    async with link(recorder_for(callback, hook)) as (transport, protocol, peer):
        for name in ("data_received", "pause_writing", "connection_made", "connection_lost"):
            protocol.hooks[name] = hook
        await provoke(callback, transport, peer)
        await settled(callback, protocol)
        transport.abort() if not transport.is_closing() else None
        await protocol.seen("CL")
        assert len(seen) >= 1
        assert protocol.calls.count("CL") == 1
    seen.clear()


@callbacks
@on_loop
async def test_default_handler_logs(lib: Any, callback: str) -> None:
    """Without a handler of the user the same goes to the log, once."""

    def hook(*args: Any) -> Any:
        raise ZeroDivisionError("as asked")

    async with link(recorder_for(callback, hook)) as (transport, protocol, peer):
        await provoke(callback, transport, peer)
        await settled(callback, protocol)
    lines = [text.split("\n") for text in lib.logged(logging.ERROR)]
    lib.note(len(lines), [line.split(":")[0] for line in lines[0][1:]])
    assert lines[0][0].startswith(("Fatal error: protocol.", "Exception in ", "protocol."))


@callbacks
@pytest.mark.parametrize("base", [SystemExit, KeyboardInterrupt])
def test_exits(lib: Any, callback: str, base: Any) -> None:
    """SystemExit and KeyboardInterrupt come out of the run; the loop can run again."""
    loop = lib.loop
    seen = lib.contexts(loop)

    def hook(*args: Any) -> Any:
        protocol.hooks.clear() if protocol else None
        raise base("as asked")

    protocol: Any = None
    transport: Any = None
    peer: Any = None

    async def prepare() -> None:
        nonlocal protocol, transport, peer
        async with asyncio.timeout(20):
            transport, protocol, peer = await join(Recorder)
            if callback in ("get_buffer", "buffer_updated"):
                protocol = recorder_for(callback, hook)()
                protocol.transport = transport
                transport.set_protocol(protocol)
            else:
                protocol.hooks[callback] = hook

    async def drive() -> None:
        await provoke(callback, transport, peer)
        await settled(callback, protocol)

    if callback == "connection_made":
        return  # test_exit_of_connection_made has it.
    loop.run_until_complete(prepare())
    task = loop.create_task(drive())
    loop.call_later(10, loop.stop)
    with pytest.raises(base):
        loop.run_forever()
    lib.note(loop.is_running(), loop.is_closed(), protocol.calls, [told(c) for c in seen])

    async def finish() -> None:
        sock = transport.get_extra_info("socket")
        peer.close()
        if sock.fileno() != -1:
            transport.abort()
        while sock.fileno() != -1:
            await turns()

    loop.run_until_complete(finish())
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    lib.note(protocol.calls[-1])


@pytest.mark.parametrize("base", [SystemExit, KeyboardInterrupt])
def test_exit_of_connection_made(lib: Any, base: Any) -> None:
    """The same for connection_made, which runs before anybody has the transport."""
    loop = lib.loop

    def hook(*args: Any) -> Any:
        raise base("as asked")

    async def main() -> Any:
        return await join(lambda: Recorder(connection_made=hook))

    task = loop.create_task(main())
    with pytest.raises(base):
        loop.run_until_complete(task)
    transport, protocol, peer = loop.run_until_complete(task)
    lib.note(protocol.calls, transport.is_closing())
    transport.close()
    peer.close()
    loop.run_until_complete(protocol.seen("CL"))
    loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "factory",
    [
        lambda: 1 // 0,
        lambda: None,
        lambda: 5,
        lambda: object(),
        lambda: asyncio.Protocol,
        lambda one: None,
    ],
    ids=["raises", "none", "int", "object", "class", "arguments"],
)
@on_loop
async def test_factories_of_a_server(lib: Any, debug: bool, factory: Any) -> None:
    """A factory that raises or makes nonsense: told in debug mode; the next client is served."""
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    seen = lib.contexts(loop)
    made: list[Any] = []

    def first_bad() -> Any:
        if not made:
            made.append(None)
            return factory()
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(first_bad, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    with socket.create_connection(where) as one:
        while not made:
            await turns()
        for _ in range(100):
            await asyncio.sleep(0)
        one.setblocking(False)
        with socket.create_connection(where) as two:
            while len(made) < 2:
                await turns()
            two.send(b"hello")
            await made[1].has(5)
            made[1].transport.abort()
            await made[1].seen("CL")
        server.close()
        del made[:]
        await asyncio.sleep(0)
        if debug:
            lib.note([told(c)[:3] for c in seen])
        else:
            lib.note(len([c for c in seen if "incoming" in c["message"]]))
        seen.clear()
    gc.collect()
    lib.warnings_taken()
    lib.logged()


@pytest.mark.parametrize("error", [asyncio.CancelledError, Unusual, ZeroDivisionError])
@on_loop
async def test_factories_of_a_client(lib: Any, error: Any) -> None:
    """A client's factory that raises: the socket that was made for it is closed."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # Stock asyncio left the socket to the garbage collector.

    def factory() -> Any:
        raise error

    with listening() as listener:
        with pytest.raises(error):
            await asyncio.get_running_loop().create_connection(factory, *listener.getsockname())
        conn, _ = listener.accept()
        with conn:
            assert conn.recv(5) == b""


@on_loop
async def test_factories_of_a_given_socket(lib: Any) -> None:
    """Whether the caller's socket is closed when the factory raises is as this Python has it."""
    loop = asyncio.get_running_loop()
    for call in (loop.create_connection, loop.create_unix_connection):
        one, two = socket.socketpair()
        with one, two:
            with pytest.raises(ZeroDivisionError):
                await call(lambda: 1 // 0, sock=one)
            lib.note(one.fileno() == -1)

"""Each callback of a protocol over TLS raises: who is told what, and how the connection ends."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from tlswire import ROLES, is_server, server_context, tls_link
from wire import BufferedRecorder, Recorder, io_turns, on_loop, turns

roles = pytest.mark.parametrize("route", ROLES)
errors = pytest.mark.parametrize(
    "error",
    [ZeroDivisionError, OSError, ConnectionResetError, asyncio.CancelledError],
    ids=lambda e: e.__name__,
)


def raiser(error: Any, after: int = 0) -> Any:
    """Give a hook that raises from its call after so many on."""
    count = [0]

    def hook(protocol: Any, *args: Any) -> None:
        count[0] += 1
        if count[0] > after:
            raise error("as asked")

    return hook


def told(seen: list[Any]) -> list[Any]:
    """Give what the exception handler was told, without the objects."""
    pictures = []
    for context in seen:
        message = context["message"]
        if message.startswith("Exception in callback"):
            message = "Exception in callback"  # It names a method of the layer.
        pictures.append([message, type(context.get("exception")).__name__])
    return pictures


async def end(lib: Any, seen: list[Any], transport: Any, protocol: Any, peer: Any) -> None:
    """Note how it went; wait until the connection has ended by itself or by our hand."""
    await io_turns()
    lib.note(protocol.grammar, type(protocol.lost_with), told(seen))
    lib.note(transport.get_extra_info("socket") is None)
    seen.clear()
    peer.close()
    await io_turns()
    transport.abort()
    await io_turns()
    lib.note(protocol.calls.count("CL"), told(seen))
    seen.clear()


@roles
@errors
@on_loop
async def test_data_received(lib: Any, route: str, error: Any) -> None:
    """data_received raises."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(lambda: Recorder(data_received=raiser(error)), route) as (t, p, peer):
        peer.send(b"hello")
        await p.seen("DR")
        await end(lib, seen, t, p, peer)


@roles
@errors
@pytest.mark.parametrize("callback", ["get_buffer", "buffer_updated"])
@on_loop
async def test_buffered(lib: Any, route: str, error: Any, callback: str) -> None:
    """get_buffer or buffer_updated raises."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route, theirs=without_tickets(route)) as (transport, _, peer):
        asked = asyncio.Event()
        protocol = BufferedRecorder(**{callback: giver(raiser(error), asked)})
        transport.set_protocol(protocol)
        peer.send(b"hello")
        await asked.wait()
        await end(lib, seen, transport, protocol, peer)


def without_tickets(route: str) -> ssl.SSLContext | None:
    """Give a peer's context that sends nothing of its own after the handshake."""
    return None if is_server(route) else server_context(num_tickets=0)


def giver(hook: Any, asked: asyncio.Event) -> Any:
    """Give a hook that also answers get_buffer."""

    def call(protocol: Any, *args: Any) -> Any:
        asked.set()
        hook(protocol, *args)
        return memoryview(protocol.buffer)

    return call


@roles
@pytest.mark.parametrize("bad", [None, b"read only", 5, bytearray()], ids=repr)
@on_loop
async def test_bad_buffers(lib: Any, route: str, bad: Any) -> None:
    """get_buffer gives something that cannot be filled."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route, theirs=without_tickets(route)) as (transport, _, peer):
        asked = asyncio.Event()
        protocol = BufferedRecorder(get_buffer=lambda p, hint: asked.set() or bad)
        transport.set_protocol(protocol)
        peer.send(b"hello")
        await asked.wait()
        await io_turns()
        lib.note(protocol.grammar, type(protocol.lost_with))
        lib.note([[c["message"], type(c["exception"])] for c in seen])
    seen.clear()


@roles
@errors
@pytest.mark.parametrize("ending", ["goodbye", "cut", "close"])
@on_loop
async def test_eof_received(lib: Any, route: str, error: Any, ending: str) -> None:
    """eof_received raises."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(lambda: Recorder(eof_received=raiser(error)), route) as (t, p, peer):
        if ending == "close":
            t.close()
            await turns(2)
        peer.shutdown() if ending == "cut" else peer.goodbye()
        await p.seen("ER")
        await end(lib, seen, t, p, peer)


@roles
@errors
@pytest.mark.parametrize("ending", ["goodbye", "abort"])
@on_loop
async def test_connection_lost(lib: Any, route: str, error: Any, ending: str) -> None:
    """connection_lost raises: told once, and the descriptor is closed all the same."""
    if error is asyncio.CancelledError:
        return  # A callback that is cancelled: not of TLS.
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(lambda: Recorder(connection_lost=raiser(error)), route) as (t, p, peer):
        peer.goodbye() if ending == "goodbye" else t.abort()
        await p.seen("CL")
        await end(lib, seen, t, p, peer)


@roles
@errors
@on_loop
async def test_pause_writing(lib: Any, route: str, error: Any) -> None:
    """pause_writing raises: told, and the connection goes on."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(lambda: Recorder(pause_writing=raiser(error)), route) as (t, p, peer):
        t.set_write_buffer_limits(high=0)
        lib.note(p.calls, told(seen), ends(seen))
        t.write(b"still works")
        assert await peer.exactly(11) == b"still works"
        lib.note(t.is_closing(), {message for message, _ in told(seen)})
        seen.clear()


def ends(seen: list[Any]) -> list[Any]:
    """Give the keys of what was told."""
    return [sorted(context) for context in seen]


@roles
@errors
@on_loop
async def test_resume_writing(lib: Any, route: str, error: Any) -> None:
    """resume_writing raises: told, and the connection goes on."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(lambda: Recorder(resume_writing=raiser(error)), route) as (t, p, peer):
        t.set_write_buffer_limits(high=0)
        t.write(b"one")
        assert await peer.exactly(3) == b"one"
        await io_turns()
        t.write(b"still works")
        assert await peer.exactly(11) == b"still works"
        lib.note(t.is_closing(), {message for message, _ in told(seen)}, "RW" in p.calls)
        seen.clear()


@roles
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit], ids=lambda e: e.__name__)
@pytest.mark.parametrize("callback", ["data_received", "eof_received", "pause_writing"])
def test_the_program_ends(lib: Any, route: str, error: Any, callback: str) -> None:
    """KeyboardInterrupt and SystemExit leave run_forever; the loop can go on and end in order."""
    loop = lib.new_loop()
    seen = lib.contexts(loop)
    link = tls_link(lambda: Recorder(**{callback: raiser(error)}), route)
    transport, protocol, peer = loop.run_until_complete(link.__aenter__())

    def provoke() -> None:
        if callback == "data_received":
            peer.send(b"hello")
        elif callback == "eof_received":
            peer.goodbye()
        else:
            transport.set_write_buffer_limits(high=0)

    loop.call_soon(provoke)
    loop.call_later(5, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    lib.note(protocol.grammar, told(seen))
    loop.run_until_complete(link.__aexit__(None, None, None))
    lib.note(protocol.calls.count("CL"))
    seen.clear()


@roles
@on_loop
async def test_data_received_raises_at_the_second_call(lib: Any, route: str) -> None:
    """What came before the exception was delivered, what comes after is not."""
    seen = lib.contexts(asyncio.get_running_loop())
    hook = raiser(ZeroDivisionError, 1)
    async with tls_link(lambda: Recorder(data_received=hook), route) as (t, p, peer):
        peer.send(b"one")
        await p.has(3)
        peer.send(b"two")
        await p.has(6)
        try:
            peer.send(b"three")
        except OSError:
            pass
        await end(lib, seen, t, p, peer)
        lib.note(bytes(p.data))

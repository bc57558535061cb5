"""How TLS ends: close, abort, close_notify or none, time limits, and who is told what."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
from tlswire import ROLES, client_context, is_server, only, server_context, tls_link
from wire import BufferedRecorder, Recorder, io_turns, on_loop, stock_at, turns, until

roles = pytest.mark.parametrize("route", ROLES)
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
versions = pytest.mark.parametrize("version", [V12, V13])


def own(route: str, **settings: Any) -> ssl.SSLContext:
    """Give a context for the transport's role."""
    return (server_context if is_server(route) else client_context)(**settings)


def told(seen: list[Any]) -> list[Any]:
    """Give what the exception handler was told, without the objects."""
    return [[c["message"], sorted(c), c.get("exception")] for c in seen]


@roles
@on_loop
async def test_shutdown_timeout(lib: Any, route: str) -> None:
    """A peer that does not answer close_notify: TimeoutError after the time that was given."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    async with tls_link(Recorder, route, ssl_shutdown_timeout=0.05) as (transport, protocol, peer):
        begun = loop.time()
        transport.close()
        await protocol.seen("CL")
        assert 0.04 < loop.time() - begun < 10
        lib.note(protocol.calls, protocol.lost_with, told(seen))
        lib.note(transport.is_closing())
        assert await peer.rest() == b""
    seen.clear()


@roles
@on_loop
async def test_shutdown_timeout_with_unsent_data(lib: Any, route: str) -> None:
    """The same when what was written cannot leave."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    async with tls_link(Recorder, route, ssl_shutdown_timeout=0.05) as (transport, protocol, _):
        transport.write(bytes(8 << 20))
        transport.close()
        await protocol.seen("CL")
        # aioxide encrypts no more than the socket takes, and pauses the protocol for the rest.
        lib.note(protocol.grammar.replace("PW ", ""), protocol.lost_with, told(seen))
    seen.clear()


@roles
@on_loop
async def test_close_while_the_peer_keeps_sending(lib: Any, route: str) -> None:
    """close() ends at once although the peer goes on: no data is delivered after it."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route, ssl_shutdown_timeout=5) as (transport, protocol, peer):
        peer.send(b"before")
        await protocol.has(6)
        transport.close()
        for _ in range(20):
            try:
                peer.send(bytes(10_000))
            except OSError:
                break
            await turns(5)
        try:
            await peer.rest()
            peer.goodbye()
        except (OSError, ssl.SSLError):
            pass
        await protocol.seen("CL")
        lib.note(protocol.grammar, bytes(protocol.data))
        lib.note(type(protocol.lost_with), [type(c["exception"]) for c in seen])
    seen.clear()


@roles
@on_loop
async def test_data_of_the_peer_before_its_goodbye(lib: Any, route: str) -> None:
    """Records on their way when close() is called, then the peer's close_notify."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.close()
        peer.lower.send(peer.records(b"too late") + peer.farewell())
        await protocol.seen("CL")
        lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with, told(seen))
    seen.clear()


@roles
@on_loop
async def test_close_with_received_data_unread(lib: Any, route: str) -> None:
    """close() by a paused transport: what has come before is lost or delivered as on asyncio."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route, ssl_shutdown_timeout=0.1) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"unread")
        await io_turns()
        transport.close()
        await io_turns()
        try:
            peer.goodbye()
        except OSError:
            pass
        await protocol.seen("CL")
        lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with, told(seen))
    seen.clear()


@roles
@pytest.mark.parametrize("answer", [True, "yes", 1, False, None, 0], ids=repr)
@pytest.mark.parametrize("ending", ["goodbye", "cut"])
@on_loop
async def test_eof_answers(lib: Any, route: str, answer: Any, ending: str) -> None:
    """Half-closed TLS is not supported: a true answer is warned of, once, and changes nothing."""
    async with tls_link(lambda: Recorder(eof_received=lambda p: answer), route) as (
        transport,
        protocol,
        peer,
    ):
        peer.goodbye() if ending == "goodbye" else peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with, lib.logged(), transport.is_closing())


@roles
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@on_loop
async def test_data_and_goodbye_together(lib: Any, route: str, factory: Any) -> None:
    """The last data, close_notify and the end of stream in one segment."""
    async with tls_link(factory, route) as (_, protocol, peer):
        text = bytes(range(256)) * 20
        peer.lower.send(peer.records(text) + peer.farewell())
        peer.shutdown()
        await protocol.seen("CL")
        assert bytes(protocol.data) == text
        lib.note(protocol.grammar, protocol.lost_with)


@roles
@on_loop
async def test_data_and_end_without_goodbye_together(lib: Any, route: str) -> None:
    """The last data and the end of stream."""
    async with tls_link(Recorder, route) as (_, protocol, peer):
        peer.send(b"last")
        peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with)


@roles
@on_loop
async def test_end_in_the_middle_of_a_record(lib: Any, route: str) -> None:
    """Half of a record, then the end."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route) as (_, protocol, peer):
        peer.lower.send(peer.records(b"half of this is missing")[:-5])
        peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with, told(seen))
    seen.clear()


@pytest.mark.parametrize("ending", ["close_notify", "cut"])
@roles
@on_loop
async def test_end_while_paused(lib: Any, route: str, ending: str) -> None:
    """Data and the end come to a paused transport: all is delivered on resuming."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.pause_reading()
        goodbye = peer.farewell if ending == "close_notify" else bytes
        peer.lower.send(peer.records(b"kept") + goodbye())
        peer.shutdown()
        await io_turns()
        lib.note(protocol.calls)
        transport.resume_reading()
        await protocol.seen("CL")
        lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with)


@roles
@on_loop
async def test_paused_for_ever(lib: Any, route: str) -> None:
    """A paused transport whose peer has gone is aborted by hand."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"never read")
        peer.goodbye()
        peer.close()
        # The alert and the end of the connection may come in different looks.
        await io_turns()
        await io_turns()
        lib.note(protocol.calls, transport.is_closing())
        transport.abort()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with)


@roles
@on_loop
async def test_write_after_the_end(lib: Any, route: str) -> None:
    """Writes to a transport that is closed or lost are dropped; the fifth is warned of."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.close()
        for _ in range(3):
            transport.write(b"dropped")
        transport.writelines([b"dropped", b"too"])
        lib.note(lib.logged(), transport.get_write_buffer_size())
        peer.goodbye()
        await protocol.seen("CL")
        for _ in range(10):
            transport.write(b"dropped")
        lib.note(lib.logged())
        assert await peer.rest() == b""
        lib.note(protocol.calls)


@roles
@on_loop
async def test_write_after_abort(lib: Any, route: str) -> None:
    """The same after abort()."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.abort()
        for _ in range(10):
            transport.write(b"dropped")
        lib.note(lib.logged(), transport.get_write_buffer_size())
        await protocol.seen("CL")
        for _ in range(10):
            transport.write(b"dropped")
        lib.note(lib.logged(), protocol.calls)


@roles
@on_loop
async def test_write_to_a_peer_that_left(lib: Any, route: str) -> None:
    """Writes after a reset that nobody has read yet."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.pause_reading()
        peer.reset()
        for _ in range(20):
            transport.write(bytes(1000))
            await turns(3)
        await protocol.seen("CL")
        lib.note(protocol.calls, isinstance(protocol.lost_with, ConnectionError), told(seen))
        lib.logged()
    seen.clear()


@roles
@on_loop
async def test_abort_with_unsent_data(lib: Any, route: str) -> None:
    """abort() drops what was not sent."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.write(bytes(8 << 20))
        transport.abort()
        await protocol.seen("CL")
        assert len(await peer.rest()) < 8 << 20
        lib.note(protocol.grammar.replace("PW ", ""), protocol.lost_with)


@roles
@on_loop
async def test_close_then_abort(lib: Any, route: str) -> None:
    """abort() during the shutdown ends it."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.close()
        await io_turns()
        lib.note(protocol.calls)
        transport.abort()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with)
        assert await peer.rest() == b""


@roles
@on_loop
async def test_close_in_data_received(lib: Any, route: str) -> None:
    """close() within data_received, with more records behind."""
    hook = lambda p, d: p.transport.close()
    async with tls_link(lambda: Recorder(data_received=hook), route) as (transport, protocol, peer):
        peer.send(b"one")
        await io_turns()
        assert await peer.rest() == b"" and not peer.cut
        peer.goodbye()
        await protocol.seen("CL")
        lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with)


@roles
@pytest.mark.parametrize("act", ["close", "abort"])
@on_loop
async def test_in_eof_received(lib: Any, route: str, act: str) -> None:
    """close() or abort() within eof_received."""
    hook = lambda p: getattr(p.transport, act)()
    async with tls_link(lambda: Recorder(eof_received=hook), route) as (transport, protocol, peer):
        peer.goodbye()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with)


@roles
@on_loop
async def test_write_in_eof_received(lib: Any, route: str) -> None:
    """A last word when the peer has said goodbye."""
    hook = lambda p: p.transport.write(b"last word")
    async with tls_link(lambda: Recorder(eof_received=hook), route) as (_, protocol, peer):
        peer.lower.send(peer.records(b"bye") + peer.farewell())
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with)


@roles
@versions
@on_loop
async def test_both_say_goodbye_at_once(lib: Any, route: str, version: Any) -> None:
    """close_notify records that cross."""
    async with tls_link(Recorder, route, ours=own(route, **only(version))) as (
        transport,
        protocol,
        peer,
    ):
        peer.goodbye()
        transport.close()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with)
        assert await peer.rest() == b"" and not peer.cut


@roles
@on_loop
async def test_is_closing_in_each_state(lib: Any, route: str) -> None:
    """is_closing() before, during and after each way to end."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        lib.note(transport.is_closing())
        transport.close()
        lib.note(transport.is_closing())
        peer.goodbye()
        await protocol.seen("CL")
        lib.note(transport.is_closing())
    if stock_at(lib, (3, 11), (3, 14)):
        return  # It forgot there that the connection below was lost.
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        peer.goodbye()
        await protocol.seen("CL")
        assert transport.is_closing()


@roles
@on_loop
async def test_set_protocol(lib: Any, route: str) -> None:
    """The new protocol gets the calls from then on, and may be of the other kind."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        peer.send(b"one")
        await protocol.has(3)
        other = BufferedRecorder()
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        peer.send(b"two")
        await other.has(3)
        third = Recorder()
        transport.set_protocol(third)
        peer.send(b"three")
        await third.has(5)
        peer.goodbye()
        await third.seen("CL")
        lib.note([protocol.calls, other.calls, third.calls], bytes(other.data))


@roles
@on_loop
async def test_loop_closed_with_connections_open(lib: Any, route: str) -> None:
    """The runner ends while a connection is open; the descriptor goes with the transport."""
    link = tls_link(Recorder, route)
    transport, protocol, peer = await link.__aenter__()
    sock = transport.get_extra_info("socket")
    transport.abort()
    lib.note(protocol.calls)
    peer.close()
    await until(lambda: sock.fileno() == -1)
    lib.note(protocol.calls)

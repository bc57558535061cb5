"""TLS transports by every route: the order of calls, every byte, every way to end."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import sys
from typing import Any

import pytest
from tlswire import (
    HOST,
    ROLES,
    TLS_ROUTES,
    TlsPeer,
    client_context,
    is_server,
    server_context,
    tls_link,
)
from wire import BufferedRecorder, Recorder, io_turns, on_loop, stock_at, until

routes = pytest.mark.parametrize("route", TLS_ROUTES)
roles = pytest.mark.parametrize("route", ROLES)
# Before 3.13 asyncio's TLS in TLS loses the error for a TypeError of its own.
LOSES_THE_ERROR = sys.version_info < (3, 13)
MILLION = random.Random(21).randbytes(1_000_000)


@routes
@on_loop
async def test_the_peer_says_goodbye(lib: Any, route: str) -> None:
    """Made, fed, told the end by close_notify, lost without an error; close_notify goes back."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        assert protocol.calls == ["CM"] and protocol.transport is transport
        peer.send(b"hello")
        assert await protocol.has(5) == b"hello"
        peer.send(b" world")
        assert await protocol.has(11) == b"hello world"
        peer.goodbye()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with, transport.is_closing())
        assert protocol.grammar == "CM DR ER CL" and protocol.lost_with is None
        assert await peer.rest() == b"" and not peer.cut


@routes
@on_loop
async def test_the_peer_is_cut_off(lib: Any, route: str) -> None:
    """End of stream without close_notify."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        peer.send(b"hello")
        await protocol.has(5)
        peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with, transport.is_closing())
        lib.note(await peer.rest(), peer.cut)


@routes
@on_loop
async def test_close_says_all_then_goodbye(lib: Any, route: str) -> None:
    """close() sends what was written, then close_notify; the end waits for the peer's."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.write(b"last words")
        transport.close()
        lib.note(transport.is_closing(), protocol.calls)
        assert await peer.exactly(10) == b"last words"
        assert await peer.some() == b"" and not peer.cut
        await io_turns()
        lib.note(protocol.calls)
        peer.goodbye()
        await protocol.seen("CL")
        transport.close()
        transport.abort()
        await io_turns()
        lib.note(protocol.calls, protocol.lost_with, transport.is_closing())


@routes
@on_loop
async def test_abort(lib: Any, route: str) -> None:
    """abort() ends at once, says nothing, and calls connection_lost(None) in a later turn."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.abort()
        assert protocol.calls == ["CM"]
        if not stock_at(lib, (3, 11), (3, 12)):
            assert transport.is_closing()
        await protocol.seen("CL")
        assert await peer.rest() == b"" and peer.cut
        transport.abort()
        transport.close()
        await io_turns()
        lib.note(protocol.calls, protocol.lost_with, transport.is_closing())


@routes
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@on_loop
async def test_a_million_bytes_echo(lib: Any, route: str, factory: Any) -> None:
    """A million bytes there and back, checked byte for byte."""

    def echo(protocol: Any, *_: Any) -> None:
        protocol.transport.write(bytes(protocol.data))
        protocol.data.clear()

    async with tls_link(lambda: factory(data_received=echo, buffer_updated=echo), route) as (
        _,
        protocol,
        peer,
    ):
        sender = asyncio.ensure_future(peer.send_all(MILLION))
        got = await peer.exactly(len(MILLION))
        await sender
        assert got == MILLION
        peer.goodbye()
        await protocol.seen("CL")
        lib.note(protocol.lost_with, protocol.calls[-2:])


@routes
@on_loop
async def test_what_it_knows(lib: Any, route: str) -> None:
    """get_extra_info, of TLS and of the socket below."""
    ours = server_context() if is_server(route) else client_context()
    async with tls_link(Recorder, route, ours=ours) as (transport, protocol, peer):
        assert transport.get_extra_info("sslcontext") is ours
        tls = transport.get_extra_info("ssl_object")
        assert type(tls) is ssl.SSLObject and tls.context is ours
        assert tls.server_side is is_server(route)
        assert tls.server_hostname == (None if is_server(route) else HOST)
        cert = transport.get_extra_info("peercert")
        assert cert == tls.getpeercert()
        lib.note(cert and cert["subjectAltName"])
        lib.note(transport.get_extra_info("cipher"), transport.get_extra_info("compression"))
        lib.note(tls.version(), tls.selected_alpn_protocol(), tls.session_reused)
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        lib.note(sock.family, sock.type, sock.getpeername() == peer.sock.getsockname())
        assert transport.get_extra_info("sockname") == peer.sock.getpeername()
        if sock.family == socket.AF_INET:
            assert transport.get_extra_info("peername") == peer.sock.getsockname()
        lib.note(transport.get_extra_info("nonsense"), transport.get_extra_info("nonsense", 7))
        assert transport.get_protocol() is protocol
        transport.abort()
        await protocol.seen("CL")
        lib.note(
            [
                transport.get_extra_info(name) is not None
                for name in ("ssl_object", "sslcontext", "cipher", "peercert")
            ]
        )


@routes
@on_loop
async def test_what_it_is(lib: Any, route: str) -> None:
    """Its types and its answers while it is open."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        assert isinstance(transport, asyncio.Transport)
        lib.note(transport.is_closing(), transport.is_reading(), transport.can_write_eof())
        lib.note(transport.get_write_buffer_size(), transport.get_write_buffer_limits())
        lib.catch(transport.write_eof)
        lib.note(sorted(name for name in dir(asyncio.Transport) if not hasattr(transport, name)))
        peer.send(b"still here")
        assert await protocol.has(10) == b"still here"


@routes
@on_loop
async def test_pause_and_resume_reading(lib: Any, route: str) -> None:
    """A paused transport delivers nothing, not even the end; a resumed one misses nothing."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.pause_reading()
        transport.pause_reading()
        lib.note(transport.is_reading())
        peer.lower.send(peer.records(b"one") + peer.farewell())
        await io_turns()
        assert protocol.calls == ["CM"]
        transport.resume_reading()
        transport.resume_reading()
        lib.note(transport.is_reading())
        await protocol.seen("ER")
        if isinstance(peer.lower, TlsPeer):
            peer.lower.goodbye()
        await protocol.seen("CL")
        assert bytes(protocol.data) == b"one" and protocol.grammar == "CM DR ER CL"
        lib.note(protocol.lost_with)


@routes
@on_loop
async def test_reset_by_peer(lib: Any, route: str) -> None:
    """A reset reaches connection_lost as on asyncio, without a report."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        peer.send(b"x")
        await protocol.has(1)
        peer.reset()
        await protocol.seen("CL")
        lib.note(protocol.grammar, type(protocol.lost_with), transport.is_closing(), seen)


@routes
@on_loop
async def test_corrupt_record(lib: Any, route: str) -> None:
    """A record that fails its check ends the connection with the SSLError, which is told."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        record = bytearray(peer.records(b"something"))
        record[-1] ^= 1
        peer.lower.send(bytes(record))
        await protocol.seen("CL")
        lost = LOSES_THE_ERROR and route.startswith("inner")
        lib.note(protocol.grammar, None if lost else protocol.lost_with)
        lib.note([] if lost else [[c["message"], c["exception"]] for c in seen])
    seen.clear()


@routes
@on_loop
async def test_garbage_after_handshake(lib: Any, route: str) -> None:
    """Bytes that are no record."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        peer.lower.send(b"this is not a TLS record at all")
        await protocol.seen("CL")
        lost = LOSES_THE_ERROR and route.startswith("inner")
        lib.note(protocol.grammar, None if lost else protocol.lost_with)
        lib.note([] if lost else [[c["message"], c["exception"]] for c in seen])
    seen.clear()


@roles
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_loop
async def test_byte_by_byte(lib: Any, route: str, version: Any) -> None:
    """Records that come one byte at a time."""
    context = server_context if is_server(route) else client_context
    ours = context(minimum_version=version, maximum_version=version)
    async with tls_link(Recorder, route, ours=ours) as (transport, protocol, peer):
        for byte in peer.records(b"drip") + peer.farewell():
            peer.lower.send(bytes([byte]))
            await io_turns()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with, bytes(protocol.data))
        lib.note(transport.get_extra_info("cipher") is not None)


@roles
@on_loop
async def test_many_records_at_once(lib: Any, route: str) -> None:
    """Small records in one segment come in one call, as far as they fit one read."""
    async with tls_link(Recorder, route) as (_, protocol, peer):
        records = b"".join(peer.records(bytes([n])) for n in range(100))
        peer.lower.send(records)
        assert await protocol.has(100) == bytes(range(100))
        lib.note(protocol.calls)
        peer.lower.send(peer.records(b"end") + peer.farewell())
        await protocol.seen("CL")
        lib.note(protocol.calls)


@roles
@on_loop
async def test_data_is_bytes_of_its_own(lib: Any, route: str) -> None:
    """data_received gets exact bytes objects, which stay as they are when more comes."""
    kept: list[bytes] = []
    hashes: list[int] = []
    texts = (b"one", b"two", b"six", b"ten", b"three")

    def look(protocol: Recorder, data: bytes) -> None:
        hashes.append(hash(data))
        if len(hashes) % 2:
            kept.append(data)

    async with tls_link(lambda: Recorder(data_received=look), route) as (_, protocol, peer):
        for text in texts:
            before = len(protocol.data)
            peer.send(text)
            await protocol.has(before + len(text))
        lib.note([type(d) for d in kept], kept)
        assert kept == [b"one", b"six", b"three"] and hashes == [hash(text) for text in texts]


@roles
@on_loop
async def test_descriptor_is_closed_when_lost(lib: Any, route: str) -> None:
    """After connection_lost the descriptor goes, and the transport's answers stay sane."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        peer.goodbye()
        await protocol.seen("CL")
        await until(lambda: sock.fileno() == -1)
        lib.note(transport.is_closing(), transport.get_write_buffer_size())
        transport.write(b"late")
        transport.pause_reading()
        transport.resume_reading()
        await io_turns()
        lib.note(protocol.calls)

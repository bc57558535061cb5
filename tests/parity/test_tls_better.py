"""Where asyncio's TLS loses bytes, reports errors of its own or waits for ever: aioxide does not.

The stock run of these bodies is left out; `docs/semantics.md` lists the differences.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

import pytest
from tlswire import (
    HOST,
    ROLES,
    both,
    client_context,
    native_tls,
    peer_of,
    server_context,
    tls_join,
    tls_link,
)
from wire import BufferedRecorder, Peer, Recorder, fill, io_turns, on_loop, tcp_pair, until

roles = pytest.mark.parametrize("route", ROLES)
TEXT = bytes(range(256)) * 1000


@roles
@pytest.mark.parametrize("size", [1, 100, 16_385, 70_000, 300_000])
@on_loop
async def test_a_bytearray_is_filled(lib: Any, route: str, size: int) -> None:
    """get_buffer that gives a bytearray: asyncio loses what follows the first record."""
    if not native_tls(lib):
        return
    text = TEXT if size > 1 else TEXT[:1000]
    async with tls_link(lambda: BufferedRecorder(size), route) as (_, protocol, peer):
        sender = asyncio.ensure_future(peer.send_all(text))
        assert await protocol.has(len(text)) == text
        await sender


@on_loop
async def test_a_client_that_pauses_in_connection_made(lib: Any) -> None:
    """The client's last flight leaves, although nothing is read."""
    if not native_tls(lib):
        return
    near, far = tcp_pair()
    peer = peer_of(far, serves=True)
    protocol = Recorder(connection_made=lambda p, t: t.pause_reading())
    opening = asyncio.get_running_loop().create_connection(
        lambda: protocol, sock=near, ssl=client_context(), server_hostname=HOST
    )
    transport, _ = await both(opening, peer)
    peer.send(b"later")
    await io_turns()
    assert protocol.calls == ["CM"]
    transport.resume_reading()
    assert await protocol.has(5) == b"later"
    transport.abort()
    await protocol.seen("CL")
    peer.close()


@roles
@pytest.mark.parametrize("first", ["end", "resume"])
@on_loop
async def test_no_data_after_the_end(lib: Any, route: str, first: str) -> None:
    """A close that waits for the backlog, unread data, and the peer's end: CM [DR*] [ER?] CL."""
    if not native_tls(lib):
        return
    made = await tls_join(Recorder, route, ssl_shutdown_timeout=0.2)
    transport, _, peer = made
    sock = transport.get_extra_info("socket")
    protocol = BufferedRecorder(100)
    transport.set_protocol(protocol)
    transport.pause_reading()
    transport.write(bytes(8 << 20))
    await io_turns()
    for _ in range(10):
        peer.send(bytes(3000))
    await io_turns()
    transport.close()
    if first == "end":
        peer.shutdown()
        await io_turns()
        transport.resume_reading()
    else:
        transport.resume_reading()
        await asyncio.sleep(0)
        peer.shutdown()
    await protocol.seen("CL")
    words = [word for word in protocol.calls if word not in ("PW", "RW")]
    assert "ER" not in words or words[words.index("ER") :] == ["ER", "CL"], protocol.grammar
    peer.close()
    await until(lambda: sock.fileno() == -1)


@roles
@on_loop
async def test_limits_of_a_lost_connection(lib: Any, route: str) -> None:
    """New limits when the connection is lost tell nobody, and report nothing."""
    if not native_tls(lib):
        return
    seen = lib.contexts(asyncio.get_running_loop())
    async with tls_link(Recorder, route) as (transport, protocol, _):
        transport.abort()
        while "CL" not in protocol.calls:
            transport.set_write_buffer_limits(high=0)
            transport.set_write_buffer_limits()
            await asyncio.sleep(0)
        transport.set_write_buffer_limits(high=0)
        transport.resume_reading()
        assert not seen


@roles
@on_loop
async def test_a_transport_that_is_closed_twice(lib: Any, route: str) -> None:
    """It still answers; asyncio's raises AttributeError."""
    if not native_tls(lib):
        return
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        for _ in range(3):
            transport.close()
        transport.pause_reading()
        transport.resume_reading()
        transport.set_write_buffer_limits(high=10)
        transport.write(b"dropped")
        transport.writelines([b"dropped"])
        assert transport.is_closing()
        transport.get_extra_info("cipher")
        transport.get_protocol()
        transport.get_write_buffer_size()
        peer.goodbye()
        await protocol.seen("CL")
        assert protocol.grammar == "CM ER CL" and protocol.lost_with is None
        lib.logged()


@on_loop
async def test_tls_in_tls_ends(lib: Any) -> None:
    """The inner transport closes the outer one: asyncio's outer one then answers no more."""
    if not native_tls(lib):
        return
    for act in ("close", "abort"):
        transport, protocol, peer = await tls_join(Recorder, "inner-client")
        sock = transport.get_extra_info("socket")
        transport.write(TEXT)
        getattr(transport, act)()
        getattr(transport, act)()
        if act == "close":
            assert await peer.rest() == TEXT and not peer.cut
            peer.goodbye()
        await protocol.seen("CL")
        peer.close()
        await until(lambda: sock.fileno() == -1)


@pytest.mark.parametrize("served", [False, True], ids=["client", "server"])
@on_loop
async def test_a_pause_that_outlives_the_upgrade(lib: Any, served: bool) -> None:
    """pause_writing before start_tls, resume_writing after it, and no AssertionError between."""
    if not native_tls(lib):
        return
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    near, far = tcp_pair()
    transport, protocol = await loop.create_connection(Recorder, sock=near)
    lower = Peer(far)
    size = fill(transport)
    transport.write(TEXT)
    assert protocol.calls == ["CM", "PW"]
    upgrading = loop.start_tls(
        transport,
        protocol,
        server_context() if served else client_context(),
        server_side=served,
        server_hostname=None if served else HOST,
    )
    task = asyncio.ensure_future(upgrading)
    assert len(await lower.exactly(size + len(TEXT))) == size + len(TEXT)
    peer = peer_of(lower, serves=not served)
    upgraded = await both(task, peer)
    await protocol.seen("RW")
    upgraded.write(b"goes on")
    assert await peer.exactly(7) == b"goes on"
    assert protocol.calls == ["CM", "PW", "RW"] and not seen
    upgraded.abort()
    await protocol.seen("CL")
    peer.close()


@roles
@on_loop
async def test_drain_means_what_it_says(lib: Any, route: str) -> None:
    """A huge write counts until it has left: the protocol is paused at once."""
    if not native_tls(lib):
        return
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        data = TEXT * 100
        transport.write(data)
        assert transport.get_write_buffer_size() > len(data) - (8 << 20)
        assert "PW" in protocol.calls
        assert await peer.exactly(len(data)) == data
        await protocol.seen("RW")
        await until(lambda: transport.get_write_buffer_size() == 0)


@roles
@on_loop
async def test_paused_and_peer_gone(lib: Any, route: str) -> None:
    """close() of a paused transport whose peer has left ends the connection."""
    if not native_tls(lib):
        return
    async with tls_link(Recorder, route, ssl_shutdown_timeout=20) as (transport, protocol, peer):
        transport.pause_reading()
        peer.goodbye()
        peer.close()
        await io_turns()
        transport.close()
        async with asyncio.timeout(10):
            await protocol.seen("CL")


@pytest.mark.parametrize("backlog", [14, 13])
@on_loop
async def test_a_burst_comes_in_two_at_a_time(lib: Any, backlog: int) -> None:
    """Who is connected does not wait for the handshakes of all who came at once, unless they take
    more than half of the kernel's queue.
    """
    if not native_tls(lib):
        return
    made: list[Recorder] = []

    def protocol() -> Recorder:
        made.append(Recorder())
        return made[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        protocol, "127.0.0.1", 0, ssl=server_context(), backlog=backlog
    )
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(7)]
    counts = [0]

    def look() -> bool:
        counts.append(len(made))
        return counts[-1] == len(clients)

    await until(look)
    steps = {after - before for before, after in itertools.pairwise(counts)}
    # With room for 14 the seven of them come as 2, 2, 2 and 1.
    assert steps - {0} == ({1, 2} if backlog == 14 else {7}), counts
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()

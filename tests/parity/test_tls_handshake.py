"""The handshake: its time limit, every way in which it fails, and what is left after that."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
from tlswire import (
    HOST,
    ROLES,
    client_context,
    is_server,
    only,
    outcome,
    peer_of,
    server_context,
    stock_leaks,
    tls_link,
)
from wire import Peer, Recorder, io_turns, listening, on_loop, tcp_pair, until

roles = pytest.mark.parametrize("route", ROLES)
WAYS = ("connect-sock", "accepted", "start-client", "start-server")
ways = pytest.mark.parametrize("way", WAYS)
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


async def opening(way: str, protocol: Any, near: socket.socket, **options: Any) -> Any:
    """Begin TLS on our end by one of the ways."""
    loop = asyncio.get_running_loop()
    served = way in ("accepted", "start-server")
    ours = options.pop("ours", None) or (server_context() if served else client_context())
    if way == "accepted":
        return await loop.connect_accepted_socket(lambda: protocol, near, ssl=ours, **options)
    if not served:
        options["server_hostname"] = HOST
    if way == "connect-sock":
        return await loop.create_connection(lambda: protocol, sock=near, ssl=ours, **options)
    transport, _ = await loop.create_connection(lambda: protocol, sock=near)
    return await loop.start_tls(transport, protocol, ours, server_side=served, **options)


class Attempt:
    """A handshake that is going to fail, seen from all sides."""

    def __init__(self, lib: Any, way: str, **options: Any) -> None:
        self.lib = lib
        self.seen = lib.contexts(asyncio.get_running_loop())
        self.near, far = tcp_pair()
        self.peer = Peer(far)
        self.protocol = Recorder()
        self.task = asyncio.ensure_future(opening(way, self.protocol, self.near, **options))

    async def ended(self) -> BaseException | None:
        """Wait for the failure; note it, what the protocol heard, the reports, the socket."""
        await asyncio.wait([self.task])
        exc = asyncio.CancelledError() if self.task.cancelled() else self.task.exception()
        self.lib.note(exc)
        await until(lambda: self.near.fileno() == -1)
        await io_turns()
        self.lib.note(self.protocol.calls, self.protocol.lost_with)
        self.lib.note([[c["message"], sorted(c), c["exception"]] for c in self.seen])
        self.seen.clear()
        self.peer.close()
        return exc


@ways
@on_loop
async def test_timeout(lib: Any, way: str) -> None:
    """A silent peer: ConnectionAbortedError, after the time that was given."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    attempt = Attempt(lib, way, ssl_handshake_timeout=0.05)
    exc = await attempt.ended()
    assert type(exc) is ConnectionAbortedError and 0.04 < loop.time() - begun < 10
    assert "0.05 seconds" in str(exc)


@ways
@on_loop
async def test_timeout_in_the_middle(lib: Any, way: str) -> None:
    """A peer that falls silent after its first bytes."""
    attempt = Attempt(lib, way, ssl_handshake_timeout=0.05)
    attempt.peer.send(b"\x16\x03\x01")
    assert type(await attempt.ended()) is ConnectionAbortedError


@ways
@on_loop
async def test_end_of_stream(lib: Any, way: str) -> None:
    """The peer leaves before it has said anything."""
    attempt = Attempt(lib, way)
    await io_turns()
    attempt.peer.shutdown()
    await attempt.ended()


@ways
@on_loop
async def test_end_of_stream_in_the_middle(lib: Any, way: str) -> None:
    """The peer leaves in the middle of a record."""
    attempt = Attempt(lib, way)
    attempt.peer.send(b"\x16\x03\x01\x02\x00\x01")
    await io_turns()
    attempt.peer.shutdown()
    await attempt.ended()


@ways
@on_loop
async def test_reset(lib: Any, way: str) -> None:
    """The peer resets."""
    attempt = Attempt(lib, way)
    await io_turns()
    await attempt.peer.some() if way in ("connect-sock", "start-client") else None
    attempt.peer.reset()
    exc = await attempt.ended()
    assert isinstance(exc, ConnectionResetError)


GARBAGE = {
    "zeros": bytes(100),
    "text": b"this is no handshake, by no means\r\n" * 3,
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "ssl2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0"),
    "alert": bytes.fromhex("15030300020228"),
    "appdata": bytes.fromhex("1703030005") + b"hello",
    "huge": bytes.fromhex("160301ffff") + bytes(70_000),
    "version": bytes.fromhex("1609090020") + bytes(32),
}


@ways
@pytest.mark.parametrize("kind", GARBAGE)
@on_loop
async def test_garbage(lib: Any, way: str, kind: str) -> None:
    """Something else than a handshake."""
    attempt = Attempt(lib, way)
    await io_turns()
    if way in ("connect-sock", "start-client"):
        await attempt.peer.some()
    attempt.peer.send(GARBAGE[kind])
    await io_turns()
    if kind == "appdata" or attempt.near.fileno() != -1:
        attempt.peer.shutdown()
    assert await attempt.ended() is not None


@on_loop
async def test_plain_http_to_a_server(lib: Any) -> None:
    """A browser that forgot the s: the server closes, and serves the next one."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context())
    where = server.sockets[0].getsockname()
    lost = Peer(socket.create_connection(where))
    lost.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        lib.note(await lost.rest())
    except ConnectionError as exc:
        lib.note(type(exc))
    lost.close()
    await io_turns()
    lib.note([[c["message"], c["exception"]] for c in seen], [p.calls for p in made])
    peer = peer_of(socket.create_connection(where), serves=False)
    await peer.handshake()
    await until(lambda: len(made) == 2 and made[1].calls)
    made[1].transport.write(b"served")
    assert await peer.exactly(6) == b"served"
    server.close()
    peer.goodbye()
    await made[1].seen("CL")
    peer.close()
    seen.clear()


@on_loop
async def test_failed_handshakes_of_a_server_in_debug_mode(lib: Any) -> None:
    """What a server tells of a failed handshake in debug mode."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    seen = lib.contexts(loop)
    server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context())
    for text in (b"GET / HTTP/1.1\r\n\r\n", b""):
        peer = Peer(socket.create_connection(server.sockets[0].getsockname()))
        if text:
            peer.send(text)
            await peer.some()
        peer.close()
        await io_turns()
    await until(lambda: len(seen) >= 2)
    lib.note([[c["message"], sorted(c), c["exception"]] for c in seen])
    server.close()
    seen.clear()
    loop.set_debug(False)


@ways
@on_loop
async def test_cancelled(lib: Any, way: str) -> None:
    """A cancelled opening closes its socket, tells no protocol and nobody else."""
    attempt = Attempt(lib, way)
    await io_turns()
    attempt.task.cancel("enough")
    await attempt.ended()


@ways
@on_loop
async def test_cancelled_in_the_middle(lib: Any, way: str) -> None:
    """The same when half of the handshake has been."""
    served = way in ("accepted", "start-server")
    attempt = Attempt(lib, way)
    peer = peer_of(attempt.peer, serves=not served)
    if served:
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
    else:
        await peer.feed()
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
    hello = peer.outgoing.read()
    attempt.peer.send(hello[:-1])
    await io_turns()
    attempt.task.cancel()
    await attempt.ended()


@on_loop
async def test_cancelled_connection_to_a_silent_server(lib: Any) -> None:
    """create_connection by host and port, cancelled after the connection was made."""
    loop = asyncio.get_running_loop()
    with listening() as listener:
        task = asyncio.ensure_future(
            loop.create_connection(
                Recorder, *listener.getsockname(), ssl=client_context(), server_hostname=HOST
            )
        )
        sock, _ = await loop.sock_accept(listener)
        peer = Peer(sock)
        assert (await peer.some())[:1] == b"\x16"
        task.cancel()
        await outcome(lib, task)
        lib.note(await ended_how(peer))
        peer.close()


async def ended_how(peer: Peer) -> str:
    """Tell how the connection ended for the peer."""
    try:
        return "closed" if await peer.some() == b"" else "data"
    except ConnectionError as exc:
        return type(exc).__name__


@ways
@on_loop
async def test_timed_out_by_the_caller(lib: Any, way: str) -> None:
    """asyncio.timeout around the opening."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await opening(way, Recorder(), near)
    await until(lambda: near.fileno() == -1)
    lib.note(loop.is_running())
    far.close()


@roles
@pytest.mark.parametrize("version", [V12, V13])
@on_loop
async def test_one_byte_at_a_time(lib: Any, route: str, version: Any) -> None:
    """A handshake of which every byte comes alone."""
    near, far = tcp_pair()
    served = is_server(route)
    peer = peer_of(far, serves=not served)
    ours = (server_context if served else client_context)(**only(version))
    protocol = Recorder()
    task = asyncio.ensure_future(opening(route, protocol, near, ours=ours))
    while True:
        try:
            peer.tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        for byte in peer.outgoing.read():
            await asyncio.get_running_loop().sock_sendall(far, bytes([byte]))
            await asyncio.sleep(0)
        if done:
            break
        await peer.feed()
    transport, _ = await task
    peer.send(b"x")
    await protocol.has(1)
    lib.note(protocol.calls, transport.get_extra_info("cipher"))
    transport.abort()
    peer.close()


@roles
@on_loop
async def test_data_with_the_last_flight(lib: Any, route: str) -> None:
    """Data in the segment that ends the handshake: connection_made comes first."""
    near, far = tcp_pair()
    served = is_server(route)
    peer = peer_of(far, serves=not served)
    protocol = Recorder()
    task = asyncio.ensure_future(opening(route, protocol, near))
    if served:
        # The client's Finished and its data in one segment.
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.flush()
        await peer.feed()
        peer.tls.do_handshake()
        peer.lower.send(peer.outgoing.read() + peer.records(b"early") + peer.farewell())
    else:
        # The server may write before it has the client's Finished.
        await peer.feed()
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.handshake()
        peer.lower.send(peer.records(b"early") + peer.farewell())
    transport, _ = await task
    await protocol.seen("CL")
    lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with)
    peer.close()


@roles
@pytest.mark.parametrize("act", ["close", "abort", "pause", "write", "write-close", "limits"])
@on_loop
async def test_acts_in_connection_made(lib: Any, route: str, act: str) -> None:
    """connection_made is called when all of TLS is usable."""

    def hook(protocol: Any, transport: Any) -> None:
        assert transport.get_extra_info("cipher") and transport.get_extra_info("ssl_object")
        if act == "close":
            transport.close()
        elif act == "abort":
            transport.abort()
        elif act == "pause":
            transport.pause_reading()
            # Stock sends the client's last flight with the next write only.
            transport.write(b"written")
        elif act == "limits":
            transport.set_write_buffer_limits(high=1)
        if "write" in act:
            transport.write(b"first words")
        if act == "write-close":
            transport.close()

    near, far = tcp_pair()
    peer = peer_of(far, serves=not is_server(route))
    protocol = Recorder(connection_made=hook)
    task = asyncio.ensure_future(opening(route, protocol, near))
    try:
        await peer.handshake()
        lib.note(await peer.exactly({"pause": 7}.get(act, 11 if "write" in act else 0)), peer.cut)
        if act != "close":  # Read before or with the goodbye, it would be data or an error.
            peer.send(b"in")
            await io_turns()
        peer.goodbye()
    except OSError:
        peer.close()
    await asyncio.wait([task])
    lib.note(task.exception() or "opened")
    if act == "pause":
        await io_turns()
        lib.note(protocol.calls)
        protocol.transport.resume_reading()
    await protocol.seen("CL")
    words = [word for word in protocol.calls if word not in ("PW", "RW")]
    lib.note(words, protocol.lost_with, bytes(protocol.data))
    await until(lambda: near.fileno() == -1)
    peer.close()


@roles
@pytest.mark.parametrize("error", [ZeroDivisionError, OSError], ids=lambda e: e.__name__)
@on_loop
async def test_connection_made_raises(lib: Any, route: str, error: Any) -> None:
    """An exception in connection_made: who hears of it."""

    def hook(protocol: Any, transport: Any) -> None:
        raise error("as asked")

    seen = lib.contexts(asyncio.get_running_loop())
    near, far = tcp_pair()
    peer = peer_of(far, serves=not is_server(route))
    task = asyncio.ensure_future(opening(route, Recorder(connection_made=hook), near))
    shaken = await asyncio.gather(peer.handshake(), return_exceptions=True)
    await io_turns()
    lib.note(task.done(), [type(s) for s in shaken], near.fileno() == -1)
    task.cancel()
    await asyncio.wait([task])
    lib.note(len(seen), [type(c["exception"]) for c in seen], [c["message"] for c in seen])
    peer.close()
    await until(lambda: near.fileno() == -1)
    seen.clear()


@roles
@on_loop
async def test_the_factory_raises(lib: Any, route: str) -> None:
    """The protocol factory's exception is the caller's; the socket is the caller's still."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()

    def factory() -> Any:
        raise ZeroDivisionError("as asked")

    if is_server(route):
        awaitable = loop.connect_accepted_socket(factory, near, ssl=server_context())
    else:
        awaitable = loop.create_connection(
            factory, sock=near, ssl=client_context(), server_hostname=HOST
        )
    await outcome(lib, awaitable)
    lib.note(near.fileno() == -1)
    near.close()
    far.close()


@on_loop
async def test_the_factory_of_a_server_raises(lib: Any) -> None:
    """The connection is closed; the next is served; debug mode tells."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)

    def factory() -> Any:
        raise ZeroDivisionError("as asked")

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context())
    for debug in (False, True):
        loop.set_debug(debug)
        peer = Peer(socket.create_connection(server.sockets[0].getsockname()))
        if lib.native_loop:  # Stock leaves the connection to the garbage collector.
            assert await ended_how(peer) == "closed"
        await io_turns()
        peer.close()
        lib.note([[c["message"], sorted(c), c["exception"]] for c in seen])
    server.close()
    loop.set_debug(False)
    seen.clear()
    stock_leaks(lib)


@roles
@on_loop
async def test_handshake_timer_ends_with_the_handshake(lib: Any, route: str) -> None:
    """A connection that outlives its handshake's time limit."""
    async with tls_link(Recorder, route, ssl_handshake_timeout=0.5) as (_, protocol, peer):
        await asyncio.sleep(0.6)
        peer.send(b"still here")
        lib.note(await protocol.has(10))

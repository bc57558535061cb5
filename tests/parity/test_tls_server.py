"""Servers with TLS clients: closing, aborting, many at once; and that nothing stays in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import weakref
from typing import Any

import pytest
from tlswire import (
    CLIENT_ROUTES,
    HOST,
    ROLES,
    TLS_ROUTES,
    both,
    client_context,
    is_server,
    peer_of,
    server_context,
    tls_join,
)
from wire import Peer, Recorder, io_turns, on_loop, tcp_pair, until

roles = pytest.mark.parametrize("route", ROLES)


class Serving:
    """A TLS server that keeps its protocols."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks
        self.made: list[Recorder] = []

    def __call__(self) -> Recorder:
        """Make a protocol."""
        self.made.append(Recorder(**self.hooks))
        return self.made[-1]

    async def start(self, **options: Any) -> Any:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            self, "127.0.0.1", 0, ssl=server_context(), **options
        )
        self.where = self.server.sockets[0].getsockname()
        return self.server

    async def client(self) -> tuple[Any, Recorder]:
        """Connect; give the client's end and the protocol that serves it."""
        peer = peer_of(socket.create_connection(self.where), serves=False)
        await peer.handshake()
        count = len(self.made)
        await until(lambda: self.made and self.made[count - 1].calls)
        return peer, self.made[-1]


@on_loop
async def test_close_leaves_clients_alone(lib: Any) -> None:
    """Server.close(): no more are accepted, those who are there stay."""
    serving = Serving()
    server = await serving.start()
    peer, protocol = await serving.client()
    server.close()
    await io_turns()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(serving.where)
    peer.send(b"still served")
    lib.note(await protocol.has(12), protocol.calls)
    peer.goodbye()
    await protocol.seen("CL")
    peer.close()
    await server.wait_closed()


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
@on_loop
async def test_close_and_abort_clients(lib: Any, how: str) -> None:
    """The clients are closed, or cut off, below TLS."""
    lib.stock_defect(sys.version_info < (3, 13), "new in 3.13")
    serving = Serving()
    server = await serving.start()
    clients = [await serving.client() for _ in range(3)]
    server.close()
    getattr(server, how)()
    for peer, protocol in clients:
        assert await peer.rest() == b""
        await protocol.seen("CL")
        lib.note(peer.cut, protocol.grammar, protocol.lost_with)
        peer.close()
    await server.wait_closed()


@on_loop
async def test_wait_closed_waits_for_clients(lib: Any) -> None:
    """From 3.12 on wait_closed() ends when the last client has gone."""
    serving = Serving()
    server = await serving.start()
    peer, protocol = await serving.client()
    server.close()
    waiting = asyncio.ensure_future(server.wait_closed())
    await io_turns()
    lib.note(waiting.done())
    peer.goodbye()
    await protocol.seen("CL")
    peer.close()
    await waiting
    lib.note(protocol.lost_with)


@on_loop
async def test_closed_in_the_middle_of_a_handshake(lib: Any) -> None:
    """A handshake under way when the server is closed goes on."""
    serving = Serving()
    server = await serving.start()
    peer = peer_of(socket.create_connection(serving.where), serves=False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    await peer.flush()
    await io_turns()
    server.close()
    await peer.handshake()
    await until(lambda: serving.made[0].calls)
    peer.send(b"in time")
    lib.note(await serving.made[0].has(7))
    peer.goodbye()
    await serving.made[0].seen("CL")
    peer.close()


@on_loop
async def test_hundred_clients(lib: Any) -> None:
    """A hundred at once, each gets its own bytes back."""

    def echo(protocol: Any, data: bytes) -> None:
        protocol.transport.write(data)

    serving = Serving(data_received=echo)
    server = await serving.start(backlog=200)

    async def one(number: int) -> bytes:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            Recorder, *serving.where, ssl=client_context(), server_hostname=HOST
        )
        text = b"%d" % number * 100
        transport.write(text)
        await protocol.has(len(text))
        transport.close()
        await protocol.seen("CL")
        assert protocol.lost_with is None
        return bytes(protocol.data)

    got = await asyncio.gather(*(one(n) for n in range(100)))
    assert got == [b"%d" % n * 100 for n in range(100)]
    for protocol in serving.made:
        await protocol.seen("CL")
    lib.note({p.grammar for p in serving.made}, len(serving.made))
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("route", TLS_ROUTES)
@pytest.mark.parametrize("ending", ["goodbye", "close", "abort", "reset"])
@on_loop
async def test_nothing_is_left(lib: Any, route: str, ending: str) -> None:
    """After the end protocol, context and TLS object are freed."""
    context = server_context() if is_server(route) else client_context()
    transport, protocol, peer = await tls_join(Recorder, route, ours=context)
    sock = transport.get_extra_info("socket")
    if ending == "goodbye":
        peer.goodbye()
    elif ending == "reset":
        peer.reset()
    else:
        getattr(transport, ending)()
        if ending == "close":
            assert await peer.rest() == b""
            peer.goodbye()
    await protocol.seen("CL")
    await until(lambda: sock.fileno() == -1)
    peer.close()
    refs = [weakref.ref(thing) for thing in (protocol, context)]
    if hasattr(type(transport), "__weakrefoffset__") and type(transport).__weakrefoffset__:
        refs.append(weakref.ref(transport))
    del transport, protocol, context, peer
    await io_turns()
    gc.collect()
    assert not [ref() for ref in refs if ref()]
    lib.note("freed")


@pytest.mark.parametrize("failure", ["timeout", "garbage", "cut", "cancel", "mismatch"])
@pytest.mark.parametrize("route", CLIENT_ROUTES[1:2] + ("accepted",))
@on_loop
async def test_nothing_is_left_of_a_failed_handshake(lib: Any, route: str, failure: str) -> None:
    """Neither protocol nor context stay after a handshake that failed."""
    loop = asyncio.get_running_loop()
    context = server_context() if is_server(route) else client_context()
    made = [Recorder()]
    near, far = tcp_pair()
    peer = Peer(far)
    options: Any = {"ssl_handshake_timeout": 0.02} if failure == "timeout" else {}
    if is_server(route):
        opening = loop.connect_accepted_socket(lambda: made[0], near, ssl=context, **options)
    else:
        opening = loop.create_connection(
            lambda: made[0], sock=near, ssl=context, server_hostname=HOST, **options
        )
    task = asyncio.ensure_future(opening)
    await io_turns()
    if failure == "garbage":
        peer.send(b"no TLS record starts like this\n")
    elif failure == "cut":
        peer.shutdown()
    elif failure == "cancel":
        task.cancel()
    elif failure == "mismatch":
        strange = peer_of(peer, serves=not is_server(route), context=stranger(route))
        await asyncio.gather(strange.handshake(), return_exceptions=True)
        with contextlib.suppress(OSError):
            peer.shutdown()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception()
    await until(lambda: near.fileno() == -1)
    refs = [weakref.ref(made.pop()), weakref.ref(context)]
    strange = None
    del context, task, opening
    peer.close()
    await io_turns()
    gc.collect()
    assert not [ref() for ref in refs if ref()]
    lib.note("freed")


def stranger(route: str) -> ssl.SSLContext:
    """Give a context that this role of ours will not get along with."""
    if is_server(route):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # But it trusts nobody.
        return context
    return server_context("elsewhere.example")


@roles
def test_loop_closed_with_an_open_connection(lib: Any, route: str) -> None:
    """loop.close() with TLS connections open: no error, no descriptor lost for ever."""
    loop = lib.new_loop()
    transport, protocol, peer = loop.run_until_complete(tls_join(Recorder, route))
    sock = transport.get_extra_info("socket")
    loop.close()
    lib.note(protocol.calls, transport.is_closing())
    assert sock.fileno() >= 0
    peer.close()
    del transport, protocol, sock
    gc.collect()
    lib.warnings_taken()  # "unclosed transport", in each loop's own words.
    lib.unraisable_taken()


@roles
def test_transport_that_is_forgotten(lib: Any, route: str) -> None:
    """A transport that nobody holds but the loop goes on working."""
    loop = lib.new_loop()

    async def body() -> None:
        transport, protocol, peer = await tls_join(Recorder, route)
        protocol.transport = None
        sock = transport.get_extra_info("socket")
        del transport
        gc.collect()
        peer.send(b"anybody there?")
        lib.note(await protocol.has(14))
        peer.goodbye()
        await protocol.seen("CL")
        peer.close()
        await until(lambda: sock.fileno() == -1)

    loop.run_until_complete(body())


@roles
@on_loop
async def test_cyclic_protocols_are_collected(lib: Any, route: str) -> None:
    """A protocol that holds its transport, which holds it, goes with the collector."""
    transport, protocol, peer = await tls_join(Recorder, route)
    protocol.myself = protocol
    sock = transport.get_extra_info("socket")
    ref = weakref.ref(protocol)
    transport.abort()
    await protocol.seen("CL")
    await until(lambda: sock.fileno() == -1)
    del transport, protocol
    peer.close()
    await io_turns()
    gc.collect()
    assert ref() is None
    lib.note("freed")


@on_loop
async def test_connection_between_two_of_ours(lib: Any) -> None:
    """Client and server on one loop: both ends of one connection behave."""
    serving = Serving()
    server = await serving.start()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        Recorder, *serving.where, ssl=client_context(), server_hostname=HOST
    )
    await until(lambda: serving.made and serving.made[0].calls)
    theirs = serving.made[0]
    transport.write(bytes(3_000_000))
    theirs.transport.write(bytes(3_000_000))
    await theirs.has(3_000_000)
    await protocol.has(3_000_000)
    transport.close()
    await protocol.seen("CL")
    await theirs.seen("CL")
    rest = [w for w in theirs.calls if w not in ("PW", "RW", "DR")]
    lib.note(rest, protocol.lost_with, theirs.lost_with)
    server.close()
    await server.wait_closed()


@on_loop
async def test_context_of_the_wrong_kind_of_server(lib: Any) -> None:
    """An accepted socket by connect_accepted_socket keeps its own descriptor."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    number = near.fileno()
    peer = peer_of(far, serves=False)
    opening = loop.connect_accepted_socket(Recorder, near, ssl=server_context())
    transport, protocol = await both(opening, peer)
    assert transport.get_extra_info("socket").fileno() == number == near.fileno()
    transport.abort()
    await protocol.seen("CL")
    await until(lambda: near.fileno() == -1)
    lib.note(near.fileno())
    peer.close()

"""create_server and Server: what it listens on, whom it accepts, how it stops."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import sys
import threading
from typing import Any

import pytest
from wire import Peer, Recorder, io_turns, listening, nameless, on_loop, turns, until

new_in_313 = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")


class Accepting:
    """A protocol factory that keeps what it made."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks
        self.made: list[Recorder] = []

    def __call__(self) -> Recorder:
        """Make a protocol."""
        protocol = Recorder(**self.hooks)
        self.made.append(protocol)
        return protocol

    async def one(self, server: Any) -> tuple[Recorder, Peer]:
        """Connect to the server; give the new protocol and the client's end."""
        count = len(self.made)
        peer = Peer(socket.create_connection(server.sockets[0].getsockname()))
        await until(lambda: len(self.made) > count and self.made[-1].calls)
        return self.made[-1], peer


async def serve(factory: Any, host: Any = "127.0.0.1", port: Any = 0, **options: Any) -> Any:
    """Make a server on a free port of loopback."""
    return await asyncio.get_running_loop().create_server(factory, host, port, **options)


async def stop(server: Any, *peers: Peer) -> None:
    """Stop a server and its clients."""
    server.close()
    for peer in peers:
        peer.close()
    await io_turns()
    await server.wait_closed()


@on_loop
async def test_what_it_is(lib: Any) -> None:
    """Its type, sockets and text, before and after close()."""
    server = await serve(Recorder)
    assert isinstance(server, asyncio.AbstractServer)
    assert server.get_loop() is asyncio.get_running_loop()
    lib.note(type(server).__name__, server.is_serving(), type(server.sockets), len(server.sockets))
    assert [type(s) for s in server.sockets] == [asyncio.trsock.TransportSocket]
    assert server.sockets[0].gettimeout() == 0
    assert repr(server) == f"<Server sockets={server.sockets!r}>"
    server.close()
    server.close()
    lib.note(server.is_serving(), server.sockets, repr(server))
    await server.wait_closed()
    await server.wait_closed()


@on_loop
async def test_accepts_and_stops(lib: Any) -> None:
    """Clients are served; after close() new ones are refused and the old ones live on."""
    accepting = Accepting()
    server = await serve(accepting)
    address = server.sockets[0].getsockname()
    protocol, peer = await accepting.one(server)
    assert protocol.transport.get_extra_info("peername") == peer.sock.getsockname()
    assert protocol.transport.get_extra_info("sockname") == address
    peer.send(b"hello")
    await protocol.has(5)
    server.close()
    with socket.socket() as late, pytest.raises(ConnectionRefusedError):
        late.connect(address)
    peer.send(b" again")
    await protocol.has(11)
    protocol.transport.close()
    await protocol.seen("CL")
    assert await peer.rest() == b""
    await stop(server, peer)
    lib.note(protocol.grammar)


@on_loop
async def test_many_at_once(lib: Any) -> None:
    """Clients that are all there before the loop looks are all accepted."""
    accepting = Accepting()
    server = await serve(accepting, backlog=300)
    address = server.sockets[0].getsockname()
    peers = [Peer(socket.create_connection(address)) for _ in range(150)]
    await until(lambda: len(accepting.made) == 150)
    for peer in peers:
        peer.send(b"x")
        peer.close()
    for protocol in accepting.made:
        await protocol.seen("CL")
    lib.note({p.grammar for p in accepting.made})
    await stop(server)


@on_loop
async def test_clients_that_went(lib: Any) -> None:
    """A client that reset its connection before it was accepted harms nobody."""
    accepting = Accepting()
    server = await serve(accepting)
    for _ in range(5):
        Peer(socket.create_connection(server.sockets[0].getsockname())).reset()
    await until(lambda: len(accepting.made) == 5)
    for protocol in accepting.made:
        await protocol.seen("CL")
    protocol, peer = await accepting.one(server)
    lib.note(protocol.calls, len(accepting.made))
    await stop(server, peer)


@on_loop
async def test_small_backlog(lib: Any) -> None:
    """A backlog of one still serves any number, one after the other."""
    accepting = Accepting()
    server = await serve(accepting, backlog=1)
    peers = []
    for _ in range(10):
        peers.append((await accepting.one(server))[1])
    lib.note(len(accepting.made))
    await stop(server, *peers)


@on_loop
async def test_start_serving_later(lib: Any) -> None:
    """start_serving=False binds and does not listen until told."""
    accepting = Accepting()
    server = await serve(accepting, start_serving=False)
    lib.note(server.is_serving(), len(server.sockets))
    with socket.socket() as early, pytest.raises(ConnectionRefusedError):
        early.connect(server.sockets[0].getsockname())
    await server.start_serving()
    await server.start_serving()
    lib.note(server.is_serving())
    protocol, peer = await accepting.one(server)
    await stop(server, peer)
    with pytest.raises((RuntimeError, TypeError, AssertionError)):
        await server.start_serving()


@on_loop
async def test_serve_forever(lib: Any) -> None:
    """It starts serving, refuses a second one, and closes the server when cancelled."""
    accepting = Accepting()
    server = await serve(accepting, start_serving=False)
    task = asyncio.ensure_future(server.serve_forever())
    await turns(2)
    lib.note(server.is_serving())
    with pytest.raises(RuntimeError) as caught:
        await server.serve_forever()
    lib.note(nameless(str(caught.value)).partition("<")[0])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lib.note(server.is_serving(), server.sockets)
    with pytest.raises(RuntimeError) as caught:
        await server.serve_forever()
    lib.note(str(caught.value))


@on_loop
async def test_close_ends_serve_forever(lib: Any) -> None:
    """close() cancels serve_forever()."""
    server = await serve(Recorder)
    task = asyncio.ensure_future(server.serve_forever())
    await turns(2)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    lib.note(task.cancelled())


@on_loop
async def test_async_with(lib: Any) -> None:
    """The server is a context manager that closes and waits."""
    async with await serve(Recorder) as server:
        lib.note(server.is_serving())
    lib.note(server.is_serving(), server.sockets)


@on_loop
async def test_wait_closed(lib: Any) -> None:
    """wait_closed() waits for close() and for the clients, as this Python's does."""
    accepting = Accepting()
    server = await serve(accepting)
    protocol, peer = await accepting.one(server)
    waiter = asyncio.ensure_future(server.wait_closed())
    await turns(3)
    lib.note(waiter.done())
    server.close()
    await turns(3)
    lib.note(waiter.done())
    second = asyncio.ensure_future(server.wait_closed())
    await turns(3)
    lib.note(waiter.done(), second.done())
    protocol.transport.close()
    await protocol.seen("CL")
    await turns(3)
    lib.note(waiter.done(), second.done())
    await waiter
    await second
    peer.close()


@on_loop
async def test_wait_closed_without_clients(lib: Any) -> None:
    """With no client, close() is enough."""
    server = await serve(Recorder)
    waiter = asyncio.ensure_future(server.wait_closed())
    await turns(3)
    lib.note(waiter.done())
    server.close()
    await waiter
    lib.note(waiter.done())


@new_in_313
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
@on_loop
async def test_ending_the_clients(lib: Any, method: str) -> None:
    """close_clients() lets buffers leave, abort_clients() drops them; both end every transport."""
    accepting = Accepting(connection_made=lambda p, t: t.write(b"bye"))
    server = await serve(accepting)
    pairs = [await accepting.one(server) for _ in range(3)]
    big = bytes(50_000_000)
    pairs[0][0].transport.write(big)
    server.close()
    getattr(server, method)()
    lib.note([p.transport.is_closing() for p, _ in pairs])
    got = [len(await peer.rest()) for _, peer in pairs]
    for protocol, peer in pairs:
        await protocol.seen("CL")
        peer.close()
    await server.wait_closed()
    lib.note([p.lost_with for p, _ in pairs], got[1:])
    assert (got[0] == len(big) + 3) is (method == "close_clients")
    getattr(server, method)()


@on_loop
async def test_several_hosts(lib: Any) -> None:
    """A sequence of hosts: a socket for each, duplicates once."""
    for hosts in (
        ["127.0.0.1", "127.0.0.2"],
        ("127.0.0.1", "127.0.0.1"),
        {"127.0.0.1", "::1"},
        iter(["127.0.0.2"]),
        ["localhost", "127.0.0.1"],
    ):
        server = await serve(Recorder, hosts, family=0)
        lib.note(sorted(s.getsockname()[0] for s in server.sockets))
        await stop(server)


@pytest.mark.parametrize("host", [None, ""])
@on_loop
async def test_every_interface(lib: Any, host: Any) -> None:
    """No host means all of them, in both families, kept apart by IPV6_V6ONLY."""
    accepting = Accepting()
    server = await serve(accepting, host)
    lib.note(sorted(s.getsockname()[0] for s in server.sockets))
    for sock in server.sockets:
        if sock.family == socket.AF_INET6:
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    await stop(server)


@on_loop
async def test_socket_options(lib: Any) -> None:
    """reuse_address, reuse_port and keep_alive reach the socket."""
    options: list[dict[str, Any]] = [
        {},
        {"reuse_address": False},
        {"reuse_address": True},
        {"reuse_port": True},
        {"reuse_port": False, "reuse_address": None},
    ]
    loop = asyncio.get_running_loop()
    stock = inspect.signature(asyncio.BaseEventLoop.create_server).parameters
    if "keep_alive" in stock:
        options += [{"keep_alive": True}, {"keep_alive": False}]
    for option in options:
        server = await loop.create_server(Recorder, "127.0.0.1", 0, **option)
        sock = server.sockets[0]
        names = (socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_KEEPALIVE)
        lib.note(option, [bool(sock.getsockopt(socket.SOL_SOCKET, n)) for n in names])
        await stop(server)


@on_loop
async def test_reuse_port_shares(lib: Any) -> None:
    """Two servers on one port with reuse_port; without it the second is refused."""
    first = await serve(Recorder, reuse_port=True)
    port = first.sockets[0].getsockname()[1]
    second = await serve(Recorder, port=port, reuse_port=True)
    with pytest.raises(OSError) as caught:
        await serve(Recorder, port=port)
    lib.note(caught.value.errno, str(caught.value).replace(str(port), "PORT"))
    await stop(first)
    await stop(second)


@on_loop
async def test_addresses_that_cannot_be(lib: Any) -> None:
    """Foreign addresses, bad ports and unknown hosts are refused; no socket is left."""
    loop = asyncio.get_running_loop()
    for host, port, options in (
        ("192.0.2.1", 0, {}),
        (["127.0.0.1", "192.0.2.1"], 70000, {}),
        ("not a number", 0, {"flags": socket.AI_NUMERICHOST}),
        ("127.0.0.1", 0, {"family": socket.AF_INET6}),
        ("127.0.0.1", "no such service!", {"flags": socket.AI_NUMERICHOST}),
        (5, 0, {}),
    ):
        try:
            await loop.create_server(Recorder, host, port, **options)
        except Exception as exc:
            lib.note(host, type(exc), str(exc))
        else:
            raise AssertionError(f"listens on {host!r}")


@on_loop
async def test_contradictions(lib: Any) -> None:
    """Options that exclude each other are refused and leave the caller's socket open."""
    loop = asyncio.get_running_loop()
    with listening() as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        for options, error in (
            ({}, ValueError),
            ({"host": "127.0.0.1", "port": 0, "sock": sock}, ValueError),
            ({"port": 0, "sock": sock}, ValueError),
            ({"sock": sock, "ssl": True}, TypeError),
            ({"sock": sock, "ssl": False}, TypeError),
            ({"sock": sock, "ssl_handshake_timeout": 5}, ValueError),
            ({"sock": sock, "ssl_shutdown_timeout": 5}, ValueError),
        ):
            with pytest.raises(error) as caught:
                await loop.create_server(Recorder, **options)
            lib.note(sorted(options), caught.value)
        with pytest.raises(ValueError) as caught:
            await loop.create_server(Recorder, sock=datagram)
        lib.note(str(caught.value).partition("<")[0])
        assert sock.fileno() >= 0 and datagram.fileno() >= 0


@on_loop
async def test_given_socket(lib: Any) -> None:
    """A bound socket of the caller is listened on, non-blocking, and closed with the server."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    accepting = Accepting()
    server = await asyncio.get_running_loop().create_server(accepting, sock=sock)
    assert server.sockets[0].fileno() == sock.fileno()
    lib.note(sock.gettimeout(), sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    _, peer = await accepting.one(server)
    await stop(server, peer)
    lib.note(sock.fileno())


@on_loop
async def test_a_forgotten_server_still_serves(lib: Any) -> None:
    """The loop holds a server that listens."""
    accepting = Accepting()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await asyncio.get_running_loop().create_server(accepting, sock=sock)
    gc.collect()
    peer = Peer(socket.create_connection(sock.getsockname()))
    await until(lambda: accepting.made and accepting.made[0].calls)
    lib.note(accepting.made[0].calls)
    accepting.made[0].transport.abort()
    await accepting.made[0].seen("CL")
    asyncio.get_running_loop()._stop_serving(sock)
    peer.close()


@on_loop
async def test_connect_accepted_socket(lib: Any) -> None:
    """A connection that somebody else accepted; datagrams and contradictions are refused."""
    loop = asyncio.get_running_loop()
    with listening() as listener:
        peer = Peer(socket.create_connection(listener.getsockname()))
        conn, address = listener.accept()
    transport, protocol = await loop.connect_accepted_socket(Recorder, conn)
    assert transport.get_extra_info("peername") == address
    transport.write(b"hello")
    assert await peer.exactly(5) == b"hello"
    peer.close()
    await protocol.seen("CL")
    lib.note(protocol.calls)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        with pytest.raises(ValueError) as caught:
            await loop.connect_accepted_socket(Recorder, datagram)
        lib.note(str(caught.value).partition("<")[0])
    with socket.socket() as sock:
        for option in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            with pytest.raises(ValueError) as caught:
                await loop.connect_accepted_socket(Recorder, sock, **{option: 5})
            lib.note(caught.value)


@on_loop
async def test_closed_within_connection_made(lib: Any) -> None:
    """A server that is closed by a protocol it just made: that client lives."""
    accepting = Accepting(connection_made=lambda p, t: server.close())
    server = await serve(accepting)
    protocol, peer = await accepting.one(server)
    lib.note(server.is_serving(), protocol.transport.is_closing())
    peer.send(b"alive")
    await protocol.has(5)
    protocol.transport.close()
    await protocol.seen("CL")
    await stop(server, peer)


def test_a_server_in_another_thread(lib: Any) -> None:
    """A loop that runs in a thread serves; it is stopped from outside."""
    loop = lib.new_loop()
    ready = threading.Event()
    accepting = Accepting(data_received=lambda p, d: p.transport.write(d.upper()))
    servers: list[Any] = []

    def run() -> None:
        asyncio.set_event_loop(loop)
        servers.append(loop.run_until_complete(loop.create_server(accepting, "127.0.0.1", 0)))
        ready.set()
        loop.run_forever()
        servers[0].close()
        loop.run_until_complete(servers[0].wait_closed())
        loop.close()
        asyncio.set_event_loop(None)

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    with socket.create_connection(servers[0].sockets[0].getsockname()) as client:
        client.settimeout(20)
        for text in (b"one", b"two"):
            client.sendall(text)
            lib.note(client.recv(10))
        asyncio.run_coroutine_threadsafe(turns(), loop).result(20)
    lost = asyncio.run_coroutine_threadsafe(accepting.made[0].seen("CL"), loop)
    lost.result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    lib.note(accepting.made[0].grammar, thread.is_alive(), loop.is_closed())

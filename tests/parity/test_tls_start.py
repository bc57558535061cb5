"""start_tls in both roles, on TCP and Unix: no byte is lost on either side of the upgrade."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import ssl
import weakref
from typing import Any

import pytest
from tlswire import (
    HOST,
    both,
    client_context,
    outcome,
    peer_of,
    server_context,
    tls_link,
)
from wire import (
    BufferedRecorder,
    Peer,
    Recorder,
    fill,
    io_turns,
    on_loop,
    stock_at,
    tcp_pair,
    until,
)

KINDS = ("tcp", "unix")
kinds = pytest.mark.parametrize("kind", KINDS)
served_too = pytest.mark.parametrize("served", [False, True], ids=["client", "server"])
MILLION = random.Random(22).randbytes(1_000_000)


async def plain(factory: Any, kind: str) -> tuple[Any, Any, Peer]:
    """Give a plain transport, its protocol and its peer."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair() if kind == "tcp" else socket.socketpair()
    if kind == "tcp":
        transport, protocol = await loop.create_connection(factory, sock=near)
    else:
        transport, protocol = await loop.create_unix_connection(factory, sock=near)
    return transport, protocol, Peer(far)


def upgrade(transport: Any, protocol: Any, served: bool, **options: Any) -> Any:
    """Give the coroutine that upgrades."""
    loop = asyncio.get_running_loop()
    if served:
        context = options.pop("context", None) or server_context()
        return loop.start_tls(transport, protocol, context, server_side=True, **options)
    context = options.pop("context", None) or client_context()
    return loop.start_tls(transport, protocol, context, server_hostname=HOST, **options)


async def finish(transport: Any, protocol: Any, peer: Any) -> None:
    """End the connection in the orderly way."""
    sock = transport.get_extra_info("socket")
    transport.close()
    if hasattr(peer, "tls"):
        assert await peer.rest() == b"" and not peer.cut
        peer.goodbye()
    peer.close()
    await protocol.seen("CL")
    await until(lambda: sock.fileno() == -1)


@kinds
@served_too
@on_loop
async def test_upgrade(lib: Any, kind: str, served: bool) -> None:
    """Plain words both ways, the upgrade, words both ways; connection_made is not called again."""
    transport, protocol, lower = await plain(Recorder, kind)
    lower.send(b"plain in")
    await protocol.has(8)
    transport.write(b"plain out")
    assert await lower.exactly(9) == b"plain out"
    peer = peer_of(lower, serves=not served)
    upgraded = await both(upgrade(transport, protocol, served), peer)
    lib.note(upgraded is transport, protocol.calls, upgraded.get_protocol() is protocol)
    lib.note(upgraded.get_extra_info("ssl_object").version(), transport.is_closing())
    peer.send(b"secret in")
    await protocol.has(17)
    upgraded.write(b"secret out")
    assert await peer.exactly(10) == b"secret out"
    protocol.transport = upgraded
    await finish(upgraded, protocol, peer)
    lib.note(protocol.grammar, bytes(protocol.data), protocol.lost_with, transport.is_closing())


@kinds
@served_too
@on_loop
async def test_in_data_received(lib: Any, kind: str, served: bool) -> None:
    """The usual way: a word asks for TLS, the task that upgrades starts in data_received."""
    tasks: list[asyncio.Task[Any]] = []

    def hook(protocol: Any, data: bytes) -> None:
        if bytes(protocol.data) == b"STARTTLS\n":
            protocol.transport.write(b"go\n")
            tasks.append(asyncio.ensure_future(upgrade(protocol.transport, protocol, served)))

    transport, protocol, lower = await plain(lambda: Recorder(data_received=hook), kind)
    lower.send(b"STARTTLS\n")
    assert await lower.exactly(3) == b"go\n"
    peer = peer_of(lower, serves=not served)
    await peer.handshake()
    upgraded = await tasks.pop()
    peer.send(b"and on")
    lib.note(await protocol.has(15))
    await finish(upgraded, protocol, peer)
    lib.note(protocol.grammar)


@kinds
@served_too
@on_loop
async def test_unsent_plaintext_goes_first(lib: Any, kind: str, served: bool) -> None:
    """start_tls while the plain write buffer is full: nothing overtakes, nothing is lost."""
    transport, protocol, lower = await plain(Recorder, kind)
    size = fill(transport)
    transport.write(MILLION)
    lib.note(protocol.calls, transport.get_write_buffer_size() > 0)
    task = asyncio.ensure_future(upgrade(transport, protocol, served))
    await io_turns()
    lib.note(task.done())
    got = await lower.exactly(size + len(MILLION))
    assert got[:size] == bytes(size) and got[size:] == MILLION
    peer = peer_of(lower, serves=not served)
    upgraded = await both(task, peer)
    upgraded.write(b"after all that")
    assert await peer.exactly(14) == b"after all that"
    peer.send(b"heard")
    await protocol.has(5)
    await finish(upgraded, protocol, peer)
    # aioxide tells the end of a pause that was told before the upgrade.
    assert ("RW" in protocol.calls) == lib.native_loop
    lib.note(protocol.grammar.replace("RW ", ""))
    # The standard library's layer was not told of the pause, and stumbles over its end.
    said = lib.logged()
    assert all(line.startswith("protocol.resume_writing() failed") for line in said)


@kinds
@on_loop
async def test_early_hello(lib: Any, kind: str) -> None:
    """A client that begins TLS before the server's start_tls: its hello waits in the kernel."""
    transport, protocol, lower = await plain(Recorder, kind)
    transport.pause_reading()
    peer = peer_of(lower, serves=False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    await peer.flush()
    await io_turns()
    upgraded = await both(upgrade(transport, protocol, True), peer)
    lib.note(protocol.calls, upgraded.is_reading())
    peer.send(b"early bird")
    lib.note(await protocol.has(10))
    await finish(upgraded, protocol, peer)


@kinds
@on_loop
async def test_proxy_line_then_hello_in_one_segment(lib: Any, kind: str) -> None:
    """The PROXY protocol: a plain line and the TLS hello in one segment, on a StreamReader."""
    line = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n"
    if stock_at(lib, (3, 11), (3, 14)):
        return  # The hello stays in the reader's buffer there.
    near, far = tcp_pair() if kind == "tcp" else socket.socketpair()
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readline()
        protocol = writer._protocol
        upgraded = await asyncio.get_running_loop().start_tls(
            writer.transport, protocol, server_context(), server_side=True
        )
        protocol._over_ssl = True
        writer._transport = upgraded
        text = await reader.readexactly(6)
        upgraded.write(b"answer")
        upgraded.close()
        done.set_result((first, text, await reader.read()))

    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader, serve)
    lower = Peer(far)
    peer = peer_of(lower, serves=False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    lower.send(line + peer.outgoing.read())
    await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, near)
    await peer.handshake()
    peer.send(b"secret")
    assert await peer.exactly(6) == b"answer"
    peer.goodbye()
    assert await done == (line, b"secret", b"")
    peer.close()
    await until(lambda: near.fileno() == -1)


@kinds
@pytest.mark.parametrize("cut", [1, 5, 50, -1])
@on_loop
async def test_buffered_half_hello(lib: Any, kind: str, cut: int) -> None:
    """Any part of the hello may sit in the server's StreamReader when start_tls is called."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # What is in the reader's buffer stays there.
    near, far = tcp_pair() if kind == "tcp" else socket.socketpair()
    lower = Peer(far)
    peer = peer_of(lower, serves=False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    hello = peer.outgoing.read()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, near)
    lower.send(hello[:cut])
    await until(lambda: len(reader._buffer) == len(hello[:cut]))
    task = asyncio.ensure_future(
        loop.start_tls(transport, protocol, server_context(), server_side=True)
    )
    await io_turns()
    lower.send(hello[cut:])
    upgraded = await both(task, peer)
    assert not reader._buffer
    peer.send(b"secret")
    assert await reader.readexactly(6) == b"secret"
    upgraded.abort()
    peer.close()
    await until(lambda: near.fileno() == -1)


@served_too
@on_loop
async def test_while_reading_is_paused(lib: Any, served: bool) -> None:
    """A paused transport is resumed for the handshake."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    transport.pause_reading()
    peer = peer_of(lower, serves=not served)
    upgraded = await both(upgrade(transport, protocol, served), peer)
    peer.send(b"heard")
    lib.note(await protocol.has(5), upgraded.is_reading(), transport.is_reading())
    await finish(upgraded, protocol, peer)


@served_too
def test_on_a_closed_transport(lib: Any, served: bool) -> None:
    """start_tls on a closed transport: asyncio waits for what never comes, aioxide says so."""

    async def body(wait: bool) -> None:
        transport, protocol, lower = await plain(Recorder, "tcp")
        transport.close()
        if wait:
            await protocol.seen("CL")
            await io_turns()
        task = asyncio.ensure_future(upgrade(transport, protocol, served))
        await io_turns()
        assert task.done() is lib.native_loop
        task.cancel()
        await asyncio.wait([task])
        if lib.native_loop:
            assert isinstance(task.exception(), ConnectionResetError)
        lower.close()
        await io_turns()

    for wait in (False, True):
        lib.run(body(wait))
    gc.collect()
    lib.warnings_taken()  # The standard library's TLS transport was never closed.


@served_too
@on_loop
async def test_the_peer_leaves(lib: Any, served: bool) -> None:
    """The plain connection ends in place of a handshake."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    lower.close()
    await outcome(lib, upgrade(transport, protocol, served))
    sock = transport.get_extra_info("socket")
    await until(lambda: sock.fileno() == -1)
    await io_turns()
    lib.note(protocol.calls, transport.is_closing())


@served_too
@on_loop
async def test_new_protocol(lib: Any, served: bool) -> None:
    """Another protocol than the transport's may be given: it gets the data and the end."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    other = BufferedRecorder()
    peer = peer_of(lower, serves=not served)
    upgraded = await both(upgrade(transport, other, served), peer)
    other.transport = upgraded
    peer.send(b"for the new one")
    await other.has(15)
    lib.note(upgraded.get_protocol() is other, protocol.calls)
    await finish(upgraded, other, peer)
    lib.note(other.calls, protocol.calls)


@served_too
@on_loop
async def test_the_old_transport_goes_on_below(lib: Any, served: bool) -> None:
    """What the plain transport answers after the upgrade; closing it ends the TLS connection."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    peer = peer_of(lower, serves=not served)
    upgraded = await both(upgrade(transport, protocol, served), peer)
    lib.note(transport.is_closing(), transport.is_reading(), transport.get_write_buffer_size())
    lib.note(transport.get_extra_info("ssl_object"), transport.get_protocol() is protocol)
    assert upgraded.get_extra_info("socket").fileno() == lower_fd(transport)
    transport.close()
    await protocol.seen("CL")
    lib.note(protocol.calls, protocol.lost_with)
    assert await peer.rest() == b"" and peer.cut
    peer.close()
    await io_turns()
    lib.note(upgraded.is_closing())


def lower_fd(transport: Any) -> int:
    """Give the plain transport's descriptor."""
    fd: int = transport.get_extra_info("socket").fileno()
    return fd


@served_too
@on_loop
async def test_data_after_the_handshake_in_one_segment(lib: Any, served: bool) -> None:
    """Data behind the last handshake bytes are delivered, after or before start_tls returns."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    peer = peer_of(lower, serves=not served)
    task = asyncio.ensure_future(upgrade(transport, protocol, served))
    if served:
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.flush()
        await peer.feed()
        peer.tls.do_handshake()
        lower.send(peer.outgoing.read() + peer.records(b"at once"))
    else:
        await peer.handshake()
        peer.send(b"at once")
    upgraded = await task
    lib.note(await protocol.has(7), protocol.calls)
    await finish(upgraded, protocol, peer)


@on_loop
async def test_tls_in_tls(lib: Any) -> None:
    """Three layers, each with its own certificate; every byte of a million comes through all."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    peer: Any = lower
    for name in ("one.example", "two.example", "three.example"):
        peer = peer_of(peer, serves=True, context=server_context(name))
        loop = asyncio.get_running_loop()
        upgrading = loop.start_tls(transport, protocol, client_context(), server_hostname=name)
        transport = await both(upgrading, peer)
        cert = transport.get_extra_info("peercert")
        lib.note(cert["subjectAltName"])
    transport.write(MILLION)
    assert await peer.exactly(len(MILLION)) == MILLION
    sender = asyncio.ensure_future(peer.send_all(MILLION))
    assert await protocol.has(len(MILLION)) == MILLION
    await sender
    protocol.transport = transport
    await finish(transport, protocol, peer)
    lib.note(protocol.grammar, protocol.lost_with)


@served_too
@on_loop
async def test_timeouts(lib: Any, served: bool) -> None:
    """ssl_handshake_timeout and ssl_shutdown_timeout of start_tls."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    await outcome(lib, upgrade(transport, protocol, served, ssl_handshake_timeout=0.03))
    await io_turns()
    lib.note(protocol.calls)
    lower.close()
    transport, protocol, lower = await plain(Recorder, "tcp")
    peer = peer_of(lower, serves=not served)
    upgraded = await both(upgrade(transport, protocol, served, ssl_shutdown_timeout=0.03), peer)
    upgraded.close()
    await protocol.seen("CL")
    lib.note(protocol.calls, protocol.lost_with)
    peer.close()
    await io_turns()


@served_too
@on_loop
async def test_no_cycle_is_left(lib: Any, served: bool) -> None:
    """After the end of an upgraded connection, reference counting alone frees it all."""
    transport, protocol, lower = await plain(Recorder, "tcp")
    peer = peer_of(lower, serves=not served)
    context = server_context() if served else client_context()
    upgraded = await both(upgrade(transport, protocol, served, context=context), peer)
    protocol.transport = None
    await finish(upgraded, protocol, peer)
    await io_turns()
    gone = [weakref.ref(thing) for thing in (protocol, context)]
    del protocol, context, upgraded, transport
    gc.collect()
    lib.note([ref() is None for ref in gone])
    assert not any(ref() for ref in gone)


@on_loop
async def test_over_a_tls_transport_of_a_connection(lib: Any) -> None:
    """start_tls over the transport of create_connection(ssl=...), then an abort of the inner."""
    async with tls_link(Recorder, "connect") as (transport, protocol, outer):
        inner = peer_of(outer, serves=True)
        upgraded = await both(upgrade(transport, protocol, False), inner)
        inner.send(b"deep")
        lib.note(await protocol.has(4))
        upgraded.abort()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with, upgraded.is_closing())

"""What TLS refuses before it begins: types, values, combinations, and their messages."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
from tlswire import HOST, both, client_context, outcome, peer_of, server_context, stock_leaks
from wire import Recorder, abstract_name, io_turns, listening, nameless, on_loop, tcp_pair, until

TIMEOUTS = ("ssl_handshake_timeout", "ssl_shutdown_timeout")
#: The same for every way in; what a number has to be.
BAD_TIMEOUTS = (0, -1, -0.5, "1", b"1", object)


async def refused(lib: Any, awaitable: Any) -> None:
    """Await what must fail; note the error, without what names the loop's own classes."""
    try:
        result = await awaitable
    except Exception as exc:
        lib.note(type(exc), nameless(str(exc)))
        return
    lib.note("accepted")
    if isinstance(result, tuple):
        result[0].abort()
    elif result is not None:
        result.close()


class Ways:
    """Every call that takes `ssl`, with a socket where it needs one."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.socks: list[socket.socket] = []

    def pair(self, unix: bool = False) -> socket.socket:
        """Give one end of a connection that `close` closes."""
        ends = socket.socketpair() if unix else tcp_pair()
        self.socks += ends
        for end in ends:
            end.setblocking(False)
        return ends[0]

    def close(self) -> None:
        """Close every socket."""
        for sock in self.socks:
            sock.close()

    def all(self, **options: Any) -> list[Any]:
        """Give the calls, with these options each, not awaited yet."""
        loop = self.loop
        listener = listening()
        self.socks.append(listener)
        where = listener.getsockname()
        return [
            lambda: loop.create_connection(Recorder, *where, **options),
            lambda: loop.create_connection(Recorder, sock=self.pair(), **options),
            lambda: loop.create_unix_connection(Recorder, sock=self.pair(True), **options),
            lambda: loop.connect_accepted_socket(Recorder, self.pair(), **options),
            lambda: loop.create_server(Recorder, "127.0.0.1", 0, **options),
            lambda: loop.create_unix_server(Recorder, abstract_name(), **options),
        ]


@pytest.mark.parametrize("name", TIMEOUTS)
@on_loop
async def test_timeouts_without_ssl(lib: Any, name: str) -> None:
    """They mean nothing without ssl, and zero is a value too."""
    ways = Ways()
    for value in (1, 0, None):
        for call in ways.all(**{name: value}):
            await refused(lib, call())
    await io_turns()
    ways.close()


@pytest.mark.parametrize("value", BAD_TIMEOUTS, ids=repr)
@pytest.mark.parametrize("name", TIMEOUTS)
@on_loop
async def test_bad_timeouts(lib: Any, name: str, value: Any) -> None:
    """A client is told at once."""
    ways = Ways()
    options = {"ssl": client_context(), "server_hostname": HOST, name: value}
    for call in ways.all(**options)[:3]:
        await refused(lib, call())
    server = {"ssl": server_context(), name: value}
    await refused(lib, ways.all(**server)[3]())
    await io_turns()
    ways.close()
    stock_leaks(lib)


@pytest.mark.parametrize("value", [0, -1, "1"], ids=repr)
@pytest.mark.parametrize("name", TIMEOUTS)
@on_loop
async def test_bad_timeouts_of_a_server(lib: Any, name: str, value: Any) -> None:
    """A server learns with its first connection, and closes that one."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    seen = lib.contexts(loop)
    options: Any = {name: value}
    server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context(), **options)
    peer = socket.create_connection(server.sockets[0].getsockname())
    peer.setblocking(False)
    await until(lambda: seen)
    lib.note([[c["message"], sorted(c), c["exception"]] for c in seen])
    seen.clear()
    if lib.native_loop:  # Stock leaves the connection to the garbage collector.
        assert await loop.sock_recv(peer, 1) == b""
    peer.close()
    server.close()
    loop.set_debug(False)
    stock_leaks(lib)


@on_loop
async def test_what_ssl_may_be(lib: Any) -> None:
    """A bool, None, a context, or something else, on every way in."""
    ways = Ways()
    for value in (True, False, None, 0, 1, "context", object(), ssl.SSLContext):
        if value in (True, 1):
            continue  # A default context: the handshake would wait for its peer.
        for call in ways.all(ssl=value):
            await refused(lib, call())
            await io_turns()
    for call in ways.all(ssl=True)[3:]:
        await refused(lib, call())
    await io_turns()
    ways.close()
    stock_leaks(lib)


@on_loop
async def test_contexts_of_the_wrong_role(lib: Any) -> None:
    """A server's context for a client, and the other way round."""
    ways = Ways()
    for call in ways.all(ssl=server_context(), server_hostname=HOST)[:3]:
        await refused(lib, call())
    await refused(lib, ways.all(ssl=client_context())[3]())
    await io_turns()
    ways.close()
    stock_leaks(lib)


@on_loop
async def test_server_hostname(lib: Any) -> None:
    """Where it must be given, where it must not, and what it may be."""
    ways = Ways()
    loop = asyncio.get_running_loop()
    for call in ways.all(server_hostname=HOST)[:3]:
        await refused(lib, call())
    for call in ways.all(server_hostname="")[:3]:
        await refused(lib, call())
    for call in ways.all(ssl=client_context())[1:3]:
        await refused(lib, call())
    for bad in (7, "a\0b", ".leading", "a..b", object()):
        await refused(
            lib,
            loop.create_connection(
                Recorder, sock=ways.pair(), ssl=client_context(), server_hostname=bad
            ),
        )
        await io_turns()
    ways.close()
    stock_leaks(lib)


@on_loop
async def test_empty_server_hostname(lib: Any) -> None:
    """An empty one means no name: fine where names are not checked, an error where they are."""
    loop = asyncio.get_running_loop()
    for check in (True, False):
        near, far = tcp_pair()
        peer = peer_of(far, serves=True)
        ours = client_context(check_hostname=check)
        opening = loop.create_connection(Recorder, sock=near, ssl=ours, server_hostname="")
        task = asyncio.ensure_future(peer.handshake())
        try:
            transport, protocol = await opening
        except Exception as exc:
            lib.note(exc)
        else:
            lib.note(transport.get_extra_info("ssl_object").server_hostname)
            transport.abort()
            await protocol.seen("CL")
        peer.close()
        near.close()
        task.cancel()
        await asyncio.wait([task])
    stock_leaks(lib)


@on_loop
async def test_host_is_the_default_name(lib: Any) -> None:
    """Without server_hostname the host is verified: here by address."""
    loop = asyncio.get_running_loop()
    for names in (("127.0.0.1",), (HOST,)):
        listener = listening()
        with listener:
            opening = loop.create_connection(
                Recorder, *listener.getsockname(), ssl=client_context()
            )
            task = asyncio.ensure_future(opening)
            sock, _ = await loop.sock_accept(listener)
        peer = peer_of(sock, serves=True, context=server_context(*names))
        opened, _ = await asyncio.gather(task, peer.handshake(), return_exceptions=True)
        if isinstance(opened, Exception):
            lib.note(opened, type(opened), opened.verify_code, opened.verify_message)
        else:
            lib.note(opened[0].get_extra_info("ssl_object").server_hostname)
            opened[0].abort()
        peer.close()
        await io_turns()
    stock_leaks(lib)


@on_loop
async def test_start_tls_refusals(lib: Any) -> None:
    """Contexts and transports that start_tls does not take."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    transport, protocol = await loop.create_connection(Recorder, sock=near)
    for bad in (None, True, "context", ssl.SSLContext):
        await refused(lib, loop.start_tls(transport, protocol, bad))
    for bad in (None, object(), asyncio.Transport(), protocol):
        await refused(lib, loop.start_tls(bad, protocol, client_context()))
    datagram, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    try:
        await loop.start_tls(datagram, protocol, client_context())
    except TypeError as exc:
        lib.note("not supported by start_tls()" in str(exc))
    datagram.close()
    for options in (
        {"ssl_handshake_timeout": 0},
        {"ssl_handshake_timeout": -1},
        {"ssl_shutdown_timeout": 0},
        {"ssl_shutdown_timeout": "1"},
        {"server_hostname": 7},
        {"server_side": True},
    ):
        await refused(lib, loop.start_tls(transport, protocol, client_context(), **options))
    # None of it has touched the connection.
    lib.note(transport.is_closing(), transport.is_reading(), transport.get_protocol() is protocol)
    far.send(b"plain")
    assert await protocol.has(5) == b"plain"
    transport.close()
    await protocol.seen("CL")
    far.close()


@on_loop
async def test_start_tls_takes_no_other_arguments(lib: Any) -> None:
    """Keyword-only arguments are that."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    transport, protocol = await loop.create_connection(Recorder, sock=near)
    with pytest.raises(TypeError):
        await loop.start_tls(transport, protocol, client_context(), True)
    with pytest.raises(TypeError):
        await loop.start_tls(transport, protocol)
    transport.abort()
    await protocol.seen("CL")
    far.close()


@on_loop
async def test_an_ssl_socket_is_refused(lib: Any) -> None:
    """A socket that does TLS itself is not for the loop."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    wrapped = client_context().wrap_socket(
        near, server_hostname=HOST, do_handshake_on_connect=False
    )
    await refused(lib, loop.create_connection(Recorder, sock=wrapped))
    await refused(lib, loop.create_server(Recorder, sock=wrapped))
    await refused(lib, loop.connect_accepted_socket(Recorder, wrapped))
    lib.note(wrapped.fileno() >= 0)
    wrapped.close()
    far.close()


@on_loop
async def test_write_refuses_what_is_no_buffer(lib: Any) -> None:
    """Types that write() and writelines() do not take, by their messages."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    near, far = tcp_pair()
    peer = peer_of(far, serves=False)
    opening = loop.connect_accepted_socket(Recorder, near, ssl=server_context())
    transport, protocol = await both(opening, peer)
    for bad in ("text", None, 1, [b"x"], object):
        lib.catch(transport.write, bad)
    for empty in (b"", bytearray(), memoryview(b"")):
        lib.catch(transport.write, empty)
    for bad in (None, 5):
        lib.catch(transport.writelines, bad)
    lib.catch(transport.writelines, [])
    for bad in ((-1, None), (1, 2), (None, -1), ("1", None)):
        lib.catch(transport.set_write_buffer_limits, *bad)
    lib.note(transport.get_write_buffer_limits(), protocol.calls, len(seen))
    transport.write(b"fine")
    assert await peer.exactly(4) == b"fine"
    transport.abort()
    await protocol.seen("CL")
    peer.close()


@on_loop
async def test_descriptor_of_a_refused_connection(lib: Any) -> None:
    """What a refused call does with the socket that it was given."""
    loop = asyncio.get_running_loop()
    for options in (
        {"ssl": client_context()},
        {"server_hostname": HOST},
        {"ssl_handshake_timeout": 5},
        {"ssl": client_context(), "server_hostname": HOST, "ssl_handshake_timeout": -5},
        {"ssl": client_context(), "server_hostname": 7},
        {"ssl": server_context(), "server_hostname": HOST},
    ):
        near, far = tcp_pair()
        await outcome(lib, loop.create_connection(Recorder, sock=near, **options))
        await io_turns()
        lib.note(near.fileno() == -1)
        near.close()
        far.close()

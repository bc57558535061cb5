"""Streams over TLS: open_connection, start_server and their Unix twins, StreamWriter.start_tls."""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Any

import pytest
from tlswire import HOST, client_context, outcome, peer_of, server_context
from wire import Peer, abstract_name, io_turns, on_loop, stock_at, tcp_pair, until

kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])
DATA = random.Random(23).randbytes(500_000)


async def serve(handler: Any, kind: str, **options: Any) -> tuple[Any, Any]:
    """Give a stream server and a function that connects to it."""
    if kind == "tcp":
        server: Any = await asyncio.start_server(handler, "127.0.0.1", 0, **options)
        where = server.sockets[0].getsockname()
        return server, lambda **more: asyncio.open_connection(*where, **more)
    name = abstract_name()
    server = await asyncio.start_unix_server(handler, name, **options)
    return server, lambda **more: asyncio.open_unix_connection(name, **more)


@kinds
@on_loop
async def test_echo(lib: Any, kind: str) -> None:
    """Ten clients at once, every byte back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server, connect = await serve(echo, kind, ssl=server_context())

    async def client(number: int) -> bool:
        data = DATA[number * 1000 :][:200_000]
        reader, writer = await connect(ssl=client_context(), server_hostname=HOST)
        writer.write(data)
        got = await reader.readexactly(len(data))
        writer.close()
        await writer.wait_closed()
        return got == data

    async with server:
        results = await asyncio.gather(*(client(n) for n in range(10)))
    lib.note(results)
    assert all(results)
    await io_turns()


@kinds
@on_loop
async def test_what_a_writer_tells(lib: Any, kind: str) -> None:
    """get_extra_info and can_write_eof on both sides."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names = ("cipher", "compression", "peercert")
        line = await reader.readline()
        known = [writer.get_extra_info(name) for name in names]
        await finish(reader, writer)
        done.set_result((line, known, writer.can_write_eof()))

    server, connect = await serve(handler, kind, ssl=server_context())
    reader, writer = await connect(ssl=client_context(), server_hostname=HOST)
    lib.note(writer.get_extra_info("cipher"), writer.can_write_eof())
    lib.catch(writer.write_eof)
    writer.writelines([b"a ", bytearray(b"line"), memoryview(b"\n")])
    await writer.drain()
    lib.note(await reader.read())
    await finish(reader, writer)
    lib.note(await done)
    server.close()
    await server.wait_closed()


async def finish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close and wait."""
    writer.close()
    await writer.wait_closed()


@kinds
@on_loop
async def test_start_tls_on_both_writers(lib: Any, kind: str) -> None:
    """StreamWriter.start_tls: the client's and the server's, after plain lines."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readline()
        before = writer.transport
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(server_context())
        second = await reader.readline()
        writer.write(b"secret answer\n")
        await writer.drain()
        changed = writer.transport is not before
        last = await reader.read()
        await finish(reader, writer)
        done.set_result((first, second, last, changed))

    server, connect = await serve(handler, kind)
    reader, writer = await connect()
    writer.write(b"STARTTLS\n")
    lib.note(await reader.readline())
    await writer.start_tls(client_context(), server_hostname=HOST)
    lib.note(writer.get_extra_info("ssl_object").version())
    writer.write(b"secret\n")
    lib.note(await reader.readline())
    writer.write(DATA)
    writer.close()
    await writer.wait_closed()
    first, second, last, changed = await done
    lib.note(first, second, changed)
    assert last == DATA
    server.close()
    await server.wait_closed()


@on_loop
async def test_proxy_line_then_start_tls(lib: Any) -> None:
    """A plain line and the client's hello in one segment, then writer.start_tls() of the server."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # The hello stays in the reader's buffer there.
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        await writer.start_tls(server_context())
        text = await reader.readexactly(6)
        writer.write(b"answer")
        await writer.drain()
        await finish(reader, writer)
        done.set_result((line, text))

    near, far = tcp_pair()
    lower = Peer(far)
    peer = peer_of(lower, serves=False)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    lower.send(b"PROXY UNKNOWN\r\n" + peer.outgoing.read())
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), handler)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, near)
    await peer.handshake()
    peer.send(b"secret")
    assert await peer.exactly(6) == b"answer"
    peer.goodbye()
    assert await done == (b"PROXY UNKNOWN\r\n", b"secret")
    peer.close()
    await until(lambda: near.fileno() == -1)


@pytest.mark.parametrize("ending", ["goodbye", "cut", "reset"])
@on_loop
async def test_how_a_reader_ends(lib: Any, ending: str) -> None:
    """close_notify, end of stream without one, reset: what read() and wait_closed() say."""
    near, far = tcp_pair()
    peer = peer_of(far, serves=True)
    opening = asyncio.open_connection(sock=near, ssl=client_context(), server_hostname=HOST)
    (reader, writer), _ = await asyncio.gather(opening, peer.handshake())
    peer.send(b"some words")
    lib.note(await reader.readexactly(4))
    if ending == "goodbye":
        peer.goodbye()
    elif ending == "cut":
        peer.shutdown()
    else:
        await io_turns()
        peer.reset()
    await outcome(lib, reader.read())
    lib.note(reader.at_eof(), type(reader.exception()))
    writer.close()
    await outcome(lib, writer.wait_closed())
    peer.close()
    await until(lambda: near.fileno() == -1)


@on_loop
async def test_drain_waits_for_the_peer(lib: Any) -> None:
    """drain() waits while the peer does not read, and goes on when it does."""
    near, far = tcp_pair()
    peer = peer_of(far, serves=True)
    opening = asyncio.open_connection(sock=near, ssl=client_context(), server_hostname=HOST)
    (_, writer), _ = await asyncio.gather(opening, peer.handshake())
    data = DATA * 20
    writer.write(data)
    drain = asyncio.ensure_future(writer.drain())
    await io_turns()
    # asyncio has encrypted all of it by now and given it to the transport below.
    assert drain.done() is not lib.native_loop
    got = await peer.exactly(len(data))
    await drain
    assert got == data
    writer.close()
    peer.goodbye()
    await writer.wait_closed()
    peer.close()


@on_loop
async def test_limit_pauses_the_peer(lib: Any) -> None:
    """A reader that is not read from stops the peer; all comes in the end."""
    near, far = tcp_pair()
    peer = peer_of(far, serves=True)
    opening = asyncio.open_connection(
        sock=near, ssl=client_context(), server_hostname=HOST, limit=1 << 16
    )
    (reader, writer), _ = await asyncio.gather(opening, peer.handshake())
    sender = asyncio.ensure_future(peer.send_all(DATA * 30))
    await io_turns()
    await io_turns()
    lib.note(sender.done(), writer.transport.is_reading())
    assert len(reader._buffer) < 2_000_000
    got = await reader.readexactly(len(DATA) * 30)
    assert got == DATA * 30
    await sender
    writer.transport.abort()
    peer.close()
    await until(lambda: near.fileno() == -1)


@on_loop
async def test_a_handler_that_raises(lib: Any) -> None:
    """The handler's exception is told once; the connection ends."""
    seen = lib.contexts(asyncio.get_running_loop())

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ZeroDivisionError("as asked")

    server, connect = await serve(handler, "tcp", ssl=server_context())
    reader, writer = await connect(ssl=client_context(), server_hostname=HOST)
    lib.note(await reader.read())
    await finish(reader, writer)
    lib.note([[c["message"], c["exception"]] for c in seen])
    server.close()
    await io_turns()
    seen.clear()

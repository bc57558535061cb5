"""Streams over the loop: open_connection, start_server, and what they promise.

On aioxide's loop the streams are aioxide's; CPython's own tests also run asyncio's on it.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from pathlib import Path
from typing import Any

import pytest
from wire import Peer, abstract_name, on_loop, tcp_pair, turns

MILLION = random.Random(9).randbytes(1_000_000)


async def pair(lib: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Peer]:
    """Give a stream over a TCP connection and its peer."""
    ours, theirs = tcp_pair()
    reader, writer = await lib.module.open_connection(sock=ours, **options)
    return reader, writer, Peer(theirs)


async def finish(writer: asyncio.StreamWriter, peer: Peer) -> None:
    """Take a stream down."""
    peer.close()
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass


async def refused(lib: Any, awaitable: Any) -> BaseException:
    """Await, note the error that comes."""
    try:
        result = await awaitable
    except (Exception, asyncio.CancelledError) as exc:
        lib.note(exc)
        return exc
    raise AssertionError(f"no error but {result!r}")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_loop
async def test_echo_server(lib: Any, kind: str) -> None:
    """A server of streams, twenty clients at once, every byte back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(10_000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    if kind == "tcp":
        server: Any = await lib.module.start_server(echo, "127.0.0.1", 0)
        where = server.sockets[0].getsockname()
        connect = lambda: lib.module.open_connection(*where)  # noqa: E731
    else:
        name = abstract_name()
        server = await lib.module.start_unix_server(echo, name)
        connect = lambda: lib.module.open_unix_connection(name)  # noqa: E731

    async def client(number: int) -> bool:
        data = MILLION[number * 1000 : number * 1000 + 200_000]
        reader, writer = await connect()

        async def send() -> None:
            writer.write(data)
            writer.write_eof()
            await writer.drain()

        sender = asyncio.ensure_future(send())
        got = await reader.read()
        await sender
        writer.close()
        await writer.wait_closed()
        return got == data

    async with server:
        results = await asyncio.gather(*(client(n) for n in range(20)))
    lib.note(results)
    assert all(results)


@on_loop
async def test_reads(lib: Any) -> None:
    """readline, readexactly, readuntil, read, iteration, at_eof."""
    reader, writer, peer = await pair(lib)
    peer.send(b"line one\nline two\nexactly fifteen" + b"until;and|the rest\nlast")
    lib.note(await reader.readline())
    lib.note(await reader.readline(), await reader.readexactly(15))
    lib.note(await reader.readuntil(b";"), await reader.readuntil(b"|"))
    lib.note(await reader.read(3), await reader.read(0), reader.at_eof())
    peer.shutdown()
    lib.note([line async for line in reader], reader.at_eof())
    lib.note(await reader.read(), await reader.readline(), await reader.read(5))
    await finish(writer, peer)


@on_loop
async def test_incomplete_reads(lib: Any) -> None:
    """The end in the middle: IncompleteReadError with what came."""
    reader, writer, peer = await pair(lib)
    peer.send(b"some")
    peer.shutdown()
    exc = await refused(lib, reader.readexactly(10))
    lib.note(exc.partial, exc.expected)  # type: ignore[attr-defined]
    exc = await refused(lib, reader.readuntil(b"\n"))
    lib.note(exc.partial)  # type: ignore[attr-defined]
    await refused(lib, reader.readexactly(-1))
    await refused(lib, reader.readuntil(b""))
    await finish(writer, peer)


@on_loop
async def test_limits(lib: Any) -> None:
    """A line longer than the limit is LimitOverrunError or ValueError; its data stays."""
    reader, writer, peer = await pair(lib, limit=50)
    peer.send(b"x" * 80 + b"\n" + b"short\n")
    exc = await refused(lib, reader.readuntil(b"\n"))
    lib.note(exc.consumed)  # type: ignore[attr-defined]
    lib.note(len(await reader.readexactly(exc.consumed)))  # type: ignore[attr-defined]
    lib.note(await reader.readline(), await reader.readline())
    peer.send(b"y" * 200 + b"\nafter\n")
    await refused(lib, reader.readline())
    peer.shutdown()
    rest = await reader.read()
    assert rest.endswith(b"after\n")
    await refused(lib, lib.module.open_connection("127.0.0.1", 1, limit=0))
    await finish(writer, peer)


@on_loop
async def test_the_limit_holds_the_peer_back(lib: Any) -> None:
    """A reader that nobody reads stops the transport at twice the limit, and starts it again."""
    reader, writer, peer = await pair(lib, limit=1000)
    sender = asyncio.ensure_future(peer.send_all(MILLION * 8))
    transport = writer.transport
    while transport.is_reading():
        await turns()
    await turns(10)
    assert not sender.done() and not transport.is_reading()
    got = await reader.readexactly(len(MILLION) * 8)
    assert got == MILLION * 8
    await sender
    lib.note(transport.is_reading())
    await finish(writer, peer)


@on_loop
async def test_drain(lib: Any) -> None:
    """drain() waits while the transport is paused, for every waiter, and no longer."""
    reader, writer, peer = await pair(lib)
    writer.transport.set_write_buffer_limits(high=1000)
    await writer.drain()
    while not writer.transport.get_write_buffer_size():
        writer.write(MILLION)
    drains = [asyncio.ensure_future(writer.drain()) for _ in range(3)]
    await turns(5)
    lib.note([d.done() for d in drains])
    receiver = asyncio.ensure_future(peer.rest())
    await asyncio.gather(*drains)
    writer.write_eof()
    got = await receiver
    assert len(got) % len(MILLION) == 0
    await finish(writer, peer)


@on_loop
async def test_drain_of_a_lost_connection(lib: Any) -> None:
    """drain() that waits gets the connection's error; a later one as well."""
    reader, writer, peer = await pair(lib)
    writer.transport.set_write_buffer_limits(high=0)
    while not writer.transport.get_write_buffer_size():
        writer.write(MILLION)
    waiting = asyncio.ensure_future(writer.drain())
    await turns(3)
    peer.reset()
    exc = (await asyncio.gather(waiting, return_exceptions=True))[0]
    lib.note(isinstance(exc, ConnectionError))
    with pytest.raises(ConnectionError):
        await writer.drain()
    with pytest.raises(ConnectionError):
        await writer.wait_closed()
    with pytest.raises(ConnectionError):
        await reader.read()
    writer.close()


@on_loop
async def test_a_read_that_waits_gets_the_reset(lib: Any) -> None:
    """A reader that waits is told of a reset."""
    reader, writer, peer = await pair(lib)
    waiting = asyncio.ensure_future(reader.readline())
    await turns(3)
    peer.reset()
    await refused(lib, waiting)
    lib.note(reader.exception())
    await refused(lib, writer.wait_closed())


@on_loop
async def test_two_readers_at_once(lib: Any) -> None:
    """Only one may wait."""
    reader, writer, peer = await pair(lib)
    waiting = asyncio.ensure_future(reader.read(5))
    await turns(2)
    await refused(lib, reader.read(5))
    peer.send(b"hello")
    lib.note(await waiting)
    await finish(writer, peer)


@on_loop
async def test_cancelled_read_loses_nothing(lib: Any) -> None:
    """A cancelled readline leaves its bytes in the buffer."""
    reader, writer, peer = await pair(lib)
    peer.send(b"half a ")
    waiting = asyncio.ensure_future(reader.readline())
    await turns(5)
    waiting.cancel()
    await turns(2)
    peer.send(b"line\n")
    lib.note(await reader.readline(), waiting.cancelled())
    await finish(writer, peer)


@on_loop
async def test_writer_methods(lib: Any) -> None:
    """write, writelines, write_eof, is_closing, get_extra_info, transport."""
    reader, writer, peer = await pair(lib)
    writer.write(b"one ")
    writer.writelines([b"two ", b"three"])
    lib.note(writer.can_write_eof(), writer.is_closing())
    assert writer.get_extra_info("peername") == peer.sock.getsockname()
    assert writer.transport.get_extra_info("socket").fileno() >= 0
    writer.write_eof()
    lib.note(await peer.rest())
    lib.catch(writer.write, b"more")
    peer.send(b"fine")
    lib.note(await reader.readexactly(4))
    writer.close()
    lib.note(writer.is_closing())
    await writer.wait_closed()
    await writer.wait_closed()
    await refused(lib, writer.drain())
    peer.close()


@on_loop
async def test_wait_closed_waits(lib: Any) -> None:
    """wait_closed() returns when the buffer has left and the transport is gone."""
    reader, writer, peer = await pair(lib)
    while not writer.transport.get_write_buffer_size():
        writer.write(MILLION)
    writer.close()
    waiting = asyncio.ensure_future(writer.wait_closed())
    await turns(5)
    lib.note(waiting.done())
    await peer.rest()
    await waiting
    peer.close()


@on_loop
async def test_handler_errors(lib: Any) -> None:
    """A handler that raises is told to the exception handler; the server goes on."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readline()
        if data == b"fail\n":
            raise ZeroDivisionError("as asked")
        writer.write(data)
        writer.close()

    async with await lib.module.start_server(handler, "127.0.0.1", 0) as server:
        where = server.sockets[0].getsockname()
        for line in (b"fail\n", b"echo\n"):
            reader, writer = await lib.module.open_connection(*where)
            writer.write(line)
            if line == b"fail\n":
                while not contexts:
                    await turns()
            else:
                lib.note(await reader.read())
            writer.close()
            await writer.wait_closed()
        server.close()
        lib.note(len(contexts), sorted(contexts[0]), contexts[0]["message"])
        lib.note(contexts[0]["exception"])
        contexts[0]["transport"].abort()
        contexts.clear()


@on_loop
async def test_plain_function_handler(lib: Any) -> None:
    """The handler may be a plain function."""
    loop = asyncio.get_running_loop()
    got: asyncio.Future[Any] = loop.create_future()
    server = await lib.module.start_server(lambda r, w: got.set_result((r, w)), "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        reader, writer = await got
        client.sendall(b"hi\n")
        lib.note(await reader.readline())
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def test_unix_streams_by_path(
    lib: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_unix_connection and start_unix_server by path."""
    monkeypatch.chdir(tmp_path)

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    server = await lib.module.start_unix_server(upper, "s.sock")
    reader, writer = await lib.module.open_unix_connection("s.sock")
    writer.write(b"hello\n")
    lib.note(await reader.read())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@on_loop
async def test_ping_pong(lib: Any) -> None:
    """A thousand small questions and answers over one connection."""
    reader, writer, peer = await pair(lib)
    loop = asyncio.get_running_loop()

    async def answer() -> None:
        for _ in range(1000):
            data = await loop.sock_recv(peer.sock, 100)
            await loop.sock_sendall(peer.sock, data[::-1])

    answering = asyncio.ensure_future(answer())
    for number in range(1000):
        text = f"{number:06d}\n".encode()
        writer.write(text)
        assert await reader.readexactly(7) == text[::-1]
    await answering
    await finish(writer, peer)


@on_loop
async def test_wait_for_over_streams(lib: Any) -> None:
    """A timeout on a read, and the stream is usable after it."""
    reader, writer, peer = await pair(lib)
    await refused(lib, asyncio.wait_for(reader.read(5), 0.01))
    peer.send(b"later")
    lib.note(await reader.read(5))
    await finish(writer, peer)


@pytest.mark.parametrize("state", ["open", "closing", "closed"])
def test_forgotten_writers(lib: Any, state: str) -> None:
    """A writer that is dropped open warns as this Python's does; a closed one is silent."""

    async def main() -> None:
        reader, writer, peer = await pair(lib)
        kept.append(peer)
        if state != "open":
            writer.close()
        if state == "closed":
            await writer.wait_closed()
        del reader, writer
        gc.collect()
        await turns(5)

    kept: list[Any] = []
    lib.run(main)
    gc.collect()
    lib.note(sorted({(name, text.partition(" <")[0]) for name, text in lib.warnings_taken()}))
    kept[0].close()

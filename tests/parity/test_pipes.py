"""Reading ends of pipes: every byte, the end, what callbacks may do."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import re
import socket
from typing import Any

import pytest
from ends import ROUTES, ends, nameless, reading, write_all
from wire import BufferedRecorder, Recorder, io_turns, on_loop, turns

routes = pytest.mark.parametrize("route", ROUTES)
MILLION = random.Random(5).randbytes(1_000_000)


@routes
@on_loop
async def test_bytes_then_the_end(lib: Any, route: str) -> None:
    """Made, fed, told the end, lost without an error; the answer to the end does not count."""
    hooks = {"eof_received": lambda p: True}
    async with reading(lambda: Recorder(**hooks), route) as (transport, protocol, theirs):
        assert protocol.calls == ["CM"] and protocol.transport is transport
        theirs.write(b"hello")
        assert await protocol.has(5) == b"hello"
        theirs.write(b" world")
        assert await protocol.has(11) == b"hello world"
        theirs.close()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with, transport.is_closing())
        lib.note(nameless(repr(transport)))


@routes
@on_loop
async def test_every_byte_in_order(lib: Any, route: str) -> None:
    """A million bytes, with pauses in between."""

    def pause(protocol: Any, data: bytes) -> None:
        assert type(data) is bytes and len(data) <= protocol.transport.max_size
        protocol.transport.pause_reading()
        loop.call_soon(protocol.transport.resume_reading)

    loop = asyncio.get_running_loop()
    async with reading(lambda: Recorder(data_received=pause), route) as (_, protocol, theirs):
        await write_all(theirs, MILLION)
        assert await protocol.has(len(MILLION)) == MILLION
        lib.note(len(protocol.data))


@on_loop
async def test_what_it_says_of_itself(lib: Any) -> None:
    """Classes, extra info, flags and reprs, from open to closed."""
    async with reading(Recorder) as (transport, protocol, theirs):
        lib.note(isinstance(transport, asyncio.ReadTransport))
        lib.note(isinstance(transport, asyncio.WriteTransport))
        names = (
            "write",
            "abort",
            "get_write_buffer_size",
            "_buffer",
            "_conn_lost",
            "can_write_eof",
        )
        lib.note([hasattr(transport, name) for name in names])
        pipe = transport.get_extra_info("pipe")
        lib.note(pipe.fileno() == transport._fileno, transport._pipe is pipe)
        lib.note(sorted(transport._extra), transport.get_extra_info("socket", 7))
        lib.note(transport.is_reading(), transport._paused, transport._closing)
        lib.note(nameless(repr(transport)), transport.max_size)
        transport.pause_reading()
        transport.pause_reading()
        lib.note(nameless(repr(transport)), transport.is_reading(), transport._paused)
        transport.resume_reading()
        transport.resume_reading()
        lib.note(nameless(repr(transport)), transport._loop is asyncio.get_running_loop())
        lib.note(transport.get_protocol() is protocol, transport._protocol is protocol)
        transport.close()
        lib.note(nameless(repr(transport)), transport.is_closing(), transport.is_reading())
        transport.pause_reading()
        transport.resume_reading()
        await protocol.seen("CL")
        lib.note(nameless(repr(transport)), transport._pipe, transport._loop, pipe.closed)
        lib.note(transport.get_protocol(), transport.get_extra_info("pipe") is pipe)
        transport.close()


@on_loop
async def test_close_reads_no_more(lib: Any) -> None:
    """What was not read yet is not delivered; connection_lost comes once, in a later turn."""
    async with reading(Recorder) as (transport, protocol, theirs):
        theirs.write(b"never seen")
        transport.close()
        assert protocol.calls == ["CM"]
        transport.close()
        await io_turns()
        lib.note(protocol.calls, protocol.lost_with)
        with pytest.raises(BrokenPipeError):
            theirs.write(b"x")


@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received"])
@on_loop
async def test_close_from_a_callback(lib: Any, where: str) -> None:
    """Any callback may close."""
    loop = asyncio.get_running_loop()
    hooks: dict[str, Any] = {where: lambda p, *args: p.transport.close()}
    with ends(reads=True) as (file, theirs):
        theirs.write(b"data")
        _, protocol = await loop.connect_read_pipe(lambda: Recorder(**hooks), file)
        await io_turns()
        theirs.close()
        await protocol.seen("CL")
        await turns(3)
        lib.note(protocol.calls, protocol.lost_with)


@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received"])
@on_loop
async def test_callback_that_raises(lib: Any, where: str) -> None:
    """The exception handler hears of it, and the transport goes on."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    hooks: dict[str, Any] = {where: lambda p, *args: 1 / 0}
    with ends(reads=True) as (file, theirs):
        transport, protocol = await loop.connect_read_pipe(lambda: Recorder(**hooks), file)
        theirs.write(b"one")
        await protocol.has(3)
        theirs.write(b"two")
        await protocol.has(6)
        lib.note(transport.is_closing())
        theirs.close()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with, len(contexts))
        lib.note([sorted(context) for context in contexts])
        lib.note([context["exception"] for context in contexts])
        lib.note([context["message"].split()[:3] for context in contexts])


@on_loop
async def test_buffered_protocols_get_data_too(lib: Any) -> None:
    """asyncio's pipes know no get_buffer()."""
    async with reading(BufferedRecorder) as (_, protocol, theirs):
        theirs.write(b"data")
        await protocol.has(4)
        lib.note(protocol.hints, protocol.calls)


@on_loop
async def test_set_protocol(lib: Any) -> None:
    """The next bytes go to the new protocol."""
    async with reading(Recorder) as (transport, protocol, theirs):
        theirs.write(b"old")
        await protocol.has(3)
        second = Recorder()
        transport.set_protocol(second)
        theirs.write(b"new")
        await second.has(3)
        lib.note(protocol.calls, second.calls, transport.get_protocol() is second)
        transport.set_protocol(protocol)


@on_loop
async def test_terminal_that_hangs_up(lib: Any) -> None:
    """EIO, a terminal's way to end, is told to connection_lost and reported to nobody."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    first, second = os.openpty()
    _, protocol = await loop.connect_read_pipe(Recorder, open(first, "rb", 0))
    os.close(second)
    await protocol.seen("CL")
    lib.note(protocol.calls, protocol.lost_with, contexts)


@on_loop
async def test_a_read_that_fails(lib: Any) -> None:
    """Any other error is reported, too: a socket that was reset."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    transport, protocol = await loop.connect_read_pipe(Recorder, accepted)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    await protocol.seen("CL")
    lib.note(protocol.calls, protocol.lost_with)
    assert [context["transport"] is transport for context in contexts] == [True]
    lib.note(contexts[0]["message"], contexts[0]["exception"], sorted(contexts[0]))
    contexts.clear()


@on_loop
async def test_contexts(lib: Any) -> None:
    """connection_made and the first bytes see the connecting task's variables; resuming takes its
    caller's.
    """
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    loop = asyncio.get_running_loop()
    seen: list[tuple[str, str]] = []

    def hook(name: str) -> Any:
        return lambda *args: seen.append((name, variable.get()))

    names = ("connection_made", "data_received", "eof_received", "connection_lost")
    hooks = {name: hook(name) for name in names}
    variable.set("connect")
    with ends(reads=True) as (file, theirs):
        transport, protocol = await loop.connect_read_pipe(lambda: Recorder(**hooks), file)
        variable.set("later")
        theirs.write(b"1")
        await protocol.has(1)
        transport.pause_reading()
        variable.set("resume")
        transport.resume_reading()
        variable.set("last")
        theirs.write(b"2")
        await protocol.has(2)
        theirs.close()
        await protocol.seen("CL")
    lib.note(seen)


@on_loop
async def test_debug_lines(lib: Any) -> None:
    """Debug mode tells of connecting, pausing and the end."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    logging.getLogger("asyncio").setLevel(logging.DEBUG)
    try:
        async with reading(Recorder) as (transport, protocol, theirs):
            transport.pause_reading()
            transport.resume_reading()
            theirs.close()
            await protocol.seen("CL")
        lines = [nameless(line) for line in lib.logged(logging.DEBUG)]
        lib.note([re.sub(r"pipe \d+", "pipe N", line) for line in lines if "PIPE" in line])
    finally:
        logging.getLogger("asyncio").setLevel(logging.NOTSET)
        loop.set_debug(False)


@on_loop
async def test_stream_reader_over_a_pipe(lib: Any) -> None:
    """The pattern of asyncio's documentation, with lines and a limit that pauses."""
    loop = asyncio.get_running_loop()
    with ends(reads=True) as (file, theirs):
        reader = asyncio.StreamReader(limit=1000)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        lines = [b"%d\n" % number for number in range(20_000)]
        feeding = asyncio.create_task(write_all(theirs, b"".join(lines)))
        got = [await reader.readline() for _ in lines]
        await feeding
        assert got == lines
        theirs.close()
        lib.note(await reader.read(), transport.is_closing())
        await turns(3)

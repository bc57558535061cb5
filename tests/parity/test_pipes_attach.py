"""Attaching pipes: what is accepted, and who closes what, when, how often."""

from __future__ import annotations

import asyncio
import gc
import os
import tty
from typing import Any

import pytest
from ends import ends, nameless, reading
from wire import Recorder, io_turns, on_loop, turns


@pytest.mark.parametrize("way", ["read", "write"])
@pytest.mark.parametrize("what", ["file", "folder"])
@on_loop
async def test_what_is_no_pipe_is_refused(lib: Any, tmp_path: Any, way: str, what: str) -> None:
    """A regular file or a folder: ValueError, and the file stays as it was."""
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(b"content")
    fd = os.open(path if what == "file" else tmp_path, os.O_RDONLY)

    class Pipe:
        closed = 0

        def fileno(self) -> int:
            return fd

        def close(self) -> None:
            self.closed += 1

    pipe, protocol = Pipe(), Recorder()
    connect = loop.connect_read_pipe if way == "read" else loop.connect_write_pipe
    with pytest.raises(ValueError) as caught:
        await connect(lambda: protocol, pipe)
    gc.collect()
    lib.note(caught.value, pipe.closed, os.get_blocking(fd), protocol.calls)
    assert pipe.closed == 0
    os.close(fd)


@on_loop
async def test_what_has_no_fileno(lib: Any) -> None:
    """A number, a closed file, a pipe that is gone: what is raised, and nothing attached."""
    loop = asyncio.get_running_loop()
    with ends(reads=True) as (file, _):
        for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
            with pytest.raises(AttributeError) as caught:
                await connect(Recorder, file.fileno())
            lib.note(caught.value)
        file.close()
        for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
            with pytest.raises(ValueError) as closed:
                await connect(Recorder, file)
            lib.note(closed.value)
    del caught, closed
    gc.collect()
    lib.unraisable_taken()  # asyncio's half-made transports complain when they die


@on_loop
async def test_a_number_that_names_nothing(lib: Any) -> None:
    """OSError; the pipe object, taken over by then, is closed with a warning, as asyncio does."""
    loop = asyncio.get_running_loop()
    unused, other = os.pipe()
    os.close(unused)
    os.close(other)

    class Pipe:
        closed = 0

        def fileno(self) -> int:
            return unused

        def close(self) -> None:
            Pipe.closed += 1

    for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
        with pytest.raises(OSError) as caught:
            await connect(Recorder, Pipe())
        lib.note(caught.value.errno)
        del caught
    gc.collect()
    lib.note(Pipe.closed, [(kind, nameless(text)) for kind, text in lib.warnings_taken()])


@on_loop
async def test_factory_that_raises(lib: Any) -> None:
    """The pipe is not touched."""
    loop = asyncio.get_running_loop()
    with ends(reads=True) as (file, _):
        with pytest.raises(ZeroDivisionError):
            await loop.connect_read_pipe(lambda: 1 / 0, file)
        lib.note(file.closed, os.get_blocking(file.fileno()))


@pytest.mark.parametrize("way", ["read", "write"])
@on_loop
async def test_cancelled_connect(lib: Any, way: str) -> None:
    """The transport, which owns the file by then, closes it, once."""
    loop = asyncio.get_running_loop()
    closed: list[int] = []

    class Pipe:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def fileno(self) -> int:
            return self.fd

        def close(self) -> None:
            closed.append(self.fd)
            os.close(self.fd)

    first, second = os.pipe()
    ours, theirs = (first, second) if way == "read" else (second, first)
    protocol = Recorder()
    connect = loop.connect_read_pipe if way == "read" else loop.connect_write_pipe
    task = asyncio.create_task(connect(lambda: protocol, Pipe(ours)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns(5)
    lib.note(len(closed), protocol.calls)
    assert closed == [ours]
    os.close(theirs)


@on_loop
async def test_mode_stays_non_blocking(lib: Any) -> None:
    """The file is made non-blocking, and stays so when the transport goes."""
    loop = asyncio.get_running_loop()
    with ends(reads=True) as (file, _):
        copy = os.dup(file.fileno())
        lib.note(os.get_blocking(copy))
        transport, protocol = await loop.connect_read_pipe(Recorder, file)
        lib.note(os.get_blocking(copy))
        transport.close()
        await protocol.seen("CL")
        lib.note(os.get_blocking(copy), file.closed)
        os.close(copy)


@on_loop
async def test_character_devices(lib: Any) -> None:
    """/dev/null may be written to, and ends when read where it can be watched at all."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(Recorder, open("/dev/null", "wb", 0))
    transport.write(b"x" * 100_000)
    lib.note(transport.get_write_buffer_size(), nameless(repr(transport)))
    transport.close()
    await protocol.seen("CL")
    lib.note(protocol.calls, protocol.lost_with)


@on_loop
async def test_one_terminal_read_and_written(lib: Any) -> None:
    """A read and a write transport may share a file, and so a number."""
    loop = asyncio.get_running_loop()
    first, second = os.openpty()
    tty.setraw(first)
    tty.setraw(second)
    file = open(second, "r+b", 0)
    reader, heard = await loop.connect_read_pipe(Recorder, file)
    writer, _ = await loop.connect_write_pipe(Recorder, file)
    os.write(first, b"question")
    assert await heard.has(8) == b"question"
    writer.write(b"answer")
    lib.note(os.read(first, 100))
    big = b"x" * 100_000
    writer.write(big)
    assert writer.get_write_buffer_size() > 0
    os.write(first, b"again")
    assert await heard.has(13) == b"questionagain"
    writer.abort()
    await io_turns()
    lib.note(heard.calls, file.closed)
    reader.close()
    await heard.seen("CL")
    os.close(first)


@on_loop
async def test_watching_a_transports_descriptor(lib: Any) -> None:
    """add_reader is not refused for a pipe's number, as it is for a socket transport's."""
    loop = asyncio.get_running_loop()
    async with reading(Recorder) as (transport, _, __):
        called = asyncio.Event()
        transport.pause_reading()
        loop.add_writer(transport._fileno, called.set)
        lib.note(loop.remove_writer(transport._fileno))
        lib.note(loop.remove_reader(transport._fileno))


@on_loop
async def test_closed_behind_the_transports_back(lib: Any) -> None:
    """A file that was closed is neither read nor closed any more, nor is who has its number now."""
    loop = asyncio.get_running_loop()
    lib.stock_defect(True, "asyncio reads whatever has the number by then")
    contexts = lib.contexts(loop)
    for buffering in (0, -1):
        first, second = os.pipe()
        file = open(first, "rb", buffering)
        transport, protocol = await loop.connect_read_pipe(Recorder, file)
        await io_turns()
        copy = os.dup(first)  # the open file stays, so the kernel goes on reporting
        file.close()
        foreign, far = os.pipe()
        assert foreign == first
        os.write(far, b"private")
        os.write(second, b"ours")
        await protocol.seen("CL")
        assert protocol.calls == ["CM", "CL"] and protocol.lost_with.errno == 9
        assert os.read(foreign, 100) == b"private"
        assert [context["message"] for context in contexts] == [
            "Fatal read error on pipe transport"
        ]
        contexts.clear()
        for fd in (copy, foreign, far, second):
            os.close(fd)
        del transport


@on_loop
async def test_collected_open(lib: Any) -> None:
    """A transport that nobody closed warns and closes its pipe."""
    loop = asyncio.get_running_loop()
    with ends(reads=True) as (file, theirs):
        transport, protocol = await loop.connect_read_pipe(Recorder, file)
        transport.pause_reading()
        protocol.transport = None
        del transport, protocol
        gc.collect()
        lib.note([(kind, nameless(text)) for kind, text in lib.warnings_taken()], file.closed)


@on_loop
async def test_the_loop_keeps_it(lib: Any) -> None:
    """A transport that reads is kept by the loop alone."""
    loop = asyncio.get_running_loop()
    with ends(reads=True) as (file, theirs):
        protocol = (await loop.connect_read_pipe(Recorder, file))[1]
        protocol.transport = None
        gc.collect()
        theirs.write(b"x")
        await protocol.has(1)
        theirs.close()
        await protocol.seen("CL")
        lib.note(protocol.calls)


def test_loop_closed_meanwhile(lib: Any) -> None:
    """The transport of a closed loop says so; closing it raises, dying warns."""
    loop = lib.new_loop()
    with ends(reads=True) as (file, _):
        transport, protocol = loop.run_until_complete(loop.connect_read_pipe(Recorder, file))
        loop.close()
        lib.note(nameless(repr(transport)))
        lib.catch(transport.close)
        lib.note(nameless(repr(transport)))
        protocol.transport = None
        del transport, protocol
        gc.collect()
        lib.note([(kind, nameless(text)) for kind, text in lib.warnings_taken()], file.closed)

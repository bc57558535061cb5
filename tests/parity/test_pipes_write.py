"""Writing ends of pipes: every byte, flow control, every way to end, what is still said after."""

from __future__ import annotations

import array
import asyncio
import gc
import os
import random
import signal
from typing import Any

import pytest
from ends import ROUTES, WATCHED, ends, nameless, read_exactly, writing
from wire import Recorder, io_turns, on_loop, turns

routes = pytest.mark.parametrize("route", ROUTES)
watched = pytest.mark.parametrize("route", WATCHED)
MILLION = random.Random(6).randbytes(1_000_000)


@routes
@on_loop
async def test_bytes_then_close(lib: Any, route: str) -> None:
    """What was written arrives, all of it, and then the end."""
    async with writing(Recorder, route) as (transport, protocol, theirs):
        transport.write(b"hello")
        lib.note(transport.get_write_buffer_size())
        assert await read_exactly(theirs, 5) == b"hello"
        transport.write(MILLION)
        transport.close()
        lib.note(transport.is_closing(), protocol.calls)
        assert await read_exactly(theirs, len(MILLION)) == MILLION
        await protocol.seen("CL")
        transport.close()
        lib.note(protocol.calls, protocol.lost_with, nameless(repr(transport)))
        assert await read_exactly(theirs, 1) == b""


@routes
@on_loop
async def test_write_eof_closes(lib: Any, route: str) -> None:
    """write_eof() is close()."""
    async with writing(Recorder, route) as (transport, protocol, theirs):
        lib.note(transport.can_write_eof())
        transport.write(b"last")
        transport.write_eof()
        transport.write_eof()
        lib.note(transport.is_closing())
        assert await read_exactly(theirs, 4) == b"last"
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with)


@on_loop
async def test_every_kind_of_bytes(lib: Any) -> None:
    """Immutable, mutable, views, empty ones, and lists of them."""
    async with writing(Recorder) as (transport, _, theirs):
        for data in (b"bytes", bytearray(b"array"), memoryview(b"view")):
            transport.write(data)
            assert await read_exactly(theirs, len(data)) == bytes(data)
        for empty in (b"", bytearray(), memoryview(b"")):
            transport.write(empty)
        transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three")])
        assert await read_exactly(theirs, 13) == b"one two three"
        transport.writelines([])
        for wrong in ("text", 1, None, [b"list"], array.array("b", b"x")):
            with pytest.raises(AssertionError) as caught:
                transport.write(wrong)
            lib.note(caught.value)
        with pytest.raises(TypeError) as joined:
            transport.writelines(["text"])
        lib.note(joined.value)


@on_loop
async def test_mutable_data_is_copied(lib: Any) -> None:
    """What waits is what was written, whatever becomes of the buffer."""
    async with writing(Recorder) as (transport, _, theirs):
        data = bytearray(MILLION)
        transport.write(data)
        data[:] = bytes(len(data))
        data.clear()
        assert await read_exactly(theirs, len(MILLION)) == MILLION


@on_loop
async def test_each_write_is_one(lib: Any) -> None:
    """Writes are not put together while nothing waits: other writers may share the pipe."""
    if not hasattr(os, "pipe2"):
        pytest.skip("no packet pipes here")
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe2(os.O_DIRECT)
    transport, protocol = await loop.connect_write_pipe(Recorder, open(writer, "wb", 0))
    for text in (b"one", b"two", b"three"):
        transport.write(text)
    lib.note([os.read(reader, 100) for _ in range(3)])
    transport.close()
    await protocol.seen("CL")
    os.close(reader)


@on_loop
async def test_flow_control(lib: Any) -> None:
    """The protocol pauses above the high limit and resumes at the low one."""
    async with writing(Recorder) as (transport, protocol, theirs):
        lib.note(transport.get_write_buffer_limits(), transport._high_water, transport._low_water)
        transport.set_write_buffer_limits(high=100_000, low=10_000)
        lib.note(transport.get_write_buffer_limits())
        room = 0
        while transport.get_write_buffer_size() == 0:
            transport.write(b"x" * 1000)
            room += 1000
        size = transport.get_write_buffer_size()
        transport.write(b"x" * (100_000 - size))
        lib.note(protocol.calls, transport._protocol_paused, transport.get_write_buffer_size())
        transport.write(b"x")
        lib.note(protocol.calls, transport._protocol_paused, transport.get_write_buffer_size())
        lib.note(nameless(repr(transport)), type(transport._buffer), len(transport._buffer))
        total = room - size + 100_001
        assert len(await read_exactly(theirs, total)) == total
        await protocol.seen("RW")
        lib.note(protocol.calls, transport.get_write_buffer_size())
        for limits in ((1, 2), (-1, None), (None, -1)):
            with pytest.raises(ValueError) as caught:
                transport.set_write_buffer_limits(*limits)
            lib.note(caught.value)


@pytest.mark.parametrize("what", ["close", "abort", "write_eof", "write"])
@on_loop
async def test_resume_writing_acts(lib: Any, what: str) -> None:
    """resume_writing() may close, abort or write."""

    def act(protocol: Any) -> None:
        if what == "write":
            if protocol.calls.count("RW") < 3:
                protocol.transport.write(b"y" * 200_000)
        else:
            getattr(protocol.transport, what)()

    async with writing(lambda: Recorder(resume_writing=act)) as (transport, protocol, theirs):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x" * 200_000)
        size = 600_000 if what == "write" else 200_000
        assert len(await read_exactly(theirs, size)) == size
        await io_turns()
        # asyncio calls connection_lost twice after abort() here; the harness hears of it.
        lib.logged()
        lib.note(protocol.calls[: 3 if what == "abort" else None], protocol.lost_with)


@watched
@on_loop
async def test_reader_goes_while_idle(lib: Any, route: str) -> None:
    """The loss is noticed without a write, and is no error."""
    async with writing(Recorder, route) as (transport, protocol, theirs):
        theirs.close()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with, transport.is_closing(), transport._conn_lost)


@watched
@on_loop
async def test_reader_goes_while_bytes_wait(lib: Any, route: str) -> None:
    """BrokenPipeError, also when the transport was closing."""
    for closes in (False, True):
        async with writing(Recorder, route) as (transport, protocol, theirs):
            transport.write(MILLION)
            if closes:
                transport.close()
            await io_turns()
            theirs.close()
            await protocol.seen("CL")
            lib.note(protocol.grammar, type(protocol.lost_with), transport.is_closing())
            if route != "socket":  # the kernel may tell a socket of the reset first
                lib.note(protocol.lost_with)
            lib.note(transport.get_write_buffer_size())


@on_loop
async def test_write_to_a_broken_pipe(lib: Any) -> None:
    """The write itself finds out: reported as the loss, with the kernel's error."""
    contexts = lib.contexts(asyncio.get_running_loop())
    async with writing(Recorder) as (transport, protocol, theirs):
        theirs.close()
        transport.write(b"x")
        lib.note(transport._conn_lost, transport.is_closing(), protocol.calls)
        transport.write(b"y")
        lib.note(transport._conn_lost)
        await protocol.seen("CL")
        await turns(3)
        lib.note(protocol.calls, protocol.lost_with, contexts)


@on_loop
async def test_signal_stays_ignored(lib: Any) -> None:
    """Writing to a broken pipe raises no SIGPIPE that Python has not ignored already."""
    lib.note(signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN)


@on_loop
async def test_data_on_a_socket_ends_the_writing(lib: Any) -> None:
    """Whatever makes a socket readable counts as the end of its reader: asyncio's rule."""
    async with writing(Recorder, "socket") as (transport, protocol, theirs):
        theirs.write(b"who reads this?")
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with)


@on_loop
async def test_terminals_are_not_watched(lib: Any) -> None:
    """What is typed does not end a transport that writes to a terminal."""
    async with writing(Recorder, "terminal") as (transport, protocol, theirs):
        theirs.write(b"typed\n")
        await io_turns()
        transport.write(b"shown")
        lib.note(await read_exactly(theirs, 5), protocol.calls, transport.is_closing())


@pytest.mark.parametrize("how", ["close", "abort", "write_eof", "broken"])
@on_loop
async def test_writing_after_the_end(lib: Any, how: str) -> None:
    """Ignored, and after some times with a line in the log; never an error."""
    async with writing(Recorder) as (transport, protocol, theirs):
        if how == "broken":
            theirs.close()
            transport.write(b"x")
        else:
            getattr(transport, how)()
        for _ in range(4):
            transport.write(b"x")
        transport.write(b"")
        transport.writelines([b"x"])
        lib.note(transport._conn_lost, lib.logged())
        await protocol.seen("CL")
        for _ in range(3):
            transport.write(b"x")
        lib.note(transport._conn_lost, lib.logged(), protocol.calls)


@on_loop
async def test_closing_drops_later_writes(lib: Any) -> None:
    """After close() only what was written before leaves."""
    async with writing(Recorder) as (transport, protocol, theirs):
        transport.write(b"x" * 200_000)
        transport.close()
        transport.write(b"never")
        lib.note(transport._conn_lost, transport._closing)
        assert await read_exactly(theirs, 1 << 30) == b"x" * 200_000
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with)


@on_loop
async def test_abort_drops_what_waits(lib: Any) -> None:
    """abort() gives up unsent bytes; connection_lost(None) follows."""
    async with writing(Recorder) as (transport, protocol, theirs):
        transport.write(MILLION)
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        lib.note(transport.get_write_buffer_size(), transport.is_closing(), protocol.calls)
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with)
        got = await read_exactly(theirs, 1 << 30)
        assert MILLION.startswith(got) and len(got) < len(MILLION)


@on_loop
async def test_abort_after_close(lib: Any) -> None:
    """One connection_lost; asyncio calls its own a second time, in vain, and reports that."""
    async with writing(Recorder) as (transport, protocol, _):
        transport.close()
        transport.abort()
        await protocol.seen("CL")
        await turns(3)
        lib.logged()
        lib.note(protocol.calls)


@on_loop
async def test_what_it_says_of_itself(lib: Any) -> None:
    """Classes, extra info, flags and reprs, from open to closed."""
    async with writing(Recorder) as (transport, protocol, _):
        for base in (asyncio.WriteTransport, asyncio.ReadTransport, asyncio.Transport):
            lib.note(isinstance(transport, base))
        for name in ("is_reading", "pause_reading", "resume_reading"):
            lib.note(hasattr(transport, name))
            with pytest.raises(NotImplementedError):
                getattr(transport, name)()
        pipe = transport.get_extra_info("pipe")
        lib.note(pipe.fileno() == transport._fileno, transport._pipe is pipe)
        lib.note(sorted(transport._extra), transport.get_extra_info("socket", 7))
        lib.note(nameless(repr(transport)), transport._buffer, transport._conn_lost)
        lib.note(transport.get_protocol() is protocol, transport._closing)
        other = Recorder()
        transport.set_protocol(other)
        lib.note(transport.get_protocol() is other)
        transport.set_protocol(protocol)
        transport.close()
        lib.note(nameless(repr(transport)), transport.is_closing())
        await protocol.seen("CL")
        lib.note(nameless(repr(transport)), transport._pipe, transport._loop, pipe.closed)
        lib.note(transport.get_protocol(), transport.get_extra_info("pipe") is pipe)


@on_loop
async def test_odd_views(lib: Any) -> None:
    """A view with gaps cannot be written: reported, and the end of the transport."""
    contexts = lib.contexts(asyncio.get_running_loop())
    async with writing(Recorder) as (transport, protocol, _):
        transport.write(memoryview(b"every other")[::2])
        await protocol.seen("CL")
        lib.note(protocol.calls, type(protocol.lost_with), transport._conn_lost)
        lib.note([(c["message"], sorted(c)) for c in contexts])
        contexts.clear()


@pytest.mark.parametrize("where", ["connection_made", "pause_writing", "resume_writing"])
@on_loop
async def test_callback_that_raises(lib: Any, where: str) -> None:
    """The exception handler hears of it, and the transport goes on."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    hooks: dict[str, Any] = {where: lambda p, *args: 1 / 0}
    async with writing(lambda: Recorder(**hooks)) as (transport, protocol, theirs):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x" * 100_000)
        assert len(await read_exactly(theirs, 100_000)) == 100_000
        await protocol.seen("RW")
        lib.note(protocol.calls, transport.is_closing())
        lib.note([(c["exception"], sorted(c), c["message"].split()[:2]) for c in contexts])
        contexts.clear()


@pytest.mark.parametrize("what", ["close", "abort", "write", "write-close"])
@on_loop
async def test_connection_made_acts(lib: Any, what: str) -> None:
    """connection_made() may write, close and abort."""

    def act(protocol: Any, transport: Any) -> None:
        if what.startswith("write"):
            transport.write(b"x" * 100_000)
        if what.endswith("close"):
            transport.close()
        if what == "abort":
            transport.abort()

    loop = asyncio.get_running_loop()
    with ends(reads=False) as (file, theirs):
        transport, protocol = await loop.connect_write_pipe(
            lambda: Recorder(connection_made=act), file
        )
        got = await read_exactly(theirs, 100_000 if what.startswith("write") else 0)
        if what == "write":
            transport.close()
        await protocol.seen("CL")
        await turns(3)
        lib.note(len(got), protocol.grammar, protocol.lost_with)


@on_loop
async def test_closed_behind_the_transports_back(lib: Any) -> None:
    """What has the number of a file that was closed is neither written to nor closed."""
    lib.stock_defect(True, "asyncio writes to whatever has the number by then")
    loop = asyncio.get_running_loop()
    for buffering in (0, -1):
        first, second = os.pipe()
        file = open(second, "wb", buffering)
        transport, protocol = await loop.connect_write_pipe(Recorder, file)
        await io_turns()
        file.close()
        near, other = os.pipe()
        assert near == second
        far = os.dup(near)
        os.dup2(other, second)
        os.close(other)
        os.set_blocking(far, False)
        transport.write(b"not for them")
        await protocol.seen("CL")
        assert protocol.lost_with.errno == 9
        with pytest.raises(BlockingIOError):
            os.read(far, 100)
        assert os.write(second, b"theirs") == 6
        for fd in (first, far, second):
            os.close(fd)


@on_loop
async def test_collected_open(lib: Any) -> None:
    """A transport that nobody closed and that waits for nothing warns and closes its pipe."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(Recorder, open("/dev/null", "wb", 0))
    file = transport.get_extra_info("pipe")
    protocol.transport = None
    del transport, protocol
    gc.collect()
    lib.note([(kind, nameless(text)) for kind, text in lib.warnings_taken()], file.closed)


@on_loop
async def test_stream_writer_over_a_pipe(lib: Any) -> None:
    """write and drain against a slow reader, then wait_closed."""
    loop = asyncio.get_running_loop()
    with ends(reads=False) as (file, theirs):
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        reading = asyncio.create_task(read_exactly(theirs, 1 << 30))
        sizes = []
        for start in range(0, len(MILLION), 10_000):
            writer.write(MILLION[start : start + 10_000])
            await writer.drain()
            sizes.append(transport.get_write_buffer_size())
        writer.close()
        assert await reading == MILLION
        assert max(sizes) <= 64 * 1024
        lib.note(writer.is_closing())


@pytest.mark.parametrize("seed", range(6))
@on_loop
async def test_random_walk(lib: Any, seed: int) -> None:
    """Writes of all sizes, reads of all sizes, turns and limits: all bytes, in order."""
    rng = random.Random(seed)
    async with writing(Recorder, rng.choice(ROUTES)) as (transport, protocol, theirs):
        sent, got = bytearray(), bytearray()
        for _ in range(200):
            match rng.randrange(5):
                case 0 | 1:
                    data = rng.randbytes(rng.choice([1, 100, 5000, 70_000]))
                    transport.write(data)
                    sent += data
                case 2:
                    size = min(len(sent) - len(got), rng.choice([10, 4000, 100_000]))
                    got += await read_exactly(theirs, size)
                case 3:
                    await turns(rng.randrange(4))
                case 4:
                    transport.set_write_buffer_limits(rng.choice([0, 10_000, 100_000]))
        got += await read_exactly(theirs, len(sent) - len(got))
        assert got == sent
        lib.note(len(sent))

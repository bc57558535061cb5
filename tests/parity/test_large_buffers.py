"""A `BufferedProtocol` with a large buffer, of which each read fills all; large answers."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from wire import BufferedRecorder, Recorder, io_turns, on_loop, tcp_pair

BUFFER = 32 * 1024
# Fits the kernel's buffers, and is neither one buffer nor a multiple of it.
MESSAGE = random.Random(8).randbytes(3 * BUFFER + 1000)
# What one wake may read, by asyncio's `_SelectorTransport.max_size`.
READ_MAX = 256 * 1024

Hook = Callable[..., Any]


async def filled(lib: Any, *ends: bytes, **hooks: Hook) -> tuple[BufferedRecorder, socket.socket]:
    """Open a connection on which the message waits already, then perhaps the end."""
    near, far = tcp_pair()
    far.sendall(MESSAGE)
    for end in ends:
        far.sendall(end)
        far.shutdown(socket.SHUT_WR)
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: BufferedRecorder(BUFFER, **hooks), sock=near)
    return protocol, far


async def finish(lib: Any, protocol: Recorder, far: socket.socket) -> None:
    """Close both ends and note what was seen."""
    far.close()
    protocol.transport.close()
    await protocol.seen("CL")
    lib.note(protocol.calls, bytes(protocol.data) == MESSAGE[: len(protocol.data)])


@on_loop
async def test_all_of_it_comes_in_order(lib: Any) -> None:
    """Buffer after buffer, and then what is left."""
    protocol, far = await filled(lib)
    await protocol.has(len(MESSAGE))
    lib.note(set(protocol.hints))
    await finish(lib, protocol, far)


@on_loop
async def test_the_end_follows(lib: Any) -> None:
    """The end of the stream is told behind the last buffer, also if that was full."""
    protocol, far = await filled(lib, MESSAGE[: BUFFER - 1000])
    await protocol.seen("CL")
    lib.note(protocol.calls, len(protocol.data), protocol.lost_with)
    far.close()


@on_loop
async def test_what_is_scheduled_runs_first(lib: Any) -> None:
    """A call that one buffer schedules runs before the next buffer is filled."""
    seen: list[str] = []

    def updated(protocol: Any, *_: Any) -> None:
        seen.append("buffer")
        asyncio.get_running_loop().call_soon(seen.append, "call")

    protocol, far = await filled(lib, buffer_updated=updated)
    await protocol.has(len(MESSAGE))
    await asyncio.sleep(0)
    lib.note(seen)
    await finish(lib, protocol, far)


@pytest.mark.parametrize("method", ["pause_reading", "close", "abort"])
@on_loop
async def test_reading_ends_with_a_buffer(lib: Any, method: str) -> None:
    """Nothing is read behind a buffer whose protocol stops reading."""

    def updated(protocol: Any, *_: Any) -> None:
        if len(protocol.data) == BUFFER:
            getattr(protocol.transport, method)()

    protocol, far = await filled(lib, buffer_updated=updated)
    await protocol.seen("DR")
    await io_turns()
    lib.note(len(protocol.data))
    if method == "pause_reading":
        protocol.transport.resume_reading()
        await protocol.has(len(MESSAGE))
    await finish(lib, protocol, far)


@on_loop
async def test_another_protocol_takes_the_rest(lib: Any) -> None:
    """What follows a `set_protocol()` goes to the other protocol, as that one takes it."""
    other = Recorder()

    def updated(protocol: Any, *_: Any) -> None:
        if len(protocol.data) == BUFFER:
            other.transport = protocol.transport
            protocol.transport.set_protocol(other)

    protocol, far = await filled(lib, buffer_updated=updated)
    await other.has(len(MESSAGE) - BUFFER)
    lib.note(len(protocol.data), protocol.data + other.data == MESSAGE, other.grammar)
    far.close()
    other.transport.close()
    await other.seen("CL")


@on_loop
async def test_a_failing_protocol_reads_no_more(lib: Any) -> None:
    """An exception of `buffer_updated()` ends the connection behind the first buffer."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def updated(*_: Any) -> None:
        raise ValueError("enough")

    protocol, far = await filled(lib, buffer_updated=updated)
    await protocol.seen("CL")
    lib.note(protocol.calls, repr(protocol.lost_with), [c["message"] for c in told])
    far.close()


@on_loop
async def test_others_are_not_starved(lib: Any) -> None:
    """Who has much to read gets no more of it than a single read may bring, then others do."""
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(2)]
    protocols = []
    for near, far in pairs:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * READ_MAX)
        far.setblocking(False)
        _, protocol = await loop.create_unix_connection(lambda: BufferedRecorder(BUFFER), sock=near)
        protocols.append(protocol)
    much, little = protocols
    before: list[int] = []
    little.hooks["buffer_updated"] = lambda *_: before.append(len(much.data))
    sent = pairs[0][1].send(bytes(2 * READ_MAX))
    pairs[1][1].send(b"me, too")
    await little.seen("DR")
    assert sent > READ_MAX + BUFFER >= before[0]
    await much.has(sent)
    for (_, far), protocol in zip(pairs, protocols, strict=True):
        far.close()
        await protocol.seen("CL")
    lib.note(sent)


@pytest.mark.parametrize("sizes", [(20_000, 20_000, 20_000), (40_000, 10)])
@on_loop
async def test_large_answers_leave_at_once(lib: Any, sizes: tuple[int, ...]) -> None:
    """What a protocol answers has left when `write()` returns, if it is large."""
    near, far = tcp_pair()
    far.setblocking(False)
    arrived: list[tuple[int, int]] = []

    def answer(protocol: Any, *_: Any) -> None:
        for size in sizes:
            protocol.transport.write(bytes(size))
            if size > 16 * 1024:
                try:
                    arrived.append((size, len(far.recv(READ_MAX))))
                except BlockingIOError:
                    arrived.append((size, 0))

    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: Recorder(data_received=answer), sock=near)
    for round_number in range(3):
        far.send(b"?")
        await protocol.has(round_number + 1)
    lib.note(arrived)
    far.close()
    protocol.transport.close()
    await protocol.seen("CL")

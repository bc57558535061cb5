"""BufferedProtocol: reads into the protocol's own memory; and protocols that are replaced."""

from __future__ import annotations

import asyncio
import random
from array import array
from typing import Any

import pytest
from wire import ROUTES, BufferedRecorder, Recorder, io_turns, link, nameless, on_loop, turns

routes = pytest.mark.parametrize("route", ROUTES)
MILLION = random.Random(3).randbytes(1_000_000)


@routes
@on_loop
async def test_calls(lib: Any, route: str) -> None:
    """get_buffer(-1), then buffer_updated with the count; the end as for any protocol."""
    async with link(BufferedRecorder, route) as (_, protocol, peer):
        peer.send(b"hello")
        assert await protocol.has(5) == b"hello"
        assert protocol.buffer[:5] == b"hello"
        peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.hints, protocol.lost_with)
        assert set(protocol.hints) == {-1}


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 65536, 1 << 20])
@on_loop
async def test_buffers_of_any_size(lib: Any, size: int) -> None:
    """Never more bytes than the buffer has; none lost."""
    data = MILLION if size >= 1000 else MILLION[:5000]
    counts: list[int] = []

    def factory():
        return BufferedRecorder(size, buffer_updated=lambda p, n: counts.append(n))

    async with link(factory) as (_, protocol, peer):
        sender = asyncio.ensure_future(peer.send_all(data))
        assert await protocol.has(len(data)) == data
        await sender
        assert 0 < min(counts) and max(counts) <= size
        lib.note(sum(counts))


@on_loop
async def test_kinds_of_memory(lib: Any) -> None:
    """bytearray, memoryview, array: whatever lends writable bytes."""
    for memory in (
        bytearray(10),
        memoryview(bytearray(10)),
        array("B", bytes(10)),
        memoryview(bytearray(20))[5:15],
    ):
        counts: list[int] = []
        factory = lambda memory=memory, counts=counts: BufferedRecorder(  # noqa: E731
            get_buffer=lambda p, hint: memory, buffer_updated=lambda p, n: counts.append(n)
        )
        async with link(factory) as (_, protocol, peer):
            peer.send(b"abcde")
            await protocol.seen("DR")
            lib.note(counts, bytes(memory)[:5])


@on_loop
async def test_the_buffer_is_let_go(lib: Any) -> None:
    """Once buffer_updated runs, nobody holds the memory: it may be resized."""
    buffer = bytearray(100)

    def resize(protocol: Any, count: int) -> None:
        protocol.buffer.clear()
        protocol.buffer.extend(bytes(200))

    async with link(lambda: BufferedRecorder(buffer_updated=resize)) as (_, protocol, peer):
        protocol.buffer = buffer
        peer.send(b"once")
        await protocol.has(4)
        peer.send(b"twice")
        await protocol.has(9)
        lib.note(len(buffer), bytes(protocol.data))


@pytest.mark.parametrize(
    "bad",
    [
        lambda p, hint: bytearray(),
        lambda p, hint: b"read only",
        lambda p, hint: memoryview(b"read only"),
        lambda p, hint: None,
        lambda p, hint: 5,
        lambda p, hint: "text",
        lambda p, hint: [0] * 10,
        lambda p, hint: 1 // 0,
    ],
    ids=["empty", "bytes", "view", "none", "int", "str", "list", "raises"],
)
@on_loop
async def test_bad_buffers(lib: Any, bad: Any) -> None:
    """A buffer that cannot be used ends the connection with the error, told to the handler."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    async with link(lambda: BufferedRecorder(get_buffer=bad)) as (transport, protocol, peer):
        peer.send(b"hello")
        await protocol.seen("CL")
        (context,) = seen
        lib.note(protocol.calls, type(protocol.lost_with), sorted(context), context["message"])
        assert protocol.lost_with is context["exception"]
        assert context["transport"] is transport and context["protocol"] is protocol
        assert await _told_end(peer)
        seen.clear()


async def _told_end(peer: Any) -> bool:
    try:
        return await peer.rest() == b""
    except ConnectionResetError:
        return True


@on_loop
async def test_an_update_that_raises(lib: Any) -> None:
    """buffer_updated that raises ends the connection with that error."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with link(lambda: BufferedRecorder(buffer_updated=lambda p, n: 1 // 0)) as (
        _,
        protocol,
        peer,
    ):
        peer.send(b"hello")
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with, sorted(seen[0]), seen[0]["message"], len(seen))


@on_loop
async def test_eof_kept_open(lib: Any) -> None:
    """eof_received that gives True keeps the way out open here too."""
    async with link(lambda: BufferedRecorder(eof_received=lambda p: True)) as (
        transport,
        protocol,
        peer,
    ):
        peer.shutdown()
        await protocol.seen("ER")
        await io_turns()
        transport.write(b"answer")
        assert await peer.exactly(6) == b"answer"
        transport.close()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.hints)


@on_loop
async def test_pause_in_buffer_updated(lib: Any) -> None:
    """pause_reading() holds get_buffer back as well."""
    hook = lambda p, n: p.transport.pause_reading()  # noqa: E731
    async with link(lambda: BufferedRecorder(4, buffer_updated=hook)) as (
        transport,
        protocol,
        peer,
    ):
        peer.send(b"abcdefgh")
        assert await protocol.has(4) == b"abcd"
        await io_turns()
        lib.note(protocol.hints, bytes(protocol.data))
        transport.resume_reading()
        assert await protocol.has(8) == b"abcdefgh"
        lib.note(protocol.hints)


KINDS = {"plain": Recorder, "buffered": BufferedRecorder}


@routes
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
@on_loop
async def test_switch_between_reads(lib: Any, route: str, first: str, second: str) -> None:
    """set_protocol() mid-stream: the next bytes go to the new one, by its own way."""
    async with link(KINDS[first], route) as (transport, protocol, peer):
        peer.send(b"first")
        assert await protocol.has(5) == b"first"
        other = KINDS[second]()
        transport.set_protocol(other)
        peer.send(b"second")
        assert await other.has(6) == b"second"
        assert bytes(protocol.data) == b"first"
        peer.shutdown()
        await other.seen("CL")
        lib.note(protocol.calls, other.calls)


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
@on_loop
async def test_switch_within_a_read(lib: Any, first: str, second: str) -> None:
    """set_protocol() within data_received or buffer_updated; together they miss nothing."""
    other = KINDS[second]()
    switch = lambda p, _: p.transport.set_protocol(other)  # noqa: E731
    factory = lambda: KINDS[first](data_received=switch, buffer_updated=switch)  # noqa: E731
    async with link(factory) as (transport, protocol, peer):
        sender = asyncio.ensure_future(peer.send_all(MILLION))
        await protocol.seen("DR")
        assert transport.get_protocol() is other
        await other.has(len(MILLION) - len(protocol.data))
        await sender
        assert bytes(protocol.data + other.data) == MILLION
        lib.note(protocol.grammar, other.grammar)


@on_loop
async def test_switch_within_connection_made(lib: Any) -> None:
    """A connection_made that hands the transport to another protocol."""
    other = BufferedRecorder()
    hook = lambda p, t: t.set_protocol(other)  # noqa: E731
    async with link(lambda: Recorder(connection_made=hook)) as (transport, protocol, peer):
        peer.send(b"hello")
        await other.has(5)
        transport.close()
        await other.seen("CL")
        lib.note(protocol.calls, other.calls)


@on_loop
async def test_switch_within_eof_received(lib: Any) -> None:
    """The protocol that was set last hears of the end."""
    other = Recorder()
    hook = lambda p: p.transport.set_protocol(other)  # noqa: E731
    async with link(lambda: Recorder(eof_received=hook)) as (_, protocol, peer):
        peer.shutdown()
        await other.seen("CL")
        lib.note(protocol.calls, other.calls)


@on_loop
async def test_duck_typed_protocols(lib: Any) -> None:
    """A protocol needs no base class; one that only looks buffered is fed by data_received."""

    class Duck:
        def __init__(self) -> None:
            self.got: list[Any] = []
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport: Any) -> None:
            self.got.append("CM")

        def data_received(self, data: bytes) -> None:
            self.got.append(data)

        def get_buffer(self, hint: int) -> None:
            raise AssertionError("not a BufferedProtocol")

        def eof_received(self) -> None:
            self.got.append("ER")

        def connection_lost(self, exc: Any) -> None:
            self.got.append("CL")
            self.lost.set_result(exc)

    async with link(Duck) as (_, protocol, peer):
        peer.send(b"quack")
        peer.shutdown()
        await protocol.lost
        lib.note(protocol.got)


@on_loop
async def test_a_method_set_on_the_instance(lib: Any) -> None:
    """The protocol's methods are looked up when they are needed: replacing one mid-stream works."""
    got: list[Any] = []
    async with link() as (_, protocol, peer):
        peer.send(b"one")
        await protocol.has(3)
        protocol.data_received = got.append
        peer.send(b"two")
        while not got:
            await turns()
        lib.note(bytes(protocol.data), got)


@on_loop
async def test_missing_methods(lib: Any) -> None:
    """A protocol without the method that is needed: the AttributeError ends the connection."""
    seen = lib.contexts(asyncio.get_running_loop())
    lost: list[Any] = []

    class Half:
        def connection_made(self, transport: Any) -> None:
            """Do nothing."""

        def connection_lost(self, exc: Any) -> None:
            lost.append(exc)

    async with link(Half) as (_, _, peer):
        peer.send(b"hello")
        while not lost:
            await turns()
        lib.note([nameless(str(e)) for e in lost], seen[0]["message"], sorted(seen[0]), len(seen))

"""Stream transports by every route: the order of calls, every byte, every way to end."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from wire import (
    ROUTES,
    BufferedRecorder,
    Recorder,
    fill,
    io_turns,
    link,
    nameless,
    on_loop,
    turns,
    until,
)

routes = pytest.mark.parametrize("route", ROUTES)
MILLION = random.Random(2).randbytes(1_000_000)


@routes
@on_loop
async def test_the_peer_ends(lib: Any, route: str) -> None:
    """Made, fed, told the end, lost without an error."""
    async with link(Recorder, route) as (transport, protocol, peer):
        assert protocol.calls == ["CM"] and protocol.transport is transport
        peer.send(b"hello")
        assert await protocol.has(5) == b"hello"
        peer.send(b" world")
        assert await protocol.has(11) == b"hello world"
        peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with, transport.is_closing())
        assert protocol.grammar == "CM DR ER CL" and protocol.lost_with is None
        assert await peer.rest() == b""


@routes
@on_loop
async def test_data_is_bytes_of_its_own(lib: Any, route: str) -> None:
    """data_received gets exact bytes objects, which stay as they are when more comes."""
    kept: list[bytes] = []
    async with link(lambda: Recorder(data_received=lambda p, d: kept.append(d)), route) as (
        _,
        protocol,
        peer,
    ):
        for text in (b"one", b"two", b"three"):
            before = len(protocol.data)
            peer.send(text)
            await protocol.has(before + len(text))
        lib.note([type(d) for d in kept], kept)
        assert kept == [b"one", b"two", b"three"]


@routes
@on_loop
async def test_data_of_one_length_after_another(lib: Any, route: str) -> None:
    """What is kept, or seen through a view, stays; what is hashed and let go has its own hash."""
    kept: list[bytes | memoryview] = []
    keepers: list[Callable[[bytes], Any]] = [hash, kept.append, hash]
    keepers += [lambda d: kept.append(d[:]), hash, lambda d: kept.append(memoryview(d)), len]
    texts = [bytes([letter]) * 700 for letter in b"abcdefghijklmn"]
    hashes = []

    def look(protocol: Recorder, data: bytes) -> None:
        hashes.append(hash(data))
        keepers[len(hashes) % len(keepers)](data)

    async with link(lambda: Recorder(data_received=look), route) as (_, protocol, peer):
        for count, text in enumerate(texts, 1):
            peer.send(text)
            await protocol.has(700 * count)
        lib.note([bytes(data) for data in kept])
        assert hashes == [hash(text) for text in texts] and protocol.data == b"".join(texts)
        assert [bytes(data) for data in kept] == [texts[at] for at in (0, 2, 4, 7, 9, 11)]


@routes
@on_loop
async def test_close_says_all_then_ends(lib: Any, route: str) -> None:
    """close() sends what was written, calls connection_lost(None) later, never again."""
    async with link(Recorder, route) as (transport, protocol, peer):
        transport.write(b"last words")
        transport.close()
        lib.note(transport.is_closing(), protocol.calls)
        transport.close()
        assert await peer.rest() == b"last words"
        await protocol.seen("CL")
        transport.close()
        transport.abort()
        await io_turns()
        lib.note(protocol.calls, protocol.lost_with)
        assert protocol.calls == ["CM", "CL"]


@routes
@on_loop
async def test_close_waits_for_the_buffer(lib: Any, route: str) -> None:
    """close() with bytes that the kernel did not take: they leave first."""
    async with link(Recorder, route) as (transport, protocol, peer):
        size = fill(transport)
        transport.write(MILLION)
        transport.close()
        await io_turns()
        lib.note(protocol.grammar, transport.is_closing(), transport.get_write_buffer_size() > 0)
        assert protocol.calls == ["CM", "PW"]
        got = await peer.exactly(size + len(MILLION))
        assert got[:size] == bytes(size) and got[size:] == MILLION
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with)


@routes
@on_loop
async def test_a_closing_transport_reads_nothing(lib: Any, route: str) -> None:
    """What the peer says while a closed transport still sends is not delivered."""
    async with link(Recorder, route) as (transport, protocol, peer):
        fill(transport)
        transport.write(MILLION)
        transport.close()
        peer.send(b"unread")
        peer.shutdown()
        await io_turns()
        lib.note(transport.is_reading(), protocol.calls)
        transport.resume_reading()
        await io_turns()
        transport.abort()
        await protocol.seen("CL")
        assert protocol.calls == ["CM", "PW", "CL"]


@routes
@on_loop
async def test_abort_drops_the_buffer(lib: Any, route: str) -> None:
    """abort() ends at once: the buffer is dropped, connection_lost(None) comes in a later turn."""
    async with link(Recorder, route) as (transport, protocol, peer):
        size = fill(transport)
        transport.write(MILLION)
        transport.abort()
        lib.note(transport.is_closing(), transport.get_write_buffer_size(), protocol.calls)
        assert transport.get_write_buffer_size() == 0
        await protocol.seen("CL")
        assert len(await peer.rest()) < size + len(MILLION)
        lib.note(protocol.calls, protocol.lost_with)


@routes
@on_loop
async def test_eof_kept_open(lib: Any, route: str) -> None:
    """eof_received() that gives True keeps the way out open; it is called once."""
    async with link(lambda: Recorder(eof_received=lambda p: True), route) as (
        transport,
        protocol,
        peer,
    ):
        peer.send(b"question")
        peer.shutdown()
        await protocol.seen("ER")
        await io_turns()
        lib.note(protocol.calls, transport.is_closing(), transport.is_reading())
        transport.write(b"answer")
        await io_turns()
        assert await peer.exactly(6) == b"answer"
        transport.close()
        assert await peer.rest() == b""
        await protocol.seen("CL")
        assert protocol.grammar == "CM DR ER CL"
        lib.note(protocol.grammar, protocol.lost_with)


@routes
@pytest.mark.parametrize("answer", [None, False, 0, "", True, 1, "yes"])
@on_loop
async def test_eof_answers(lib: Any, route: str, answer: Any) -> None:
    """Any true answer keeps the transport open, any other closes it."""
    async with link(lambda: Recorder(eof_received=lambda p: answer), route) as (
        transport,
        protocol,
        peer,
    ):
        peer.shutdown()
        await protocol.seen("ER")
        await io_turns()
        assert transport.is_closing() is not bool(answer)
        lib.note(transport.is_closing(), protocol.calls)


@pytest.mark.parametrize("protocol_type", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("route", ["connect", "connect-sock", "served", "accepted"])
@on_loop
async def test_reset_by_peer(lib: Any, route: str, protocol_type: Any) -> None:
    """A reset reaches connection_lost as ConnectionResetError, without eof_received or a log."""
    seen = lib.contexts(asyncio.get_running_loop())
    async with link(protocol_type, route) as (transport, protocol, peer):
        peer.send(b"x")
        await protocol.has(1)
        peer.reset()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with, type(protocol.lost_with), seen)
        assert type(protocol.lost_with) is ConnectionResetError and not seen


@pytest.mark.parametrize("protocol_type", [Recorder, BufferedRecorder])
@routes
@on_loop
async def test_a_million_bytes_echo(lib: Any, route: str, protocol_type: Any) -> None:
    """A million bytes there and back, checked byte for byte."""

    def echo(protocol: Any, *_: Any) -> None:
        protocol.transport.write(bytes(protocol.data))
        protocol.data.clear()

    async with link(lambda: protocol_type(data_received=echo, buffer_updated=echo), route) as (
        _,
        protocol,
        peer,
    ):
        sender = asyncio.ensure_future(peer.send_all(MILLION))
        got = await peer.exactly(len(MILLION))
        await sender
        assert got == MILLION
        peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.lost_with)


@routes
@on_loop
async def test_pause_and_resume_reading(lib: Any, route: str) -> None:
    """A paused transport reads nothing, not even the end; a resumed one misses nothing."""
    async with link(Recorder, route) as (transport, protocol, peer):
        transport.pause_reading()
        transport.pause_reading()
        lib.note(transport.is_reading())
        peer.send(b"one")
        peer.shutdown()
        await io_turns()
        assert protocol.calls == ["CM"]
        transport.resume_reading()
        transport.resume_reading()
        lib.note(transport.is_reading())
        await protocol.seen("CL")
        assert bytes(protocol.data) == b"one" and protocol.grammar == "CM DR ER CL"
        transport.pause_reading()
        transport.resume_reading()
        lib.note(transport.is_reading())


@on_loop
async def test_pause_reading_before_the_first_read(lib: Any) -> None:
    """pause_reading() in connection_made holds back what is already there."""
    made = lambda p, t: t.pause_reading()  # noqa: E731
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.send(b"early")
        transport, protocol = await asyncio.get_running_loop().create_connection(
            lambda: Recorder(connection_made=made), sock=ours
        )
        await io_turns()
        assert protocol.calls == ["CM"] and not transport.is_reading()
        transport.resume_reading()
        assert await protocol.has(5) == b"early"
        transport.close()
        await protocol.seen("CL")
        lib.note(protocol.calls)


@on_loop
async def test_pause_and_resume_in_callbacks(lib: Any) -> None:
    """A protocol that pauses itself at each piece and is resumed from outside gets all of it."""
    loop = asyncio.get_running_loop()

    def pause(protocol: Any, data: bytes) -> None:
        protocol.transport.pause_reading()
        loop.call_soon(protocol.transport.resume_reading)

    async with link(lambda: Recorder(data_received=pause)) as (transport, protocol, peer):
        sender = asyncio.ensure_future(peer.send_all(MILLION))
        assert await protocol.has(len(MILLION)) == MILLION
        await sender
        transport.pause_reading()
        transport.close()
        lib.note(transport.is_reading())
        transport.resume_reading()
        await protocol.seen("CL")
        lib.note(protocol.grammar)


@on_loop
async def test_close_in_data_received(lib: Any) -> None:
    """close() and abort() from within data_received: no more calls but connection_lost."""
    for end in ("close", "abort"):
        factory = lambda: Recorder(  # noqa: E731
            data_received=lambda p, d, end=end: getattr(p.transport, end)()
        )
        async with link(factory) as (_, protocol, peer):
            await peer.send_all(MILLION[:300_000])
            await protocol.seen("CL")
            await io_turns()
            lib.note(protocol.calls, protocol.lost_with)
            assert protocol.calls == ["CM", "DR", "CL"]


@on_loop
async def test_end_by_connection_made(lib: Any) -> None:
    """close() and abort() from within connection_made; create_connection still gives its pair."""
    for end in ("close", "abort"):

        def factory():
            return Recorder(connection_made=lambda p, t, end=end: getattr(t, end)())

        async with link(factory) as (transport, protocol, peer):
            peer.send(b"never read")
            lib.note(transport.is_closing())
            await protocol.seen("CL")
            lib.note(protocol.calls)
            assert protocol.calls == ["CM", "CL"]


@on_loop
async def test_write_in_connection_made_and_lost(lib: Any) -> None:
    """connection_made may write; connection_lost may too, in vain."""

    def lost(protocol: Any, exc: Any) -> None:
        protocol.transport.write(b"too late")
        protocol.transport.close()
        protocol.transport.abort()
        lib.note(protocol.transport.is_closing(), protocol.transport.get_write_buffer_size())

    def factory():
        return Recorder(connection_made=lambda p, t: t.write(b"hi"), connection_lost=lost)

    async with link(factory) as (_, protocol, peer):
        assert await peer.exactly(2) == b"hi"
        peer.shutdown()
        await protocol.seen("CL")
        assert await peer.rest() == b""
        lib.note(protocol.calls)


@on_loop
async def test_order_of_calls_and_waiter(lib: Any) -> None:
    """connection_made runs before create_connection returns, connection_lost after close()."""
    loop = asyncio.get_running_loop()
    order: list[str] = []
    factory = lambda: Recorder(  # noqa: E731
        connection_made=lambda p, t: order.append("made"),
        connection_lost=lambda p, e: order.append("lost"),
    )
    async with link(factory) as (transport, protocol, _):
        order.append("returned")
        loop.call_soon(order.append, "soon")
        transport.close()
        order.append("closed")
        await protocol.seen("CL")
        await turns()
        assert order == ["made", "returned", "closed", "soon", "lost"]
        lib.note(order)


@on_loop
async def test_the_descriptor_closes_after_connection_lost(lib: Any) -> None:
    """While connection_lost runs the socket is still open; after it, it is not."""
    during: list[bool] = []
    factory = lambda: Recorder(  # noqa: E731
        connection_lost=lambda p, e: during.append(
            p.transport.get_extra_info("socket").fileno() >= 0
        )
    )
    async with link(factory) as (transport, protocol, _):
        sock = transport.get_extra_info("socket")
        transport.close()
        await protocol.seen("CL")
        await until(lambda: sock.fileno() == -1)
        lib.note(during, nameless(repr(transport)))
        assert during == [True]


@pytest.mark.parametrize("protocol_type", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("size", [1, 4095, 4096, 65535, 65536, 65537, 131072, 262144, 262145])
@on_loop
async def test_sizes_around_the_buffers(lib: Any, size: int, protocol_type: Any) -> None:
    """Messages just below, at and above the sizes of the buffers arrive whole."""
    data = MILLION[:size]
    async with link(protocol_type) as (transport, protocol, peer):
        sender = asyncio.ensure_future(peer.send_all(data))
        assert await protocol.has(size) == data
        await sender
        transport.write(data)
        assert await peer.exactly(size) == data
        lib.note(len(protocol.data), protocol.grammar)


@on_loop
async def test_a_flood_starves_nobody(lib: Any) -> None:
    """While one peer sends without end, other connections and timers get their turns."""
    loop = asyncio.get_running_loop()
    async with link() as (flooded, flood, sender), link() as (_, calm, peer):

        async def pour() -> None:
            while True:
                await sender.send_all(MILLION)
                flood.data.clear()

        pouring = asyncio.ensure_future(pour())
        await flood.seen("DR", 20)
        for number in range(20):
            timer = loop.create_future()
            loop.call_later(0.0001, timer.set_result, None)
            peer.send(b"ping")
            await calm.has(4 * number + 4)
            await timer
        pouring.cancel()
        await asyncio.wait([pouring])
        assert flooded.is_reading()
        lib.note(bytes(calm.data))


@on_loop
async def test_a_busy_loop_starves_no_connection(lib: Any) -> None:
    """While callbacks are always ready, connections, descriptors and timers are served."""
    loop = asyncio.get_running_loop()
    busy = True

    def spin() -> None:
        if busy:
            loop.call_soon(spin)

    async with link() as (_, protocol, peer):
        loop.call_soon(spin)
        for number in range(20):
            timer = loop.create_future()
            loop.call_later(0.0001, timer.set_result, None)
            peer.send(b"ping")
            await protocol.has(4 * number + 4)
            await timer
        busy = False
        lib.note(protocol.grammar)

"""When a write leaves: what a turn may hold back, and who must not be able to see that.

A *busy* turn has more to run behind the callback that writes.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import Any

import pytest
from held import SEEN_S_MAX, arrived, in_busy_turn, segments_sent
from wire import Recorder, link, on_loop, tcp_pair

routes = pytest.mark.parametrize("route", ["connect-sock", "unix-pair"])
# Longer than a write may be held while others' callbacks run.
LONG_S = 0.003


LOOKS: dict[str, Callable[[Any], Any]] = {
    "size": lambda transport: transport.get_write_buffer_size(),
    "buffer": lambda transport: len(transport._buffer),
    "repr": lambda transport: repr(transport).split("write=")[1],
    "socket": lambda transport: transport.get_extra_info("socket").fileno() > 0,
    "private socket": lambda transport: transport._sock.fileno() > 0,
    "end": lambda transport: transport.write_eof(),
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "much": lambda transport: transport.write(bytes(70_000)),
    "limits": lambda transport: transport.set_write_buffer_limits(0),
}


@routes
@pytest.mark.parametrize("look", LOOKS)
@on_loop
async def test_who_looks_finds_it_gone(lib: Any, route: str, look: str) -> None:
    """Whatever could tell the difference sends what is held first."""
    async with link(route=route) as (transport, protocol, peer):
        # The second time the transport has made what it makes when it is asked.
        for _ in range(2 if look in ("size", "buffer", "repr", "socket", "private socket") else 1):

            def body() -> Any:
                transport.write(b"head")
                transport.write(b"body")
                seen = LOOKS[look](transport)
                got = arrived(peer)
                return seen, got[:8]

            lib.note(await in_busy_turn(body))
        lib.note(protocol.calls)


@routes
@on_loop
async def test_all_of_a_turn_has_left_before_the_next(lib: Any, route: str) -> None:
    """The turn's writes, of any kind, have left when its successor runs its first callback."""
    loop = asyncio.get_running_loop()
    async with link(route=route) as (transport, _, peer):
        got = loop.create_future()

        def body() -> None:
            loop.call_soon(lambda: got.set_result(arrived(peer)))
            transport.write(b"one ")
            transport.writelines([b"two ", bytearray(b"three ")])
            transport.write(bytearray(b"four "))
            transport.write(memoryview(b"five"))

        await in_busy_turn(body)
        lib.note(await got)


@routes
@on_loop
async def test_mutable_buffer_is_taken_as_it_is(lib: Any, route: str) -> None:
    """What is written is what the buffer holds at `write()`, held or not."""
    async with link(route=route) as (transport, _, peer):
        buffer = bytearray(b"before")

        def body() -> None:
            transport.write(buffer)
            buffer[:] = b"after "

        await in_busy_turn(body)
        lib.note(arrived(peer))


@routes
@on_loop
async def test_long_turn_does_not_hold_for_long(lib: Any, route: str) -> None:
    """Behind a callback that takes its time, what was written before it has left."""
    loop = asyncio.get_running_loop()
    async with link(route=route) as (transport, _, peer):
        got = loop.create_future()

        def take_time() -> None:
            end = time.monotonic() + LONG_S
            while time.monotonic() < end:
                pass

        loop.call_soon(transport.write, b"held")
        loop.call_soon(take_time)
        loop.call_soon(lambda: got.set_result(arrived(peer)))
        loop.call_soon(int)
        lib.note(await got)


@pytest.mark.parametrize("how", ["stop", "raise"])
def test_end_of_the_run_sends(lib: Any, how: str) -> None:
    """When `run_forever()` returns or raises, what the last turn wrote has left."""
    loop = lib.new_loop()
    ours, theirs = tcp_pair()

    async def connect() -> Any:
        return await loop.create_connection(asyncio.Protocol, sock=ours)

    def leave() -> None:
        if how == "stop":
            loop.stop()
        else:
            raise SystemExit(3)

    with theirs:
        transport, _ = loop.run_until_complete(connect())
        loop.call_soon(transport.write, b"last words")
        loop.call_soon(leave)
        loop.call_soon(lambda: None)
        lib.catch(loop.run_forever)
        ready, _, _ = select.select([theirs], [], [], SEEN_S_MAX)
        lib.note(bool(ready) and theirs.recv(100))
        # Nobody would send later what is written now.
        transport.write(b"P.S.")
        transport.write(b"P.P.S.")
        theirs.settimeout(SEEN_S_MAX)
        lib.note(theirs.recv(100)[:4])
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@on_loop
async def test_write_that_fails(lib: Any) -> None:
    """A refused write raises nothing and ends the connection, once, whoever is told first."""
    async with link(lambda: Recorder(eof_received=lambda p: True)) as (transport, protocol, peer):
        transport.pause_reading()
        peer.reset()

        def body() -> None:
            transport.write(b"into the void")
            transport.write(b"again")

        await in_busy_turn(body)
        lib.note(transport.is_closing())
        await protocol.seen("CL")
        lib.note(protocol.calls, isinstance(protocol.lost_with, ConnectionError))
        transport.write(b"ignored")
        lib.note(transport.get_write_buffer_size())


@on_loop
async def test_write_that_fails_before_close(lib: Any) -> None:
    """close() after a refused write of the same turn: the error is what `connection_lost` hears."""
    async with link(lambda: Recorder(eof_received=lambda p: True)) as (transport, protocol, peer):
        transport.pause_reading()
        peer.reset()

        def body() -> None:
            transport.write(b"into the void")
            transport.close()

        await in_busy_turn(body)
        await protocol.seen("CL")
        lib.note(protocol.calls, isinstance(protocol.lost_with, ConnectionError))


@routes
@on_loop
async def test_new_protocol_between_two_writes(lib: Any, route: str) -> None:
    """A protocol set in the middle of a turn changes nothing about what was written before."""
    async with link(route=route) as (transport, _, peer):
        other = Recorder()

        def body() -> None:
            transport.write(b"old ")
            transport.set_protocol(other)
            transport.write(b"new")

        await in_busy_turn(body)
        assert await peer.exactly(7) == b"old new"
        transport.close()
        await other.seen("CL")
        lib.note(other.calls)


@on_loop
async def test_paused_and_resumed_in_a_busy_turn(lib: Any) -> None:
    """High water pauses as if every write had been tried at once, and the empty buffer resumes."""
    async with link() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=10, low=5)

        def body() -> None:
            for _ in range(5):
                transport.write(b"fits the kernel")

        await in_busy_turn(body)
        lib.note(protocol.calls)
        assert len(await peer.exactly(75)) == 75

        def flood() -> None:
            while "PW" not in protocol.calls:
                transport.write(bytes(9))
                transport.write(bytes(60_000))

        await in_busy_turn(flood)
        while "RW" not in protocol.calls:
            await peer.some()
        lib.note(protocol.calls)


@on_loop
async def test_head_and_body_are_one_segment(lib: Any) -> None:
    """Pieces of a response leave together: in a busy turn, and by who answered in pieces before."""

    def respond(protocol: Any, *_: Any) -> None:
        protocol.transport.write(b"head")
        protocol.transport.write(b"body")

    async with link(lambda: Recorder(data_received=respond)) as (transport, protocol, peer):
        counts = []
        for _ in range(4):
            before = segments_sent(transport)
            peer.send(b"?")
            assert await peer.exactly(8) == b"headbody"
            counts.append(segments_sent(transport) - before)
        before = segments_sent(transport)
        await in_busy_turn(lambda: respond(protocol))
        assert await peer.exactly(8) == b"headbody"
        counts.append(segments_sent(transport) - before)
        if lib.native_loop:
            assert counts[1:] == [1, 1, 1, 1]


@on_loop
async def test_later_writes_of_a_turn_are_one_segment(lib: Any) -> None:
    """The first of a turn that is not busy leaves at once, the others together."""

    def respond(protocol: Any, *_: Any) -> None:
        for piece in (b"head", b"body", b"tail"):
            protocol.transport.write(piece)

    async with link(lambda: Recorder(data_received=respond)) as (transport, _, peer):
        counts = [segments_sent(transport)]
        peer.send(b"?")
        assert await peer.exactly(12) == b"headbodytail"
        counts.append(segments_sent(transport))
    async with link() as (transport, _, peer):
        counts.append(segments_sent(transport))
        await in_busy_turn(lambda: transport.write(b"one "), lambda: transport.write(b"two"))
        assert await peer.exactly(7) == b"one two"
        counts.append(segments_sent(transport))
    if lib.native_loop:
        assert [counts[1] - counts[0], counts[3] - counts[2]] == [2, 1]


@on_loop
async def test_who_writes_once_again_is_not_held(lib: Any) -> None:
    """That a connection wrote in pieces is remembered until it writes in one, and no longer."""
    pieces = iter([2, 1, 1])
    seen: list[bytes] = []

    def respond(protocol: Any, *_: Any) -> None:
        count = next(pieces)
        for _ in range(count):
            protocol.transport.write(b"piece ")
        if protocol.calls.count("DR") == 3:
            seen.append(arrived(peer))

    async with link(lambda: Recorder(data_received=respond)) as (_, protocol, peer):
        for count in (2, 1):
            peer.send(b"?")
            assert len(await peer.exactly(6 * count)) == 6 * count
        peer.send(b"?")
        await protocol.seen("DR", 3)
        lib.note(seen)


POURED = b"".join(number.to_bytes(4, "big") for number in range(1 << 22))  # 16 MiB


@routes
@pytest.mark.parametrize("chunk", [1 << 16, 100_000, 5000])
@on_loop
async def test_who_pours_loses_nothing_and_heeds_every_pause(
    lib: Any, route: str, chunk: int
) -> None:
    """Megabytes at once and in order, by a protocol that writes from `resume_writing()`, too."""
    pieces = iter([POURED[start : start + chunk] for start in range(0, len(POURED), chunk)])
    sizes = []

    def pour(protocol: Any, *_: Any) -> None:
        while protocol.calls.count("PW") == protocol.calls.count("RW"):
            piece = next(pieces, None)
            if piece is None:
                break
            protocol.transport.write(piece)
        else:
            sizes.append(protocol.transport.get_write_buffer_size())

    async with link(lambda: Recorder(resume_writing=pour), route=route) as (_, protocol, peer):
        asyncio.get_running_loop().call_soon(pour, protocol)
        assert await peer.exactly(len(POURED)) == POURED
        told = protocol.calls[1:]
        assert told == (["PW", "RW"] * len(told))[: len(told)]
        lib.note(bool(sizes), all(size > 1 << 16 for size in sizes))
        assert max(sizes) < (1 << 19) + 2 * chunk

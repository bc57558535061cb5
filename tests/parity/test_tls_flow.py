"""Flow control through TLS: reading and writing pause, buffers stay small, big writes arrive."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tlswire import ROLES, native_tls, tls_link
from wire import BufferedRecorder, Recorder, io_turns, on_loop

roles = pytest.mark.parametrize("route", ROLES)
CHUNK = random.Random(24).randbytes(1 << 20)
#: What one layer may hold of a peer that does not read: the kernel's buffers are not counted.
HELD_BYTES_MAX = 2 << 20


async def stuck(transport: Any, chunk: bytes = bytes(1 << 16)) -> int:
    """Write until nothing more leaves; give the bytes written."""
    written = 0
    for _ in range(1000):
        before = transport.get_write_buffer_size()
        transport.write(chunk)
        written += len(chunk)
        await io_turns()
        if transport.get_write_buffer_size() >= before + len(chunk):
            return written
    raise AssertionError("it never filled")


@roles
@on_loop
async def test_writing_pauses_and_resumes(lib: Any, route: str) -> None:
    """pause_writing when the peer does not read, resume_writing when it does; every byte comes."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        low, high = transport.get_write_buffer_limits()
        written = 0
        while "PW" not in protocol.calls:
            transport.write(CHUNK)
            written += len(CHUNK)
            await io_turns()
            assert written < 100 << 20
        lib.note(protocol.calls, transport.get_write_buffer_size() >= high)
        got = await peer.exactly(written)
        assert got == CHUNK * (written >> 20)
        await protocol.seen("RW")
        await io_turns()
        lib.note(protocol.calls, transport.get_write_buffer_size())


@roles
@on_loop
async def test_limits(lib: Any, route: str) -> None:
    """Every way to set the limits, and what they are then."""
    async with tls_link(Recorder, route) as (transport, protocol, _):
        for options in (
            {},
            {"high": 0},
            {"high": 100},
            {"low": 100},
            {"high": 1000, "low": 10},
            {"high": 10, "low": 10},
            {"high": 5.5},
        ):
            transport.set_write_buffer_limits(**options)
            lib.note(options, transport.get_write_buffer_limits())
        for options in ({"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": "1"}):
            lib.catch(transport.set_write_buffer_limits, **options)
        lib.note(transport.get_write_buffer_limits())


@roles
@on_loop
async def test_high_zero(lib: Any, route: str) -> None:
    """high=0 on an idle transport: what is told at once, and what by a write."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        lib.note(protocol.calls)
        transport.write(b"x")
        lib.note(protocol.calls)
        assert await peer.exactly(1) == b"x"
        await io_turns()
        lib.note(protocol.calls)


@roles
@on_loop
async def test_new_limits_count_at_once(lib: Any, route: str) -> None:
    """Limits that are changed while the buffer is full."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=64 << 20)
        written = await stuck(transport)
        size = transport.get_write_buffer_size()
        lib.note(protocol.calls, size > 0)
        transport.set_write_buffer_limits(high=size)
        lib.note(protocol.calls)
        transport.set_write_buffer_limits(high=4 * size, low=2 * size)
        lib.note(protocol.calls)
        transport.set_write_buffer_limits(high=0)
        lib.note(protocol.calls)
        assert len(await peer.exactly(written)) == written
        await io_turns()
        lib.note(protocol.calls)


@roles
@on_loop
async def test_size_counts_what_waits(lib: Any, route: str) -> None:
    """get_write_buffer_size grows by what is written and comes back to nothing."""
    async with tls_link(Recorder, route) as (transport, _, peer):
        transport.set_write_buffer_limits(high=64 << 20)
        written = await stuck(transport)
        sizes = [transport.get_write_buffer_size()]
        for _ in range(3):
            transport.write(bytes(100_000))
            sizes.append(transport.get_write_buffer_size())
        # Plaintext that waits, or its ciphertext.
        grown = [after - before for before, after in zip(sizes, sizes[1:])]
        lib.note([100_000 <= size < 101_000 for size in grown])
        assert len(await peer.exactly(written + 300_000)) == written + 300_000
        await io_turns()
        lib.note(transport.get_write_buffer_size())


@roles
@on_loop
async def test_32_mebibytes_in_one_write(lib: Any, route: str) -> None:
    """One huge write: the bytes leave piece by piece, the buffer shrinks, all arrive."""
    data = CHUNK * 32
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.write(data)
        assert transport.get_write_buffer_size() <= len(data) + (1 << 20)
        half = await peer.exactly(len(data) // 2)
        assert transport.get_write_buffer_size() <= len(data) // 2 + HELD_BYTES_MAX
        assert half + await peer.exactly(len(data) // 2) == data
        await io_turns()
        assert protocol.calls.count("PW") == protocol.calls.count("RW")
        lib.note(transport.get_write_buffer_size())


@roles
@on_loop
async def test_32_mebibytes_by_the_rules(lib: Any, route: str) -> None:
    """A writer that heeds pause_writing holds little at any time."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        most = 0
        receiver = asyncio.ensure_future(peer.exactly(32 << 20))
        piece = CHUNK[: 1 << 16]
        for _ in range(512):
            transport.write(piece)
            most = max(most, transport.get_write_buffer_size())
            pauses = protocol.calls.count("PW")
            if pauses > protocol.calls.count("RW"):
                await protocol.seen("RW", pauses)
        got = await receiver
        assert got == piece * 512
        high = transport.get_write_buffer_limits()[1]
        assert most < high + 2 * len(piece), most


@roles
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@on_loop
async def test_paused_reading_stops_the_peer(lib: Any, route: str, factory: Any) -> None:
    """A paused transport takes no more than its buffers hold; resumed, it delivers everything."""
    data = CHUNK * 16
    async with tls_link(factory, route) as (transport, protocol, peer):
        transport.pause_reading()
        sender = asyncio.ensure_future(peer.send_all(data))
        for _ in range(5):
            await io_turns()
        lib.note(sender.done(), protocol.calls)
        transport.resume_reading()
        assert await protocol.has(len(data)) == data
        await sender


@roles
@on_loop
async def test_pausing_in_data_received(lib: Any, route: str) -> None:
    """pause_reading within data_received: nothing more comes until resume_reading."""
    hook = lambda p, d: p.transport.pause_reading()
    async with tls_link(lambda: Recorder(data_received=hook), route) as (transport, protocol, peer):
        sender = asyncio.ensure_future(peer.send_all(CHUNK))
        got = 0
        while got < len(CHUNK):
            await protocol.has(got + 1)
            await io_turns()
            calls, before = len(protocol.calls), len(protocol.data)
            await io_turns()
            assert (calls, before) == (len(protocol.calls), len(protocol.data))
            assert not transport.is_reading()
            got = before
            transport.resume_reading()
        await sender
        assert bytes(protocol.data) == CHUNK
        lib.note(protocol.grammar)


@roles
@on_loop
async def test_pause_and_resume_at_once(lib: Any, route: str) -> None:
    """Both in one turn, in either order, on data that waits."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"waits")
        await io_turns()
        transport.resume_reading()
        transport.pause_reading()
        await io_turns()
        lib.note(len(protocol.data), transport.is_reading())
        transport.resume_reading()
        lib.note(await protocol.has(5))


@roles
@on_loop
async def test_writing_goes_on_while_reading_is_paused(lib: Any, route: str) -> None:
    """The two directions are independent."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"unread")
        transport.write(CHUNK)
        assert await peer.exactly(len(CHUNK)) == CHUNK
        lib.note(bytes(protocol.data))
        transport.resume_reading()
        lib.note(await protocol.has(6))


@roles
@pytest.mark.parametrize("size", [1, 7, 100, 16384, 16385, 300_000])
@on_loop
async def test_buffers_of_any_size(lib: Any, route: str, size: int) -> None:
    """A BufferedProtocol's buffer smaller and larger than a record; hints are positive."""
    if not native_tls(lib):
        hook: Any = lambda p, hint: memoryview(p.buffer)  # A bytearray's slice is a copy there.
    else:
        hook = None
    text = CHUNK[: 2000 if size < 100 else 200_000]
    make = lambda: BufferedRecorder(size, get_buffer=hook)
    async with tls_link(make, route) as (_, protocol, peer):
        sender = asyncio.ensure_future(peer.send_all(text))
        assert await protocol.has(len(text)) == text
        await sender
        peer.goodbye()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with)


@roles
@on_loop
async def test_get_buffer_that_gives_a_memoryview(lib: Any, route: str) -> None:
    """Any writable buffer will do."""
    store = bytearray(1000)
    hook = lambda p, hint: memoryview(store)
    got = bytearray()
    take = lambda p, n: got.extend(store[:n])
    async with tls_link(
        lambda: BufferedRecorder(0, get_buffer=hook, buffer_updated=take), route
    ) as (_, protocol, peer):
        peer.send(b"into a view")
        await protocol.seen("DR")
        lib.note(bytes(got))


@roles
@on_loop
async def test_every_kind_of_buffer(lib: Any, route: str) -> None:
    """write and writelines of bytes, bytearray and memoryview, also sliced and empty."""
    async with tls_link(Recorder, route) as (transport, _, peer):
        pieces: list[Any] = [b"bytes ", bytearray(b"bytearray "), memoryview(b"--view --")[2:-2]]
        for piece in pieces:
            transport.write(piece)
        transport.writelines(pieces)
        transport.writelines(iter(pieces))
        transport.writelines([b"", *pieces, bytearray()])
        text = b"".join(pieces) * 4
        lib.note(await peer.exactly(len(text)))
        assert transport.get_write_buffer_size() == 0


@roles
@on_loop
async def test_many_small_writes(lib: Any, route: str) -> None:
    """Ten thousand writes of a few bytes, in order."""
    async with tls_link(Recorder, route) as (transport, _, peer):
        pieces = [b"%d," % n for n in range(10_000)]
        receiver = asyncio.ensure_future(peer.exactly(len(b"".join(pieces))))
        for piece in pieces[:5000]:
            transport.write(piece)
        await io_turns()
        transport.writelines(pieces[5000:])
        assert await receiver == b"".join(pieces)
        lib.note(transport.get_write_buffer_size())


@roles
@on_loop
async def test_close_after_a_big_write(lib: Any, route: str) -> None:
    """close() behind 8 MiB: all is sent before close_notify."""
    data = CHUNK * 8
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        transport.write(data)
        transport.close()
        got = await peer.rest()
        lib.note(len(got), got == data, peer.cut)
        peer.close()
        await protocol.seen("CL")
        lib.note([w for w in protocol.calls if w not in ("PW", "RW")])

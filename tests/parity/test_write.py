"""Writing to stream transports: order, types, large and late writes, the end of our way out."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest
from wire import (
    ROUTES,
    Recorder,
    fill,
    link,
    on_loop,
    stock_at,
    turns,
)

routes = pytest.mark.parametrize("route", ROUTES)
MILLION = random.Random(2).randbytes(1_000_000)


@routes
@on_loop
async def test_write_eof(lib: Any, route: str) -> None:
    """write_eof() ends our way out after the buffer; the peer may go on."""
    async with link(Recorder, route) as (transport, protocol, peer):
        size = fill(transport)
        transport.write(MILLION)
        transport.write_eof()
        transport.write_eof()
        got = await peer.rest()
        assert got[size:] == MILLION
        peer.send(b"still here")
        assert await protocol.has(10) == b"still here"
        lib.note(transport.can_write_eof(), transport.is_closing(), protocol.grammar)
        with pytest.raises(RuntimeError) as caught:
            transport.write(b"more")
        lib.note(caught.value)
        with pytest.raises(RuntimeError):
            transport.write(b"")
        peer.shutdown()
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with)


@on_loop
async def test_write_eof_at_once(lib: Any) -> None:
    """write_eof() with nothing to say shuts down at once; after close() it is ignored."""
    async with link() as (transport, protocol, peer):
        transport.write_eof()
        assert await peer.rest() == b""
        transport.close()
        transport.write_eof()
        await protocol.seen("CL")
    async with link() as (transport, protocol, peer):
        transport.close()
        transport.write_eof()
        transport.write(b"not said")
        await protocol.seen("CL")
        assert await peer.rest() == b""
        lib.note(protocol.calls)


@on_loop
async def test_write_to_a_reset_connection(lib: Any) -> None:
    """A write that the kernel refuses loses the connection; later writes only warn."""
    async with link(lambda: Recorder(eof_received=lambda p: True)) as (transport, protocol, peer):
        transport.pause_reading()
        peer.reset()
        transport.write(b"into the void")
        transport.write(b"again")
        lib.note(transport.is_closing())
        await protocol.seen("CL")
        assert isinstance(protocol.lost_with, ConnectionError)
        lib.note(protocol.calls, type(protocol.lost_with))
        for _ in range(8):
            transport.write(b"more")
        said = lib.logged()
        lib.note(said)
        assert set(said) == {"socket.send() raised exception."}


@on_loop
async def test_writes_after_close_are_dropped(lib: Any) -> None:
    """write() after close() raises nothing; from the sixth on each one is logged."""
    async with link() as (transport, protocol, peer):
        transport.close()
        counts = []
        for _ in range(8):
            transport.write(b"dropped")
            counts.append(len(lib.logged()))
        lib.note(counts)
        await protocol.seen("CL")
        transport.write(b"dropped")
        lib.note(lib.logged())
        assert await peer.rest() == b""


@on_loop
async def test_writelines_after_close_is_dropped(lib: Any) -> None:
    """writelines() after close() raises nothing either."""
    if stock_at(lib, (3, 12), (3, 14)):
        return  # Stock writelines() raised there.
    async with link() as (transport, protocol, peer):
        transport.close()
        for _ in range(8):
            transport.writelines([b"dropped", b"too"])
        await protocol.seen("CL")
        transport.writelines([b"dropped", b"too"])
        assert set(lib.logged()) == {"socket.send() raised exception."}
        assert await peer.rest() == b""


@on_loop
async def test_broken_pipe_while_buffered(lib: Any) -> None:
    """The peer goes while bytes wait: the error reaches connection_lost, the buffer is dropped."""
    async with link(lambda: Recorder(eof_received=lambda p: True)) as (transport, protocol, peer):
        fill(transport)
        transport.write(MILLION)
        peer.close()
        await protocol.seen("CL")
        lib.note(
            [c for c in protocol.calls if c != "ER"],
            isinstance(protocol.lost_with, ConnectionError),
        )
        assert isinstance(protocol.lost_with, ConnectionError)


@pytest.mark.parametrize("bad", ["text", 5, None, [b"x"], object], ids=repr)
@on_loop
async def test_writes_of_other_types(lib: Any, bad: Any) -> None:
    """Only bytes-like objects may be written; the transport stays usable."""
    async with link() as (transport, protocol, peer):
        with pytest.raises(TypeError) as caught:
            transport.write(bad)
        lib.note(caught.value)
        transport.write(b"fine")
        assert await peer.exactly(4) == b"fine"
        assert not transport.is_closing() and protocol.calls == ["CM"]
    if bad is None:
        return  # Stock writelines() passes over what is false on some versions.
    async with link() as (transport, protocol, peer):
        with pytest.raises(TypeError):
            transport.writelines([b"ok ", bad])


@on_loop
async def test_write_accepts_any_bytes_like(lib: Any) -> None:
    """bytes, bytearray, memoryview and their subclasses; nothing for nothing."""
    from array import array

    class Named(bytes):
        pass

    async with link() as (transport, _, peer):
        for part in (b"a", bytearray(b"b"), memoryview(b"c"), Named(b"d")):
            lib.catch(transport.write, part)
        transport.write(b"")
        transport.write(bytearray())
        transport.write(memoryview(b""))
        lib.note(transport.get_write_buffer_size())
        lib.catch(transport.write, array("B", b"no"))
        transport.write_eof()
        assert await peer.rest() == b"abcd"


@on_loop
async def test_writelines(lib: Any) -> None:
    """writelines() takes any iterable, joins nothing wrongly, and may be empty."""
    async with link() as (transport, _, peer):
        transport.writelines([])
        transport.writelines(iter([b"one ", bytearray(b"two "), memoryview(b"three ")]))
        transport.writelines(str(n).encode() for n in range(5))
        transport.writelines((b"", b"!", b""))
        many = [bytes([n % 256]) * (n % 7) for n in range(5000)]
        transport.writelines(many)
        transport.write_eof()
        got = await peer.rest()
        assert got == b"one two three 01234!" + b"".join(many)
        lib.note(hashlib.sha256(got).hexdigest())
        lib.catch(transport.writelines, 5)


@on_loop
async def test_mutable_buffers_are_taken_as_they_were(lib: Any) -> None:
    """A bytearray may be changed and resized after write(): what leaves is what was there."""
    if stock_at(lib, (3, 12)):
        return  # Stock asyncio keeps a view of the caller's memory from 3.12 on.
    async with link() as (transport, _, peer):
        size = fill(transport)
        text = bytearray(b"before" * 1000)
        transport.write(text)
        transport.write(memoryview(text))
        transport.writelines([text])
        text[:6] = b"BEFORE"
        text.clear()
        transport.write_eof()
        got = await peer.rest()
        assert got[size:] == b"before" * 3000


@on_loop
async def test_order_is_kept(lib: Any) -> None:
    """Writes of every size, at once and across turns, arrive in order."""
    rng = random.Random(5)
    async with link() as (transport, protocol, peer):
        sent = bytearray()
        reader = asyncio.ensure_future(peer.rest())
        for n in range(600):
            part = rng.randbytes(rng.choice((1, 3, 100, 5000, 70_000 if n % 20 == 0 else 9)))
            sent += part
            if n % 3:
                transport.write(part)
            else:
                transport.writelines([part[:2], part[2:]])
            if n % 7 == 0:
                await turns()
        transport.close()
        assert await reader == sent
        await protocol.seen("CL")
        lib.note(protocol.calls[0], protocol.calls[-1], len(sent))


@on_loop
async def test_sixteen_million_bytes_in_one_write(lib: Any) -> None:
    """One very large write arrives whole."""
    big = MILLION * 16
    async with link() as (transport, protocol, peer):
        transport.write(big)
        transport.close()
        got = await peer.rest()
        assert hashlib.sha256(got).digest() == hashlib.sha256(big).digest()
        await protocol.seen("CL")
        lib.note(protocol.calls)


@on_loop
async def test_many_small_writes_behind_a_full_socket(lib: Any) -> None:
    """More pieces than one system call takes, of several types, wait and leave in order."""
    async with link() as (transport, protocol, peer):
        size = fill(transport)
        sent = bytearray()
        for number in range(6000):
            part = str(number).encode() + b","
            sent += part
            if number % 3 == 0:
                transport.write(part)
            elif number % 3 == 1:
                transport.write(bytearray(part))
            else:
                transport.writelines([part[:1], part[1:]])
        transport.close()
        got = await peer.rest()
        assert got[size:] == sent
        await protocol.seen("CL")
        lib.note(protocol.lost_with)


@on_loop
async def test_writes_hold_no_buffer_longer_than_needed(lib: Any) -> None:
    """Once a written bytearray has left, it may be resized."""
    text = bytearray(b"resize me " * 10)
    async with link() as (transport, _, peer):
        transport.write(text)
        assert await peer.exactly(100) == text
        transport.write(memoryview(text)[:10])
        assert await peer.exactly(10) == text[:10]
        text.clear()
        text.extend(b"resized")
        transport.write(text)
        lib.note(await peer.exactly(7))

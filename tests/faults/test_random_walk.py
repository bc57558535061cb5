"""Two transports talk while each callback of their protocols does something at random.

A walk is decided by its seed and the kernel's timing; a failure names the seed. Whatever happens:
calls follow the grammar CM [DR*] [ER?] CL, pauses and resumes alternate, the bytes that come are
those that were sent, all of them where the end came in an orderly way, and nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from typing import Any

import pytest
from wire import on_loop, stock_at, tcp_pair, until

SEEDS = 150
ACTS_MAX = 60
GRAMMAR = re.compile(r"CM( DR)*( ER)? CL")


class Side:
    """One end of the connection: what it sent and got, and what it does."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.loop = asyncio.get_running_loop()
        self.lost = self.loop.create_future()
        self.calls: list[str] = []
        self.pauses: list[str] = []
        self.sent = bytearray()
        self.got = bytearray()
        self.acts = 0
        self.orderly = True
        self.transport: Any = None
        self.buffer = bytearray(rng.choice((1, 100, 4096, 70_000)))

    def protocol(self) -> asyncio.BaseProtocol:
        """Give a protocol of either kind that speaks for this side."""
        return self.rng.choice((Plain, Buffered))(self)

    def send(self, size: int) -> None:
        """Send random bytes."""
        if self.transport.is_closing() or "EOF" in self.pauses:
            return
        data = self.rng.randbytes(size)
        self.sent += data
        way = self.rng.randrange(4)
        if way == 0:
            self.transport.writelines([data[: size // 3], data[size // 3 :]])
        elif way == 1:
            text = bytearray(data)
            self.transport.write(bytes(text))
            text[:] = bytes(size)
        elif way == 2:
            self.transport.write(memoryview(data))
        else:
            self.transport.write(data)

    def end(self) -> None:
        """Say the end of stream."""
        if not self.transport.is_closing() and "EOF" not in self.pauses:
            self.pauses.append("EOF")
            with contextlib.suppress(OSError):  # The peer may have reset the connection.
                self.transport.write_eof()

    def act(self) -> None:
        """Do something at random; less and less as time goes by, and in the end close."""
        self.acts += 1
        rng, transport = self.rng, self.transport
        if self.acts > ACTS_MAX:
            transport.resume_reading()
            transport.close()
            if self.acts > 2 * ACTS_MAX:  # Both may be waiting for the other to read.
                self.orderly = False
                transport.abort()
            return
        chance = rng.random()
        if chance < 0.5:
            self.send(rng.choice((0, 1, 10, 1000, 65536, 65537, 200_000)))
        elif chance < 0.6:
            transport.pause_reading()
            self.loop.call_later(rng.random() * 0.001, self.resume)
        elif chance < 0.7:
            transport.set_write_buffer_limits(high=rng.choice((0, 1, 1000, 100_000)))
        elif chance < 0.8:
            transport.set_protocol(self.protocol())
        elif chance < 0.84:
            self.loop.call_soon(self.later)
        elif chance < 0.86:
            self.end()
        elif chance < 0.88:
            transport.close()
        elif chance < 0.89:
            self.orderly = False
            transport.abort()
        elif chance < 0.9:
            self.orderly = False
            raise ZeroDivisionError("as the seed has it")
        else:
            repr(transport)
            transport.get_extra_info("peername")
            transport.get_write_buffer_size()

    def resume(self) -> None:
        """Read on."""
        if not self.lost.done():
            self.transport.resume_reading()

    def later(self) -> None:
        """Act from outside of a callback."""
        if not self.lost.done():
            with contextlib.suppress(ZeroDivisionError):
                self.act()

    def call(self, word: str) -> None:
        """Note a call, then act."""
        self.calls.append(word)
        self.act()


class Facade:
    """The calls that both kinds of protocol have."""

    def __init__(self, side: Side) -> None:
        self.side = side

    def connection_made(self, transport: Any) -> None:
        """Note it."""
        self.side.transport = transport
        self.side.call("CM")

    def eof_received(self) -> bool:
        """Note it, answer at random."""
        self.side.call("ER")
        keep = self.side.rng.random() < 0.5
        if keep:
            self.side.loop.call_soon(self.side.end)
            self.side.loop.call_soon(self.side.transport.close)
        return keep

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note it."""
        self.side.calls.append("CL")
        if exc is not None:
            self.side.orderly = False
        self.side.lost.set_result(exc)

    def pause_writing(self) -> None:
        """Note it."""
        self.side.pauses.append("PW")
        self.side.later()

    def resume_writing(self) -> None:
        """Note it; here nothing is closed, which stock asyncio does not survive everywhere."""
        self.side.pauses.append("RW")
        self.side.send(self.side.rng.choice((0, 10, 70_000)) if self.side.acts < ACTS_MAX else 0)
        self.side.acts += 1


class Plain(Facade, asyncio.Protocol):
    """Fed with bytes."""

    def data_received(self, data: bytes) -> None:
        """Note it."""
        assert type(data) is bytes and data
        self.side.got += data
        self.side.call("DR")


class Buffered(Facade, asyncio.BufferedProtocol):
    """Fed through the side's buffer."""

    def get_buffer(self, sizehint: int) -> bytearray:
        """Give the buffer."""
        return self.side.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Note it."""
        assert 0 < nbytes <= len(self.side.buffer)
        self.side.got += self.side.buffer[:nbytes]
        self.side.call("DR")


def check(one: Side, other: Side, seed: int) -> None:
    """Look at what one side went through."""
    assert GRAMMAR.fullmatch(" ".join(one.calls)), (seed, one.calls)
    words = [word for word in one.pauses if word != "EOF"]
    assert words == (["PW", "RW"] * len(words))[: len(words)], (seed, words)
    assert other.sent[: len(one.got)] == one.got, (seed, "bytes differ")
    if "ER" in one.calls and other.orderly:
        assert len(one.got) == len(other.sent), (seed, len(one.got), len(other.sent))


async def walk(seed: int) -> None:
    """Take one walk."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    pair = tcp_pair() if rng.random() < 0.5 else socket.socketpair()
    sides = [Side(random.Random(rng.random())) for _ in pair]
    for side, sock in zip(sides, pair, strict=True):
        await loop.create_connection(side.protocol, sock=sock)
    while not all(side.lost.done() for side in sides):
        for side in sides:
            side.later()
        await asyncio.wait([side.lost for side in sides], timeout=rng.random() * 0.0005)
    await until(lambda: all(sock.fileno() == -1 for sock in pair))
    check(sides[0], sides[1], seed)
    check(sides[1], sides[0], seed)


@pytest.mark.parametrize("first", range(0, SEEDS, 30))
@on_loop
async def test_walks(lib: Any, first: int) -> None:
    """The invariants hold on every walk."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # Stock asyncio lost some of these connections twice (gh-156512).
    loop = asyncio.get_running_loop()
    strange: list[Any] = []

    def handler(loop: Any, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), ZeroDivisionError):
            strange.append(context)

    loop.set_exception_handler(handler)
    for seed in range(first, first + 30):
        await walk(seed)
        assert not strange, (seed, strange)
    loop.set_exception_handler(None)
    lib.logged()

"""What a loop sends to itself arrives in the turn in which asyncio shows it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from wire import Recorder, on_loop

TURNS_MAX = 100
SENDS = ("write", "writelines", "write_eof", "close", "abort")


async def turns_until(seen: list[str]) -> int:
    """Take turns until the recorder has another entry; give their number."""
    before = len(seen)
    for turn in range(TURNS_MAX):
        if len(seen) > before:
            return turn
        await asyncio.sleep(0)
    raise AssertionError(f"nothing new after {TURNS_MAX} turns: {seen}")


@contextlib.asynccontextmanager
async def pair(kind: str) -> AsyncIterator[tuple[Any, Recorder, Any, Recorder]]:
    """Two ends of one connection, both transports of the running loop."""
    loop = asyncio.get_running_loop()
    near, far = Recorder(), Recorder()
    if kind == "pipe":
        reads, writes = os.pipe()
        mine, _ = await loop.connect_write_pipe(lambda: near, os.fdopen(writes, "wb", 0))
        theirs, _ = await loop.connect_read_pipe(lambda: far, os.fdopen(reads, "rb", 0))
    else:
        left, right = socket.socketpair()
        mine, _ = await loop.create_connection(lambda: near, sock=left)
        theirs, _ = await loop.create_connection(lambda: far, sock=right)
    try:
        yield mine, near, theirs, far
    finally:
        mine.close()
        theirs.close()
        for protocol in (near, far):
            await protocol.seen("CL")


@pytest.mark.parametrize("what", SENDS)
@pytest.mark.parametrize("kind", ["socket", "pipe"])
@on_loop
async def test_turns_until_the_other_end_sees_it(lib: Any, kind: str, what: str) -> None:
    """Every way to send or to end, counted in turns."""
    async with pair(kind) as (mine, _, _, far):
        if what.startswith("write") and what != "write_eof":
            given: Any = [b"one", b"two"] if what == "writelines" else b"one"
            getattr(mine, what)(given)
        else:
            getattr(mine, what)()
        turns = await turns_until(far.calls)
        lib.note(turns, far.grammar)
        assert turns <= 4


@on_loop
async def test_turns_of_a_conversation(lib: Any) -> None:
    """Request and answer, several times, beside a task that never waits."""

    async def busy() -> None:
        for _ in range(10_000):
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(busy())
    async with pair("socket") as (mine, near, theirs, far):
        for _ in range(5):
            mine.write(b"question")
            lib.note(await turns_until(far.calls))
            theirs.write(b"answer")
            lib.note(await turns_until(near.calls))
        lib.note(bytes(near.data), bytes(far.data))
    beside.cancel()


@on_loop
async def test_turns_of_a_datagram(lib: Any) -> None:
    """From one endpoint to another."""
    loop = asyncio.get_running_loop()
    got: list[str] = []

    class Endpoint(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            got.append(data.decode())

    here = ("127.0.0.1", 0)
    theirs, _ = await loop.create_datagram_endpoint(Endpoint, local_addr=here)
    address = theirs.get_extra_info("sockname")
    mine, _ = await loop.create_datagram_endpoint(Endpoint, local_addr=here)
    try:
        mine.sendto(b"one", address)
        lib.note(await turns_until(got), got)
        mine.sendto(b"two", address)
        mine.sendto(b"three", address)
        lib.note(await turns_until(got))
    finally:
        mine.close()
        theirs.close()
        await asyncio.sleep(0)


@on_loop
async def test_turns_of_sock_calls(lib: Any) -> None:
    """sock_sendall() to a transport, and to sock_recv()."""
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    far = Recorder()
    with left, right:
        left.setblocking(False)
        transport, _ = await loop.create_connection(lambda: far, sock=right)
        await loop.sock_sendall(left, b"one")
        lib.note(await turns_until(far.calls))
        transport.close()
        await far.seen("CL")
    with socket.socket() as left, socket.socket() as right:
        left.setblocking(False)
        right.setblocking(False)
        left.bind(("127.0.0.1", 0))
        left.listen()
        accepted = asyncio.ensure_future(loop.sock_accept(left))
        await asyncio.sleep(0)
        done: list[str] = []
        accepted.add_done_callback(lambda f: done.append("accepted"))
        await loop.sock_connect(right, left.getsockname())
        lib.note(await turns_until(done))
        connection, _ = await accepted
        with connection:
            received = asyncio.ensure_future(loop.sock_recv(connection, 10))
            received.add_done_callback(lambda f: done.append("received"))
            await asyncio.sleep(0)
            await loop.sock_sendall(right, b"two")
            lib.note(await turns_until(done), await received)


@on_loop
async def test_turns_until_what_is_there_is_seen(lib: Any) -> None:
    """Reading begins again, and a reader is added: what has come meanwhile is seen at once."""
    loop = asyncio.get_running_loop()
    async with pair("socket") as (mine, _, theirs, far):
        theirs.pause_reading()
        mine.write(b"early")
        for _ in range(50):
            await asyncio.sleep(0)
        assert far.calls == ["CM"]
        theirs.resume_reading()
        lib.note(await turns_until(far.calls), bytes(far.data))
    left, right = socket.socketpair()
    with left, right:
        left.send(b"x")
        seen: list[str] = []
        loop.add_reader(right, seen.append, "readable")
        lib.note(await turns_until(seen))
        loop.remove_reader(right)
        seen.clear()
        loop.add_writer(right, seen.append, "writable")
        lib.note(await turns_until(seen))
        loop.remove_writer(right)

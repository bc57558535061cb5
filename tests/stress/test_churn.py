"""20,000 connections opened, used and dropped in every way: no descriptor, task or memory is left.

Memory is looked at in four ways, after a warm-up that fills the caches and freelists: resident
pages, blocks of Python's allocator, objects that the collector tracks, and, for the last
connections, tracemalloc.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

CONNECTIONS = 20_000
WARM_UP = 4_000
# Connections that are open at the same time.
AT_ONCE = 50
TRACED = 1_000
# Far above what a slow machine needs; a connection that never ends is not waited for.
CHURN_SECONDS_MAX = 240
# Bytes that a connection may leave behind on average: a leaked transport leaves several hundred.
RESIDENT_BYTES_PER_CONNECTION_MAX = 150
# Noise of the interpreter's own caches; one leaked object for each hundredth connection is more.
BLOCKS_LEFT_MAX = 1_000
OBJECTS_LEFT_MAX = 100
TRACED_BYTES_LEFT_MAX = 50_000

TEXT = b"something to say " * 20
FLOOD = bytes(1 << 20)


class Served(asyncio.Protocol):
    """The server's end: does what the first byte says."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Echo, flood, close, abort, reset, or raise."""
        order = data[:1]
        if order == b"f":
            self.transport.write(FLOOD)
        elif order == b"c":
            self.transport.write(data)
            self.transport.close()
        elif order == b"a":
            self.transport.abort()
        elif order == b"r":
            reset(self.transport)
        elif order == b"!":
            raise ZeroDivisionError("as asked")
        else:
            self.transport.write(data)

    def eof_received(self) -> bool:
        """Answer the end with an end, by hand."""
        self.transport.write(b"bye")
        self.transport.close()
        return True


class Client(asyncio.Protocol):
    """Our end: tells of the first data, and of the end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.heard: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    def data_received(self, data: bytes) -> None:
        """Tell of the first data."""
        if not self.heard.done():
            self.heard.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell of the end."""
        self.ended.set_result(None)


class BufferedClient(Client, asyncio.BufferedProtocol):
    """The same, with its own buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(1024)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Give the buffer."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Tell of the first data."""
        self.data_received(b"")


def reset(transport: Any) -> None:
    """End a connection with a TCP reset."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def by_close(where: Any) -> None:
    """An echo, then close()."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, *where)
    transport.write(b"e" + TEXT)
    await client.heard
    transport.close()
    await client.ended


async def by_abort(where: Any) -> None:
    """An echo into a BufferedProtocol, then abort()."""
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(BufferedClient, *where)
    transport.writelines([b"e", TEXT])
    await client.heard
    transport.abort()
    await client.ended


async def by_reset(where: Any) -> None:
    """A reset of ours."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, *where)
    transport.write(b"e")
    await client.heard
    reset(transport)
    await client.ended


async def by_server(where: Any, order: bytes) -> None:
    """The server closes, aborts, resets, or fails."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, *where)
    transport.write(order)
    await client.ended


async def by_half_close(where: Any) -> None:
    """Our end of stream, the server's answer, the server's end."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, *where)
    transport.write(b"e")
    transport.write_eof()
    await client.ended


async def never_read(where: Any) -> None:
    """A flood that nobody reads: both ends are dropped with full buffers."""
    transport, client = await asyncio.get_running_loop().create_connection(Client, *where)
    transport.pause_reading()
    transport.write(b"f")
    await asyncio.sleep(0)
    transport.write(FLOOD)
    transport.abort()
    await client.ended


async def by_cancel(where: Any) -> None:
    """A connect that is cancelled before it is done."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(loop.create_connection(Client, *where))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        transport, client = await task
        transport.abort()
        await client.ended


async def by_cancelled_stream(where: Any) -> None:
    """A stream whose reader is cancelled while it waits."""
    reader, writer = await asyncio.open_connection(*where)
    writer.write(b"e\n")
    await reader.readline()
    task = asyncio.ensure_future(reader.read(10))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    writer.close()
    await writer.wait_closed()


async def by_timeout(where: Any) -> None:
    """A read that times out at once."""
    reader, writer = await asyncio.open_connection(*where)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await reader.read(10)
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def by_plain_socket(where: Any) -> None:
    """sock_connect, sock_sendall, sock_recv, close."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, where)
        await loop.sock_sendall(sock, b"e" + TEXT)
        await loop.sock_recv(sock, 1000)


async def over_unix(where: Any) -> None:
    """A pair of Unix sockets; one end is closed, the other hears of it."""
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    transport, client = await loop.create_unix_connection(Client, sock=one)
    other, served = await loop.connect_accepted_socket(Client, two)
    transport.write(TEXT)
    await served.heard
    transport.close()
    await client.ended
    await served.ended


WAYS: list[Callable[[Any], Coroutine[Any, Any, None]]] = [
    by_close,
    by_abort,
    by_reset,
    lambda where: by_server(where, b"c"),
    lambda where: by_server(where, b"a"),
    lambda where: by_server(where, b"r"),
    lambda where: by_server(where, b"!"),
    by_half_close,
    never_read,
    by_cancel,
    by_cancelled_stream,
    by_timeout,
    by_plain_socket,
    over_unix,
    by_close,
    by_close,
]


async def churn(where: Any, count: int) -> None:
    """Open and drop so many connections, some at the same time, each way in its turn."""

    async def drop(first: int) -> None:
        for number in range(first, count, AT_ONCE):
            await WAYS[(number // AT_ONCE + number) % len(WAYS)](where)

    async with asyncio.TaskGroup() as group:
        for first in range(AT_ONCE):
            group.create_task(drop(first))


async def quiet() -> None:
    """Let the server's ends hear of their ends."""
    for _ in range(200):
        await asyncio.sleep(0)
    gc.collect()


def resident_bytes() -> int:
    """Give the size of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Left:
    """What is there at one moment."""

    def __init__(self) -> None:
        gc.collect()
        self.fds = sorted(os.listdir("/proc/self/fd"))
        self.tasks = len(asyncio.all_tasks())
        self.objects = len(gc.get_objects())
        self.blocks = sys.getallocatedblocks()
        self.resident = resident_bytes()

    def check(self, before: Left, connections: int) -> None:
        """Compare with an earlier moment."""
        assert self.fds == before.fds
        assert self.tasks == before.tasks
        assert self.objects - before.objects <= OBJECTS_LEFT_MAX, self.growth(before)
        assert self.blocks - before.blocks <= BLOCKS_LEFT_MAX, self.growth(before)
        per_connection = (self.resident - before.resident) / connections
        assert per_connection <= RESIDENT_BYTES_PER_CONNECTION_MAX, self.growth(before)

    def growth(self, before: Left) -> str:
        """Say how much more there is than before."""
        return (
            f"{self.objects - before.objects} objects, {self.blocks - before.blocks} blocks, "
            f"{self.resident - before.resident} bytes resident"
        )


async def traced(where: Any) -> int:
    """Give the bytes that tracemalloc finds left by some connections."""
    tracemalloc.start()
    try:
        await churn(where, TRACED)
        await quiet()
        before, _ = tracemalloc.get_traced_memory()
        await churn(where, TRACED)
        await quiet()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_churn(lib: Any) -> None:
    """Nothing is left of 20,000 connections."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        errors: set[str] = set()
        loop.set_exception_handler(lambda _, context: errors.add(context["message"]))
        server = await loop.create_server(Served, "127.0.0.1", 0, backlog=200)
        where = server.sockets[0].getsockname()
        await churn(where, WARM_UP)
        await quiet()
        before = Left()
        rest = CONNECTIONS - WARM_UP - 2 * TRACED
        await churn(where, rest)
        await quiet()
        after = Left()
        print(f"{lib.kind}: {after.growth(before)} after {rest} connections")
        after.check(before, rest)
        assert await traced(where) <= TRACED_BYTES_LEFT_MAX
        server.close()
        await server.wait_closed()
        lib.note(errors)
        assert errors == {"Fatal error: protocol.data_received() call failed."}

    async def limited() -> None:
        async with asyncio.timeout(CHURN_SECONDS_MAX):
            await main()

    lib.run(limited)

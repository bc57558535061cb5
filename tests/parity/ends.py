"""What the tests of pipes share: ends of pipes as file objects, by every route, and their names.

A *route* is one thing that a program may attach as a pipe. `reading` and `writing` attach the
loop's end of it and give the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import socket
import tempfile
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

# Every kind of file that a pipe transport takes and that can carry bytes.
ROUTES = ("pipe", "buffered", "fifo", "socket", "terminal")
# Those whose reader's end a write transport hears of.
WATCHED = ("pipe", "buffered", "fifo", "socket")


def nameless(text: str) -> str:
    """Drop from a text what may differ between kinds: transport class, fd."""
    text = re.sub(r"\b(?:_Unix)?(Read|Write)PipeTransport\b", r"\1PIPE", text)
    return re.sub(r"\bfd=\d+", "fd=N", text)


def _fds(route: str) -> tuple[int, int]:
    """Give the reading and the writing descriptor of a new pipe-like thing."""
    if route == "fifo":
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "fifo"
            os.mkfifo(path)
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            return reader, os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    if route == "socket":
        first, second = socket.socketpair()
        return first.detach(), second.detach()
    if route == "terminal":
        first_fd, second_fd = os.openpty()
        tty.setraw(second_fd)
        return first_fd, second_fd
    return os.pipe()


class Far:
    """The other end: a plain descriptor, non-blocking, closed once."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd

    def write(self, data: bytes) -> int:
        """Write what fits; BlockingIOError if nothing does."""
        return os.write(self.fd, data)

    def read(self, size: int = 1 << 16) -> bytes:
        """Read what is there; BlockingIOError if nothing is."""
        return os.read(self.fd, size)

    def close(self) -> None:
        """Close, if open."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@contextlib.contextmanager
def ends(route: str = "pipe", *, reads: bool) -> Iterator[tuple[Any, Far]]:
    """Give the loop's end as a file object and the other end, both open."""
    reader, writer = _fds(route)
    ours, other = (reader, writer) if reads else (writer, reader)
    theirs = Far(other)
    file = open(ours, "rb" if reads else "wb", -1 if route == "buffered" else 0)
    try:
        yield file, theirs
    finally:
        with contextlib.suppress(OSError):
            file.close()
        theirs.close()


@contextlib.asynccontextmanager
async def reading(
    factory: Callable[[], Any], route: str = "pipe"
) -> AsyncIterator[tuple[Any, Any, Far]]:
    """Attach a reading end: transport, protocol, and the end to write to."""
    loop = asyncio.get_running_loop()
    with ends(route, reads=True) as (file, theirs):
        transport, protocol = await loop.connect_read_pipe(factory, file)
        try:
            yield transport, protocol, theirs
        finally:
            transport.close()
            await protocol.seen("CL")


@contextlib.asynccontextmanager
async def writing(
    factory: Callable[[], Any], route: str = "pipe"
) -> AsyncIterator[tuple[Any, Any, Far]]:
    """Attach a writing end: transport, protocol, and the end to read from."""
    loop = asyncio.get_running_loop()
    with ends(route, reads=False) as (file, theirs):
        transport, protocol = await loop.connect_write_pipe(factory, file)
        try:
            yield transport, protocol, theirs
        finally:
            if "CL" not in protocol.calls and not transport.is_closing():
                transport.abort()
            await protocol.seen("CL")


async def read_exactly(end: Far, size: int) -> bytes:
    """Read so many bytes from the other end, or what comes until the end."""
    loop, got = asyncio.get_running_loop(), bytearray()
    while len(got) < size:
        try:
            data = end.read(min(size - len(got), 1 << 16))
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_reader(end.fd, lambda ready=ready: ready.done() or ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(end.fd)
            continue
        except OSError:
            break  # a terminal whose other end was closed
        if not data:
            break
        got += data
    return bytes(got)


async def write_all(end: Far, data: bytes) -> None:
    """Write any amount to the other end."""
    loop, view = asyncio.get_running_loop(), memoryview(data)
    while view:
        try:
            view = view[end.write(view) :]
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_writer(end.fd, lambda ready=ready: ready.done() or ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_writer(end.fd)

"""Descriptors that a loop closes though they are not its own, or no longer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import socket
from collections.abc import Callable
from typing import Any

from . import FIXED, Has, lesson

#: Enough opened files for every number that was wrongly freed to be given out again.
MANY = 20


@contextlib.contextmanager
def strangers() -> Any:
    """Open descriptors of somebody else, which must all be there at the end."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(MANY)]
    before = [os.fstat(fd).st_ino for fd in files]
    yield
    for fd, inode in zip(files, before, strict=True):
        try:
            assert os.fstat(fd).st_ino == inode, "somebody else's descriptor was replaced"
        except OSError:
            raise AssertionError("somebody else's descriptor was closed") from None
        os.close(fd)


def is_open(number: int) -> bool:
    """Tell whether a descriptor is open."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


async def turns(count: int = 10) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait until the condition holds; TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  whoever makes it true knows no event
            await asyncio.sleep(0.002)


class Idle(asyncio.Protocol):
    """Tells of the end only."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)


@lesson(
    "uvloop#645, #738, #653",
    uvloop=FIXED,
    rloop=Has("never closed"),
)
async def cancelled_connect_closes_once() -> None:
    """A cancelled `create_connection(sock=)` closes a descriptor that is another's by then."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        for waited in range(4):
            sock = socket.create_connection(server.getsockname())
            sock.setblocking(False)
            number = sock.fileno()
            task = asyncio.ensure_future(loop.create_connection(Idle, sock=sock))
            await turns(waited)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                transport, _ = await task
                transport.abort()
            await asyncio.sleep(0.05)
            assert is_open(number) == (sock.fileno() != -1), (
                "closed behind the socket's back" if sock.fileno() != -1 else "never closed"
            )
            with strangers():
                sock.close()
                del sock, task
                gc.collect()
                await turns()


@lesson(
    "aiohappyeyeballs#93",
    uvloop=FIXED,
)
async def cancelled_sock_connect_forgets_the_number() -> None:
    """After a cancelled `sock_connect` the next socket of that number gets no events."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fill = [socket.socket() for _ in range(4)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        pending = socket.socket()
        pending.setblocking(False)
        number = pending.fileno()
        task = asyncio.ensure_future(loop.sock_connect(pending, full.getsockname()))
        await turns(3)
        assert not task.done()
        task.cancel()
        pending.close()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        one, two = socket.socketpair()
        assert number in (one.fileno(), two.fileno())
        reader, writer = await asyncio.open_connection(sock=one)
        other, answer = await asyncio.open_connection(sock=two)
        async with asyncio.timeout(5):
            writer.write(b"ping")
            assert await other.readexactly(4) == b"ping"
            answer.write(b"pong")
            assert await reader.readexactly(4) == b"pong"
        for stream in (writer, answer):
            stream.close()
            await stream.wait_closed()
        for sock in fill:
            sock.close()


class Watched(io.FileIO):
    """A pipe that looks whether its descriptor is still its own when it is closed."""

    closings = 0
    stolen = False

    def close(self) -> None:
        if not self.closed:
            self.closings += 1
            try:
                os.fstat(self.fileno())
            except OSError:
                self.stolen = True
        with contextlib.suppress(OSError):
            super().close()


async def close_pipe(writing: bool) -> None:
    """Open and close a pipe transport; look who closes the descriptor."""
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    file = Watched(write if writing else read, "w" if writing else "r")
    other = read if writing else write
    connect = loop.connect_write_pipe if writing else loop.connect_read_pipe
    transport, protocol = await connect(Idle, file)
    await turns()
    transport.close()
    async with asyncio.timeout(5):
        await protocol.lost
    await turns()
    del transport
    gc.collect()
    file.close()
    assert not file.stolen, "the descriptor was closed behind the file's back"
    assert file.closings == 1
    os.close(other)


@lesson(
    "uvloop#763, skypilot#10681",
    uvloop=Has("behind the file's back"),
)
async def read_pipe_closes_once() -> None:
    """`connect_read_pipe` closes its descriptor twice, the second time perhaps another's."""
    await close_pipe(writing=False)


@lesson(
    "uvloop#763",
    uvloop=Has("behind the file's back"),
)
async def write_pipe_closes_once() -> None:
    """`connect_write_pipe` closes its descriptor twice."""
    await close_pipe(writing=True)


@lesson("uvloop#763, design")
async def refused_pipe_stays_open() -> None:
    """A pipe that could not be attached is closed though it was not taken over."""

    def fails() -> asyncio.Protocol:
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    with open(read, "rb", 0) as file, open(write, "wb", 0):
        with contextlib.suppress(ZeroDivisionError):
            await loop.connect_read_pipe(fails, file)
            raise AssertionError("the factory's exception is lost")
        await turns()
        assert not file.closed
        os.fstat(read)


@lesson(
    "uvloop#763, design",
    uvloop=Has("died: SIGABRT"),
    rloop=Has("accepted"),
    rsloop=Has("accepted"),
)
async def regular_file_is_no_pipe() -> None:
    """A regular file is accepted as a pipe."""
    loop = asyncio.get_running_loop()
    with open(__file__, "rb", 0) as file:
        try:
            transport, _ = await loop.connect_read_pipe(Idle, file)
        except ValueError:
            assert not file.closed
            return
        transport.close()
    raise AssertionError("accepted")

"""Writes: after the end, when idle, above the high-water mark."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from typing import Any

from . import FIXED, Either, Has, lesson
from .descriptors import Idle, turns, until

BIG = 4 << 20


def pair() -> tuple[socket.socket, socket.socket]:
    """Give two connected stream sockets, the first non-blocking."""
    one, two = socket.socketpair()
    one.setblocking(False)
    return one, two


@lesson(
    "uvloop#506, #685, uvicorn#1251, websockets#1511, sanic#3068",
    asyncio=Either("NoneType"),
    uvloop=Has("the handler is closed"),
)
async def write_after_close_only_warns() -> None:
    """Writing to a transport that was closed raises RuntimeError."""
    loop = asyncio.get_running_loop()
    for end in ("close", "abort"):
        one, two = pair()
        transport, protocol = await loop.create_connection(Idle, sock=one)
        getattr(transport, end)()
        transport.write(b"late")
        async with asyncio.timeout(5):
            await protocol.lost
        await turns()
        transport.write(b"later")
        transport.writelines([b"still", b"later"])
        transport.write_eof()
        two.close()


@lesson(
    "uvloop#506, #685",
    uvloop=Has("the handler is closed"),
)
async def write_after_peer_left_only_warns() -> None:
    """Writing after the peer reset the connection raises RuntimeError."""
    loop = asyncio.get_running_loop()
    one, two = pair()
    transport, protocol = await loop.create_connection(Idle, sock=one)
    two.close()
    async with asyncio.timeout(5):
        await protocol.lost
    await turns()
    for _ in range(10):
        transport.write(b"late")


@lesson(
    "uvloop#506, pytgcalls",
    uvloop=Has("the handler is closed"),
)
async def stdin_write_after_exit_only_warns() -> None:
    """Writing to the standard input of a child that is gone raises RuntimeError."""
    child = await asyncio.create_subprocess_exec("true", stdin=subprocess.PIPE)
    async with asyncio.timeout(10):
        await child.wait()
    await asyncio.sleep(0.05)
    assert child.stdin is not None
    for _ in range(3):
        child.stdin.write(b"late")
    child.stdin.close()


@lesson(
    "uvloop#631, #619",
    uvloop=FIXED,
    zuvloop=Has("TimeoutError"),
)
async def idle_transport_sends_at_once() -> None:
    """A write waits for the next turn though nothing is queued before it."""
    one, two = pair()
    two.settimeout(2)
    _, writer = await asyncio.open_connection(sock=one)
    writer.write(b"now")
    assert two.recv(3) == b"now"
    writer.close()
    await writer.wait_closed()
    two.close()


class Flow(Idle):
    """Counts pauses."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[str] = []
        self.resumed = asyncio.Event()

    def pause_writing(self) -> None:
        self.trace.append("pause")

    def resume_writing(self) -> None:
        self.trace.append("resume")
        self.resumed.set()


@lesson(
    "winloop#13",
    rloop=Has("hung"),
)
async def full_socket_is_no_error() -> None:
    """Writing above the water marks into a full socket ends in EAGAIN errors."""
    loop = asyncio.get_running_loop()
    errors: list[Any] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    one, two = pair()
    transport, protocol = await loop.create_connection(Flow, sock=one)
    transport.set_write_buffer_limits(0)
    got = bytearray()

    def read() -> None:
        while piece := two.recv(1 << 16):
            got.extend(piece)

    sent = bytearray()
    thread = threading.Thread(target=read, daemon=True)
    for number in range(256):
        piece = bytes([number]) * 20_000
        sent += piece
        transport.write(piece)
        if number == 100:
            thread.start()
        if number % 16 == 0:
            await turns(2)
    await until(lambda: not transport.get_write_buffer_size())
    transport.close()
    async with asyncio.timeout(5):
        assert await protocol.lost is None
    thread.join()
    two.close()
    assert got == sent
    assert not errors, errors
    assert protocol.trace[:2] == ["pause", "resume"]


@lesson(
    "rloop 0.5.0, seen by us",
    rloop=Has("died: SIGABRT"),
)
async def buffer_size_in_pause_writing() -> None:
    """Asking for the buffer's size in `pause_writing` aborts the process."""
    loop = asyncio.get_running_loop()
    sizes: list[int] = []

    class Curious(Idle):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def pause_writing(self) -> None:
            sizes.append(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            sizes.append(self.transport.get_write_buffer_size())

    one, two = pair()
    transport, _ = await loop.create_connection(Curious, sock=one)
    transport.write(bytes(BIG))
    await turns()
    assert sizes and sizes[0] > 0
    transport.abort()
    two.close()


@lesson(
    "uvloop#317, #311",
    uvloop=FIXED,
    rsloop=Has("hung"),
)
async def full_stdin_of_a_child() -> None:
    """Filling the standard input of a child that never reads aborts the process."""
    child = await asyncio.create_subprocess_exec("sleep", "60", stdin=subprocess.PIPE)
    assert child.stdin is not None
    try:
        async with asyncio.timeout(0.3):
            while True:
                child.stdin.write(bytes(32768))
                await child.stdin.drain()
    except TimeoutError:
        pass
    child.kill()
    async with asyncio.timeout(10):
        await child.wait()
    await asyncio.sleep(0.05)


@lesson(
    "uvloop#311",
    uvloop=FIXED,
)
async def two_writes_to_a_child_that_answers() -> None:
    """Two writes in a row to a child's standard input abort the process."""
    for _ in range(5):
        child = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            "printf 'password: '; read a; printf 'again: '; read b; echo $a $b",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdin is not None and child.stdout is not None
        async with asyncio.timeout(10):
            assert await child.stdout.readuntil(b": ") == b"password: "
            child.stdin.write(b"one")
            child.stdin.write(b"\n")
            assert await child.stdout.readuntil(b": ") == b"again: "
            child.stdin.write(b"two")
            child.stdin.write(b"\n")
            assert await child.stdout.read() == b"one two\n"
            assert await child.wait() == 0


@lesson(
    "uvloop#311, multiprocessing",
    uvloop=FIXED,
    rsloop=Has("TimeoutError"),
)
async def pipe_with_a_slow_reader() -> None:
    """A full pipe aborts the process or loses bytes."""
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Flow, open(write, "wb", 0))
    data = bytes(range(256)) * 4096
    transport.write(data[:1000])
    transport.write(data[1000:])

    def drain() -> bytes:
        with open(read, "rb") as file:
            return file.read()

    transport.close()
    async with asyncio.timeout(10):
        assert await loop.run_in_executor(None, drain) == data
        await protocol.lost

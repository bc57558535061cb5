"""What happens around a protocol's methods: exceptions, contexts, types."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import subprocess
from asyncio import trsock
from typing import Any

from . import FIXED, Has, Skips, lesson
from .descriptors import Idle, turns, until
from .writing import pair


@lesson(
    "rloop 0.5.0, seen by us",
    uvloop=Has("TimeoutError"),
    rloop=Has("died: SIGABRT"),
)
async def factory_that_raises() -> None:
    """A protocol factory that raises on accept aborts the process."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    made: list[asyncio.Protocol] = []

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(self)
            transport.write(b"hello")

    calls: list[None] = []

    def factory() -> asyncio.Protocol:
        calls.append(None)
        if len(calls) == 1:
            raise ZeroDivisionError
        return Echo()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    async with asyncio.timeout(5):
        with socket.create_connection(where) as refused:
            refused.setblocking(False)
            assert await loop.sock_recv(refused, 10) == b""
        with socket.create_connection(where) as served:
            served.setblocking(False)
            assert await loop.sock_recv(served, 10) == b"hello"
    server.close()


@lesson(
    "rloop 0.5.0, seen by us",
    rloop=Has("never reported"),
)
async def exception_in_data_received() -> None:
    """An exception in `data_received` vanishes without a report."""
    loop = asyncio.get_running_loop()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))

    class Failing(Idle):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError("in data_received")

    one, two = pair()
    transport, protocol = await loop.create_connection(Failing, sock=one)
    two.send(b"x")
    await asyncio.sleep(0.1)
    two.close()
    async with asyncio.timeout(5):
        lost = await protocol.lost
    found = [*(report.get("exception") for report in reports), lost]
    assert any(isinstance(error, ZeroDivisionError) for error in found), "never reported"
    transport.abort()


@lesson(
    "cpython#140947, uvicorn#2167",
    asyncio=Has("leaked", until=(3, 15)),
)
async def context_of_a_resumed_transport() -> None:
    """After `resume_reading` in a task the protocol's callbacks see that task's context."""
    loop = asyncio.get_running_loop()
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    class Served(Idle):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            seen.append(request.get())
            self.transport.pause_reading()
            task = loop.create_task(self.answer(data))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def answer(self, data: bytes) -> None:
            request.set(data.decode())
            self.transport.resume_reading()

    one, two = pair()
    transport, protocol = await loop.create_connection(Served, sock=one)
    for number in range(3):
        two.send(b"request %d" % number)
        await until(lambda number=number: len(seen) > number and not tasks)
    transport.close()
    two.close()
    assert seen == ["none"] * 3, f"leaked: {seen}"


@lesson(
    "zuvloop's documentation of uvloop",
    asyncio=Has("datagram", until=(3, 12)),
    uvloop=Has("stream"),
    rloop=Has("stream"),
    rsloop=Has("stream"),
)
async def transports_are_asyncio_transports() -> None:
    """Transports are not instances of asyncio's transport classes."""
    loop = asyncio.get_running_loop()
    one, two = pair()
    stream, _ = await loop.create_connection(Idle, sock=one)
    assert isinstance(stream, asyncio.Transport), "stream"
    stream.abort()
    two.close()
    datagram, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    assert isinstance(datagram, asyncio.DatagramTransport), "datagram"
    datagram.abort()
    ends = os.pipe()
    reading, _ = await loop.connect_read_pipe(Idle, open(ends[0], "rb", 0))
    assert isinstance(reading, asyncio.ReadTransport), "read pipe"
    writing, _ = await loop.connect_write_pipe(Idle, open(ends[1], "wb", 0))
    assert isinstance(writing, asyncio.WriteTransport), "write pipe"
    reading.close()
    writing.close()
    child, _ = await loop.subprocess_exec(
        asyncio.SubprocessProtocol, "true", stdin=None, stdout=None, stderr=None
    )
    assert isinstance(child, asyncio.SubprocessTransport), "child"
    await until(lambda: child.get_returncode() is not None)
    child.close()
    await turns()


@lesson(
    "uvloop, design",
    uvloop=Has("PseudoSocket"),
    rloop=Has("SocketWrapper"),
    rsloop=Has("socket.socket"),
)
async def socket_of_a_transport() -> None:
    """`get_extra_info("socket")` gives a socket that its holder can close."""
    one, two = pair()
    transport, _ = await asyncio.get_running_loop().create_connection(Idle, sock=one)
    sock = transport.get_extra_info("socket")
    assert isinstance(sock, trsock.TransportSocket), type(sock)
    assert sock.fileno() >= 0
    transport.abort()
    two.close()


@lesson(
    "rsloop#37",
    rsloop=FIXED,
)
async def websockets_connects() -> None:
    """A client of the websockets library never connects."""
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with asyncio.timeout(10), serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}") as client:
            for size in (0, 1, 125, 126, 65_536, 300_000):
                await client.send("x" * size)
                assert len(await client.recv()) == size


@lesson(
    "uvloop#706",
    uvloop=Skips("a crash in production that nobody could reproduce"),
)
async def collected_transports() -> None:
    """Transports that the garbage collector ends crash the process in the loop's close callback."""
    import gc
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    loop = asyncio.get_running_loop()
    for number in range(300):
        one, two = pair()
        transport, protocol = await loop.create_connection(Idle, sock=one)
        protocol.transport = transport
        two.send(b"x" * number)
        if number % 3 == 0:
            transport.abort()
        two.close()
        del transport, protocol
        if number % 10 == 0:
            gc.collect()
            await turns(1)
    child = await asyncio.create_subprocess_exec("true", stdout=subprocess.PIPE)
    await child.communicate()
    gc.collect()
    await turns()

"""What asyncio has and others lack."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from typing import Any

from . import FIXED, Either, Has, lesson
from .descriptors import Idle
from .writing import pair

LOCAL = "127.0.0.1"


@lesson(
    "uvloop#406",
    uvloop=Has("happy_eyeballs_delay"),
    rsloop=Has("a coroutine was expected"),
)
async def happy_eyeballs() -> None:
    """`create_connection` has no `happy_eyeballs_delay` and no `interleave`."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, LOCAL, 0)
    host, port = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(
        Idle, host, port, happy_eyeballs_delay=0.25, interleave=1
    )
    transport.abort()
    _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
    writer.close()
    server.close()


@lesson(
    "uvloop#406",
    asyncio=Has("all_errors", until=(3, 12)),
    uvloop=Has("all_errors"),
)
async def all_errors() -> None:
    """`create_connection` has no `all_errors`."""
    loop = asyncio.get_running_loop()
    with socket.create_server((LOCAL, 0)) as closed:
        where = closed.getsockname()
    try:
        await loop.create_connection(Idle, *where, all_errors=True)
    except ExceptionGroup as group:
        assert [type(error) for error in group.exceptions] == [ConnectionRefusedError]
        return
    raise AssertionError("no ExceptionGroup")


@lesson(
    "uvloop#683",
    asyncio=Has("close_clients", until=(3, 13)),
    uvloop=Has("close_clients"),
    rloop=Has("TimeoutError"),
    rsloop=Has("close_clients"),
)
async def close_clients() -> None:
    """A server has no `close_clients` and no `abort_clients`."""
    loop = asyncio.get_running_loop()
    server: Any = await loop.create_server(Idle, LOCAL, 0)
    for end in ("close_clients", "abort_clients"):
        transport, protocol = await loop.create_connection(Idle, *server.sockets[0].getsockname())
        await asyncio.sleep(0.02)
        getattr(server, end)()
        async with asyncio.timeout(5):
            await protocol.lost
        transport.abort()
    server.close()
    async with asyncio.timeout(5):
        await server.wait_closed()


@lesson(
    "uvloop#561",
    uvloop=Has("NotImplementedError"),
    rloop=Has("NotImplementedError"),
)
async def sock_datagrams() -> None:
    """There are no `sock_sendto`, `sock_recvfrom` and `sock_recvfrom_into`."""
    loop = asyncio.get_running_loop()
    one, two = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (one, two):
        sock.setblocking(False)
        sock.bind((LOCAL, 0))
    buffer = bytearray(10)
    async with asyncio.timeout(5):
        assert await loop.sock_sendto(one, b"one", two.getsockname()) == 3
        assert await loop.sock_recvfrom(two, 10) == (b"one", one.getsockname())
        waiting = loop.create_task(loop.sock_recvfrom_into(one, buffer))
        await asyncio.sleep(0)
        await loop.sock_sendto(two, b"two!", one.getsockname())
        assert await waiting == (4, two.getsockname())
    assert buffer[:4] == b"two!"
    one.close()
    two.close()


@lesson(
    "uvloop#228",
    uvloop=Has("NotImplementedError"),
    rloop=Has("NotImplementedError"),
)
async def sendfile() -> None:
    """There are no `sendfile` and no `sock_sendfile`."""
    loop = asyncio.get_running_loop()
    data = os.urandom(300_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        for by_transport in (True, False):
            one, two = pair()
            two.setblocking(False)
            file.seek(0)

            async def drain(sock: socket.socket = two) -> bytes:
                got = b""
                while len(got) < len(data):
                    got += await loop.sock_recv(sock, 1 << 16)
                return got

            reading = loop.create_task(drain())
            async with asyncio.timeout(10):
                if by_transport:
                    transport, _ = await loop.create_connection(Idle, sock=one)
                    assert await loop.sendfile(transport, file) == len(data)
                    assert await reading == data
                    transport.abort()
                else:
                    assert await loop.sock_sendfile(one, file) == len(data)
                    assert await reading == data
                    one.close()
            two.close()


@lesson(
    "uvloop#754",
    asyncio=Either("eager_start", until=(3, 14)),
    uvloop=Either("not eager", until=(3, 14)),
    rloop=Has("eager_start"),
)
async def eager_start() -> None:
    """`loop.create_task` has no `eager_start`."""
    loop = asyncio.get_running_loop()
    trace: list[str] = []

    async def work() -> str:
        trace.append("started")
        return "done"

    task = loop.create_task(work(), name="eager", eager_start=True)  # type: ignore[call-arg]
    assert trace == ["started"], "not eager"
    assert task.get_name() == "eager"
    assert await task == "done"


@lesson(
    "sentry-python#1993, cpython 3.14",
    asyncio=Either("tenant", until=(3, 14)),
    uvloop=Has("tenant"),
    rloop=Has("tenant"),
)
async def keywords_of_create_task() -> None:
    """`loop.create_task(**kwargs)` does not give its keywords to a task factory."""
    loop = asyncio.get_running_loop()
    given: list[dict[str, Any]] = []

    def factory(loop: Any, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        given.append(kwargs)
        kwargs.pop("tenant", None)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    task = loop.create_task(asyncio.sleep(0), name="n", tenant="t")  # type: ignore[call-arg]
    await task
    assert task.get_name() == "n"
    assert len(given) == 1


@lesson(
    "uvloop#196",
    uvloop=FIXED,
    rloop=Has("instance of .tuple"),
)
async def unix_datagrams() -> None:
    """A datagram to the path of a Unix socket is refused as an address to look up."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        server.bind(path)
        server.setblocking(False)
        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        client.bind(os.path.join(folder, "client"))
        client.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=client)
        transport.sendto(b"hello", path)  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            assert await loop.sock_recv(server, 10) == b"hello"
        transport.close()
        server.close()

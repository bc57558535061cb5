"""An echo server on the named loop, in each of asyncio's three styles.

`python serve.py LOOP MODE --cpus 0`: prints its port, serves until it is killed. The styles are
written as their users write them, with 64 KiB reads and TCP_NODELAY.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import loops

READ_BYTES = 65536
BACKLOG = 1024


class Echo(asyncio.Protocol):
    """Writes back what it reads."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: some peers' transports are no `asyncio.Transport`.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def serve_protocol(lib: Any, listener: socket.socket) -> None:
    """Serve by a Protocol."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, sock=listener, backlog=BACKLOG)
    await forever(server)


async def serve_streams(lib: Any, listener: socket.socket) -> None:
    """Serve by StreamReader and StreamWriter."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(READ_BYTES):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await lib.start_server(echo, sock=listener, backlog=BACKLOG)
    await forever(server)


async def serve_sock(lib: Any, listener: socket.socket) -> None:
    """Serve by the loop's `sock_*` methods."""
    loop = asyncio.get_running_loop()

    async def echo(client: socket.socket) -> None:
        with client, contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(client, READ_BYTES):
                await loop.sock_sendall(client, data)

    tasks: set[asyncio.Task[None]] = set()
    while True:
        client, _ = await loop.sock_accept(listener)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        task = loop.create_task(echo(client))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def forever(server: asyncio.AbstractServer) -> None:
    """Keep the server; `serve_forever` would be the word, but rloop 0.5.0 stops listening in it."""
    await asyncio.get_running_loop().create_future()
    server.close()


MODES: dict[str, Callable[[Any, socket.socket], Awaitable[None]]] = {
    "protocol": serve_protocol,
    "streams": serve_streams,
    "sock": serve_sock,
}


def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("mode", choices=list(MODES))
    parser.add_argument("--cpus", default="")
    options = parser.parse_args()
    if options.cpus:
        os.sched_setaffinity(0, [int(cpu) for cpu in options.cpus.split(",")])
    loops.prepare(options.loop)
    loop = loops.new_event_loop(options.loop)
    # The listening socket is ours throughout: not every peer's Server shows one that may be asked.
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        serve = MODES[options.mode](loops.library(options.loop), listener)
        loop.run_until_complete(serve)


if __name__ == "__main__":
    main()

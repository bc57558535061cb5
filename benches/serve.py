"""The measured servers: on the named loop, over a transport, in each of asyncio's styles.

`python serve.py LOOP TARGET MODE --style STYLE`: TARGET is tcp, tls or udp (a free port, which is
printed) or unix:PATH; MODE is echo, sink (reads and forgets) or source (writes without end);
STYLE is protocol, buffered, streams or sock. Serves until it is killed; with `--collect` each line
on standard input is answered after a garbage collection. The styles are written as their users
write them, with 64 KiB reads and TCP_NODELAY.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import loops
import measure

READ_BYTES = 65536
BACKLOG = 4096
BLOCK = bytes(READ_BYTES)


class Echo(asyncio.Protocol):
    """Writes back what it reads."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: some peers' transports are no `asyncio.Transport`.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """Writes back what it reads into a buffer of its own."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        # A copy, because the next read comes before the transport must have sent it.
        self.transport.write(bytes(self.view[:nbytes]))


class Sink(asyncio.Protocol):
    """Reads and forgets."""

    def data_received(self, data: bytes) -> None:
        pass


class Source(asyncio.Protocol):
    """Writes whenever there is room."""

    transport: asyncio.Transport
    paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.pour()

    def pour(self) -> None:
        while not self.paused and not self.transport.is_closing():
            self.transport.write(BLOCK)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pour()


class DatagramEcho(asyncio.DatagramProtocol):
    """Sends back what it receives."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def stream_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write back what comes."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def stream_sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read and forget."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(READ_BYTES):
            pass
    writer.close()


async def stream_source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write without end."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(BLOCK)
            await writer.drain()
    writer.close()


PROTOCOLS: dict[tuple[str, str], Callable[[], asyncio.BaseProtocol]] = {
    ("protocol", "echo"): Echo,
    ("buffered", "echo"): BufferedEcho,
    ("protocol", "sink"): Sink,
    ("protocol", "source"): Source,
}
STREAMS = {"echo": stream_echo, "sink": stream_sink, "source": stream_source}


async def serve_streams(lib: Any, options: argparse.Namespace, listener: socket.socket) -> None:
    """Serve by StreamReader and StreamWriter."""
    start = lib.start_server if listener.family != socket.AF_UNIX else lib.start_unix_server
    server = await start(STREAMS[options.mode], sock=listener, ssl=context(options), **backlog())
    await forever(server)


async def serve_protocol(lib: Any, options: argparse.Namespace, listener: socket.socket) -> None:
    """Serve by a Protocol or BufferedProtocol."""
    loop = asyncio.get_running_loop()
    factory: Any = PROTOCOLS[options.style, options.mode]
    create = loop.create_server if listener.family != socket.AF_UNIX else loop.create_unix_server
    server = await create(factory, sock=listener, ssl=context(options), **backlog())
    await forever(server)


async def serve_datagrams(lib: Any, options: argparse.Namespace, listener: socket.socket) -> None:
    """Serve by a DatagramProtocol."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(DatagramEcho, sock=listener)
    await loop.create_future()
    transport.close()


async def serve_sock(lib: Any, options: argparse.Namespace, listener: socket.socket) -> None:
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


def backlog() -> dict[str, int]:
    """Return the same backlog for all."""
    return {"backlog": BACKLOG}


def context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Make the server's context from a file with key and certificate."""
    if options.target != "tls":
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(options.pem)
    return made


async def forever(server: asyncio.AbstractServer) -> None:
    """Keep the server; `serve_forever` would be the word, but rloop 0.5.0 stops listening in it."""
    await asyncio.get_running_loop().create_future()
    server.close()


STYLES: dict[str, Callable[..., Awaitable[None]]] = {
    "protocol": serve_protocol,
    "buffered": serve_protocol,
    "streams": serve_streams,
    "sock": serve_sock,
}


def listen(target: str) -> socket.socket:
    """Return the listening socket; it is ours, for not every peer's Server shows one to ask."""
    if target.startswith("unix:"):
        listener = socket.socket(socket.AF_UNIX)
        path = target.removeprefix("unix:")
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        listener.listen(BACKLOG)
    elif target == "udp":
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("127.0.0.1", 0))
    else:
        # With its protocol named, as from an address: else asyncio sets no TCP_NODELAY.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def collect_when_asked() -> None:
    """Answer each line on standard input after a garbage collection."""
    for _ in sys.stdin:
        gc.collect()
        print("collected", flush=True)


def quiet(_loop: Any, _context: Any) -> None:
    """Ignore reports of the loop: clients leave by being killed."""


def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=(*loops.LOOPS, loops.FASTNET))
    parser.add_argument("target")
    parser.add_argument("mode", choices=list(STREAMS))
    parser.add_argument("--style", choices=list(STYLES), default="protocol")
    parser.add_argument("--cpus", default="")
    parser.add_argument("--pem", default="")
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    measure.pin(options.cpus)
    loops.prepare(options.loop)
    loop = loops.new_event_loop(options.loop)
    if options.collect:
        loop.set_exception_handler(quiet)
        threading.Thread(target=collect_when_asked, daemon=True).start()
    with listen(options.target) as listener:
        shown = listener.getsockname()
        print(shown[1] if isinstance(shown, tuple) else 0, flush=True)
        serve = serve_datagrams if options.target == "udp" else STYLES[options.style]
        lib = loops.library(options.loop)
        loop.run_until_complete(serve(lib, options, listener))


if __name__ == "__main__":
    main()

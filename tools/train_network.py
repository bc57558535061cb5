"""The part of the training that needs sockets: transports, streams, ``sock_*``, datagrams."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

CONNECTIONS = 20
# Bytes of a message, and how many of them each connection sends.
MESSAGES = {64: 1000, 1024: 1000, 10 * 1024: 200, 100 * 1024: 40}
# Lines asked for by streams, and datagrams sent to and fro.
LINES = 1_000
DATAGRAMS = 20_000


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """Sends back what it gets, received into a buffer of its own."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, make the buffer."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = memoryview(bytearray(64 * 1024))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Send it back."""
        self.transport.write(bytes(self.buffer[:nbytes]))


class Asks(asyncio.Protocol):
    """Sends a message, and the next one when all of it has come back."""

    def __init__(self, message: bytes, times: int) -> None:
        """Remember what to send, and how often."""
        self.message, self.left, self.missing = message, times, 0
        self.finished = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first one."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send a message."""
        self.missing = len(self.message)
        self.transport.writelines([self.message[:32], self.message[32:]])

    def data_received(self, data: bytes) -> None:
        """Count what has come back."""
        self.missing -= len(data)
        if not self.missing:
            self.left -= 1
            if self.left:
                self.ask()
            else:
                self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell that it is over."""
        self.finished.set_result(error)


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve a connection by streams."""
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
    writer.close()


async def answer_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve lines, each with as many bytes as it says after it."""
    while line := await reader.readline():
        writer.write(await reader.readexactly(int(line)))
        writer.write(b"end\r\n")
        await writer.drain()
    writer.close()


async def ask_by_protocols(address: Any, **options: Any) -> None:
    """Have each size echoed on many connections at once."""
    loop = asyncio.get_running_loop()
    connect: Callable[..., Awaitable[tuple[Any, Any]]] = loop.create_connection
    if isinstance(address, str):
        connect, address = loop.create_unix_connection, (address,)
    for size, times in MESSAGES.items():
        factory = functools.partial(Asks, bytes(size), times)
        made = await asyncio.gather(
            *(connect(factory, *address, **options) for _ in range(CONNECTIONS))
        )
        await asyncio.gather(*(protocol.finished for _, protocol in made))


async def ask_by_streams(host: str, port: int) -> None:
    """Have each size echoed on many connections at once, by streams."""

    async def client(size: int, times: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(times):
            writer.write(bytes(size))
            await writer.drain()
            await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()

    for message in MESSAGES.items():
        await asyncio.gather(*(client(*message) for _ in range(CONNECTIONS)))


async def lines_by_streams(host: str, port: int) -> None:
    """Ask for lines and bytes."""
    reader, writer = await asyncio.open_connection(host, port)
    for number in range(LINES):
        size = 1 + number % 500
        writer.writelines([b"%d\n" % size, bytes(size)])
        await reader.readuntil(b"end\r\n")
    writer.close()
    await writer.wait_closed()


async def serve_and_ask(
    factory: Callable[[], asyncio.BaseProtocol],
    server_tls: ssl.SSLContext | None = None,
    client_tls: ssl.SSLContext | None = None,
) -> None:
    """Serve by a protocol over TCP, and ask."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls)
    await ask_by_protocols(server.sockets[0].getsockname(), ssl=client_tls)
    server.close()
    await server.wait_closed()


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return TLS contexts for a server and a client that need no certificate.

    Raises `ssl.SSLError` where OpenSSL has no ciphers for that.
    """
    both = []
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
        both.append(context)
    return both[0], both[1]


async def connections() -> None:
    """Echo over TCP, Unix sockets and TLS, by protocols."""
    loop = asyncio.get_running_loop()
    for factory in (Echo, BufferedEcho):
        await serve_and_ask(factory)
    try:
        tls = contexts()
    except ssl.SSLError as error:
        print(f"training goes on without TLS: {error}", file=sys.stderr)
    else:
        await serve_and_ask(Echo, *tls)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "echo.sock")
        server = await loop.create_unix_server(Echo, path)
        await ask_by_protocols(path)
        server.close()
        await server.wait_closed()


async def streams() -> None:
    """Echo and ask by streams."""
    for serve, ask in ((echo_stream, ask_by_streams), (answer_lines, lines_by_streams)):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        await ask(*server.sockets[0].getsockname())
        server.close()
        await server.wait_closed()


async def sockets() -> None:
    """Echo by ``sock_*`` on a few pairs of sockets."""
    loop = asyncio.get_running_loop()

    async def serve(sock: socket.socket) -> None:
        while data := await loop.sock_recv(sock, 64 * 1024):
            await loop.sock_sendall(sock, data)

    async def ask(sock: socket.socket, size: int, times: int) -> None:
        buffer = bytearray(size)
        for _ in range(times):
            await loop.sock_sendall(sock, buffer)
            missing = size
            while missing:
                missing -= await loop.sock_recv_into(sock, memoryview(buffer)[:missing])
        sock.shutdown(socket.SHUT_WR)

    for message in MESSAGES.items():
        pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
        for sock in (end for pair in pairs for end in pair):
            sock.setblocking(False)
        await asyncio.gather(*(serve(a) for a, _ in pairs), *(ask(b, *message) for _, b in pairs))
        for sock in (end for pair in pairs for end in pair):
            sock.close()


class Datagrams(asyncio.DatagramProtocol):
    """Sends a datagram back until it was sent often enough."""

    def __init__(self) -> None:
        """Begin to count."""
        self.left = DATAGRAMS
        self.finished = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Send it back."""
        self.left -= 1
        if self.left:
            self.transport.sendto(data, address)
        elif not self.finished.done():
            self.finished.set_result(None)


async def datagrams() -> None:
    """Play a few datagrams to and fro."""
    loop = asyncio.get_running_loop()
    here, there = [
        await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        for _ in range(2)
    ]
    for size in (64, 1024, 1024, 1024):
        here[0].sendto(bytes(size), there[0].get_extra_info("sockname"))
    await asyncio.wait([here[1].finished, there[1].finished], return_when="FIRST_COMPLETED")
    here[0].close()
    there[0].close()


PARTS = (connections, streams, sockets, datagrams)

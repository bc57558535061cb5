"""TCP, Unix and TLS connections: echoes that are compared, and ends of every kind.

A client's first bytes say who it is, what the server shall do with it, and how much follows. The
server of TCP is a protocol, the others are streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from .stage import LOCAL, Load, Stage, Unlucky

HEADER = struct.Struct("!QBQ")
ECHO, RAISE, RESET, LEAVE = range(4)
PIECE_BYTES = 1 << 16

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def reset(transport: Any) -> None:
    """End a connection with a TCP reset."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Echo(asyncio.Protocol):
    """The server's end over TCP, with flow control by hand."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.begun = b""
        self.connection: int | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.connection is None:
            self.begun += data
            if len(self.begun) < HEADER.size:
                return
            self.connection, order, _ = HEADER.unpack_from(self.begun)
            data = self.begun[HEADER.size :]
            if order == RAISE:
                raise self.stage.ledger.inject("data_received raises")
            if order == RESET:
                reset(self.transport)
            elif order == LEAVE:
                self.transport.close()
        self.transport.write(self.stage.echoed(data))

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        ledger = self.stage.ledger
        if exc is None or ledger.settle(exc):
            return
        if self.connection is not None and not ledger.is_spoiled(self.connection):
            ledger.violation(f"error: a server lost a good connection: {exc!r}")


class Streams:
    """Servers and clients of one kind of stream connection."""

    def __init__(self, stage: Stage, name: str, connect: Connect) -> None:
        self.stage = stage
        self.name = name
        self.connect = connect

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The server's end over streams."""
        connection: int | None = None
        try:
            connection, order, left = HEADER.unpack(await reader.readexactly(HEADER.size))
            if order == RESET:
                return
            if order == RAISE:
                raise self.stage.ledger.inject("stream handler raises")
            while order == ECHO and left:
                data = await reader.read(PIECE_BYTES)
                if not data:
                    raise ConnectionAbortedError
                left -= len(data)
                writer.write(self.stage.echoed(data))
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (asyncio.IncompleteReadError, ConnectionError, OSError) as exc:
            spoiled = connection is None or self.stage.ledger.is_spoiled(connection)
            if not spoiled:
                self.stage.ledger.violation(f"error: {self.name}: good connection: {exc!r}")
        finally:
            writer.transport.abort()

    async def once(self, rng: random.Random) -> None:
        """Connect, say who we are, and talk or fail."""
        ledger = self.stage.ledger
        connection = ledger.new_connection()
        order = rng.choices((ECHO, RAISE, RESET, LEAVE), (40, 1, 2, 2))[0]
        payload = self.stage.payload(rng)
        reader, writer = await self.connect()
        finished = False
        sending = None
        if order != ECHO:
            ledger.spoil(connection)
            ledger.faults["server: " + ("", "raises", "resets", "leaves")[order]] += 1
        try:
            writer.write(HEADER.pack(connection, order, len(payload)))
            sending = self.stage.loop.create_task(self._send(writer, payload, rng))
            if order == ECHO and rng.randrange(12) == 0:
                await self._break_off(reader, writer, connection, len(payload), rng)
            await self._receive(reader, payload, rng, order)
            await sending
            finished = True
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if not ledger.is_spoiled(connection):
                ledger.violation(f"error: {self.name}: a good connection failed: {error!r}")
        finally:
            # A cancellation may come while this waits, so it closes first.
            if finished:
                writer.close()
            else:
                ledger.spoil(connection)
                writer.transport.abort()
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes, rng: random.Random) -> None:
        """Send in pieces, with or without waiting between them."""
        view = memoryview(data)
        while view:
            size = rng.choice((1, 100, 5000, PIECE_BYTES, len(view)))
            kind = rng.choice((bytes, bytes, bytearray, memoryview))
            writer.write(kind(view[:size]))
            view = view[size:]
            if size > 100 or rng.randrange(4) == 0:
                await writer.drain()
        # TLS cannot half-close; the others do now and then.
        if writer.can_write_eof() and rng.randrange(3) == 0:
            writer.write_eof()
            self.stage.ledger.faults["half-closed"] += 1

    async def _receive(
        self, reader: asyncio.StreamReader, payload: bytes, rng: random.Random, order: int
    ) -> None:
        """Receive the echo, sometimes slowly, and compare it."""
        slow = rng.randrange(10) == 0
        if slow:
            self.stage.ledger.faults["slow reader"] += 1
        got = bytearray()
        while len(got) < len(payload):
            data = await reader.read(rng.choice((1000, PIECE_BYTES)) if slow else 1 << 20)
            if not data:
                break
            got += data
            if slow and rng.randrange(8) == 0:
                await asyncio.sleep(rng.expovariate(500))
        if order == ECHO:
            self.stage.ledger.check(self.name, got, payload)

    async def _break_off(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: int,
        size: int,
        rng: random.Random,
    ) -> None:
        """Give the connection up somewhere in the middle."""
        if size:
            await reader.read(rng.randrange(size) + 1)
        self.stage.ledger.spoil(connection)
        self.stage.ledger.faults["client resets"] += 1
        if writer.get_extra_info("socket").family == socket.AF_UNIX:
            writer.transport.abort()
        else:
            reset(writer.transport)
        raise Unlucky


class Servers:
    """Servers that come and go with their clients."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.file = stage.folder / "served"
        self.file.write_bytes(stage.noise)

    async def once(self, rng: random.Random) -> None:
        """Start a server with or without TLS, let clients fetch a file, end it in some way."""
        loop, is_tls = self.stage.loop, bool(rng.randrange(2))
        tasks: set[asyncio.Task[None]] = set()

        class Sending(asyncio.Protocol):
            def connection_made(_, transport: Any) -> None:  # noqa: N805
                task = loop.create_task(self._send(transport))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        server: Any = await loop.create_server(
            Sending, LOCAL, 0, ssl=self.stage.server_tls if is_tls else None
        )
        try:
            if not server.sockets and self.stage.ledger.is_starved:
                # As asyncio: an address whose socket cannot be made is left out.
                raise Unlucky
            where = server.sockets[0].getsockname()
            async with asyncio.TaskGroup() as group:
                for _ in range(rng.randrange(1, 4)):
                    group.create_task(self._fetch(where, is_tls))
        finally:
            server.close()
            end = rng.choice(("close_clients", "abort_clients", "nothing"))
            getattr(server, end, lambda: None)()
            for task in tuple(tasks):
                task.cancel()
        await server.wait_closed()

    async def _send(self, transport: Any) -> None:
        """Send the file; whoever asked may be gone before its end."""
        try:
            with open(self.file, "rb") as file:
                await self.stage.loop.sendfile(transport, file, 0, 100_000)
        except OSError as error:
            gone = isinstance(error, ConnectionError)
            if not (gone or self.stage.ledger.is_starvation(error)):
                raise
        finally:
            transport.close()

    async def _fetch(self, where: Any, is_tls: bool) -> None:
        reader, writer = await asyncio.open_connection(
            *where,
            ssl=self.stage.client_tls if is_tls else None,
            server_hostname="localhost" if is_tls else None,
        )
        try:
            got = await reader.read(-1)
            if not self.stage.ledger.is_starved:
                self.stage.ledger.check("served file", got, self.stage.noise[:100_000])
        finally:
            writer.transport.abort()


async def start(stage: Stage) -> list[Any]:
    """Start the servers; give them, to be closed at the end."""
    loop, path = stage.loop, os.fspath(stage.folder / "stream")
    tcp = await loop.create_server(lambda: Echo(stage), LOCAL, 0, backlog=256)
    port = tcp.sockets[0].getsockname()[1]

    def kind(name: str, connect: Connect) -> Streams:
        made = Streams(stage, name, connect)
        stage.loads.append(Load(name, made.once, 3))
        return made

    kind("tcp", lambda: asyncio.open_connection(LOCAL, port))
    unix = kind("unix", lambda: asyncio.open_unix_connection(path))
    unix_server = await asyncio.start_unix_server(unix.serve, path)
    tls_port = 0
    tls = kind(
        "tls",
        lambda: asyncio.open_connection(
            LOCAL, tls_port, ssl=stage.client_tls, server_hostname="localhost"
        ),
    )
    tls_server = await asyncio.start_server(tls.serve, LOCAL, 0, ssl=stage.server_tls)
    tls_port = tls_server.sockets[0].getsockname()[1]
    late_port = 0

    async def upgraded() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(LOCAL, late_port)
        try:
            writer.write(b"STARTTLS\n")
            await reader.readline()
            await writer.start_tls(stage.client_tls, server_hostname="localhost")
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    late = kind("start_tls", upgraded)

    async def serve_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readline()
            writer.write(b"go\n")
            await writer.start_tls(stage.server_tls)
        except OSError:  # the client was cancelled: it says so itself if it was not
            writer.transport.abort()
            return
        await late.serve(reader, writer)

    late_server = await asyncio.start_server(serve_late, LOCAL, 0)
    late_port = late_server.sockets[0].getsockname()[1]
    stage.loads.append(Load("tls garbage", _garbage(stage, tls_port), 1))
    stage.loads.append(Load("servers", Servers(stage).once, 1))
    return [tcp, unix_server, tls_server, late_server]


def _garbage(stage: Stage, port: int) -> Callable[[random.Random], Awaitable[None]]:
    """Make an operation that spoils handshakes."""

    async def once(rng: random.Random) -> None:
        """Send nonsense, half a handshake or nothing to a TLS server, and go."""
        stage.ledger.faults["TLS handshake spoiled"] += 1
        with socket.socket() as sock:
            sock.setblocking(False)
            await stage.loop.sock_connect(sock, (LOCAL, port))
            nonsense = bytearray(rng.randbytes(rng.randrange(1, 3000)))
            if rng.randrange(2):
                nonsense[:5] = b"\x16\x03\x01" + struct.pack("!H", rng.randrange(1, 16384))
            with contextlib.suppress(ConnectionError):
                await stage.loop.sock_sendall(sock, nonsense)
                if rng.randrange(2):
                    sock.shutdown(socket.SHUT_WR)
                    while await stage.loop.sock_recv(sock, 1000):
                        continue
        await asyncio.sleep(rng.expovariate(50))

    return once

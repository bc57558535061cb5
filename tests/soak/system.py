"""Datagrams, child processes, pipes, sendfile, names, signals and plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
from typing import Any

from .stage import LOCAL, Load, Stage

#: A datagram that fits into any buffer of loopback.
DATAGRAM_BYTES_MAX = 8000
#: Lost datagrams are sent again so often; loopback loses them only when buffers are full.
TRIES_MAX = 20


class UdpEcho(asyncio.DatagramProtocol):
    """The server's end."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        if data == b"raise":
            raise self.stage.ledger.inject("datagram_received raises")
        self.transport.sendto(self.stage.echoed(data), address)

    def error_received(self, exc: Exception) -> None:
        # An answer to a client that is gone.
        self.stage.ledger.faults["ICMP errors"] += 1


class UdpClient(asyncio.DatagramProtocol):
    """The client's end."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.came.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.came.put_nowait(exc)


class System:
    """The loads of this module."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.udp_address: Any = None
        self.signalled = asyncio.Event()
        self.file = stage.folder / "file"
        self.file.write_bytes(stage.noise)

    async def udp(self, rng: random.Random) -> None:
        """Ask and answer some datagrams, empty ones too; provoke errors now and then."""
        loop, ledger = self.stage.loop, self.stage.ledger
        transport, client = await loop.create_datagram_endpoint(
            UdpClient, remote_addr=self.udp_address
        )
        try:
            for number in range(rng.randrange(1, 10)):
                body = self.stage.payload(rng)[: rng.randrange(DATAGRAM_BYTES_MAX)]
                message = number.to_bytes(4, "big") + body
                if rng.randrange(30) == 0:
                    transport.sendto(b"")
                if rng.randrange(100) == 0:
                    transport.sendto(b"raise")
                await self._ask(transport, client, message)
        finally:
            transport.close()
        if rng.randrange(5) == 0:
            await self._unreachable(ledger)

    async def _ask(self, transport: Any, client: UdpClient, message: bytes) -> None:
        for _ in range(TRIES_MAX):
            transport.sendto(message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while True:
                        answer = await client.came.get()
                        if isinstance(answer, bytes) and answer[:4] == message[:4]:
                            self.stage.ledger.check("udp", answer, message)
                            return
            self.stage.ledger.faults["datagram lost"] += 1
        self.stage.ledger.violation("error: udp: no answer")

    async def _unreachable(self, ledger: Any) -> None:
        """Send to a port that nobody has; the kernel's answer must come as an error."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind((LOCAL, 0))
            where = unused.getsockname()
        transport, client = await self.stage.loop.create_datagram_endpoint(
            UdpClient, remote_addr=where
        )
        try:
            transport.sendto(b"anybody?")
            async with asyncio.timeout(10):
                answer = await client.came.get()
            ledger.faults["ICMP errors"] += 1
            if not isinstance(answer, ConnectionRefusedError):
                ledger.violation(f"error: udp: {answer!r} from nobody")
        finally:
            transport.close()

    async def children(self, rng: random.Random) -> None:
        """Run a child that copies, counts, never reads, or is killed."""
        ledger, kind = self.stage.ledger, rng.randrange(4)
        payload = self.stage.payload(rng)
        command = ("cat", "exec sleep 60", "head -c 300000 /dev/zero; exit 7", "exec sleep 60")[
            kind
        ]
        child = await asyncio.create_subprocess_exec(
            "sh", "-c", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            if kind == 0:
                out, _ = await child.communicate(payload)
                ledger.check("child", out, payload)
                status = 0
            elif kind == 2:
                out, _ = await child.communicate()
                ledger.check("child", out, bytes(300_000))
                status = 7
            else:
                assert child.stdin is not None
                child.stdin.write(payload)
                await asyncio.sleep(rng.expovariate(200))
                number = rng.choice((signal.SIGKILL, signal.SIGTERM))
                child.send_signal(number)
                ledger.faults["child killed"] += 1
                with contextlib.suppress(ConnectionError):
                    await child.stdin.drain()
                status = -number
            if await child.wait() != status:
                ledger.violation(f"error: child: {child.returncode} instead of {status}")
        finally:
            await self._reap(child)

    async def _reap(self, child: asyncio.subprocess.Process) -> None:
        """End a child whatever happens, cancellation included."""
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        transport: Any = getattr(child, "_transport")  # noqa: B009  no public way to close it
        waiting = asyncio.ensure_future(child.wait())
        while not waiting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(waiting)
        transport.close()

    async def pipes(self, rng: random.Random) -> None:
        """Send through a pipe, from a transport to a transport."""
        loop = self.stage.loop
        payload = self.stage.payload(rng)
        ends = os.pipe()
        reader = asyncio.StreamReader()
        with open(ends[0], "rb", 0) as source, open(ends[1], "wb", 0) as sink:
            reading, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), source
            )
            try:
                protocol = asyncio.streams.FlowControlMixin()
                writing, _ = await loop.connect_write_pipe(lambda: protocol, sink)
                try:
                    view = memoryview(payload)
                    half = rng.randrange(len(view) + 1)
                    writing.write(view[:half])
                    await asyncio.sleep(0)
                    writing.write(bytes(view[half:]))
                    if rng.randrange(15) == 0:
                        self.stage.ledger.faults["pipe reader leaves"] += 1
                        return
                    writing.close()
                    self.stage.ledger.check("pipe", await reader.read(), payload)
                finally:
                    writing.abort()
            finally:
                reading.close()
                # The transports close the files in their next turn.
                for _ in range(3):
                    await _undisturbed_turn()

    async def sendfile(self, rng: random.Random) -> None:
        """Send a part of a file to a plain socket."""
        loop, ledger = self.stage.loop, self.stage.ledger
        size = 1 + rng.randrange(400_000)
        start = rng.randrange(len(self.stage.noise) - size)
        wanted = self.stage.noise[start : start + size]
        one, two = socket.socketpair()
        with one, two, open(self.file, "rb") as file:
            one.setblocking(False)
            two.setblocking(False)
            receiving = loop.create_task(_receive_all(loop, two, size))
            transport = None
            try:
                if rng.randrange(2):
                    sent = await loop.sock_sendfile(one, file, start, size)
                else:
                    transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
                    sent = await loop.sendfile(transport, file, start, size)
                ledger.check("sendfile", await receiving, wanted)
                if sent != size:
                    ledger.violation(f"bytes: sendfile: {sent} instead of {size}")
            finally:
                receiving.cancel()
                if transport is not None:
                    transport.abort()
                await asyncio.gather(receiving, return_exceptions=True)

    async def sockets(self, rng: random.Random) -> None:
        """Send from socket to socket by the loop's own methods."""
        loop = self.stage.loop
        payload = self.stage.payload(rng)
        one, two = socket.socketpair()
        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            sending = loop.create_task(loop.sock_sendall(one, payload))
            try:
                got = await _receive_all(loop, two, len(payload))
                self.stage.ledger.check("sock_*", got, payload)
                await sending
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def names(self, rng: random.Random) -> None:
        """Look names up, and compare with what the system says."""
        host = rng.choice(("localhost", LOCAL, "::1", "0.0.0.0"))
        port = rng.choice((80, "80", 0, None))
        kind = rng.choice((socket.SOCK_STREAM, socket.SOCK_DGRAM))
        found = await self.stage.loop.getaddrinfo(host, port, type=kind)
        if found != socket.getaddrinfo(host, port, type=kind):
            self.stage.ledger.violation(f"bytes: getaddrinfo({host!r}, {port!r}): {found}")

    async def signals(self, rng: random.Random) -> None:
        """Send this process a signal, and wait for it."""
        await asyncio.sleep(rng.expovariate(20))
        self.signalled.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        await self.signalled.wait()


async def _undisturbed_turn() -> None:
    """Let the loop turn once, whoever cancels."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
        raise


async def _receive_all(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int
) -> bytearray:
    got = bytearray()
    while len(got) < size:
        data = await loop.sock_recv(sock, min(size - len(got), 1 << 18))
        if not data:
            break
        got += data
    return got


async def start(stage: Stage) -> list[Any]:
    """Start the server of datagrams; give what is to be closed at the end."""
    system = System(stage)
    transport, _ = await stage.loop.create_datagram_endpoint(
        lambda: UdpEcho(stage), local_addr=(LOCAL, 0)
    )
    system.udp_address = transport.get_extra_info("sockname")
    stage.loop.add_signal_handler(signal.SIGUSR1, system.signalled.set)
    stage.loads += [
        Load("udp", system.udp),
        Load("children", system.children),
        Load("pipes", system.pipes),
        Load("sendfile", system.sendfile),
        Load("sockets", system.sockets),
        Load("names", system.names, 1),
        Load("signals", system.signals, 1),
    ]

    class Closing:
        """Gives the endpoint a server's two methods."""

        def close(self) -> None:
            transport.close()
            stage.loop.remove_signal_handler(signal.SIGUSR1)

        async def wait_closed(self) -> None:
            await asyncio.sleep(0)

    return [Closing()]

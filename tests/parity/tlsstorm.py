"""A TLS connection in a storm: both ends act at random, and so does the wire between them.

Everything is decided by a seed and the kernel's timing. The wire splits, merges and delays what it
carries; in some storms it also truncates, corrupts, resets or leaves. Whatever happens:

- an end that was made hears CM [DR*] [ER?] CL, and its pauses and resumes alternate;
- what arrives is the beginning of what was sent, and all of it where both ends were orderly;
- every connection ends, and nothing is reported but the exceptions that the protocols raise.

The tests and the fuzzer (`fuzz/tls_stream.py`) share this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import ssl
import struct
from typing import Any

from tlswire import HOST, client_context, server_context
from wire import tcp_pair, until

ACTS_MAX = 40
GRAMMAR = re.compile(r"CM( DR)*( ER)? CL")
#: A storm takes some milliseconds; one that takes longer than this never ends.
STORM_SECONDS_MAX = 25.0
#: How long an end waits for a word over a wire that may have spoilt it.
WORD_SECONDS_MAX = 3.0
FAULTS = ("truncate", "corrupt", "reset", "vanish")
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Asked(Exception):
    """Raised by a protocol because its seed says so."""


class Wire:
    """Carries bytes between two sockets, one task for each direction."""

    def __init__(self, rng: random.Random, one: socket.socket, two: socket.socket) -> None:
        self.rng = rng
        self.socks = (one, two)
        for sock in self.socks:
            sock.setblocking(False)
        self.fault = rng.choice(FAULTS) if rng.random() < 0.4 else None
        # Where in the stream of one direction the fault is: in the handshake, or somewhere later.
        self.fault_at = rng.randrange(rng.choice((700, 3000, 40_000, 1_000_000)))
        self.fault_way = rng.randrange(2)
        self.gentle = rng.random() < 0.3
        self.tasks = [
            asyncio.ensure_future(self.carry(one, two, 0)),
            asyncio.ensure_future(self.carry(two, one, 1)),
        ]

    async def carry(self, source: socket.socket, target: socket.socket, way: int) -> None:
        """Carry one direction to its end."""
        loop, carried = asyncio.get_running_loop(), 0
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(source, self.size()):
                if self.fault and way == self.fault_way and carried + len(data) > self.fault_at:
                    cut = self.fault_at - carried
                    if not await self.break_at(target, data, cut):
                        return
                    self.fault = None
                else:
                    await loop.sock_sendall(target, data)
                carried += len(data)
                for _ in range(0 if self.gentle else self.rng.randrange(4)):
                    await asyncio.sleep(0)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def size(self) -> int:
        """Give the size of the next piece at most."""
        if self.gentle:
            return 1 << 16
        return self.rng.choice((1, 2, 5, 6, 60, 1000, 16_000, 17_000, 1 << 16, 1 << 16))

    async def break_at(self, target: socket.socket, data: bytes, cut: int) -> bool:
        """Do the fault; tell whether the wire goes on."""
        loop = asyncio.get_running_loop()
        if self.fault == "corrupt":
            bad = bytearray(data)
            bad[cut] ^= 1 << self.rng.randrange(8)
            await loop.sock_sendall(target, bad)
            return True
        await loop.sock_sendall(target, data[:cut])
        if self.fault == "truncate":
            target.shutdown(socket.SHUT_WR)
        elif self.fault == "vanish":
            self.close()
        else:
            linger = struct.pack("ii", 1, 0)
            for sock in self.socks:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close()
        return False

    def close(self) -> None:
        """Close both ends."""
        for sock in self.socks:
            if sock.fileno() != -1:
                # A descriptor must not be watched any more when it is closed.
                sock.shutdown(socket.SHUT_RDWR)
        loop = asyncio.get_running_loop()
        for sock in self.socks:
            if sock.fileno() != -1:
                loop.remove_reader(sock)
                loop.remove_writer(sock)
                sock.close()

    async def end(self) -> None:
        """Stop carrying."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            self.close()
        for sock in self.socks:
            sock.close()


class Side:
    """One end of the connection: what it sent and got, and what it does."""

    def __init__(self, rng: random.Random, name: str, strict: bool) -> None:
        self.rng = rng
        self.name = name
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Any] = self.loop.create_future()
        self.calls: list[str] = []
        self.pauses: list[str] = []
        self.sent = bytearray()
        self.got = bytearray()
        self.acts = 0
        self.strict = strict
        self.forgiven = (Asked,) if strict else (Asked, AttributeError)
        #: TLS did not begin: then an upgraded protocol need not hear of the end.
        self.failed = False
        self.orderly = True
        self.closed = False
        self.transport: Any = None
        self.buffer = memoryview(bytearray(rng.choice((1, 100, 4096, 70_000))))
        #: Before an upgrade the side only counts what comes.
        self.plain = False
        self.heard = asyncio.Event()

    def protocol(self) -> asyncio.BaseProtocol:
        """Give a protocol of either kind that speaks for this side."""
        return self.rng.choice((Plain, Buffered))(self)

    def send(self, size: int) -> None:
        """Send random bytes in one of the ways."""
        if self.closed or self.transport.is_closing():
            return
        data = self.rng.randbytes(size)
        self.sent += data
        way = self.rng.randrange(4)
        if way == 0:
            self.transport.writelines([data[: size // 3], bytearray(data[size // 3 :])])
        elif way == 1:
            self.transport.write(bytearray(data))
        elif way == 2:
            self.transport.write(memoryview(data))
        else:
            self.transport.write(data)

    def close(self) -> None:
        """Close in order, once, and not after the peer: see `storm`."""
        if not self.closed and (self.strict or "ER" not in self.calls):
            self.transport.close()
        self.closed = True

    def abort(self) -> None:
        """Cut off."""
        self.orderly = False
        self.closed = True
        self.transport.abort()

    def act(self) -> None:
        """Do something at random; when all is done, close."""
        self.acts += 1
        rng, transport = self.rng, self.transport
        if self.acts > ACTS_MAX:
            transport.resume_reading()
            self.close()
            if self.acts > 4 * ACTS_MAX:  # Both may be waiting for the other to read.
                self.abort()
            return
        chance = rng.random()
        if chance < 0.5:
            self.send(rng.choice((0, 1, 10, 1000, 16_384, 16_385, 65_537, 200_000)))
        elif chance < 0.62:
            transport.pause_reading()
            self.loop.call_later(rng.random() * 0.001, self.resume)
        elif chance < 0.72:
            transport.set_write_buffer_limits(high=rng.choice((0, 1, 1000, 100_000)))
        elif chance < 0.8:
            transport.set_protocol(self.protocol())
        elif chance < 0.86:
            self.loop.call_soon(self.later)
        elif chance < 0.875:
            self.close()
        elif chance < 0.88:
            self.abort()
        elif chance < 0.885:
            self.orderly = False
            raise Asked
        else:
            transport.get_extra_info("peername")
            transport.get_write_buffer_size()
            transport.is_closing()

    def resume(self) -> None:
        """Read on."""
        if not self.lost.done():
            self.transport.resume_reading()

    def later(self) -> None:
        """Act from outside of a callback."""
        if not self.lost.done() and self.transport is not None:
            with contextlib.suppress(*self.forgiven):
                self.act()

    def call(self, word: str) -> None:
        """Note a call, then act."""
        self.calls.append(word)
        self.act()


class Facade:
    """The calls that both kinds of protocol have."""

    def __init__(self, side: Side) -> None:
        self.side = side

    def connection_made(self, transport: Any) -> None:
        """Note it."""
        self.side.transport = transport
        self.side.calls.append("CM")
        if not self.side.plain:
            self.side.later()

    def take(self, data: bytes) -> None:
        """Note data."""
        self.side.got += data
        if self.side.plain:
            self.side.heard.set()
        else:
            self.side.call("DR")

    def eof_received(self) -> bool:
        """Note it."""
        if self.side.plain:
            return False
        self.side.call("ER")
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note it."""
        self.side.calls.append("CL")
        if exc is not None:
            self.side.orderly = False
        if not self.side.lost.done():
            self.side.lost.set_result(exc)

    def pause_writing(self) -> None:
        """Note it."""
        self.side.pauses.append("PW")

    def resume_writing(self) -> None:
        """Note it, write on."""
        self.side.pauses.append("RW")
        if self.side.acts < ACTS_MAX:
            self.side.acts += 1
            self.side.send(self.side.rng.choice((0, 10, 70_000)))


class Plain(Facade, asyncio.Protocol):
    """Fed with bytes."""

    def data_received(self, data: bytes) -> None:
        """Note it."""
        assert type(data) is bytes and data
        self.take(data)


class Buffered(Facade, asyncio.BufferedProtocol):
    """Fed through the side's buffer."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the buffer."""
        return self.side.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Note it."""
        assert 0 < nbytes <= len(self.side.buffer)
        self.take(self.side.buffer[:nbytes])


async def opened(side: Side, sock: socket.socket, served: bool, settings: Any) -> None:
    """Open one end at once with TLS."""
    loop = asyncio.get_running_loop()
    limits = {"ssl_handshake_timeout": 3.0, "ssl_shutdown_timeout": 0.2}
    if served:
        context = server_context(**settings)
        await loop.connect_accepted_socket(side.protocol, sock, ssl=context, **limits)
    else:
        context = client_context(**settings)
        await loop.create_connection(
            side.protocol, sock=sock, ssl=context, server_hostname=HOST, **limits
        )


async def upgraded(
    side: Side, sock: socket.socket, served: bool, settings: Any, layers: int, faulty: bool
) -> None:
    """Open one end without TLS, say a word each, upgrade as often as there are layers.

    On a `faulty` wire a word may never come: a corrupt length makes its record a longer one, and
    each end waits for the other.
    """
    patience = WORD_SECONDS_MAX if faulty else None
    loop = asyncio.get_running_loop()
    side.plain = True
    protocol = Plain(side)
    transport: Any = None
    if served:
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
    else:
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    try:
        for layer in range(layers):
            if not served:
                side.transport.write(b"?")
                side.sent += b"?"
            # The other's word may have come with the end of the handshake before.
            while len(side.got) <= layer:
                side.heard.clear()
                hearing = asyncio.ensure_future(side.heard.wait())
                heard, _ = await asyncio.wait(
                    [hearing, side.lost], timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                hearing.cancel()
                if side.lost.done() or not heard:
                    raise ConnectionResetError
            if side.got[layer:] != (b"?" if served else b"!"):
                # Spoilt on the way: nothing protects the first word.
                side.got.clear()
                raise ConnectionResetError
            if served:
                side.transport.write(b"!")
                side.sent += b"!"
                context = server_context(**settings)
            else:
                context = client_context(**settings)
            upgrading = asyncio.ensure_future(
                loop.start_tls(
                    side.transport,
                    protocol,
                    context,
                    server_side=served,
                    server_hostname=None if served else HOST,
                    ssl_handshake_timeout=3.0,
                    ssl_shutdown_timeout=0.2,
                )
            )
            # On a connection that is lost already, start_tls waits for ever, as asyncio's.
            await asyncio.wait([upgrading, side.lost], return_when=asyncio.FIRST_COMPLETED)
            if not upgrading.done():
                upgrading.cancel()
                await asyncio.wait([upgrading])
                raise ConnectionResetError
            side.transport = upgrading.result()
    except BaseException:
        transport.abort()
        raise
    side.plain = False
    side.calls[1:] = [word for word in side.calls if word == "CL"]
    side.transport.set_protocol(side.protocol())
    side.later()


def forgiven(context: dict[str, Any], strict: bool) -> bool:
    """Tell whether a report to the exception handler is one that was asked for."""
    exc = context.get("exception")
    if isinstance(exc, Asked) or strict:
        return isinstance(exc, Asked)
    return isinstance(exc, AttributeError) or "cannot switch state" in str(exc)


def check(one: Side, other: Side, faulty: bool, seed: int) -> None:
    """Look at what one side went through."""
    about = (seed, one.name)
    words = " ".join(one.calls)
    assert GRAMMAR.fullmatch(words) or (one.failed and words in ("", "CM")), (about, words)
    assert one.pauses == (["PW", "RW"] * len(one.pauses))[: len(one.pauses)], (about, one.pauses)
    assert other.sent[: len(one.got)] == one.got, (about, "bytes differ")
    if not faulty and "ER" in one.calls and other.orderly and not one.closed:
        assert len(one.got) == len(other.sent), (about, len(one.got), len(other.sent))


async def drain(sides: list[Side], rng: random.Random) -> None:
    """Let both ends act until both have lost their connection."""
    while not all(side.lost.done() for side in sides):
        for side in sides:
            side.later()
        waiting = [side.lost for side in sides if not side.lost.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=rng.random() * 0.0005)


async def storm(seed: int, strict: bool) -> str:
    """Go through one storm; give what the seed had in store.

    A TLS transport of the standard library answers with AttributeError once it was closed twice,
    or once after its peer; a TLS transport over it closes it so, and never ends. Without `strict`
    the one is forgiven and the other left out.
    """
    rng = random.Random(seed)
    near, one = tcp_pair() if rng.random() < 0.5 else socket.socketpair()
    far, two = tcp_pair() if rng.random() < 0.5 else socket.socketpair()
    wire = Wire(random.Random(rng.random()), one, two)
    fault = wire.fault
    version = rng.choice(VERSIONS)
    settings = {"minimum_version": version, "maximum_version": version}
    sides = [Side(random.Random(rng.random()), name, strict) for name in ("client", "server")]
    layers = min(rng.choice((0, 0, 1, 2)), 2 if strict else 1)
    ends = []
    for side, sock, served in zip(sides, (near, far), (False, True), strict=True):
        if layers:
            ends.append(upgraded(side, sock, served, settings, layers, fault is not None))
        else:
            ends.append(opened(side, sock, served, settings))
    try:
        async with asyncio.timeout(STORM_SECONDS_MAX):
            results = await asyncio.gather(*ends, return_exceptions=True)
            for side, result in zip(sides, results, strict=True):
                if isinstance(result, BaseException):
                    assert isinstance(result, OSError), (seed, side.name, result)
                    side.failed = True
                    side.lost.cancel()
                    if side.transport is not None:
                        side.abort()
            await drain(sides, rng)
            await until(lambda: near.fileno() == far.fileno() == -1)
    except TimeoutError:
        state = [(s.name, s.calls[-3:], s.acts, s.transport) for s in sides]
        raise AssertionError(
            f"storm {seed} ({fault}, {layers} layers) never ends: {state}"
        ) from None
    finally:
        await wire.end()
    check(sides[0], sides[1], fault is not None, seed)
    check(sides[1], sides[0], fault is not None, seed)
    return fault or "no fault"

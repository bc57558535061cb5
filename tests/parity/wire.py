"""What the transport tests share: recording protocols, plain peers, routes to a transport.

A *route* is one way in which a program comes by a stream transport (a client's connection, a
server's accepted one, a Unix socket ...). The conformance tests run over every route: the transport
must be the same behind all.

A protocol of this module records the calls it gets as words:
    CM connection_made, DR data_received or buffer_updated, ER eof_received, CL connection_lost,
    PW pause_writing, RW resume_writing
A *hook* is called after a call was recorded, with the protocol and the call's arguments; it may do
anything.

Nothing here sleeps to wait: a body waits for a call of its protocol, or for its peer's bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

# A body that waits longer than this for an event waits for ever.
WAIT_SECONDS_MAX = 30.0
# Turns that a loop may take to do what it has been told to do, without any outside event.
TURNS_MAX = 200
# Turns after which any loop has looked at its descriptors, however busy its ready queue is.
IO_TURNS = 80

# Every way to come by a stream transport.
ROUTES = (
    "connect",
    "connect-sock",
    "served",
    "accepted",
    "unix-connect",
    "unix-served",
    "unix-pair",
)

_names = itertools.count()


def _has_ipv6() -> bool:
    """Whether an IPv6 socket can be bound here: many containers have no such address."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


HAS_IPV6 = _has_ipv6()
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 on this machine")


def on_loop(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs in a Runner of its kind, with a time limit."""

    @functools.wraps(body)
    def test(**fixtures: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await body(**fixtures)

        fixtures["lib"].run(limited)

    test.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    del test.__wrapped__  # type: ignore[attr-defined]
    return test


async def turns(count: int = 1) -> None:
    """Let the loop take some turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def io_turns() -> None:
    """Let the loop take so many turns that it has surely looked at its descriptors, twice."""
    await turns(IO_TURNS)


async def until(condition: Callable[[], Any], turns_max: int = TURNS_MAX) -> None:
    """Take turns until a condition holds, which needs no outside event unless more are given."""
    for _ in range(turns_max):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"not so after {turns_max} turns: {inspect.getsource(condition).strip()}")


def stock_at(lib: Any, first: tuple[int, ...], end: tuple[int, ...] = (9,)) -> bool:
    """Tell whether this is stock asyncio of a version from `first` to before `end`.

    For what stock asyncio does wrong in those versions and right in others: the body then asserts
    what is right for everyone else, and notes nothing.
    """
    return bool(lib.kind == "asyncio" and first <= sys.version_info[:3] < end)


def nameless(text: str) -> str:
    """Drop from a text what may differ between kinds: transport class, fd, address."""
    text = re.sub(r"<(?:_Selector)?(?:Socket|Stream)Transport\b", "<TRANSPORT", text)
    text = re.sub(
        r"\b_SelectorTransport\b|\b(?:_Selector)?(?:Socket|Stream)Transport\b", "TRANSPORT", text
    )
    text = re.sub(r"\bfd=\d+", "fd=N", text)
    text = re.sub(r"(?<=127\.0\.0\.1', )\d+", "PORT", text)
    return re.sub(r"0x[0-9a-fA-F]+", "0x", text)


def abstract_name() -> str:
    """Give a free name in Linux's abstract namespace of Unix sockets."""
    return f"\0aioxide-parity-{os.getpid()}-{next(_names)}"


class Recorder(asyncio.Protocol):
    """A protocol that records its calls and lets a body wait for them."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        self.hooks = hooks
        self.calls: list[str] = []
        self.data = bytearray()
        self.transport: Any = None
        self.lost_with: BaseException | None = None
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[None]]] = []

    def _record(self, word: str, name: str, *args: Any) -> Any:
        self.calls.append(word)
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(None)
        hook = self.hooks.get(name)
        return hook(self, *args) if hook else None

    def connection_made(self, transport: Any) -> None:
        """Record CM."""
        self.transport = transport
        self._record("CM", "connection_made", transport)

    def data_received(self, data: bytes) -> None:
        """Record DR and keep the bytes."""
        self.data += data
        self._record("DR", "data_received", data)

    def eof_received(self) -> Any:
        """Record ER; the hook's result is the answer."""
        return self._record("ER", "eof_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        """Record CL and what it came with."""
        self.lost_with = exc
        self._record("CL", "connection_lost", exc)

    def pause_writing(self) -> None:
        """Record PW."""
        self._record("PW", "pause_writing")

    def resume_writing(self) -> None:
        """Record RW."""
        self._record("RW", "resume_writing")

    async def when(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds; it is looked at after every call."""
        if condition():
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, future))
        await future

    async def seen(self, word: str, count: int = 1) -> None:
        """Wait until a call was recorded a number of times."""
        await self.when(lambda: self.calls.count(word) >= count)

    async def has(self, size: int) -> bytes:
        """Wait for a number of bytes; give all that came."""
        await self.when(lambda: len(self.data) >= size)
        return bytes(self.data)

    @property
    def grammar(self) -> str:
        """The calls as one text, repeated DRs as one."""
        return re.sub(r"\bDR(?: DR)+", "DR", " ".join(self.calls))


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same, fed through its own buffer."""

    def __init__(self, size: int = 4096, **hooks: Callable[..., Any]) -> None:
        super().__init__(**hooks)
        self.buffer = bytearray(size)
        self.hints: list[int] = []

    def get_buffer(self, sizehint: int) -> Any:
        """Give the buffer, or what the hook gives."""
        self.hints.append(sizehint)
        hook = self.hooks.get("get_buffer")
        return hook(self, sizehint) if hook else self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Record DR and keep the bytes."""
        self.data += self.buffer[:nbytes]
        self._record("DR", "buffer_updated", nbytes)


class Peer:
    """The other end of a connection: a plain non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    def send(self, data: bytes) -> None:
        """Send a text that fits the socket's buffer."""
        assert self.sock.send(data) == len(data)

    async def send_all(self, data: bytes) -> None:
        """Send any amount."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def some(self) -> bytes:
        """Receive what comes next; nothing at the end."""
        return await asyncio.get_running_loop().sock_recv(self.sock, 1 << 18)

    async def exactly(self, size: int) -> bytes:
        """Receive exactly so many bytes, or what came until the end."""
        loop, got = asyncio.get_running_loop(), bytearray()
        while len(got) < size:
            data = await loop.sock_recv(self.sock, min(size - len(got), 1 << 20))
            if not data:
                break
            got += data
        return bytes(got)

    async def rest(self) -> bytes:
        """Receive until end of stream."""
        return await self.exactly(1 << 40)

    def shutdown(self) -> None:
        """Send end of stream."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close in the ordinary way."""
        self.sock.close()


def listening(backlog: int = 100) -> socket.socket:
    """Give a non-blocking socket that listens on loopback, on a free port."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    sock.listen(backlog)
    return sock


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Give both ends of a TCP connection over loopback: the connecting one and the accepted one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    client.setblocking(False)
    accepted.setblocking(False)
    return client, accepted


async def _join_connect(factory: Any) -> tuple[Any, Any, Peer]:
    loop = asyncio.get_running_loop()
    with listening() as listener:
        host, port = listener.getsockname()
        transport, protocol = await loop.create_connection(factory, host, port)
        return transport, protocol, Peer(listener.accept()[0])


async def _join_unix_connect(factory: Any) -> tuple[Any, Any, Peer]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        name = abstract_name()
        listener.bind(name)
        listener.listen()
        transport, protocol = await loop.create_unix_connection(factory, name)
        return transport, protocol, Peer(listener.accept()[0])


async def _join_served(factory: Any, unix: bool) -> tuple[Any, Any, Peer]:
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Any] = loop.create_future()

    def remember() -> Any:
        protocol = factory()
        made.set_result(protocol)
        return protocol

    if unix:
        name = abstract_name()
        server: Any = await loop.create_unix_server(remember, name)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(name)
    else:
        server = await loop.create_server(remember, "127.0.0.1", 0)
        sock = socket.create_connection(server.sockets[0].getsockname())
    protocol = await made
    server.close()
    await protocol.seen("CM")
    return protocol.transport, protocol, Peer(sock)


async def join(factory: Any, route: str = "connect-sock") -> tuple[Any, Any, Peer]:
    """Make a transport by a route; give it with its protocol and its peer."""
    loop = asyncio.get_running_loop()
    if route == "connect":
        return await _join_connect(factory)
    if route == "unix-connect":
        return await _join_unix_connect(factory)
    if route in ("served", "unix-served"):
        return await _join_served(factory, route == "unix-served")
    ours, theirs = socket.socketpair() if route == "unix-pair" else tcp_pair()
    peer = Peer(theirs)
    if route == "accepted":
        transport, protocol = await loop.connect_accepted_socket(factory, ours)
    elif route == "unix-pair":
        transport, protocol = await loop.create_unix_connection(factory, sock=ours)
    else:
        transport, protocol = await loop.create_connection(factory, sock=ours)
    return transport, protocol, peer


@contextlib.asynccontextmanager
async def link(
    factory: Any = Recorder, route: str = "connect-sock"
) -> AsyncIterator[tuple[Any, Any, Peer]]:
    """Give a transport, its protocol and its peer; take all down afterwards."""
    transport, protocol, peer = await join(factory, route)
    sock = transport.get_extra_info("socket")
    try:
        yield transport, protocol, peer
    finally:
        peer.close()
        if sock.fileno() != -1:
            transport.abort()
        await until(lambda: sock.fileno() == -1)


def fill(transport: Any, chunk: bytes = bytes(1 << 16)) -> int:
    """Write until the kernel takes no more and something is buffered; give the bytes written."""
    written = 0
    while not transport.get_write_buffer_size() and not transport.is_closing():
        transport.write(chunk)
        written += len(chunk)
    return written


def compile_shim(text: str, folder: pathlib.Path) -> str:
    """Compile a C library for LD_PRELOAD into `folder` and return its path; skip without `cc`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(text)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"],
        check=True,
        timeout=60,
    )
    return str(library)

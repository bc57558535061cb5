"""What the datagram tests share: a recording protocol, plain peers, endpoints taken down again.

A protocol of this module records the calls it gets as words: CM connection_made, DG
datagram_received, ER error_received, PW pause_writing, RW resume_writing, CL connection_lost. A
*hook* is called after a call was recorded, with the protocol and the call's arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from wire import abstract_name, until

LOOPBACK = ("127.0.0.1", 0)


class Catcher(asyncio.DatagramProtocol):
    """A datagram protocol that records its calls and lets a body wait for them."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        self.hooks = hooks
        self.calls: list[str] = []
        self.datagrams: list[tuple[bytes, Any]] = []
        self.errors: list[BaseException] = []
        self.transport: Any = None
        self.lost_with: Any = None
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[None]]] = []

    def _record(self, word: str, name: str, *args: Any) -> None:
        self.calls.append(word)
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(None)
        hook = self.hooks.get(name)
        if hook:
            hook(self, *args)

    def connection_made(self, transport: Any) -> None:
        """Record CM."""
        self.transport = transport
        self._record("CM", "connection_made", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Record DG and keep the datagram."""
        self.datagrams.append((data, addr))
        self._record("DG", "datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        """Record ER and keep the error."""
        self.errors.append(exc)
        self._record("ER", "error_received", exc)

    def pause_writing(self) -> None:
        """Record PW."""
        self._record("PW", "pause_writing")

    def resume_writing(self) -> None:
        """Record RW."""
        self._record("RW", "resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        """Record CL and what it came with."""
        self.lost_with = exc
        self._record("CL", "connection_lost", exc)

    @property
    def data(self) -> list[bytes]:
        """The payloads that came."""
        return [data for data, _ in self.datagrams]

    @property
    def grammar(self) -> str:
        """The calls as one text, repeated DGs as one."""
        return re.sub(r"\bDG(?: DG)+", "DG", " ".join(self.calls))

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


@contextlib.asynccontextmanager
async def endpoint(
    factory: Callable[[], Any] = Catcher, **options: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """Give an endpoint, bound to loopback unless the options say otherwise; take it down after."""
    if not options:
        options = {"local_addr": LOOPBACK}
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(factory, **options)
    sock = transport.get_extra_info("socket")
    try:
        yield transport, protocol
    finally:
        if sock.fileno() != -1:
            transport.abort()
        await until(lambda: sock.fileno() == -1)


@contextlib.contextmanager
def plain_udp(family: int = socket.AF_INET, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Give a plain UDP socket, bound to loopback, that does not wait for ever."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.bind((host, 0))
        yield sock


@contextlib.contextmanager
def plain_unix(bound: bool = True) -> Iterator[socket.socket]:
    """Give a plain Unix datagram socket, with an abstract name or without one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        if bound:
            sock.bind(abstract_name())
        yield sock


@contextlib.asynccontextmanager
async def unix_link(
    factory: Callable[[], Any] = Catcher, **buffers: int
) -> AsyncIterator[tuple[Any, Any, socket.socket]]:
    """Give an endpoint that is connected to a plain Unix socket, which fills up: both, and that."""
    with plain_unix() as peer:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for name, size in buffers.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), size)
        sock.bind(abstract_name())
        sock.connect(peer.getsockname())
        async with endpoint(factory, sock=sock) as (transport, protocol):
            yield transport, protocol, peer


def clog(transport: Any, datagram: bytes = b"clog") -> int:
    """Send until the kernel takes no more and one datagram waits; give the number sent."""
    count = 0
    while not transport.get_write_buffer_size() and not transport.is_closing():
        transport.sendto(datagram)
        count += 1
    return count


def emptied(sock: socket.socket) -> list[bytes]:
    """Receive all that is there; from then on the socket does not wait."""
    sock.setblocking(False)
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(sock.recv(1 << 20))
    return got


def nameless(text: str) -> str:
    """Drop from a text what may differ between kinds: transport class, fd, port, address."""
    text = re.sub(r"\b(?:_Selector)?DatagramTransport\b", "TRANSPORT", text)
    text = re.sub(r"\bfd=\d+", "fd=N", text)
    text = re.sub(r"(?<=127\.0\.0\.1', )\d+", "PORT", text)
    return re.sub(r"0x[0-9a-fA-F]+", "0x", text)

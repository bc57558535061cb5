"""UDP: errors are told to the protocol and end nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from . import FIXED, Has, lesson
from .descriptors import until


class Heard(asyncio.DatagramProtocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.lost: list[Exception | None] = []
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.came.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


async def still_works(transport: Any, protocol: Heard) -> None:
    """Send a datagram to a second endpoint and see it come."""
    loop = asyncio.get_running_loop()
    other, heard = await loop.create_datagram_endpoint(Heard, local_addr=("127.0.0.1", 0))
    await asyncio.sleep(0.05)
    assert not protocol.lost, f"closed: {protocol.lost}"
    assert not transport.is_closing(), "closing"
    transport.sendto(b"alive", other.get_extra_info("sockname"))
    async with asyncio.timeout(5):
        assert await heard.came.get() == b"alive"
    other.close()
    transport.close()
    await asyncio.sleep(0)


@lesson(
    "uvloop#338",
    uvloop=FIXED,
    rloop=Has("closed: .OSError"),
)
async def bad_destination() -> None:
    """A datagram to an impossible destination closes the transport without a word."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    transport, protocol = await loop.create_datagram_endpoint(Heard, local_addr=("127.0.0.1", 0))
    transport.sendto(b"x", ("127.0.0.1", 0))
    await still_works(transport, protocol)
    assert [type(error) for error in protocol.errors] == [OSError], protocol.errors


@lesson(
    "uvloop#601",
    uvloop=FIXED,
    rloop=Has("closing transport"),
)
async def send_error() -> None:
    """An error of `sendto` is fatal instead of `error_received`."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    transport, protocol = await loop.create_datagram_endpoint(Heard, local_addr=("127.0.0.1", 0))
    # Too large for one datagram, and not allowed without SO_BROADCAST.
    transport.sendto(bytes(70_000), ("127.0.0.1", 9))
    transport.sendto(b"x", ("255.255.255.255", 9))
    await still_works(transport, protocol)
    assert len(protocol.errors) == 2, protocol.errors
    assert all(isinstance(error, OSError) for error in protocol.errors), protocol.errors


@lesson(
    "uvloop#109",
    uvloop=FIXED,
    rloop=Has("TimeoutError"),
)
async def port_unreachable() -> None:
    """ICMP's "port unreachable" never reaches the protocol."""
    loop = asyncio.get_running_loop()
    gone, _ = await loop.create_datagram_endpoint(Heard, local_addr=("127.0.0.1", 0))
    where = gone.get_extra_info("sockname")
    gone.abort()
    await asyncio.sleep(0.01)
    transport, protocol = await loop.create_datagram_endpoint(Heard, remote_addr=where)
    transport.sendto(b"x")
    await until(lambda: protocol.errors)
    assert isinstance(protocol.errors[0], ConnectionRefusedError), protocol.errors
    assert not protocol.lost
    transport.close()

"""Timers, clocks and fairness."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import weakref
from typing import Any

from . import FIXED, Has, lesson
from .descriptors import Idle

#: What one connection may deliver before others get their turn.
READS_AT_ONCE_MAX = 16


@lesson(
    "uvloop#482, #704",
    uvloop=Has("0: Handle"),
    rloop=Has("CBHandle0"),
    rsloop=Has("0: TimerHandle"),
)
async def zero_delay_is_a_timer() -> None:
    """`call_later(0)` does not give a `TimerHandle`."""
    loop = asyncio.get_running_loop()
    for delay in (0, -1, 0.001):
        handle = loop.call_later(delay, lambda: None)
        assert isinstance(handle, asyncio.TimerHandle), f"{delay}: {type(handle).__name__}"
        assert isinstance(handle.when(), float)
        handle.cancel()


@lesson(
    "uvloop#359",
    uvloop=Has("values in 2 ms"),
)
async def fine_clock() -> None:
    """The loop's clock moves in milliseconds."""
    loop = asyncio.get_running_loop()
    seen = set()
    end = time.monotonic() + 0.002
    while time.monotonic() < end:
        seen.add(loop.time())
    assert len(seen) > 20, f"{len(seen)} values in 2 ms"


@lesson(
    "uvloop#233, cpython#127859",
    uvloop=Has("too early"),
)
async def timers_never_fire_early() -> None:
    """A timer fires before its time by the loop's own clock."""
    loop = asyncio.get_running_loop()
    early: list[float] = []
    done = asyncio.Event()
    left = 60

    def fired(when: float) -> None:
        nonlocal left
        left -= 1
        if loop.time() < when - time.get_clock_info("monotonic").resolution:
            early.append(when - loop.time())
        if left == 0:
            done.set()

    for number in range(60):
        when = loop.time() + 0.0005 + number * 0.00137
        loop.call_at(when, fired, when)
    async with asyncio.timeout(5):
        await done.wait()
    assert not early, f"{len(early)} of 60 too early"


@lesson(
    "uvloop#468",
    uvloop=FIXED,
)
async def when_of_a_timer_that_ran() -> None:
    """`when()` of a timer that has run crashes the process."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    handle = loop.call_later(0.01, lambda: None)
    await asyncio.sleep(0.05)
    gc.collect()
    assert start < handle.when() < start + 1


@lesson(
    "codex-lb#2041",
    rloop=Has("kept"),
)
async def cancelled_timer_lets_go() -> None:
    """A cancelled timer keeps the connection that its callback belongs to until it is due."""
    loop = asyncio.get_running_loop()

    class Connection:
        def timed_out(self, what: object) -> None:
            raise AssertionError

    handles = []
    for _ in range(10):
        connection, argument = Connection(), Connection()
        alive = [weakref.ref(connection), weakref.ref(argument)]
        handle = loop.call_later(3600, connection.timed_out, argument)
        handle.cancel()
        handles.append(handle)
        del connection, argument
        assert [ref() for ref in alive] == [None, None], "kept"


class Counting(Idle):
    """Counts reads between two turns of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.since = 0
        self.most = 0
        self.bytes = 0

    def data_received(self, data: bytes) -> None:
        self.since += 1
        self.bytes += len(data)
        self.most = max(self.most, self.since)


@lesson(
    "aiofastnet#62, libuv's read loop",
    uvloop=Has("reads in a row"),
    rloop=Has("reads in a row"),
    zuvloop=Has("reads in a row"),
)
async def greedy_reads() -> None:
    """One busy connection is read 32 times before any other callback runs."""
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    one.setblocking(False)
    two.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    two.setblocking(False)
    transport, protocol = await loop.create_connection(Counting, sock=one)
    transport.pause_reading()
    sent = 0
    try:
        while True:
            sent += two.send(bytes(4096))
    except BlockingIOError:
        pass
    loop.call_soon(transport.resume_reading)
    async with asyncio.timeout(10):
        while protocol.bytes < sent:
            protocol.since = 0
            # Refill what was read, so that the end is never near.
            if sent < 16 << 20:
                try:
                    while True:
                        sent += two.send(bytes(4096))
                except BlockingIOError:
                    pass
            await asyncio.sleep(0)
    transport.abort()
    two.close()
    assert protocol.most <= READS_AT_ONCE_MAX, f"{protocol.most} reads in a row"


@lesson(
    "uvloop#43",
    uvloop=FIXED,
)
async def literal_addresses_need_no_thread() -> None:
    """Connecting to an address that needs no lookup starts resolver threads."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        await asyncio.sleep(0)
        before = set(os.listdir("/proc/self/task"))
        for _ in range(3):
            transport, _ = await loop.create_connection(Idle, *server.getsockname())
            transport.abort()
        started = set(os.listdir("/proc/self/task")) - before
    assert not started, f"{len(started)} threads"


@lesson(
    "uvloop#43",
    asyncio=Has("threads"),
    uvloop=FIXED,
)
async def literal_lookup_needs_no_thread() -> None:
    """`getaddrinfo` starts a thread for an address that needs no lookup."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    before = set(os.listdir("/proc/self/task"))
    for host in ("127.0.0.1", "::1"):
        found: Any = await loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
        assert found[0][4][:2] == (host, 80)
    started = set(os.listdir("/proc/self/task")) - before
    assert not started, f"{len(started)} threads"


@lesson(
    "design, dns shortcuts",
    uvloop=Has("fe80::1., 80, 0, 0"),
)
async def zone_of_an_ipv6_literal() -> None:
    """The shortcut for literal addresses loses the zone of an IPv6 address."""
    loop = asyncio.get_running_loop()
    index = socket.if_nametoindex("lo")
    for host in ("fe80::1%lo", f"fe80::1%{index}"):
        found = await loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
        assert found[0][4] == ("fe80::1", 80, 0, index) or found[0][4] == (
            f"fe80::1%{index}",
            80,
            0,
            index,
        ), found

"""Descriptors closed while a duplicate lives, and what is told of those that are watched."""

from __future__ import annotations

import asyncio
import os
import re
import selectors
import socket
from pathlib import Path
from typing import Any

import pytest
from wire import io_turns, on_loop, tcp_pair


def watched_by_the_kernel() -> list[int]:
    """Give the numbers that the epoll instances of this process hold."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") != "anon_inode:[eventpoll]":
                continue
            info = Path(f"/proc/self/fdinfo/{name}").read_text()
        except OSError:
            continue
        found += [int(number) for number in re.findall(r"^tfd:\s*(\d+)", info, re.MULTILINE)]
    return found


@pytest.mark.parametrize("what", ["reader", "writer", "transport"])
@on_loop
async def test_a_closed_descriptor_does_not_keep_the_loop_busy(lib: Any, what: str) -> None:
    """It is forgotten after some polls, and everybody else is still watched."""
    if lib.kind == "asyncio":
        return  # turns for ever without a rest
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    other, peer = socket.socketpair()
    with ours, theirs, other, peer:
        number = ours.fileno()
        heard: asyncio.Future[bytes] = loop.create_future()
        theirs.send(b"never read")
        loop.add_reader(other, lambda: heard.set_result(other.recv(10)))
        if what == "reader":
            loop.add_reader(number, lambda: None)
        elif what == "writer":
            loop.add_writer(number, lambda: None)
        else:
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
            transport.pause_reading()
            await io_turns()
            transport.resume_reading()
        with ours.dup():
            assert number in watched_by_the_kernel()
            ours.close()
            if what == "transport":
                transport.abort()
            else:
                getattr(loop, f"remove_{what}")(number)
            assert number in watched_by_the_kernel(), "the kernel would have forgotten it anyway"
            for _ in range(20):
                await asyncio.sleep(0.001)  # polls that may sleep
            assert number not in watched_by_the_kernel()
            assert other.fileno() in watched_by_the_kernel()
            peer.send(b"hello")
            assert await heard == b"hello"
        loop.remove_reader(other)


@on_loop
async def test_wake_ups_from_threads_survive(lib: Any) -> None:
    """After the loop has rid itself of a closed descriptor, other threads still wake it."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs, ours.dup():
        number = ours.fileno()
        theirs.send(b"never read")
        loop.add_reader(number, lambda: None)
        ours.close()
        loop.remove_reader(number)
        for _ in range(20):
            await asyncio.sleep(0.001)
        for _ in range(5):
            lib.note(await asyncio.to_thread(lambda: "back"))
        if lib.native_loop:
            assert number not in watched_by_the_kernel()


@on_loop
async def test_what_the_selector_tells(lib: Any) -> None:
    """`loop._selector` says what is watched, as those who look for leaks ask it."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    with ours, theirs:
        loop.add_reader(ours, len, "x")
        loop.add_writer(ours, len, "x")
        loop.add_writer(theirs, len, "x")
        for sock in (ours, theirs, ours.fileno()):
            key = loop._selector.get_key(sock)  # type: ignore[attr-defined]
            number = sock if isinstance(sock, int) else sock.fileno()
            lib.note(key.fd == number, key.events, [handle is None for handle in key.data])
        known = loop._selector.get_map()  # type: ignore[attr-defined]
        lib.note({fd for fd, _ in known.items()} >= {ours.fileno(), theirs.fileno()})
        loop.remove_reader(ours)
        lib.note(loop._selector.get_key(ours.fileno()).events)  # type: ignore[attr-defined]
        for sock in (ours, theirs):
            loop.remove_writer(sock)
            with pytest.raises(KeyError):
                loop._selector.get_key(sock.fileno())  # type: ignore[attr-defined]
        lib.note(selectors.EVENT_READ, selectors.EVENT_WRITE)


@on_loop
async def test_transports_of_the_standard_library(lib: Any) -> None:
    """asyncio's own transport, made by hand, works on the loop and tells what it waits for."""
    from asyncio import selector_events

    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    with theirs:
        make: Any = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
        transport = make(loop, ours, asyncio.Protocol())
        await io_turns()
        lib.note(re.sub(r"fd=\d+", "fd=N", repr(transport)))
        lib.note(loop._transports.get(ours.fileno()) is transport)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError):
            loop.add_reader(ours, print)
        transport.pause_reading()
        lib.note(re.sub(r"fd=\d+", "fd=N", repr(transport)))
        transport.abort()
        await io_turns()
        lib.note(re.sub(r"fd=\d+", "fd=N", repr(transport)))


@on_loop
async def test_transports_by_descriptor(lib: Any) -> None:
    """`loop._transports` has the loop's transports, as those who look for leaks ask it."""
    loop: Any = asyncio.get_running_loop()
    pairs = [tcp_pair(), socket.socketpair()]
    made = [await loop.connect_accepted_socket(asyncio.Protocol, ours) for ours, _ in pairs]
    udp, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    transports = [transport for transport, _ in made] + [udp]
    numbers = [transport.get_extra_info("socket").fileno() for transport in transports]
    lib.note([loop._transports[number] is transports[i] for i, number in enumerate(numbers)])
    lib.note([loop._transports.get(number) is not None for number in numbers])
    lib.note(sorted(loop._transports) == sorted(numbers), len(loop._transports))
    lib.note({*loop._transports.values()} == {*transports}, numbers[0] in loop._transports)
    lib.note(loop._transports.get(-1), loop._transports.get(2**20, "none"))
    with pytest.raises(KeyError):
        loop._transports[2**20]
    for transport in list(loop._transports.values()):
        transport.close()
    await io_turns()
    lib.note([transport.is_closing() for transport in transports])
    for _, theirs in pairs:
        theirs.close()

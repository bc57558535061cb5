"""Each callback of a protocol acts on its transport or loop: stock's outcome, no stall."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from provoke import CALLBACKS, hears, provoke, recorder_for, settled, told
from wire import Recorder, io_turns, join, link, on_loop, stock_at, turns, until

BIG = bytes(3_000_000)


def again(protocol: Any) -> None:
    """Call every callback that takes no transport from within one."""
    if len(protocol.calls) < 20:
        protocol.transport.write(b"x")
        protocol.transport.set_write_buffer_limits(high=0)
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()


def replace(protocol: Any) -> None:
    """Put another protocol in place."""
    protocol.other = Recorder()
    protocol.other.transport = protocol.transport
    protocol.transport.set_protocol(protocol.other)


def ask(protocol: Any) -> None:
    """Ask the transport all it knows."""
    transport = protocol.transport
    transport.get_write_buffer_size()
    transport.get_write_buffer_limits()
    transport.get_extra_info("socket")
    transport.get_protocol()
    transport.is_closing()
    transport.is_reading()
    repr(transport)
    gc.collect()


def nest(protocol: Any) -> None:
    """Try to run the loop within itself."""
    loop = asyncio.get_running_loop()
    for call in (loop.run_forever, lambda: loop.run_until_complete(loop.create_future())):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(RuntimeError):
        loop.close()


def both(protocol: Any) -> None:
    """Close, then abort, then close."""
    protocol.transport.close()
    protocol.transport.abort()
    protocol.transport.close()


def close_and_raise(protocol: Any) -> None:
    """Close, then raise."""
    protocol.transport.close()
    raise ZeroDivisionError("as asked")


def abort_and_raise(protocol: Any) -> None:
    """Abort, then raise."""
    protocol.transport.abort()
    raise ZeroDivisionError("as asked")


def replace_and_raise(protocol: Any) -> None:
    """Put another protocol in place, then raise."""
    replace(protocol)
    raise ZeroDivisionError("as asked")


def write_much(protocol: Any) -> None:
    """Write more than fits, once."""
    if not getattr(protocol, "wrote", False):
        protocol.wrote = True
        protocol.transport.write(BIG)


def write_and_close(protocol: Any) -> None:
    """Write more than fits, then close."""
    write_much(protocol)
    protocol.transport.close()


def close_descriptor(protocol: Any) -> None:
    """Shut the socket down behind the transport's back."""
    sock = protocol.transport.get_extra_info("socket")
    if sock.fileno() != -1:
        sock.shutdown(socket.SHUT_RDWR)


ACTS: dict[str, Callable[[Any], None]] = {
    "close": lambda p: p.transport.close(),
    "abort": lambda p: p.transport.abort(),
    "both": both,
    "pause": lambda p: p.transport.pause_reading(),
    "write": lambda p: p.transport.write(b"from within"),
    "write-much": write_much,
    "write-and-close": write_and_close,
    "write-eof": lambda p: p.transport.write_eof(),
    "replace": replace,
    "replace-none": lambda p: p.transport.set_protocol(None),
    "again": again,
    "ask": ask,
    "nest": nest,
    "close-and-raise": close_and_raise,
    "abort-and-raise": abort_and_raise,
    "replace-and-raise": replace_and_raise,
    "shutdown": close_descriptor,
}
# What stock asyncio answers with errors of its own insides, and differently in each version.
STOCK_BREAKS = {
    ("resume_writing", "abort"),
    ("resume_writing", "both"),
    ("resume_writing", "close"),
    ("resume_writing", "abort-and-raise"),
    ("resume_writing", "close-and-raise"),
    ("resume_writing", "shutdown"),
    ("resume_writing", "write-and-close"),
}


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("act", ACTS)
@on_loop
async def test_acts(lib: Any, callback: str, act: str) -> None:
    """Nothing hangs, nothing is lost twice, and the trace is stock's."""
    if act == "replace-none" and callback != "connection_lost":
        return  # Without a protocol there is nobody to tell.
    # A refused nested run leaves the loop of stock 3.13.0 and 3.13.1 in pieces.
    comparable = act != "nest" and (callback, act) not in STOCK_BREAKS
    if not comparable and stock_at(lib, (3, 13) if act == "nest" else (3, 11), (3, 15)):
        return
    seen = lib.contexts(asyncio.get_running_loop())

    def hook(protocol: Any, *args: Any) -> Any:
        ACTS[act](protocol)
        return protocol.buffer if callback == "get_buffer" else None

    async with link(recorder_for(callback, hook)) as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        protocol.transport = transport
        await provoke(callback, transport, peer)
        if callback == "get_buffer":
            await until(lambda: protocol.hints)
        await settled(callback, protocol)
        other = getattr(protocol, "other", None)
        trace = [
            [w for w in protocol.calls if w not in ("PW", "RW")],
            type(protocol.lost_with),
            other and [w for w in other.calls if w not in ("PW", "RW")],
            transport.is_closing(),
        ]
        if comparable:
            lib.note(trace, [told(c) for c in seen])
        lasts = protocol.calls.count("CL") + (other.calls.count("CL") if other else 0)
        assert lasts <= 1
        peer.close()
        if sock.fileno() != -1:
            transport.abort()
        await until(lambda: sock.fileno() == -1)
        lasts = protocol.calls.count("CL") + (other.calls.count("CL") if other else 0)
        assert lasts == 1 or act.startswith("replace")
    seen.clear()


@pytest.mark.parametrize("callback", CALLBACKS)
def test_stops_the_loop(lib: Any, callback: str) -> None:
    """loop.stop() within a callback ends the run after this turn; the rest comes in the next."""
    loop = lib.loop
    link_parts = loop.run_until_complete(join(Recorder))
    transport, protocol, peer = link_parts
    sock = transport.get_extra_info("socket")
    stopper = recorder_for(callback, lambda p, *a: loop.stop() or getattr(p, "buffer", None))()
    stopper.transport = transport
    if callback == "connection_made":
        peer.close()
        transport.abort()
        loop.run_until_complete(protocol.seen("CL"))
        return
    transport.set_protocol(stopper)
    task = loop.create_task(provoke(callback, transport, peer))
    watchdog = loop.call_later(20, loop.stop)
    loop.run_forever()
    assert not watchdog.cancelled() and loop.time() < watchdog.when()
    watchdog.cancel()
    stopper.hooks.clear()
    lib.note([w for w in stopper.calls if w != "PW"])

    async def finish() -> None:
        await task
        await io_turns()
        peer.close()
        if sock.fileno() != -1:
            transport.abort()
        while sock.fileno() != -1:
            await turns()

    loop.run_until_complete(finish())
    assert stopper.calls.count("CL") == 1


@pytest.mark.parametrize("callback", ["data_received", "eof_received", "connection_lost"])
@on_loop
async def test_cancels_tasks(lib: Any, callback: str) -> None:
    """A callback that cancels every task, also the one that waits for the transport."""
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()

    def hook(*args: Any) -> None:
        for task in asyncio.all_tasks(loop):
            if task is not me:
                task.cancel()

    async with link(recorder_for(callback, hook)) as (transport, protocol, peer):
        waiting = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(10)]
        reading = asyncio.ensure_future(loop.sock_recv(peer.sock, 5))
        await asyncio.sleep(0)
        await provoke(callback, transport, peer)
        await protocol.seen({"data_received": "DR", "eof_received": "ER"}.get(callback, "CL"))
        results = await asyncio.gather(*waiting, reading, return_exceptions=True)
        lib.note([type(r) for r in results][:10])


@on_loop
async def test_closes_its_neighbours(lib: Any) -> None:
    """Of ten transports that are ready in one turn, the first closes the others: no stale call."""
    made: list[Any] = []

    def hook(protocol: Any, data: bytes) -> None:
        for transport, _, _ in made:
            if transport is not protocol.transport:
                transport.abort()

    for _ in range(10):
        made.append(await join(lambda: Recorder(data_received=hook)))
    for _, _, peer in made:
        peer.send(b"x")
    await until(lambda: sum(p.calls.count("CL") for _, p, _ in made) == 9)
    await io_turns()
    lib.note(sorted(" ".join(p.calls) for _, p, _ in made))
    for transport, protocol, peer in made:
        transport.close()
        peer.close()
        await protocol.seen("CL")


@on_loop
async def test_a_new_connection_takes_the_number(lib: Any) -> None:
    """A transport ends while its socket is ready; the next with its number gets only its own."""
    for _ in range(30):
        transport, protocol, peer = await join(Recorder)
        peer.send(b"old")
        await asyncio.sleep(0)
        transport.abort()
        await protocol.seen("CL")
        await asyncio.sleep(0)
        second, fresh, other = await join(Recorder)
        other.send(b"new")
        assert await fresh.has(3) == b"new"
        assert b"new" not in protocol.data and fresh.calls == ["CM", "DR"]
        second.abort()
        await fresh.seen("CL")
        peer.close()
        other.close()


@on_loop
async def test_deep_recursion(lib: Any) -> None:
    """A pause_writing that writes without end meets the recursion limit, not the stack's end."""
    seen = lib.contexts(asyncio.get_running_loop())

    def hook(protocol: Any) -> None:
        def deeper(n: int) -> None:
            protocol.transport.write(b"x")
            repr(protocol.transport)
            deeper(n + 1)

        deeper(0)

    async with link(lambda: Recorder(pause_writing=hook)) as (transport, protocol, peer):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(500)
        try:
            await provoke("pause_writing", transport, peer)
        finally:
            sys.setrecursionlimit(limit)
        lib.note([told(c)[:3] for c in seen], transport.is_closing(), hears(peer))
    seen.clear()

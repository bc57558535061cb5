"""What is held to the end of a turn: in which order it leaves, and that it always does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import select
import socket
import struct
from typing import Any

import pytest
from held import SEEN_S_MAX, arrived, in_busy_turn
from wire import Recorder, link, on_loop, tcp_pair

routes = pytest.mark.parametrize("route", ["connect-sock", "unix-pair"])


@on_loop
async def test_what_protocols_answer_leaves_at_once(lib: Any) -> None:
    """However many are told something in one turn."""
    seen: list[bytes] = []

    def respond(protocol: Any, *_: Any) -> None:
        protocol.transport.write(b"answer")
        seen.append(arrived(peers[protocol]))

    def make() -> Recorder:
        return Recorder(data_received=respond)

    async with link(make) as (_, one, peer), link(make) as (_, two, other):
        peers = {one: peer, two: other}
        peer.send(b"?")
        other.send(b"?")
        await one.seen("DR")
        await two.seen("DR")
        lib.note(seen)


@on_loop
async def test_connections_are_sent_to_in_the_order_of_their_writes(lib: Any) -> None:
    """Also where only the last of a turn would have no reason to wait."""

    def ready(peer: Any) -> bool:
        return bool(select.select([peer.sock], [], [], 0)[0])

    def last() -> None:
        second.write(b"later")
        # Once the second has it, so has the first.
        lib.note(not ready(other) or ready(peer))

    async with link(route="unix-pair") as (first, _, peer):
        async with link(route="unix-pair") as (second, _, other):
            await in_busy_turn(lambda: first.write(b"sooner"), last)
            lib.note(await peer.exactly(6), await other.exactly(5))


@routes
@pytest.mark.parametrize("pieces", [True, False])
@on_loop
async def test_more_than_is_held_leaves_at_once(lib: Any, route: str, pieces: bool) -> None:
    """More than 64 KiB are not held, whatever the limits; what is written then is, again."""
    async with link(route=route) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=1 << 24)

        def body() -> Any:
            if pieces:
                transport.write(bytes(40_000))
                transport.write(bytes(40_000))
            else:
                transport.writelines([bytes(80_000)])
            seen = bool(select.select([peer.sock], [], [], SEEN_S_MAX)[0])
            transport.write(b"end")
            return seen

        for _ in range(2):
            lib.note(await in_busy_turn(body))
            lib.note((await peer.exactly(80_003))[-3:])
        lib.note(protocol.calls)


@routes
@pytest.mark.parametrize("size", [5, 70_000])
@on_loop
async def test_held_while_the_kernel_has_no_room(lib: Any, route: str, size: int) -> None:
    """What can't leave, held or too much for that, leaves when there is room."""
    async with link(route=route) as (transport, _, peer):
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        filled = 0
        with sock:
            sock.setblocking(False)
            for piece in (bytes(1 << 16), b"\0"):
                try:
                    while True:
                        filled += sock.send(piece)
                except BlockingIOError:
                    pass

        def body() -> None:
            transport.writelines([bytes(size)])
            transport.write(b"back")

        await in_busy_turn(body)
        assert len(await peer.exactly(filled)) == filled
        lib.note((await peer.exactly(size + 4))[-5:])


@on_loop
async def test_end_of_stream_in_the_turn_of_a_write(lib: Any) -> None:
    """An answer to the end closes: the connection is lost a turn later, whatever is held."""
    loop = asyncio.get_running_loop()

    def told(*_: Any) -> None:
        lib.note("end")
        loop.call_soon(lib.note, "behind the end")

    def lost(*_: Any) -> None:
        lib.note("lost")

    recorder = Recorder(eof_received=told, connection_lost=lost)
    async with link(lambda: recorder) as (transport, protocol, peer), link() as (other, _, _):

        def begin() -> None:
            peer.shutdown()
            # Who sent is asked for events in the next turn.
            other.write(b"x")
            loop.call_soon(transport.write, b"held")
            loop.call_soon(int)

        loop.call_soon(begin)
        await protocol.seen("CL")
        lib.note(protocol.calls, await peer.exactly(4))


def test_a_turn_of_ones_own_sends(lib: Any) -> None:
    """Who runs the loop turn by turn finds the turn's writes gone behind each."""
    loop = lib.new_loop()
    ours, theirs = tcp_pair()

    async def connect() -> Any:
        return await loop.create_connection(asyncio.Protocol, sock=ours)

    with theirs:
        transport, _ = loop.run_until_complete(connect())
        asyncio._set_running_loop(loop)
        try:
            for word in (b"one", b"two"):
                loop.call_soon(transport.write, word)
                loop.call_soon(int)
                loop._run_once()
                theirs.settimeout(SEEN_S_MAX)
                lib.note(theirs.recv(100))
        finally:
            asyncio._set_running_loop(None)
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_a_send_that_ends_the_run_keeps_no_others(lib: Any) -> None:
    """SystemExit out of one connection's send: the other one's has left when the run ends."""
    loop = lib.new_loop()
    loop.set_debug(True)
    pairs = [tcp_pair() for _ in range(2)]

    class Leave(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "write error" in record.getMessage():
                raise SystemExit(3)

    async def connect(sock: socket.socket) -> Any:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
        transport.pause_reading()
        return transport

    one, two = (loop.run_until_complete(connect(ours)) for ours, _ in pairs)
    reset, theirs = pairs[0][1], pairs[1][1]
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()

    def write() -> None:
        try:
            one.write(b"into the void")
        finally:
            two.write(b"delivered")

    logger = logging.getLogger("asyncio")
    handler, level = Leave(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        loop.call_soon(write)
        loop.call_soon(int)
        lib.catch(loop.run_forever)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    with theirs:
        theirs.settimeout(SEEN_S_MAX)
        lib.note(theirs.recv(100))
        one.abort()
        two.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@on_loop
async def test_who_hears_of_a_failed_write_hears_it_in_the_connections_context(lib: Any) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")
    seen = []
    var.set("connected")
    recorder = Recorder(connection_lost=lambda *_: seen.append(var.get()))
    async with link(lambda: recorder) as (transport, protocol, peer):
        transport.pause_reading()
        peer.reset()
        await in_busy_turn(lambda: transport.write(b"into the void"))
        await protocol.seen("CL")
        lib.note(seen)

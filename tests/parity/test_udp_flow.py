"""Flow control of datagram transports: a peer that does not read, and what waits for it.

The peer is a Unix datagram socket: it fills up after some datagrams, and sends block. (UDP never
does so over loopback: it drops.)
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import socket
import sys
from typing import Any

import pytest
from udp_ends import Catcher, clog, emptied, endpoint, nameless, plain_unix, unix_link
from wire import abstract_name, io_turns, on_loop, turns

HEADER_BYTES = 8 if sys.version_info >= (3, 13) else 0
# asyncio 3.13.0 adds headers to the size and never takes them off.
DRIFTS = HEADER_BYTES and not hasattr(
    asyncio.selector_events._SelectorDatagramTransport,  # type: ignore[attr-defined]
    "_header_size",
)
DRIFT = "asyncio's size never comes down again"


async def drained(transport: Any, peer: socket.socket) -> list[bytes]:
    """Let the peer read until the transport has nothing left to send; give what it read."""
    got: list[bytes] = []
    while transport._buffer:
        got += emptied(peer)
        await turns(1)
    return got + emptied(peer)


@on_loop
async def test_waits_and_drains_in_order(lib: Any) -> None:
    """What the kernel takes no more waits, and leaves in order when there is room."""
    async with unix_link() as (transport, protocol, peer):
        sent = 0
        while not transport.get_write_buffer_size():
            transport.sendto(b"%d" % sent)
            sent += 1
        for number in range(sent, sent + 500):
            transport.sendto(b"%d" % number)
        lib.note("write=<polling" in repr(transport), len(transport._buffer))
        got = await drained(transport, peer)
        assert got == [b"%d" % number for number in range(sent + 500)]
        await io_turns()
        lib.note(protocol.calls, "write=<idle" in repr(transport))


@on_loop
async def test_sizes_count_headers(lib: Any) -> None:
    """The size is that of the data, and from 3.13 on 8 bytes for each datagram."""
    async with unix_link() as (transport, _, _):
        clog(transport, b"1234")
        sizes = [transport.get_write_buffer_size()]
        for data in (b"", b"x" * 100, bytearray(7), memoryview(b"abc")):
            transport.sendto(data)
            sizes.append(transport.get_write_buffer_size())
        lib.note(sizes)
        assert sizes[0] == 4 + HEADER_BYTES
        assert sizes[2] - sizes[1] == 100 + HEADER_BYTES
        lib.note([(type(data), data, addr) for data, addr in transport._buffer])


@on_loop
async def test_pause_and_resume(lib: Any) -> None:
    """Above high the protocol is paused, within sendto(); at low it is resumed."""
    lib.stock_defect(bool(DRIFTS), DRIFT)
    at: list[int] = []

    def paused(protocol: Catcher) -> None:
        at.append(protocol.transport._buffer_size)

    async with unix_link(lambda: Catcher(pause_writing=paused)) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=200, low=50)
        lib.note(transport.get_write_buffer_limits())
        clog(transport)
        while not protocol.calls.count("PW"):
            transport.sendto(b"0123456789")
        transport.sendto(b"more")
        lib.note(at, protocol.calls)
        await drained(transport, peer)
        await io_turns()
        lib.note(protocol.calls, transport.get_write_buffer_size())
        transport.sendto(b"again")


@on_loop
async def test_limits(lib: Any) -> None:
    """The limits are a stream's: defaults, derived ones, refused ones."""
    async with endpoint() as (transport, _):
        lib.note(transport.get_write_buffer_limits())
        for options in ({"high": 100}, {"low": 3}, {"high": 1, "low": 2}, {"high": -1}, {}):
            lib.catch(transport.set_write_buffer_limits, **options)
            lib.note(transport.get_write_buffer_limits())


@on_loop
async def test_lower_limit_pauses_at_once(lib: Any) -> None:
    """set_write_buffer_limits() below what waits pauses the protocol."""
    async with unix_link() as (transport, protocol, _):
        clog(transport)
        transport.set_write_buffer_limits(high=0)
        lib.note(protocol.calls)


@on_loop
async def test_close_waits_for_the_queue(lib: Any) -> None:
    """close() with datagrams waiting: they leave, new ones too; then connection_lost."""
    async with unix_link() as (transport, protocol, peer):
        count = clog(transport)
        transport.sendto(b"last")
        transport.close()
        transport.sendto(b"after close")
        await io_turns()
        lib.note(protocol.calls, transport.is_closing())
        got = []
        while "CL" not in protocol.calls:
            got += emptied(peer)
            await turns(1)
        got += emptied(peer)
        assert len(got) == count + 2
        lib.note(got[-2:], protocol.calls, protocol.lost_with)


@on_loop
async def test_abort_drops_the_queue(lib: Any) -> None:
    """abort() gives up what waits."""
    async with unix_link() as (transport, protocol, peer):
        count = clog(transport)
        transport.sendto(b"never")
        transport.abort()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with, len(transport._buffer))
        assert len(emptied(peer)) == count - 1
        if lib.native_loop:
            assert transport.get_write_buffer_size() == 0


@on_loop
async def test_peer_that_leaves_while_datagrams_wait(lib: Any) -> None:
    """The queue meets a dead peer: error_received() for each, one at a readiness, and no end."""
    async with unix_link() as (transport, protocol, peer):
        clog(transport)
        transport.sendto(b"two")
        transport.sendto(b"three")
        peer.close()
        await protocol.seen("ER", 3)
        await io_turns()
        lib.note(protocol.errors, list(transport._buffer), transport.is_closing())
        transport.sendto(b"four")
        await io_turns()
        lib.note(protocol.calls, "write=<idle" in repr(transport))


@on_loop
async def test_close_while_a_dead_peers_datagrams_wait(lib: Any) -> None:
    """Closing after the last waiting datagram failed still ends in connection_lost()."""
    async with unix_link() as (transport, protocol, peer):
        clog(transport)
        transport.close()
        peer.close()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.errors, protocol.lost_with)


@on_loop
async def test_addresses_that_wait(lib: Any) -> None:
    """An unconnected endpoint keeps each datagram's address; a dead one harms no other."""
    with plain_unix() as one, plain_unix() as two:
        dead = abstract_name()
        async with endpoint(family=socket.AF_UNIX, local_addr=abstract_name()) as (transport, p):
            count = 0
            while not transport.get_write_buffer_size():
                transport.sendto(b"%d" % count, one.getsockname())
                count += 1
            for number in range(6):
                to = (two.getsockname(), dead, one.getsockname())[number % 3]
                transport.sendto(b"waited %d" % number, to)
            got_one: list[bytes] = []
            while transport._buffer:
                got_one += emptied(one)
                await turns(1)
            lib.note((got_one + emptied(one))[count:], emptied(two), p.errors, p.calls)


@on_loop
async def test_a_failure_leaves_the_rest_to_the_next_readiness(lib: Any) -> None:
    """What error_received() schedules runs before the datagrams behind the failed one leave."""
    loop = asyncio.get_running_loop()
    dead = abstract_name()
    left: list[int] = []

    def failed(protocol: Catcher, _: Any) -> None:
        loop.call_soon(lambda: left.append(len(protocol.transport._buffer)))

    with plain_unix() as peer:
        name = peer.getsockname()
        options = {"family": socket.AF_UNIX, "local_addr": abstract_name()}
        async with endpoint(lambda: Catcher(error_received=failed), **options) as (transport, p):
            while not transport.get_write_buffer_size():
                transport.sendto(b"clog", name)
            for to in (dead, name, dead, name):
                transport.sendto(b"waits", to)
            while transport._buffer:
                emptied(peer)
                await turns(1)
            lib.note(left, p.calls)


@on_loop
async def test_resume_writing_may_send(lib: Any) -> None:
    """resume_writing() sends more, again and again, and is paused and resumed each time."""
    lib.stock_defect(bool(DRIFTS), DRIFT)

    def more(protocol: Catcher) -> None:
        if protocol.calls.count("RW") < 4:
            while not protocol.transport._protocol_paused:
                protocol.transport.sendto(b"0123456789")

    async with unix_link(lambda: Catcher(resume_writing=more)) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=100, low=30)
        clog(transport)
        while not transport._protocol_paused:
            transport.sendto(b"0123456789")
        await drained(transport, peer)
        await io_turns()
        lib.note(protocol.calls)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
@on_loop
async def test_closing_from_flow_control(lib: Any, callback: str, how: str) -> None:
    """pause_writing() and resume_writing() may close or abort."""
    # asyncio closes the lost transport once more.
    lib.stock_defect(callback == "resume_writing", "asyncio loses the transport twice")
    lib.stock_defect(bool(DRIFTS), DRIFT)

    def stop(protocol: Catcher) -> None:
        getattr(protocol.transport, how)()

    async with unix_link(lambda: Catcher(**{callback: stop})) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        clog(transport)
        while "CL" not in protocol.calls:
            emptied(peer)
            await turns(1)
        await io_turns()
        lib.note(protocol.calls, protocol.lost_with)
        assert protocol.calls.count("CL") == 1


@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing"])
@on_loop
async def test_flow_control_that_raises(lib: Any, callback: str) -> None:
    """The exception handler hears of it; the transport lives on."""
    lib.stock_defect(bool(DRIFTS), DRIFT)
    contexts = lib.contexts()

    def fail(_: Any) -> None:
        raise ZeroDivisionError

    async with unix_link(lambda: Catcher(**{callback: fail})) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        clog(transport)
        await drained(transport, peer)
        await io_turns()
        lib.note(protocol.calls, transport.is_closing())
        lib.note([(c["message"], repr(c["exception"]), sorted(c)) for c in contexts])


@on_loop
async def test_mutable_data_that_waits(lib: Any) -> None:
    """A bytearray that waits is sent as it was when sendto() was called."""
    async with unix_link() as (transport, _, peer):
        clog(transport)
        data = bytearray(b"before")
        transport.sendto(data)
        transport.sendto(memoryview(data)[::2])
        data[:] = b"AFTER!"
        got = await drained(transport, peer)
        lib.note(got[-2:])


@on_loop
async def test_a_queue_of_thousands(lib: Any) -> None:
    """Ten thousand waiting datagrams of different sizes leave whole and in order."""
    lib.stock_defect(bool(DRIFTS), DRIFT)
    async with unix_link() as (transport, protocol, peer):
        clog(transport)
        wanted = [b"%d:" % number + b"x" * (number % 97) for number in range(10_000)]
        for data in wanted:
            transport.sendto(data)
        got = await drained(transport, peer)
        assert got[-10_000:] == wanted
        lib.note(protocol.grammar, list(transport._buffer))


@on_loop
async def test_reading_goes_on_while_writing_is_blocked(lib: Any) -> None:
    """A full queue does not keep datagrams from coming in."""
    async with unix_link() as (transport, protocol, peer):
        clog(transport)
        peer.sendto(b"in", transport.get_extra_info("sockname"))
        await protocol.seen("DG")
        transport.pause_reading()
        lib.note(protocol.data, nameless(repr(transport)).replace("bufsize=4", "bufsize=12"))


@on_loop
async def test_blocked_transport_is_kept_alive(lib: Any) -> None:
    """A transport that nobody holds but the loop sends what waits."""
    import gc

    loop = asyncio.get_running_loop()
    with plain_unix() as peer:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        transport, protocol = await loop.create_datagram_endpoint(Catcher, sock=sock)
        count = clog(transport)
        transport.close()
        del transport
        protocol.transport = None
        gc.collect()
        got = 0
        while "CL" not in protocol.calls:
            got += len(emptied(peer))
            await turns(1)
        lib.note(protocol.calls)
        assert got + len(emptied(peer)) == count

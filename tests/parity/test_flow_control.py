"""Flow control: the limits, pause_writing and resume_writing, and the buffer size behind them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from wire import ROUTES, Recorder, fill, io_turns, link, on_loop, stock_at, until

routes = pytest.mark.parametrize("route", ROUTES)
KIB = 1024


async def drained(transport: Any, peer: Any) -> None:
    """Let the peer read until the transport has nothing left to send."""
    loop = asyncio.get_running_loop()
    while transport.get_write_buffer_size():
        await loop.sock_recv(peer.sock, 1 << 20)


@routes
@on_loop
async def test_default_limits(lib: Any, route: str) -> None:
    """64 KiB and a quarter of it."""
    async with link(Recorder, route) as (transport, _, _):
        lib.note(transport.get_write_buffer_limits(), transport.get_write_buffer_size())
        assert transport.get_write_buffer_limits() == (16 * KIB, 64 * KIB)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"high": 100},
        {"low": 100},
        {"high": 100, "low": 10},
        {"high": 0},
        {"low": 0},
        {"high": 0, "low": 0},
        {"high": 7},
        {"high": 3},
        {"high": 5, "low": 5},
        {"high": None, "low": None},
        {"high": 1 << 40},
        {"high": True},
        # refused
        {"high": -1},
        {"low": -1},
        {"high": 10, "low": 11},
        {"high": 10, "low": -1},
        {"high": -5, "low": -10},
    ],
    ids=str,
)
@on_loop
async def test_set_limits(lib: Any, limits: dict[str, Any]) -> None:
    """What is left out is computed; nonsense is refused and changes nothing."""
    async with link() as (transport, protocol, _):
        transport.set_write_buffer_limits(high=1000, low=500)
        lib.catch(transport.set_write_buffer_limits, **limits)
        lib.note(transport.get_write_buffer_limits(), protocol.calls)


@pytest.mark.parametrize("bad", [{"high": "10"}, {"low": "10"}, {"high": [], "low": 1}], ids=str)
@on_loop
async def test_limits_of_other_types(lib: Any, bad: dict[str, Any]) -> None:
    """Limits that are no numbers are TypeErrors."""
    async with link() as (transport, _, _):
        with pytest.raises(TypeError):
            transport.set_write_buffer_limits(**bad)
        lib.note(transport.get_write_buffer_limits())


@on_loop
async def test_limits_by_position(lib: Any) -> None:
    """high comes first."""
    async with link() as (transport, _, _):
        transport.set_write_buffer_limits(100, 50)
        lib.note(transport.get_write_buffer_limits())
        transport.set_write_buffer_limits(200)
        lib.note(transport.get_write_buffer_limits())


@routes
@on_loop
async def test_pause_and_resume(lib: Any, route: str) -> None:
    """Above high: paused, once. At low or below: resumed, once."""
    sizes: list[tuple[str, int]] = []
    factory = lambda: Recorder(  # noqa: E731
        pause_writing=lambda p: sizes.append(("PW", p.transport.get_write_buffer_size())),
        resume_writing=lambda p: sizes.append(("RW", p.transport.get_write_buffer_size())),
    )
    async with link(factory, route) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=1 << 20, low=1 << 18)
        fill(transport)
        base = transport.get_write_buffer_size()
        transport.write(bytes((1 << 20) - base))
        assert transport.get_write_buffer_size() == 1 << 20
        assert protocol.calls == ["CM"], "the limit itself is not above the limit"
        transport.write(b"x")
        assert protocol.calls == ["CM", "PW"], "pause_writing is called within write()"
        transport.write(b"y" * 1000)
        assert protocol.calls == ["CM", "PW"]
        await drained(transport, peer)
        await io_turns()
        assert protocol.calls == ["CM", "PW", "RW"]
        (_, at_pause), (_, at_resume) = sizes
        lib.note(protocol.calls, at_pause)
        assert at_pause == (1 << 20) + 1 and at_resume <= 1 << 18
        transport.write(b"z")
        assert protocol.calls == ["CM", "PW", "RW"]


@on_loop
async def test_size_counts_what_is_left(lib: Any) -> None:
    """get_write_buffer_size() is the sum of what the kernel has not taken, whoever wrote it how."""
    async with link() as (transport, _, peer):
        transport.write(b"small")
        await until(lambda: transport.get_write_buffer_size() == 0)
        fill(transport)
        base = transport.get_write_buffer_size()
        transport.write(b"a" * 100)
        transport.write(bytearray(200))
        transport.write(memoryview(bytes(300)))
        lib.note(transport.get_write_buffer_size() - base)
        transport.writelines([b"b" * 50, b"", b"c" * 50])
        assert transport.get_write_buffer_size() <= base + 700
        await drained(transport, peer)
        assert transport.get_write_buffer_size() == 0


@on_loop
async def test_what_the_kernel_takes_pauses_nobody(lib: Any) -> None:
    """Several writes in one turn, more than the limit together, to a peer with room: no pause."""
    async with link() as (transport, protocol, peer):
        for sock in (peer.sock, transport.get_extra_info("socket")):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for _ in range(10):
            transport.write(bytes(8 * KIB))
        lib.note(protocol.calls)
        assert len(await peer.exactly(80 * KIB)) == 80 * KIB
        lib.note(protocol.calls, transport.get_write_buffer_size())


@on_loop
async def test_zero_limits(lib: Any) -> None:
    """With limits of zero every buffered byte pauses, and only an empty buffer resumes."""
    async with link() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"taken at once")
        assert protocol.calls == ["CM"]
        fill(transport)
        assert protocol.calls == ["CM", "PW"]
        await drained(transport, peer)
        await io_turns()
        lib.note(protocol.calls)
        assert protocol.calls == ["CM", "PW", "RW"]


@on_loop
async def test_lowering_the_limits_pauses(lib: Any) -> None:
    """set_write_buffer_limits() below the present size pauses at once; raising does not resume."""
    async with link() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=1 << 24)
        fill(transport)
        assert protocol.calls == ["CM"]
        transport.set_write_buffer_limits(high=0)
        assert protocol.calls == ["CM", "PW"]
        transport.set_write_buffer_limits(high=1 << 24)
        assert protocol.calls == ["CM", "PW"]
        await drained(transport, peer)
        await io_turns()
        lib.note(protocol.calls)


@on_loop
async def test_each_pause_has_its_resume(lib: Any) -> None:
    """A long exchange: pauses and resumes alternate, and none is missing at the end."""
    async with link() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=64 * KIB)
        reader = asyncio.ensure_future(peer.rest())
        total = 0
        for _ in range(100):
            for _ in range(10):
                transport.write(bytes(100 * KIB))
                total += 100 * KIB
            if protocol.calls[-1] == "PW":
                await protocol.seen("RW", protocol.calls.count("PW"))
        transport.close()
        assert len(await reader) == total
        await protocol.seen("CL")
        words = [w for w in protocol.calls if w in ("PW", "RW")]
        assert words[::2] == ["PW"] * len(words[::2]) and words[1::2] == ["RW"] * len(words[1::2])
        lib.note(protocol.calls[0], protocol.calls[-1])


@on_loop
async def test_reentry_in_pause_writing(lib: Any) -> None:
    """pause_writing may ask, write and set limits: it is not called again for that."""
    seen: list[Any] = []

    def pause(protocol: Any) -> None:
        transport = protocol.transport
        before = transport.get_write_buffer_size()
        transport.write(b"from within")
        transport.writelines([b"!", b"?"])
        transport.set_write_buffer_limits(high=0)
        seen.append(transport.get_write_buffer_size() - before)
        seen.append(transport.get_write_buffer_limits())
        repr(transport)

    async with link(lambda: Recorder(pause_writing=pause)) as (transport, protocol, peer):
        size = fill(transport)
        transport.set_write_buffer_limits(high=0, low=0)
        assert protocol.calls == ["CM", "PW"]
        got = await peer.exactly(size + 13)
        assert got[size:] == b"from within!?"
        await io_turns()
        lib.note(protocol.calls, seen)


@on_loop
async def test_reentry_in_resume_writing(lib: Any) -> None:
    """resume_writing may write more than fits: it is paused again and resumed again."""
    rounds: list[int] = []

    def resume(protocol: Any) -> None:
        rounds.append(protocol.transport.get_write_buffer_size())
        if len(rounds) < 4:
            fill(protocol.transport)

    async with link(lambda: Recorder(resume_writing=resume)) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        reader = asyncio.ensure_future(peer.rest())
        await protocol.seen("RW", 4)
        transport.close()
        await protocol.seen("CL")
        await reader
        lib.note(protocol.calls)
        assert protocol.calls == ["CM"] + ["PW", "RW"] * 4 + ["CL"]


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_ending_in_pause_writing(lib: Any, end: str) -> None:
    """close() and abort() within pause_writing, which runs within write()."""
    hook = lambda p: getattr(p.transport, end)()  # noqa: E731
    async with link(lambda: Recorder(pause_writing=hook)) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        fill(transport, bytes(1 << 24))
        assert transport.is_closing()
        lib.note(transport.get_write_buffer_size() > 0)
        reader = asyncio.ensure_future(peer.rest())
        await protocol.seen("CL")
        await reader
        await io_turns()
        lib.note([w for w in protocol.calls if w != "RW"])


@pytest.mark.parametrize("end", ["close", "abort"])
@on_loop
async def test_ending_in_resume_writing(lib: Any, end: str) -> None:
    """close() and abort() within resume_writing: one connection_lost, no more."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # Stock asyncio lost such a connection twice (gh-156512).
    hook = lambda p: getattr(p.transport, end)()  # noqa: E731
    async with link(lambda: Recorder(resume_writing=hook)) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        reader = asyncio.ensure_future(peer.rest())
        await protocol.seen("CL")
        await reader
        await io_turns()
        assert protocol.calls == ["CM", "PW", "RW", "CL"]
        assert protocol.lost_with is None


@on_loop
async def test_no_resume_for_a_lost_connection(lib: Any) -> None:
    """A paused protocol whose connection is aborted or lost gets no resume_writing."""
    async with link() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        transport.abort()
        await protocol.seen("CL")
        await io_turns()
        lib.note(protocol.calls)
        assert protocol.calls == ["CM", "PW", "CL"]


@on_loop
async def test_a_paused_protocol_closes(lib: Any) -> None:
    """close() of a paused transport: resumed while it drains, then lost."""
    async with link() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        size = fill(transport)
        transport.close()
        assert len(await peer.rest()) == size
        await protocol.seen("CL")
        lib.note(protocol.calls)


@on_loop
async def test_pause_belongs_to_the_transport(lib: Any) -> None:
    """A new protocol set while paused gets the resume_writing."""
    async with link() as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        other = Recorder()
        transport.set_protocol(other)
        await drained(transport, peer)
        await io_turns()
        lib.note(protocol.calls, other.calls)
        assert other.calls == ["RW"]


@on_loop
async def test_reading_and_writing_pauses_are_apart(lib: Any) -> None:
    """A transport that reads nothing still writes, one that cannot write still reads."""
    async with link() as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(b"out")
        assert await peer.exactly(3) == b"out"
        transport.resume_reading()
        fill(transport)
        peer.send(b"in")
        assert await protocol.has(2) == b"in"
        lib.note(bytes(protocol.data))

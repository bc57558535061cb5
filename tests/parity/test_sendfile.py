"""loop.sendfile: files through transports, plain and TLS, with everything around them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import pathlib
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sending import CONTENT, positions
from tlswire import ROLES, TLS_ROUTES, tls_link
from wire import ROUTES, Recorder, fill, io_turns, link, nameless, on_loop, turns, until

pytest_plugins = ("sending",)

#: One way to a transport without TLS, and one of each role with it.
WAYS = ("connect-sock", "unix-pair", *(f"tls-{role}" for role in ROLES))


@contextlib.asynccontextmanager
async def way(name: str, factory: Any = Recorder) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Give a transport, its protocol and its peer, over TLS if the name says so."""
    opening = tls_link(factory, name[4:]) if name.startswith("tls-") else link(factory, name)
    async with opening as (transport, protocol, peer):
        await io_turns()
        yield transport, protocol, peer


@pytest.mark.parametrize("route", [*ROUTES, *(f"tls-{route}" for route in TLS_ROUTES)])
@on_loop
async def test_every_byte_by_every_route(lib: Any, route: str, file: Any) -> None:
    """A file between writes, whatever the transport; afterwards everything works as before."""
    async with way(route) as (transport, protocol, peer):
        transport.write(b"head")
        reading = asyncio.ensure_future(peer.exactly(len(CONTENT) + 8))
        lib.note(await lib.loop.sendfile(transport, file))
        lib.note(positions(file), transport.is_reading(), transport.get_protocol() is protocol)
        transport.write(b"tail")
        assert await reading == b"head" + CONTENT + b"tail"
        peer.send(b"answer")
        lib.note(await protocol.has(6))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(
    ("offset", "count"),
    [
        (0, 1),
        (7, 3_000_000),
        (4_999_999, None),
        (4_999_999, 100),
        (0, len(CONTENT) + 5),
        (len(CONTENT), None),
        (len(CONTENT) + 1, 10),
        (True, True),
        (3, 16_384),
        (3, 16_385),
    ],
)
@on_loop
async def test_a_part(lib: Any, name: str, offset: int, count: int | None, file: Any) -> None:
    """Offset and count are kept to the byte, also at the end of the file and beyond it."""
    async with way(name) as (transport, _, peer):
        expected = CONTENT[offset : None if count is None else offset + count]
        reading = asyncio.ensure_future(peer.exactly(len(expected) + 1))
        lib.note(await lib.loop.sendfile(transport, file, offset, count))
        lib.note(positions(file))
        transport.write(b".")
        assert await reading == expected + b"."


@pytest.mark.parametrize("name", WAYS)
@on_loop
async def test_pending_writes_go_first(lib: Any, name: str, file: Any) -> None:
    """What was buffered before goes first, from a paused protocol too, which is resumed once."""
    async with way(name) as (transport, protocol, peer):
        size = fill(transport)
        while "PW" not in protocol.calls:
            transport.write(bytes(1 << 16))
            size += 1 << 16
        limits = transport.get_write_buffer_limits()
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file, 10, 2_000_000))
        await io_turns()
        lib.note(sending.done(), transport.is_reading())
        got = await peer.exactly(size + 2_000_000)
        assert got == bytes(size) + CONTENT[10:2_000_010]
        lib.note(await sending, transport.is_reading())
        assert transport.get_write_buffer_limits() == limits
        transport.write(b"tail")
        lib.note(await peer.exactly(4))
        await until(lambda: protocol.calls.count("RW") >= 1)
        lib.note([call for call in protocol.calls if call in ("PW", "RW")])


@pytest.mark.parametrize("name", ["connect-sock", "unix-pair"])
@on_loop
async def test_nothing_can_be_written_meanwhile(lib: Any, name: str, file: Any) -> None:
    """write() and writelines() are refused, and nothing is read, until the file is sent."""
    async with way(name) as (transport, protocol, peer):
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await io_turns()
        lib.note(transport.is_reading(), transport.get_write_buffer_size())
        for call, data in ((transport.write, b"x"), (transport.writelines, [b"x"])):
            with pytest.raises(RuntimeError) as caught:
                call(data)
            if call == transport.write:
                lib.note(caught.value)
        peer.send(b"early")
        await io_turns()
        lib.note(bytes(protocol.data))
        assert await peer.exactly(len(CONTENT)) == CONTENT
        lib.note(await sending)
        lib.note(await protocol.has(5))
        transport.write(b"now")
        lib.note(await peer.exactly(3))


@on_loop
async def test_a_second_file_meanwhile(lib: Any, file: Any) -> None:
    """A second sendfile is refused and harms nothing."""
    async with way("connect-sock") as (transport, _, peer):
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await io_turns()
        # Stock asyncio raises KeyError here.
        with pytest.raises(RuntimeError if lib.native_loop else KeyError):
            await lib.loop.sendfile(transport, file)
        assert await peer.exactly(len(CONTENT)) == CONTENT
        lib.note(await sending, transport.is_reading())


@pytest.mark.parametrize("name", WAYS)
@on_loop
async def test_reading_that_was_paused_stays_so(lib: Any, name: str, file: Any) -> None:
    """The reading side is left as it was found."""
    async with way(name) as (transport, protocol, peer):
        transport.pause_reading()
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file, 0, 1000))
        assert await peer.exactly(1000) == CONTENT[:1000]
        lib.note(await sending, transport.is_reading())
        peer.send(b"data")
        await io_turns()
        lib.note(bytes(protocol.data))
        transport.resume_reading()
        lib.note(await protocol.has(4))


@pytest.mark.parametrize("name", WAYS)
@on_loop
async def test_a_slow_reader(lib: Any, name: str, file: Any) -> None:
    """A reader that takes a little at a time gets all; others have their turns meanwhile."""
    async with way(name) as (transport, _, peer):
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file, 0, 3_000_000))
        got = bytearray()
        while len(got) < 3_000_000:
            got += await peer.exactly(min(60_000, 3_000_000 - len(got)))
            await turns(2)
        assert got == CONTENT[:3_000_000]
        lib.note(await sending)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("arguments", [(0, 0), (0, -1), (0, "1"), (-1, None), ("x", None), (1.5,)])
@on_loop
async def test_refused_arguments(
    lib: Any, name: str, arguments: tuple[Any, ...], file: Any
) -> None:
    """The checks of plain transports, and what comes out of those that have none."""
    if name.startswith("tls-") and arguments == (0, 0):
        return  # means the whole file: looked at elsewhere
    async with way(name) as (transport, protocol, peer):
        try:
            lib.note(await lib.loop.sendfile(transport, file, *arguments))
        except Exception as exc:
            lib.note(type(exc), str(exc))
        lib.note(transport.is_reading(), transport.get_protocol() is protocol)
        transport.write(b"on")
        lib.note(await peer.exactly(2))


@on_loop
async def test_a_count_of_zero_over_tls(lib: Any, path: pathlib.Path) -> None:
    """The fallback takes it for the whole file, as asyncio's does."""
    async with way("tls-accepted") as (transport, _, peer):
        with path.open("rb") as file:
            reading = asyncio.ensure_future(peer.exactly(len(CONTENT)))
            lib.note(await lib.loop.sendfile(transport, file, 0, 0))
            assert await reading == CONTENT


class Bare:
    """The least of a file that the fallback needs."""

    def __init__(self) -> None:
        self._file = io.BytesIO(CONTENT)

    def readinto(self, view: Any) -> int:
        """Read."""
        return self._file.readinto(view)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("fallback", [True, False])
@on_loop
async def test_fallback(lib: Any, name: str, fallback: bool, path: pathlib.Path, file: Any) -> None:
    """Where the system call does not do: by reading and writing, or refused with the reason."""
    with path.open("r") as text:
        for made in (io.BytesIO(CONTENT), Bare(), file, text, None):
            async with way(name) as (transport, protocol, peer):
                reading = asyncio.ensure_future(peer.exactly(300_000))
                try:
                    sent = await lib.loop.sendfile(transport, made, 0, 299_997, fallback=fallback)
                except Exception as exc:
                    if made is not text:
                        lib.note(type(exc), nameless(re.sub("<.*>", "", str(exc))))
                    assert transport.get_protocol() is protocol
                    transport.close()
                    await reading
                    continue
                lib.note(sent, made.tell() if hasattr(made, "tell") else None)
                assert transport.get_protocol() is protocol
                transport.write(b"end")
                assert await reading == CONTENT[:299_997] + b"end"


@on_loop
async def test_refused_transports(lib: Any, file: Any) -> None:
    """Closing transports, and those that cannot send files."""
    loop = lib.loop
    async with way("connect-sock") as (transport, _, peer):
        transport.close()
        with pytest.raises(RuntimeError) as caught:
            await loop.sendfile(transport, file)
        lib.note(caught.value)
        peer.close()

    class Unsuited(asyncio.Transport):
        """Cannot send files."""

        def is_closing(self) -> bool:
            """Never."""
            return False

        def __repr__(self) -> str:
            return "<unsuited>"

    for fallback in (True, False):
        with pytest.raises(RuntimeError) as caught:
            await loop.sendfile(Unsuited(), file, fallback=fallback)
        lib.note(caught.value)
    for mode in ("FALLBACK", "TRY_NATIVE"):
        suited = Unsuited()
        suited._sendfile_compatible = getattr(  # type: ignore[attr-defined]
            asyncio.constants._SendfileMode, mode
        )
        for fallback in (True, False):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                await loop.sendfile(suited, file, fallback=fallback)
            if mode == "FALLBACK":
                lib.note(caught.value)
    with pytest.raises(AttributeError):
        await loop.sendfile(None, file)


@pytest.mark.parametrize("name", WAYS)
@on_loop
async def test_cancelled(lib: Any, name: str, file: Any) -> None:
    """Cancelling ends the sending; the transport goes on with its own protocol."""
    async with way(name) as (transport, protocol, peer):
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await io_turns()
        await peer.exactly(100_000)
        await io_turns()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        lib.note(transport.get_protocol() is protocol, transport.is_reading())
        transport.write(b"the end")
        transport.close()
        got = await peer.rest()
        assert got.endswith(b"the end")
        assert got[:-7] == CONTENT[100_000:][: len(got) - 7]


@pytest.mark.parametrize("how", ["cancel", "close", "abort"])
@on_loop
async def test_ended_while_earlier_writes_wait(lib: Any, how: str, file: Any) -> None:
    """Nothing of the file is sent; the transport is as it was."""
    if lib.kind == "asyncio" and how != "abort":
        return  # never reads again; InvalidStateError in the loop
    async with way("connect-sock") as (transport, protocol, peer):
        size = fill(transport)
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await io_turns()
        if how == "cancel":
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert transport.is_reading()
            transport.write(b"end")
            assert await peer.exactly(size + 3) == bytes(size) + b"end"
            peer.send(b"hello")
            assert await protocol.has(5) == b"hello"
            return
        getattr(transport, how)()
        reading = asyncio.ensure_future(peer.rest())
        with pytest.raises(ConnectionError) as caught:
            await sending
        assert caught.value.args == ("Connection is closed by peer",)
        got = await reading
        assert got == bytes(len(got))
        assert len(got) == size or how == "abort"


@pytest.mark.parametrize("how", ["close", "abort"])
@on_loop
async def test_the_transport_is_closed_midway(lib: Any, how: str, file: Any) -> None:
    """Closing under way ends the sending with a ConnectionError."""
    if lib.kind == "asyncio":
        return  # waits for ever
    async with way("connect-sock") as (transport, protocol, _):
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await io_turns()
        getattr(transport, how)()
        with pytest.raises(ConnectionError) as caught:
            await sending
        assert caught.value.args == ("Connection is closed by peer",)
        assert protocol.calls == ["CM", "CL"]
        assert protocol.lost_with is None
        assert 0 < file.tell() < len(CONTENT)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("how", ["close", "reset"])
@on_loop
async def test_the_peer_goes(lib: Any, name: str, how: str, file: Any) -> None:
    """A connection that breaks midway is a ConnectionError, and the protocol's loss."""
    async with way(name) as (transport, protocol, peer):
        if how == "reset" and name == "unix-pair":
            return  # knows no resets
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await io_turns()
        await peer.exactly(10_000)
        getattr(peer, how)()
        if name.startswith("tls-"):
            with contextlib.suppress(ConnectionError):  # unless it had all been buffered before
                await sending
        else:
            with pytest.raises(ConnectionError) as caught:
                await sending
            lib.note(caught.value.errno in (errno.EPIPE, errno.ECONNRESET))
            assert 10_000 <= positions(file)[1] <= len(CONTENT)
        assert transport.get_protocol() in (protocol, None)
        await protocol.seen("CL")
        lib.logged()  # "SSL connection is closed.", for writes that come too late


@pytest.mark.parametrize("how", ["close", "abort"])
@on_loop
async def test_closed_midway_over_tls(lib: Any, how: str, file: Any) -> None:
    """The fallback notices a closed transport, in asyncio's words."""
    async with way("tls-accepted") as (transport, _, peer):
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await peer.exactly(100_000)
        await io_turns()
        getattr(transport, how)()
        with pytest.raises(ConnectionError) as caught:
            reading = asyncio.ensure_future(peer.rest())
            await sending
        lib.note(str(caught.value) in ("Connection closed by peer", "Connection is closed by peer"))
        await reading


@on_loop
async def test_after_write_eof(lib: Any, file: Any) -> None:
    """With the writing side shut, neither the system call nor a write does."""
    async with way("connect-sock") as (transport, _, _):
        transport.write_eof()
        for fallback in (True, False):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                await lib.loop.sendfile(transport, file, fallback=fallback)
            lib.note(caught.value, transport.is_reading())


@on_loop
async def test_the_file_is_closed_midway(lib: Any, path: pathlib.Path) -> None:
    """A number that was closed is not used again."""
    if lib.kind == "asyncio":
        return  # waits for ever
    async with way("connect-sock") as (transport, protocol, peer):
        file = path.open("rb")
        sending = asyncio.ensure_future(lib.loop.sendfile(transport, file))
        await io_turns()
        file.close()
        with path.open("rb") as other:
            reading = asyncio.ensure_future(peer.rest())
            with pytest.raises(OSError, match="Bad file descriptor"):
                await sending
            assert positions(other) == (0, 0)
        assert transport.get_protocol() is protocol
        assert transport.is_reading()
        transport.close()
        got = await reading
        assert got == CONTENT[: len(got)]


@on_loop
async def test_debug_mode(lib: Any, file: Any) -> None:
    """The same in debug mode, without a line in the log."""
    lib.loop.set_debug(True)
    async with way("connect-sock") as (transport, _, peer):
        reading = asyncio.ensure_future(peer.exactly(len(CONTENT)))
        lib.note(await lib.loop.sendfile(transport, file))
        assert await reading == CONTENT
        lib.note(lib.logged())


@on_loop
async def test_replaced_private_steps_are_used(lib: Any, file: Any) -> None:
    """What asyncio's own tests replace: the native half, so that the fallback runs."""

    async def unavailable(*args: Any) -> int:
        raise asyncio.SendfileNotAvailableError("not supported")

    loop = lib.loop
    async with way("connect-sock") as (transport, _, peer):
        loop._sendfile_native = loop._sock_sendfile_native = unavailable
        reading = asyncio.ensure_future(peer.exactly(len(CONTENT)))
        lib.note(await loop.sendfile(transport, file))
        assert await reading == CONTENT
        with pytest.raises(asyncio.SendfileNotAvailableError) as caught:
            await loop.sendfile(transport, file, fallback=False)
        lib.note(caught.value)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            lib.note(await loop.sock_sendfile(ours, file, 0, 10))
        del loop._sendfile_native, loop._sock_sendfile_native

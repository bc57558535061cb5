"""sock_sendfile that ends early, or late: changing files, cancelling, closing, faults."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import io
import os
import pathlib
import socket
import tempfile
import termios
from typing import Any

import pytest
from sending import CONTENT, positions
from wire import Peer, io_turns, on_loop, stock_at, tcp_pair, turns

pytest_plugins = ("sending",)


@on_loop
async def test_a_file_that_changes_meanwhile(lib: Any, tmp_path: pathlib.Path) -> None:
    """Without a count the end is where the file ends when it is reached."""
    path = tmp_path / "changing"
    for size in (len(CONTENT) + 500_000, 4_600_000):
        path.write_bytes(CONTENT)
        ours, theirs = tcp_pair()
        with ours, theirs, path.open("rb") as file:
            peer = Peer(theirs)
            sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
            await io_turns()
            os.truncate(path, size)
            expected = (CONTENT + bytes(500_000))[:size]
            assert await peer.exactly(size) == expected
            lib.note(await sending, positions(file))


@on_loop
async def test_cancelled(lib: Any, file: Any) -> None:
    """Cancelling ends the sending; socket and file stay usable, the position where it was."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        file.seek(5)
        sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
        await io_turns()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        lib.note(positions(file), lib.loop.remove_writer(ours))
        peer = Peer(theirs)
        reading = asyncio.ensure_future(peer.rest())
        lib.note(await lib.loop.sock_sendfile(ours, file, 0, 100))
        ours.close()
        got = await reading
        assert got[-100:] == CONTENT[:100]
        assert got[:-100] == CONTENT[: len(got) - 100]


@on_loop
async def test_cancelled_before_it_began(lib: Any, file: Any) -> None:
    """A task that is cancelled before its first step sends nothing."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        ours.close()
        lib.note(await Peer(theirs).rest(), positions(file))


@pytest.mark.parametrize("how", ["close", "reset"])
@on_loop
async def test_the_peer_goes(lib: Any, how: str, file: Any) -> None:
    """A connection that breaks midway is its error; the position is behind what was sent."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        peer = Peer(theirs)
        sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
        await io_turns()
        await peer.exactly(10_000)
        getattr(peer, how)()
        with pytest.raises(ConnectionError) as caught:
            await sending
        lib.note(caught.value.errno in (errno.EPIPE, errno.ECONNRESET))
        here, there = positions(file)
        assert 10_000 <= here == there <= len(CONTENT)


@on_loop
async def test_the_peer_has_gone_before(lib: Any, file: Any) -> None:
    """A shut socket: nothing can be sent by the system call, and nothing by the fallback."""
    for fallback in (True, False):
        ours, theirs = tcp_pair()
        with ours, theirs:
            ours.shutdown(socket.SHUT_WR)
            with pytest.raises(Exception) as caught:  # noqa: PT011
                await lib.loop.sock_sendfile(ours, file, fallback=fallback)
            lib.note(caught.value)


@on_loop
async def test_not_connected(lib: Any, file: Any) -> None:
    """A socket without a peer."""
    for fallback in (True, False):
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(Exception) as caught:  # noqa: PT011
                await lib.loop.sock_sendfile(sock, file, fallback=fallback)
            lib.note(caught.value)


@on_loop
async def test_a_descriptor_of_a_transport_is_refused(lib: Any, file: Any) -> None:
    """A socket that a transport uses is not for sock_sendfile."""
    ours, theirs = tcp_pair()
    with theirs:
        transport, _ = await lib.loop.connect_accepted_socket(asyncio.Protocol, ours)
        with pytest.raises(RuntimeError) as caught:
            await lib.loop.sock_sendfile(ours, file)
        lib.note("is used by transport" in str(caught.value))
        transport.abort()
        await io_turns()


@on_loop
async def test_another_writer_takes_the_watch(lib: Any, file: Any) -> None:
    """A writer of the user's replaces the watch and stays when the sending is cancelled."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
        await io_turns()
        lib.loop.add_writer(ours, lambda: None)
        await io_turns()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        there = lib.loop.remove_writer(ours)
        # Stock asyncio takes the writer away, whoever it belongs to.
        assert there is lib.native_loop


@on_loop
async def test_the_file_is_closed_midway(lib: Any, path: pathlib.Path) -> None:
    """A number that was closed is not used again, even when it names another file by then."""
    if lib.kind == "asyncio":
        return  # sends what has the number now, or waits for ever
    for replaced in (False, True):
        ours, theirs = tcp_pair()
        with ours, theirs:
            file = path.open("rb")
            number = file.fileno()
            sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
            await io_turns()
            file.close()
            other = path.open("rb") if replaced else None
            assert other is None or other.fileno() == number
            peer = Peer(theirs)
            reading = asyncio.ensure_future(peer.rest())
            with pytest.raises(OSError, match="Bad file descriptor"):
                await sending
            ours.close()
            got = await reading
            assert got == CONTENT[: len(got)]
            if other is not None:
                assert positions(other) == (0, 0)
                other.close()


@on_loop
async def test_the_socket_is_closed_midway(lib: Any, file: Any) -> None:
    """A socket closed by its owner is left alone; cancelling the sending frees the loop of it."""
    ours, theirs = tcp_pair()
    with theirs:
        number = ours.fileno()
        sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
        await io_turns()
        ours.close()
        again, peer = socket.socketpair()
        with again, peer:
            assert number in (again.fileno(), peer.fileno())
            again.setblocking(False)
            peer.setblocking(False)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await lib.loop.sock_sendall(again, b"theirs")
            lib.note(await lib.loop.sock_recv(peer, 100))
            for sock in (again, peer):
                with pytest.raises(BlockingIOError):
                    sock.recv(1)


class Stubborn(io.FileIO):
    """A file whose `fileno()` answers once and raises then."""

    answers = 1
    raises: BaseException = ValueError("gone")

    def fileno(self) -> int:
        """Answer or raise."""
        self.answers -= 1
        if self.answers < 0:
            raise self.raises
        return super().fileno()


@on_loop
async def test_a_file_that_denies_its_number(lib: Any, path: pathlib.Path) -> None:
    """What `fileno()` raises later ends the sending like a closed file."""
    if lib.kind == "asyncio":
        return  # asks once
    ours, theirs = tcp_pair()
    with ours, theirs, Stubborn(path) as file:
        reading = asyncio.ensure_future(Peer(theirs).exactly(1))
        with pytest.raises(OSError, match="Bad file descriptor"):
            await lib.loop.sock_sendfile(ours, file)
        await reading


def test_an_exit_leaves_the_loop(lib: Any, path: pathlib.Path) -> None:
    """SystemExit out of a file's own `fileno()` is not swallowed."""
    if lib.kind == "asyncio":
        return  # asks once
    loop = lib.new_loop()
    ours, theirs = tcp_pair()
    with ours, theirs, Stubborn(path) as file:
        file.raises = SystemExit(3)
        theirs.setblocking(True)
        sending = loop.create_task(loop.sock_sendfile(ours, file))
        loop.call_soon(theirs.recv, 100)
        with pytest.raises(SystemExit):
            loop.run_until_complete(sending)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(sending)


@on_loop
async def test_readinto_fails(lib: Any) -> None:
    """An error of the file in the fallback comes out; what was sent before counts."""

    class Failing(io.BytesIO):
        """A file that breaks in its third read."""

        reads = 0

        def readinto(self, view: Any) -> int:
            """Read, or break."""
            self.reads += 1
            if self.reads == 3:
                raise OSError(errno.EIO, "broken")
            return super().readinto(view)

    ours, theirs = tcp_pair()
    with ours, theirs, Failing(CONTENT) as file:
        reading = asyncio.ensure_future(Peer(theirs).rest())
        with pytest.raises(OSError, match="broken") as caught:
            await lib.loop.sock_sendfile(ours, file, 10)
        ours.close()
        lib.note(caught.value, file.tell(), len(await reading))


@on_loop
async def test_the_loop_is_not_kept(lib: Any) -> None:
    """A fast reader does not keep the loop to itself: others run between chunks."""
    if stock_at(lib, (3, 0)):
        return  # has no bound
    ours, theirs = tcp_pair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    with ours, theirs, tempfile.TemporaryFile() as file:
        file.truncate(1 << 22)
        sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
        await turns(2)
        waiting = array.array("i", [0])
        fcntl.ioctl(theirs, termios.FIONREAD, waiting)
        assert waiting[0] <= 512 * 1024
        assert len(await Peer(theirs).exactly(1 << 22)) == 1 << 22
        assert await sending == 1 << 22

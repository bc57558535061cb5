"""sock_sendfile: every byte, every argument check, positions, fallbacks."""

from __future__ import annotations

import asyncio
import io
import os
import pathlib
import socket
import ssl
import tempfile
from typing import Any

import pytest
from sending import CONTENT, positions
from wire import Peer, io_turns, nameless, on_loop, stock_at, tcp_pair, turns

pytest_plugins = ("sending",)


def ipv6_pair() -> tuple[socket.socket, socket.socket]:
    """Give both ends of a connection over IPv6."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        accepted, _ = listener.accept()
    client.setblocking(False)
    return client, accepted


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Give both ends of a Unix connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


PAIRS = {"tcp": tcp_pair, "ipv6": ipv6_pair, "unix": unix_pair}


@pytest.mark.parametrize("kind", PAIRS)
@on_loop
async def test_every_byte_arrives(lib: Any, kind: str, file: Any) -> None:
    """A whole file over every kind of socket, byte for byte; the position is at its end."""
    ours, theirs = PAIRS[kind]()
    with ours, theirs:
        reading = asyncio.ensure_future(Peer(theirs).rest())
        lib.note(await lib.loop.sock_sendfile(ours, file))
        ours.close()
        assert await reading == CONTENT
        lib.note(positions(file))


@pytest.mark.parametrize(
    ("offset", "count"),
    [
        (0, None),
        (0, 1),
        (1, 16_384),
        (7, 3_000_000),
        (True, True),
        (4_999_999, None),
        (4_999_999, 100),
        (0, len(CONTENT)),
        (0, len(CONTENT) + 5),
        (0, 2**70),
        (len(CONTENT), None),
        (len(CONTENT) + 1, 10),
        (2**40, None),
        (5, 524_288),
        (5, 524_289),
    ],
)
@on_loop
async def test_a_part(lib: Any, offset: int, count: int | None, file: Any) -> None:
    """Offset and count are kept to the byte, also at the end of the file and beyond it."""
    if count == 2**70 and stock_at(lib, (3,), (3, 14)):
        return  # passes it to the system call
    ours, theirs = tcp_pair()
    with ours, theirs:
        file.seek(3)
        reading = asyncio.ensure_future(Peer(theirs).rest())
        sent = await lib.loop.sock_sendfile(ours, file, offset, count)
        ours.close()
        end = None if count is None else offset + count
        assert await reading == CONTENT[offset:end]
        assert sent == len(CONTENT[offset:end])
        if count != 2**70:
            lib.note(positions(file))


@on_loop
async def test_one_after_the_other(lib: Any, file: Any) -> None:
    """Two sendings and what is sent between them leave in order; keywords are accepted."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        loop, reading = lib.loop, asyncio.ensure_future(Peer(theirs).rest())
        await loop.sock_sendall(ours, b"head")
        lib.note(await loop.sock_sendfile(ours, file=file, offset=1, count=9, fallback=False))
        await loop.sock_sendall(ours, b"middle")
        lib.note(await loop.sock_sendfile(ours, file, 2_000_000))
        await loop.sock_sendall(ours, b"tail")
        ours.close()
        assert await reading == b"head" + CONTENT[1:10] + b"middle" + CONTENT[2_000_000:] + b"tail"


@on_loop
async def test_both_directions_at_once(lib: Any, file: Any) -> None:
    """Receiving on the same socket goes on while it sends a file."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        loop, peer = lib.loop, Peer(theirs)
        sending = asyncio.ensure_future(loop.sock_sendfile(ours, file))
        await io_turns()
        for word in (b"one", b"two"):
            receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
            await io_turns()
            lib.note(receiving.done(), sending.done())
            peer.send(word)
            lib.note(await receiving)
        assert await peer.exactly(len(CONTENT)) == CONTENT
        lib.note(await sending)


@on_loop
async def test_a_slow_reader(lib: Any, file: Any) -> None:
    """A reader that takes a little at a time gets all; others have their turns meanwhile."""
    ours, theirs = tcp_pair()
    with ours, theirs:
        sending = asyncio.ensure_future(lib.loop.sock_sendfile(ours, file))
        got, peer = bytearray(), Peer(theirs)
        while len(got) < len(CONTENT):
            got += await peer.exactly(min(60_000, len(CONTENT) - len(got)))
            await turns(2)
        assert got == CONTENT
        lib.note(await sending)


@on_loop
async def test_a_turn_for_others(lib: Any, file: Any) -> None:
    """Sending something always gives others a turn; an empty file need not."""
    ours, theirs = tcp_pair()
    with ours, theirs, tempfile.TemporaryFile() as empty:
        told: list[str] = []
        lib.loop.call_soon(told.append, "turn")
        lib.note(await lib.loop.sock_sendfile(ours, empty), list(told))
        lib.note(await lib.loop.sock_sendfile(ours, empty, 10), list(told))
        lib.note(await lib.loop.sock_sendfile(ours, file, 0, 1), list(told))


def wrong_arguments() -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Give what sock_sendfile refuses, by name."""
    return {
        "count zero": ((0, 0), {}),
        "count negative": ((0, -1), {}),
        "count float": ((0, 1.0), {}),
        "count text": ((0, "1"), {}),
        "offset negative": ((-1,), {}),
        "offset float": ((1.0,), {}),
        "offset text": (("x",), {}),
        "offset None": ((None,), {}),
        "both wrong": ((-1, -1), {}),
        "offset huge": ((2**70,), {}),
        "offset beyond": ((2**63,), {"fallback": False}),
        "offset last": ((2**63 - 1,), {"fallback": False}),
        "unknown": ((), {"size": 5}),
        "too many": ((0, None, True), {}),
    }


@pytest.mark.parametrize("name", wrong_arguments())
@on_loop
async def test_refused_arguments(lib: Any, name: str, file: Any) -> None:
    """The checks and their messages; nothing is sent, the position stays."""
    args, options = wrong_arguments()[name]
    ours, theirs = tcp_pair()
    with ours, theirs:
        theirs.setblocking(False)
        file.seek(11)
        try:
            lib.note(await lib.loop.sock_sendfile(ours, file, *args, **options))
        except (ValueError, OverflowError, OSError, asyncio.SendfileNotAvailableError) as exc:
            lib.note(exc)
        except TypeError as exc:
            lib.note(type(exc), "positive" in str(exc), "non-negative" in str(exc))
        lib.note(positions(file))
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


@on_loop
async def test_refused_sockets_and_files(lib: Any, path: pathlib.Path, file: Any) -> None:
    """Text files, datagram sockets, TLS sockets, blocking ones in debug mode, closed ones."""
    ours, theirs = tcp_pair()
    loop = lib.loop

    async def refused(*args: Any, **options: Any) -> None:
        try:
            lib.note(await loop.sock_sendfile(*args, **options))
        except Exception as exc:
            lib.note(type(exc), nameless(str(exc)), type(exc.__cause__))

    with ours, theirs, path.open("r") as text, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        await refused(ours, text)
        await refused(datagrams, file)
        secure = ssl.create_default_context().wrap_socket(
            socket.socket(), server_hostname="x", do_handshake_on_connect=False
        )
        with secure:
            await refused(secure, file)
        ours.setblocking(True)
        loop.set_debug(True)
        await refused(ours, file)
        loop.set_debug(False)
        ours.close()
        await refused(ours, file)
        await refused(ours, file, fallback=False)
        await refused(5, file)
        await refused(theirs, None)


class Odd(io.BytesIO):
    """A file in memory whose `fileno()` does as told."""

    def __init__(self, content: bytes, fileno: Any) -> None:
        super().__init__(content)
        self._fileno = fileno

    def fileno(self) -> Any:
        """Answer, or raise."""
        if isinstance(self._fileno, BaseException):
            raise self._fileno
        return self._fileno


@pytest.mark.parametrize("fallback", [True, False])
@on_loop
async def test_files_without_a_descriptor(lib: Any, fallback: bool) -> None:
    """A file in memory is read and written instead; with fallback=False the reason is told."""

    class Bare:
        """Only what the fallback needs."""

        def __init__(self) -> None:
            self._file = io.BytesIO(CONTENT)

        def readinto(self, view: Any) -> int:
            """Read."""
            return self._file.readinto(view)

    odd = [
        lambda: io.BytesIO(CONTENT),
        Bare,
        lambda: Odd(CONTENT, io.UnsupportedOperation("fileno")),
        lambda: Odd(CONTENT, 2**20),
        lambda: Odd(CONTENT, ValueError("closed")),
        lambda: Odd(CONTENT, -1),
    ]
    for make in odd:
        for offset, count in ((0, None), (10, 300_000), (4_000_000, 2**60)):
            file: Any = make()
            if make is Bare:
                offset = 0
            ours, theirs = tcp_pair()
            with ours, theirs:
                reading = asyncio.ensure_future(Peer(theirs).rest())
                try:
                    sent = await lib.loop.sock_sendfile(
                        ours, file, offset, count, fallback=fallback
                    )
                except Exception as exc:
                    lib.note(type(exc), str(exc), type(exc.__cause__))
                    ours.close()
                    assert await reading == b""
                    continue
                ours.close()
                lib.note(sent, file.tell() if hasattr(file, "tell") else None)
                assert await reading == CONTENT[offset:][:count]


@on_loop
async def test_what_is_no_regular_file(lib: Any) -> None:
    """Pipes, directories, devices and sockets: asyncio's errors, or asyncio's fallback."""
    for fallback in (True, False):
        for name in ("pipe", "null", "zero"):
            ours, theirs = tcp_pair()
            if name == "pipe":
                reader, writer = os.pipe()
                os.write(writer, b"through a pipe")
                os.close(writer)
                file: Any = os.fdopen(reader, "rb", buffering=0)
            else:
                file = open(f"/dev/{name}", "rb", buffering=0)  # noqa: SIM115, ASYNC230
            with ours, theirs, file:
                reading = asyncio.ensure_future(Peer(theirs).rest())
                try:
                    lib.note(await lib.loop.sock_sendfile(ours, file, 0, 9, fallback=fallback))
                except Exception as exc:
                    lib.note(type(exc), str(exc))
                ours.close()
                lib.note(await reading)

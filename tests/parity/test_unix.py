"""Unix sockets: paths, abstract names, given sockets, and what becomes of the file."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from wire import Peer, Recorder, abstract_name, io_turns, on_loop, stock_at, until

new_in_313 = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a path short enough for a socket: the current one."""
    monkeypatch.chdir(tmp_path)
    return Path()


async def serve(path: Any = None, factory: Any = Recorder, **options: Any) -> Any:
    """Make a Unix server."""
    return await asyncio.get_running_loop().create_unix_server(factory, path, **options)


async def talk(lib: Any, path: Any) -> None:
    """Connect by path, say something, end."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_unix_connection(Recorder, path)
    transport.write(b"hello")
    transport.write_eof()
    await protocol.seen("CL")
    lib.note(protocol.grammar, bytes(protocol.data))


def echo() -> Recorder:
    """Make a protocol that says everything back at the end."""
    return Recorder(eof_received=lambda p: p.transport.write(b"<" + bytes(p.data) + b">"))


@pytest.mark.parametrize("form", [str, os.fsencode, Path], ids=["str", "bytes", "path"])
@on_loop
async def test_paths(lib: Any, place: Path, form: Any) -> None:
    """A path as text, bytes or PathLike."""
    path = form("a.sock")
    server = await serve(path, echo)
    assert stat.S_ISSOCK(os.stat("a.sock").st_mode)
    await talk(lib, path)
    lib.note(server.sockets[0].getsockname(), server.sockets[0].family)
    server.close()
    await server.wait_closed()
    lib.note(os.path.exists("a.sock"))


@pytest.mark.parametrize("form", [str, os.fsencode], ids=["str", "bytes"])
@on_loop
async def test_abstract_names(lib: Any, form: Any) -> None:
    """A name in the abstract namespace leaves no file."""
    name = form(abstract_name())
    server = await serve(name, echo)
    await talk(lib, name)
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.get_running_loop().create_unix_connection(Recorder, name)


@on_loop
async def test_a_stale_socket_is_replaced(lib: Any, place: Path) -> None:
    """A socket file that nobody listens on gives way; any other file does not."""
    with socket.socket(socket.AF_UNIX) as old:
        old.bind("stale.sock")
    server = await serve("stale.sock", echo)
    await talk(lib, "stale.sock")
    server.close()
    await server.wait_closed()
    Path("file").write_text("mine")
    with pytest.raises(OSError) as caught:
        await serve("file")
    lib.note(caught.value, caught.value.errno, str(caught.value))
    assert Path("file").read_text() == "mine"


@on_loop
async def test_paths_that_cannot_be(lib: Any, place: Path) -> None:
    """Missing folders, names too long, no socket there: errors as asyncio's, nothing left open."""
    loop = asyncio.get_running_loop()
    for path in ("no/such/folder", "x" * 200):
        for call in (serve, lambda p: loop.create_unix_connection(Recorder, p)):
            try:
                await call(path)
            except (OSError, ValueError) as exc:
                lib.note(path, type(exc), str(exc))
            else:
                raise AssertionError(path)
    for path in (5, 5.5, object):
        with pytest.raises(TypeError):
            await serve(path)
        with pytest.raises(TypeError):
            await loop.create_unix_connection(Recorder, path)


@on_loop
async def test_contradictions(lib: Any, place: Path) -> None:
    """Options that exclude each other, and sockets of another kind."""
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two, datagram, socket.socket() as inet:
        for call in (loop.create_unix_server, loop.create_unix_connection):
            for options in (
                {},
                {"path": "x", "sock": one},
                {"sock": datagram},
                {"sock": inet},
                {"sock": one, "ssl_handshake_timeout": 5},
                {"sock": one, "ssl_shutdown_timeout": 5},
            ):
                with pytest.raises(ValueError) as caught:
                    await call(Recorder, **options)
                lib.note(sorted(options), str(caught.value).partition("<")[0])
        with pytest.raises(ValueError) as caught:
            await loop.create_unix_connection(Recorder, sock=one, server_hostname="x")
        lib.note(caught.value)
        with pytest.raises(ValueError) as caught:
            await loop.create_unix_connection(Recorder, sock=one, ssl=True)
        lib.note(caught.value)
        with pytest.raises(TypeError) as caught:
            await loop.create_unix_server(Recorder, "x", ssl=True)
        lib.note(caught.value)
        assert not os.path.exists("x")
        one.send(b"still open")


@on_loop
async def test_given_sockets(lib: Any, place: Path) -> None:
    """A bound socket for the server, a connected one for the client."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("given.sock")
    server = await serve(sock=sock, factory=echo)
    client = socket.socket(socket.AF_UNIX)
    client.connect("given.sock")
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(
        Recorder, sock=client
    )
    lib.note(transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
    transport.write(b"hello")
    transport.write_eof()
    await protocol.seen("CL")
    lib.note(bytes(protocol.data))
    server.close()
    await server.wait_closed()
    lib.note(sock.fileno(), os.path.exists("given.sock"))


@new_in_313
@on_loop
async def test_cleanup_socket(lib: Any, place: Path) -> None:
    """The file goes with its server, unless that is not wanted or it is another's by now."""
    server = await serve("kept.sock", cleanup_socket=False)
    server.close()
    lib.note(os.path.exists("kept.sock"))
    server = await serve("gone.sock", cleanup_socket=True)
    server.close()
    lib.note(os.path.exists("gone.sock"))
    server = await serve("other.sock")
    os.unlink("other.sock")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("other.sock")
        server.close()
        lib.note(os.path.exists("other.sock"))
    server = await serve("missing.sock")
    os.unlink("missing.sock")
    server.close()
    lib.note(lib.logged())


@new_in_313
@on_loop
async def test_two_servers_one_path(lib: Any, place: Path) -> None:
    """A second server takes the path over; closing the first does not remove the second's file."""
    first = await serve("same.sock")
    second = await serve("same.sock", echo)
    first.close()
    await talk(lib, "same.sock")
    second.close()
    lib.note(os.path.exists("same.sock"))


@on_loop
async def test_start_serving_later(lib: Any, place: Path) -> None:
    """start_serving=False and backlog hold for Unix servers too."""
    server = await serve("later.sock", echo, start_serving=False, backlog=5)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.get_running_loop().create_unix_connection(Recorder, "later.sock")
    async with server:
        await server.start_serving()
        await talk(lib, "later.sock")
    lib.note(server.is_serving())


@on_loop
async def test_full_backlog(lib: Any, place: Path) -> None:
    """connect() to a Unix socket whose queue is full gives stock's answer."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as one:
        listener.bind("full.sock")
        listener.listen(0)
        one.connect("full.sock")
        try:
            transport, protocol = await loop.create_unix_connection(Recorder, "full.sock")
        except OSError as exc:
            lib.note(type(exc), exc.errno)
        else:
            await protocol.seen("CL")
            lib.note(protocol.calls, type(protocol.lost_with))


@on_loop
async def test_reset_like_endings(lib: Any) -> None:
    """A peer that goes with unread data of ours: the kernel's error reaches the protocol."""
    ours, theirs = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(
        Recorder, sock=ours
    )
    transport.write(b"never read")
    Peer(theirs).close()
    await protocol.seen("CL")
    lib.note(protocol.calls, type(protocol.lost_with))


@on_loop
async def test_descriptors_may_be_passed(lib: Any) -> None:
    """Ancillary data of the peer leaks no descriptor; the bytes are delivered."""
    ours, theirs = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(
        Recorder, sock=ours
    )
    socket.send_fds(theirs, [b"with a descriptor"], [theirs.fileno()])
    await protocol.has(17)
    transport.close()
    await protocol.seen("CL")
    await until(lambda: ours.fileno() == -1)
    theirs.close()
    lib.note(protocol.calls)


@on_loop
async def test_a_factory_that_raises(lib: Any, place: Path) -> None:
    """The factory's error comes out of create_unix_connection, and the socket is closed."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # Stock asyncio left the socket to the garbage collector.
    server = await serve("a.sock", echo)
    with pytest.raises(ZeroDivisionError):
        await asyncio.get_running_loop().create_unix_connection(lambda: 1 // 0, "a.sock")
    server.close()
    await io_turns()
    await server.wait_closed()


@on_loop
async def test_whoever_looks_for_blocking_calls(
    lib: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detectors of blocking calls replace functions of `os`; they excuse asyncio by its file."""
    if not lib.native_loop:
        return  # excused

    def blocks(*args: Any, **options: Any) -> None:
        raise AssertionError("a call that blocks")

    for name in ("stat", "lstat", "remove", "unlink", "sendfile"):
        monkeypatch.setattr(os, name, blocks)
    for _ in range(2):
        server = await serve("s")
        server.close()
        await server.wait_closed()
    server = await serve("s")
    ours, theirs = socket.socketpair()
    with ours, theirs, open("file", "wb+") as file:  # noqa: ASYNC230
        ours.setblocking(False)
        file.write(b"content")
        file.flush()
        assert await lib.loop.sock_sendfile(ours, file) == 7
    server.close()
    monkeypatch.undo()

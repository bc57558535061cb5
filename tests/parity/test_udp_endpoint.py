"""`create_datagram_endpoint`: its arguments, its errors, and who closes which socket."""

from __future__ import annotations

import asyncio
import inspect
import os
import pathlib
import socket
import sys
from typing import Any
from unittest import mock

import pytest
from udp_ends import LOOPBACK, Catcher, endpoint, nameless, plain_udp
from wire import abstract_name, io_turns, on_loop, stock_at, turns

UNIX = socket.AF_UNIX


def shown(exc: BaseException | None) -> str:
    """Give an exception's type and text without what differs from run to run."""
    return nameless(repr(exc)).split("<socket.socket")[0]


@on_loop
async def test_signature(lib: Any) -> None:
    """Parameters, kinds and defaults are asyncio's."""
    method = asyncio.get_running_loop().create_datagram_endpoint
    parameters = inspect.signature(method).parameters.values()
    lib.note([(p.name, str(p.kind), repr(p.default)) for p in parameters])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"family": socket.AF_INET},
        {"family": socket.AF_INET, "proto": socket.IPPROTO_UDP},
        {"family": 9999},
        {"local_addr": "127.0.0.1"},
        {"local_addr": ("127.0.0.1",)},
        {"local_addr": ["127.0.0.1", 0]},
        {"local_addr": ("127.0.0.1", 0, 0)},
        {"remote_addr": "127.0.0.1"},
        {"remote_addr": ("127.0.0.1", 0)},
        {"local_addr": ("127.0.0.1", 0), "remote_addr": ("127.0.0.1", 9)},
        {"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 9)},
        {"local_addr": ("::1", 0), "family": socket.AF_INET},
        {"local_addr": ("127.0.0.1", 0), "family": socket.AF_INET6},
        {"local_addr": ("192.0.2.1", 0)},
        {"local_addr": ("127.0.0.1", 0), "proto": socket.IPPROTO_TCP},
        {"local_addr": ("127.0.0.1", "no such service")},
        {"local_addr": ("no such name.invalid", 9)},
        {"remote_addr": ("255.255.255.255", 9)},
        {"remote_addr": ("255.255.255.255", 9), "allow_broadcast": True},
        {"local_addr": (None, 0)},
        {"local_addr": ("127.0.0.1", 0), "flags": socket.AI_NUMERICHOST},
        {"remote_addr": ("localhost", 9), "flags": socket.AI_NUMERICHOST},
        {"family": UNIX, "local_addr": ("127.0.0.1", 0)},
        {"family": UNIX, "remote_addr": b"bytes"},
        {"family": UNIX, "remote_addr": "/no/such/socket"},
        {"family": UNIX, "local_addr": "/no/such/folder/socket"},
        {"family": UNIX, "local_addr": "x" * 200},
        {"family": UNIX, "proto": 77, "local_addr": "\0aioxide-proto"},
        {"local_addr": ("127.0.0.1", 0), "reuse_address": True},
        {"local_addr": ("127.0.0.1", 0), "reuse_port": 1, "allow_broadcast": 1},
    ],
    ids=str,
)
@on_loop
async def test_options(lib: Any, options: dict[str, Any]) -> None:
    """Whatever the options, the outcome is asyncio's: an endpoint, or the same exception."""
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.create_datagram_endpoint(Catcher, **options)
    except Exception as exc:
        text = shown(exc).replace("_SelectorEventLoop.", "").replace("BaseEventLoop.", "")
        lib.note("raised", text.replace("Datagram.create", "create"))
        return
    sock = transport.get_extra_info("socket")
    lib.note(
        sock.family,
        nameless(str(transport.get_extra_info("peername"))),
        transport._address,
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT),
        sock.gettimeout(),
        isinstance(transport, asyncio.Transport),
    )
    assert isinstance(transport, asyncio.DatagramTransport) or stock_at(lib, (3, 11), (3, 12))
    transport.abort()
    await protocol.seen("CL")


@pytest.mark.parametrize(
    "options",
    [
        {"local_addr": LOOPBACK},
        {"remote_addr": LOOPBACK},
        {"family": socket.AF_INET},
        {"proto": 1},
        {"flags": 1},
        {"reuse_port": True},
        {"allow_broadcast": True},
        {"reuse_port": True, "local_addr": LOOPBACK, "allow_broadcast": False},
        {"reuse_port": False, "allow_broadcast": False, "family": 0},
    ],
    ids=str,
)
@on_loop
async def test_options_beside_a_socket(lib: Any, options: dict[str, Any]) -> None:
    """Options that make a socket are refused beside one, which stays the caller's."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            transport, protocol = await loop.create_datagram_endpoint(Catcher, sock=sock, **options)
        except ValueError as error:
            lib.note(str(error), sock.gettimeout())
            assert sock.fileno() != -1
        else:
            transport.close()
            await protocol.seen("CL")
            lib.note("made", sock.fileno())


@on_loop
async def test_streams_are_refused(lib: Any) -> None:
    """A stream socket is a ValueError, and stays open and blocking."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        with pytest.raises(ValueError) as refused:
            await loop.create_datagram_endpoint(Catcher, sock=sock)
        lib.note(str(refused.value).split("<")[0], sock.gettimeout(), sock.fileno() != -1)


@on_loop
async def test_socket_of_another_transport(lib: Any) -> None:
    """A descriptor that a transport uses is refused, and stays that transport's."""
    lib.stock_defect(sys.version_info < (3, 12), "asyncio makes a second transport of it")
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(LOOPBACK)
    async with endpoint(sock=sock) as (transport, protocol):
        with pytest.raises(RuntimeError) as refused:
            await loop.create_datagram_endpoint(Catcher, sock=sock)
        lib.note(nameless(str(refused.value)).split("<socket")[0], sock.fileno() != -1)
        with pytest.raises(RuntimeError):
            loop.add_reader(sock, print)
        with plain_udp() as peer:
            peer.sendto(b"still there", sock.getsockname())
            await protocol.seen("DG")
        lib.note(protocol.data, transport.is_closing())


@on_loop
async def test_factory_that_fails(lib: Any) -> None:
    """The factory's exception comes out; our own socket is closed, the caller's is not."""
    loop = asyncio.get_running_loop()
    made: list[socket.socket] = []
    real = socket.socket

    class Watched(socket.socket):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    def fail() -> Any:
        raise ZeroDivisionError

    with mock.patch("socket.socket", Watched):
        with pytest.raises(ZeroDivisionError):
            await loop.create_datagram_endpoint(fail, local_addr=LOOPBACK)
    # asyncio leaves closing to the garbage collector.
    assert len(made) == 1
    if lib.native_loop:
        assert made[0].fileno() == -1
    made[0].close()
    with real(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ZeroDivisionError):
            await loop.create_datagram_endpoint(fail, sock=sock)
        lib.note(sock.fileno() != -1)


@on_loop
async def test_cancelled_while_resolving(lib: Any) -> None:
    """Cancelled during the look-up: no socket was made."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[None] = loop.create_future()

    async def slow(*_: Any, **__: Any) -> Any:
        asked.set_result(None)
        await loop.create_future()

    with mock.patch.object(loop, "getaddrinfo", slow):
        making = loop.create_datagram_endpoint(Catcher, remote_addr=("name.invalid", 9))
        task = asyncio.ensure_future(making)
        await asked
        task.cancel()
        lib.note(await asyncio.gather(task, return_exceptions=True))


@on_loop
async def test_cancelled_while_connecting(lib: Any) -> None:
    """Cancelled within sock_connect: the socket is closed."""
    loop = asyncio.get_running_loop()
    seen: list[socket.socket] = []
    asked: asyncio.Future[None] = loop.create_future()

    async def slow(sock: socket.socket, _: Any) -> None:
        seen.append(sock)
        asked.set_result(None)
        await loop.create_future()

    with mock.patch.object(loop, "sock_connect", slow):
        task = asyncio.ensure_future(
            loop.create_datagram_endpoint(Catcher, remote_addr=("127.0.0.1", 9))
        )
        await asked
        task.cancel()
        lib.note(await asyncio.gather(task, return_exceptions=True))
    lib.note(seen[0].fileno())


@pytest.mark.parametrize("owned", [True, False])
@on_loop
async def test_cancelled_while_opening(lib: Any, owned: bool) -> None:
    """Cancelled before connection_made() is awaited: the transport is closed, its socket too."""
    loop = asyncio.get_running_loop()
    made: list[Catcher] = []

    def factory() -> Catcher:
        # The transport is made next, and then awaited: cancelled there, before it opens.
        loop.call_soon(task.cancel)
        made.append(Catcher())
        return made[0]

    sock = None if owned else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    options: dict[str, Any] = {"local_addr": LOOPBACK} if owned else {"sock": sock}
    task = asyncio.ensure_future(loop.create_datagram_endpoint(factory, **options))
    lib.note(await asyncio.gather(task, return_exceptions=True))
    await io_turns()
    lib.note(made[0].calls, made[0].transport.is_closing())
    if sock is not None:
        lib.note(sock.fileno())


@on_loop
async def test_every_candidate_is_tried(lib: Any) -> None:
    """The first candidate that works is taken; if none does, the first error comes out."""
    loop = asyncio.get_running_loop()
    with plain_udp() as taken:
        busy = taken.getsockname()

        found = [
            (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", 0)),
            (socket.AF_INET, socket.SOCK_DGRAM, 0, "", busy),
            (socket.AF_INET, socket.SOCK_DGRAM, 136, "", LOOPBACK),
        ]
        for count in (1, 2, 3):

            async def several(*_: Any, count: int = count, **__: Any) -> Any:
                return found[:count]

            with mock.patch.object(loop, "getaddrinfo", several):
                try:
                    transport, _ = await loop.create_datagram_endpoint(
                        Catcher, local_addr=("some name", 0)
                    )
                except OSError as error:
                    lib.note(error.errno)
                else:
                    lib.note("made", transport.get_extra_info("socket").proto)
                    transport.abort()
                    await turns(3)


@on_loop
async def test_empty_lookup(lib: Any) -> None:
    """A look-up that finds nothing is an OSError."""
    loop = asyncio.get_running_loop()

    async def nothing(*_: Any, **__: Any) -> Any:
        return []

    with mock.patch.object(loop, "getaddrinfo", nothing):
        with pytest.raises(OSError) as refused:
            await loop.create_datagram_endpoint(Catcher, local_addr=("name", 0))
    lib.note(str(refused.value))


@on_loop
async def test_stale_socket_file(lib: Any, tmp_path: pathlib.Path) -> None:
    """A socket file that is in the way is removed; any other file is not."""
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "sock")
    for _ in range(2):
        async with endpoint(family=UNIX, local_addr=path):
            assert os.path.exists(path)
        lib.note(os.path.exists(path))
    plain = tmp_path / "file"
    plain.write_text("precious")
    with pytest.raises(OSError) as refused:
        await loop.create_datagram_endpoint(Catcher, family=UNIX, local_addr=str(plain))
    lib.note(refused.value.errno, plain.read_text())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
@on_loop
async def test_folder_that_cannot_be_looked_into(lib: Any, tmp_path: pathlib.Path) -> None:
    """What cannot be checked is logged, and binding tells."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    loop = asyncio.get_running_loop()
    with pytest.raises(OSError) as refused:
        await loop.create_datagram_endpoint(Catcher, family=UNIX, local_addr=str(closed / "s"))
    lib.note(refused.value.errno, len(lib.logged()))


@on_loop
async def test_extra_info(lib: Any) -> None:
    """sockname, peername, socket; nothing else unless given."""
    async with endpoint() as (transport, protocol):
        sock = transport.get_extra_info("socket")
        lib.note(type(sock).__name__, sock.type, transport.get_extra_info("peername"))
        lib.note(sorted(transport._extra), transport.get_extra_info("nothing", 7))
        assert transport.get_extra_info("sockname") == sock.getsockname()
        lib.note(transport.max_size, transport.get_protocol() is protocol, transport._sock_fd > 2)
        assert transport._loop is asyncio.get_running_loop()
        lib.note(nameless(repr(transport)), transport._conn_lost, transport._closing)
        transport.close()
        lib.note(nameless(repr(transport)))
        await protocol.seen("CL")
        await turns(2)
        lib.note(nameless(repr(transport)), transport._loop, transport._sock)
        lib.note(transport.get_protocol(), transport.get_extra_info("socket").fileno())


@on_loop
async def test_what_it_cannot_do(lib: Any) -> None:
    """Stream methods are there, as on asyncio's, and not implemented."""
    async with endpoint() as (transport, _):
        for name, args in [("write", (b"",)), ("write_eof", ()), ("can_write_eof", ())]:
            with pytest.raises(NotImplementedError):
                getattr(transport, name)(*args)
        lib.note(hasattr(transport, "_start_tls_compatible"))


@on_loop
async def test_subclass_of_socket_with_methods_of_its_own(lib: Any) -> None:
    """A socket class that overrides recvfrom and sendto is asked for each datagram."""
    used: list[str] = []

    class Mine(socket.socket):
        def recvfrom(self, *args: Any) -> Any:
            used.append("recvfrom")
            return super().recvfrom(*args)

        def sendto(self, *args: Any) -> Any:
            used.append("sendto")
            return super().sendto(*args)

    sock = Mine(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(LOOPBACK)
    async with endpoint(sock=sock) as (transport, protocol):
        with plain_udp() as peer:
            peer.sendto(b"in", sock.getsockname())
            await protocol.seen("DG")
            for data in (b"one", bytearray(b"two")):
                transport.sendto(data, peer.getsockname())
            lib.note(protocol.data, peer.recv(9), peer.recv(9), used)


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")
@on_loop
async def test_another_family(lib: Any) -> None:
    """A family that is not known here works by the socket's own methods: netlink."""
    if sys.version_info < (3, 13):
        kind = socket.SOCK_DGRAM
    else:
        kind = socket.SOCK_RAW
    sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    sock.bind((0, 0))
    async with endpoint(sock=sock) as (transport, protocol):
        # RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, of an interface that is not there.
        header = (32).to_bytes(4, sys.byteorder) + (18).to_bytes(2, sys.byteorder)
        header += (5).to_bytes(2, sys.byteorder) + bytes(8)
        body = bytes(4) + (2**31 - 1).to_bytes(4, sys.byteorder) + bytes(8)
        transport.sendto(header + body, (0, 0))
        await protocol.seen("DG")
        (_, sender) = protocol.datagrams[0]
        lib.note(sender, len(protocol.datagrams), protocol.errors)


@on_loop
async def test_nothing_is_left(lib: Any) -> None:
    """Many endpoints, sent to and closed in every way, leave no object behind."""
    import gc
    import weakref

    loop = asyncio.get_running_loop()
    refs: list[Any] = []
    for number in range(30):
        transport, protocol = await loop.create_datagram_endpoint(Catcher, local_addr=LOOPBACK)
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await protocol.seen("DG")
        refs += [weakref.ref(transport), weakref.ref(protocol)]
        transport.custom = transport
        (transport.close if number % 2 else transport.abort)()
        await protocol.seen("CL")
        del transport, protocol
    await turns(3)
    gc.collect()
    lib.note([ref() is None for ref in refs].count(False))


@on_loop
async def test_names_for_abstract(lib: Any) -> None:
    """An abstract local address is no file, so none is looked for."""
    name = abstract_name()
    with mock.patch("os.stat", side_effect=AssertionError):
        async with endpoint(family=UNIX, local_addr=name) as (transport, _):
            lib.note(transport.get_extra_info("sockname") == os.fsencode(name))

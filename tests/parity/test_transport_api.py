"""What a stream transport is to its user: its type, methods, extra info, text, warnings."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import socket
import sys
import weakref
from typing import Any
from unittest import mock

import pytest
from wire import (
    ROUTES,
    Peer,
    Recorder,
    fill,
    io_turns,
    join,
    link,
    nameless,
    on_loop,
    stock_at,
    tcp_pair,
    turns,
    until,
)

routes = pytest.mark.parametrize("route", ROUTES)

METHODS = (
    "abort",
    "can_write_eof",
    "close",
    "get_extra_info",
    "get_protocol",
    "get_write_buffer_limits",
    "get_write_buffer_size",
    "is_closing",
    "is_reading",
    "pause_reading",
    "resume_reading",
    "set_protocol",
    "set_write_buffer_limits",
    "write",
    "write_eof",
    "writelines",
)


@routes
@on_loop
async def test_it_is_an_asyncio_transport(lib: Any, route: str) -> None:
    """isinstance holds for every base; every documented method is there."""
    async with link(Recorder, route) as (transport, _, _):
        for base in (
            asyncio.BaseTransport,
            asyncio.ReadTransport,
            asyncio.WriteTransport,
            asyncio.Transport,
        ):
            assert isinstance(transport, base)
        for name in METHODS:
            assert callable(getattr(transport, name)), name
            assert name in dir(transport)
        lib.note(bool(transport), transport == transport, transport != 5)  # noqa: PLR0124
        assert hash(transport) == hash(transport)
        assert weakref.ref(transport)() is transport


@on_loop
async def test_calls_by_keyword(lib: Any) -> None:
    """The parameters have asyncio's names."""
    async with link() as (transport, protocol, peer):
        transport.write(data=b"a")
        transport.writelines(list_of_data=[b"b"])
        lib.note(transport.get_extra_info(name="nothing", default=7))
        transport.set_protocol(protocol=protocol)
        transport.set_write_buffer_limits(high=10, low=5)
        lib.note(transport.get_write_buffer_limits())
        assert await peer.exactly(2) == b"ab"


@pytest.mark.parametrize("name", METHODS)
@on_loop
async def test_wrong_arguments(lib: Any, name: str) -> None:
    """Too many or unknown arguments are TypeErrors and change nothing."""
    async with link() as (transport, protocol, _):
        with pytest.raises(TypeError):
            getattr(transport, name)(1, 2, 3, 4)
        with pytest.raises(TypeError):
            getattr(transport, name)(unknown=1)
        await io_turns()
        lib.note(transport.is_closing(), protocol.calls)


@routes
@on_loop
async def test_extra_info(lib: Any, route: str) -> None:
    """socket, sockname and peername, and a default for the rest."""
    async with link(Recorder, route) as (transport, _, peer):
        sock = transport.get_extra_info("socket")
        lib.note(type(sock), sock.family, sock.type, transport.get_extra_info("unknown"))
        lib.note(transport.get_extra_info("unknown", 5), transport.get_extra_info("sslcontext"))
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.gettimeout() == 0
        assert transport.get_extra_info("sockname") == peer.sock.getpeername()
        peername = transport.get_extra_info("peername")
        if sock.family == socket.AF_INET:
            assert peername == peer.sock.getsockname()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        else:
            assert peername in ("", b"", None) or isinstance(peername, str | bytes)
        sockname = transport.get_extra_info("sockname")
        transport.close()
        await until(lambda: sock.fileno() == -1)
        assert transport.get_extra_info("sockname") == sockname
        assert transport.get_extra_info("socket") is sock


@routes
@on_loop
async def test_family_and_type_of_the_socket(lib: Any, route: str, monkeypatch: Any) -> None:
    """Members of the enumerations, also after the end; ours are made once."""
    made: list[Any] = []
    convert = socket._intenum_converter  # type: ignore[attr-defined]

    def counted(value: int, enum: Any) -> Any:
        made.append(value)
        return convert(value, enum)

    monkeypatch.setattr(socket, "_intenum_converter", counted)
    async with link(Recorder, route) as (transport, _, _):
        sock = transport.get_extra_info("socket")
        for _ in range(3):
            lib.note(sock.family, sock.type, sock.proto)
        made.clear()
        assert [type(sock.family), type(sock.type)] == [socket.AddressFamily, socket.SocketKind]
        assert len(made) == (0 if lib.native_loop else 2)
        for name in ("family", "type"):
            lib.catch(setattr, sock, name, 1)
            lib.catch(delattr, sock, name)
        lib.catch(copy.copy, sock)
        lib.note(hasattr(sock, "__dict__"), repr(sock).partition(" fd=")[0])
        transport.close()
        await until(lambda: sock.fileno() == -1)
        lib.note(sock.family, sock.type, sock.proto)


@on_loop
async def test_transport_socket_refuses_io(lib: Any) -> None:
    """The TransportSocket gives options and names, and nothing that would steal bytes."""
    async with link() as (transport, _, _):
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name in ("recv", "send", "close", "accept", "connect"):
            assert not hasattr(sock, name)
        sock.settimeout(0)
        sock.setblocking(False)
        lib.catch(sock.settimeout, 5)
        with sock.dup() as copy:
            assert copy.getpeername() == sock.getpeername()
        lib.note(sock.type, sock.proto, sock.get_inheritable())


@routes
@on_loop
async def test_text(lib: Any, route: str) -> None:
    """repr() tells the state as asyncio's does, in every state."""
    async with link(Recorder, route) as (transport, protocol, peer):
        await io_turns()
        lib.note(nameless(repr(transport)))
        transport.pause_reading()
        lib.note(nameless(repr(transport)))
        transport.resume_reading()
        fill(transport)
        text = nameless(repr(transport))
        size = transport.get_write_buffer_size()
        assert text == f"<TRANSPORT fd=N read=polling write=<polling, bufsize={size}>>"
        transport.close()
        text = nameless(repr(transport))
        assert text == f"<TRANSPORT closing fd=N read=idle write=<polling, bufsize={size}>>"
        transport.abort()
        lib.note(nameless(repr(transport)))
        await protocol.seen("CL")
        await turns()
        lib.note(nameless(repr(transport)), nameless(str(transport)))


@on_loop
async def test_text_has_the_descriptor(lib: Any) -> None:
    """The number in the text is the socket's, also when it is gone."""
    async with link() as (transport, protocol, _):
        fd = transport.get_extra_info("socket").fileno()
        assert f"fd={fd}" in repr(transport)
        transport.close()
        await protocol.seen("CL")
        await turns()
        assert f"closed fd={fd}" in repr(transport)


@routes
@on_loop
async def test_protocol_attribute(lib: Any, route: str) -> None:
    """get_protocol() gives what was set, and nothing after the end."""
    async with link(Recorder, route) as (transport, protocol, peer):
        assert transport.get_protocol() is protocol
        other = Recorder()
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        peer.send(b"to the other")
        assert await other.has(12) == b"to the other"
        assert protocol.calls == ["CM"]
        transport.close()
        await other.seen("CL")
        await turns()
        lib.note(transport.get_protocol(), other.calls, protocol.calls)


@pytest.mark.parametrize("state", ["open", "writing", "closing"])
def test_unclosed_transport_warns(lib: Any, state: str) -> None:
    """A transport that is dropped open warns once and closes its descriptor."""

    async def main() -> None:
        transport, protocol, peer = await join(Recorder)
        transport.pause_reading()
        sock = transport.get_extra_info("socket")
        if state == "writing":
            fill(transport)
        if state == "closing":
            fill(transport)
            transport.close()
        kept.extend([sock, peer])

    kept: list[Any] = []
    lib.run(main)
    gc.collect()
    sock, peer = kept
    told = [text for name, text in lib.warnings_taken() if name == "ResourceWarning"]
    assert len(told) == 1 and told[0].startswith("unclosed transport <"), told
    lib.note(nameless(told[0].split(" read=")[0]))
    assert sock.fileno() == -1
    peer.close()


def test_a_loop_closed_with_open_transports(lib: Any) -> None:
    """Methods of a transport whose loop is closed raise what asyncio raises, or do nothing."""
    loop = lib.loop
    transport, protocol, peer = loop.run_until_complete(_joined())
    loop.close()
    lib.note(transport.is_closing(), transport.is_reading(), transport.get_write_buffer_size())
    lib.note(nameless(repr(transport)))
    lib.catch(transport.close)
    lib.note(transport.is_closing(), protocol.calls)
    del transport, protocol
    gc.collect()
    told = [name for name, text in lib.warnings_taken() if "unclosed transport" in text]
    assert told == ["ResourceWarning"]
    peer.close()


async def _joined() -> tuple[Any, Any, Peer]:
    return await join(Recorder)


@on_loop
async def test_a_closed_transport_is_freed(lib: Any) -> None:
    """Nothing keeps a closed transport or its protocol alive, not even a cycle."""
    transport, protocol, peer = await join(Recorder)
    transport.close()
    await protocol.seen("CL")
    protocol.transport = None
    await io_turns()
    refs = [weakref.ref(transport), weakref.ref(protocol)]
    peer.close()
    del transport, protocol
    gc.collect()
    lib.note([r() is None for r in refs])
    assert [r() for r in refs] == [None, None]


@on_loop
async def test_open_transports_are_kept_by_the_loop(lib: Any) -> None:
    """A reading transport that nobody else holds stays alive and keeps delivering."""
    loop = asyncio.get_running_loop()
    got: asyncio.Future[bytes] = loop.create_future()

    class Quiet(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            got.set_result(data)

    ours, theirs = tcp_pair()
    await loop.create_connection(Quiet, sock=ours)
    gc.collect()
    await io_turns()
    gc.collect()
    theirs.send(b"are you there?")
    lib.note(await got)
    theirs.close()
    await until(lambda: ours.fileno() == -1)


@on_loop
async def test_the_descriptor_is_the_transports(lib: Any) -> None:
    """Watching the descriptor of an open transport is refused, of a closing one not."""
    loop = asyncio.get_running_loop()
    async with link() as (transport, _, _):
        sock = transport.get_extra_info("socket")
        for name, arguments in (
            ("add_reader", (print,)),
            ("add_writer", (print,)),
            ("remove_reader", ()),
            ("remove_writer", ()),
        ):
            for fd in (sock, sock.fileno()):
                with pytest.raises(RuntimeError) as caught:
                    getattr(loop, name)(fd, *arguments)
                text = (
                    str(caught.value).replace(repr(transport), "TRANSPORT").replace(repr(fd), "FD")
                )
                lib.note(text)
                assert text == "File descriptor FD is used by transport TRANSPORT"
        with sock.dup() as copy:
            copy.setblocking(False)
            assert loop.remove_reader(copy) is False
        raw = socket.socket(fileno=sock.fileno())
        for call in (
            loop.sock_recv(raw, 1),
            loop.sock_recv_into(raw, bytearray(1)),
            loop.sock_accept(raw),
        ):
            try:
                await call
            except (RuntimeError, OSError) as exc:
                lib.note(type(exc))
        raw.detach()
        transport.close()
        lib.note(loop.remove_reader(sock.fileno()))


@on_loop
async def test_a_second_transport_on_one_socket(lib: Any) -> None:
    """A socket that a transport has is refused, and the first transport does not suffer."""
    if sys.version_info < (3, 12) or stock_at(lib, (3, 14)):
        return  # Before 3.12 nobody looked; stock asyncio closes the socket from 3.14 on.
    loop = asyncio.get_running_loop()
    async with link() as (transport, protocol, peer):
        raw = socket.socket(fileno=transport.get_extra_info("socket").fileno())
        try:
            with pytest.raises(RuntimeError, match="is used by transport"):
                await loop.create_connection(Recorder, sock=raw)
            peer.send(b"still")
            assert await protocol.has(5) == b"still"
        finally:
            raw.detach()


@on_loop
async def test_debug_mode_changes_no_behaviour(lib: Any) -> None:
    """In debug mode the same calls come, and nothing at WARNING or above is said."""
    asyncio.get_running_loop().set_debug(True)
    async with link() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"x")
        transport.resume_reading()
        await protocol.has(1)
        peer.reset()
        await protocol.seen("CL")
        lib.note(protocol.calls, type(protocol.lost_with), lib.logged())


def test_idle_transport_keeps_little():
    from aioxide import _aioxide

    # There may be a hundred thousand of them; what few need is not in each.
    assert _aioxide.StreamTransport.__basicsize__ <= asyncio.Transport.__basicsize__ + 296


async def _open_transport(stack: Any, kind: str) -> Any:
    """Open a transport of a kind; `stack` closes it."""
    loop = asyncio.get_running_loop()
    if kind == "stream":
        return (await stack.enter_async_context(link()))[0]
    if kind == "datagram":
        made, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
    else:
        fds = os.pipe()
        reads = kind == "read pipe"
        connect = loop.connect_read_pipe if reads else loop.connect_write_pipe
        mine, other = fds if reads else fds[::-1]
        stack.callback(os.close, other)
        pipe = os.fdopen(mine, "rb" if reads else "wb", 0)
        made, _ = await connect(asyncio.Protocol if reads else asyncio.BaseProtocol, pipe)
    stack.push_async_callback(turns, 3)
    stack.callback(made.close)
    return made


@pytest.mark.parametrize("kind", ["stream", "datagram", "read pipe", "write pipe"])
@on_loop
async def test_get_extra_info_that_tests_replace(lib: Any, kind: str) -> None:
    """A replaced method of asyncio's classes reaches every connection, and goes again."""
    async with contextlib.AsyncExitStack() as stack:
        transport = await _open_transport(stack, kind)
        path = "asyncio.BaseTransport.get_extra_info"
        for _ in range(3):
            lib.note(transport.get_extra_info("other", 1), transport.get_extra_info("pipe") is None)
            with mock.patch(path, return_value="patched") as patched:
                lib.note(transport.get_extra_info("peername"), transport.get_extra_info("a", 5))
                lib.note(transport.get_extra_info(name="b", default=6), patched.mock_calls)
            lib.note(transport.get_extra_info("other", 2))
        stock = asyncio.BaseTransport.get_extra_info

        def longer(self: Any, name: str, default: Any = None) -> Any:
            return self is transport, stock(self, name, default)

        with mock.patch(path, longer):
            lib.note(transport.get_extra_info("other", 3))
            lib.catch(transport.get_extra_info)
        base = next(
            each
            for each in type(transport).__mro__
            if each.__module__ == asyncio.transports.__name__ and not each.__name__.startswith("_")
        )
        with mock.patch.object(base, "get_extra_info", side_effect=KeyError("no")):
            lib.catch(transport.get_extra_info, "peername")
        lib.note(transport.get_extra_info("other", 4))

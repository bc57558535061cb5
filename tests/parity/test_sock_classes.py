"""Transports over sockets whose class, or who themselves, have their own of what moves bytes."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tlswire import HOST, client_context, server_context
from wire import Recorder, on_loop, tcp_pair, until

var = contextvars.ContextVar("var", default="unset")

METHODS = ("recv", "recv_into", "send", "sendmsg", "shutdown", "setsockopt")


class Spy(socket.socket):
    """Notes what is called of it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.setblocking(False)
        self.called: list[str] = []


def _noted(name: str) -> Callable[..., Any]:
    def method(self: Spy, *args: Any) -> Any:
        self.called.append(name)
        return getattr(socket.socket, name)(self, *args)

    return method


def spying(*names: str) -> type[Spy]:
    """Make a class that notes these methods."""
    return type("Spying", (Spy,), {name: _noted(name) for name in names})


class Buffered(Recorder, asyncio.BufferedProtocol):
    """Takes what comes in a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.room = bytearray(100)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.room

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(self.room[:count]))


async def converse(lib: Any, transport: Any, protocol: Any, theirs: socket.socket) -> None:
    """Send and receive a little both ways, and end."""
    loop = asyncio.get_running_loop()
    transport.write(b"one")
    lib.note(await loop.sock_recv(theirs, 100))
    transport.writelines([b"two ", b"three"])
    await until(lambda: not transport.get_write_buffer_size())
    lib.note(await loop.sock_recv(theirs, 100))
    await loop.sock_sendall(theirs, b"four")
    await protocol.seen("DR")
    lib.note(bytes(protocol.data))
    transport.write_eof()
    lib.note(await loop.sock_recv(theirs, 100))
    theirs.close()
    await protocol.seen("CL")
    lib.note(protocol.calls)


@pytest.mark.parametrize("names", [METHODS, *[(name,) for name in METHODS]], ids="-".join)
@pytest.mark.parametrize("factory", [Recorder, Buffered])
@on_loop
async def test_who_has_methods_of_its_own_is_asked(lib: Any, names: Any, factory: Any) -> None:
    ours, theirs = tcp_pair()
    with theirs, spying(*names)(ours) as spy:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(factory, sock=spy)
        await converse(lib, transport, protocol, theirs)
        lib.note(spy.called)


@on_loop
async def test_a_socket_with_a_method_of_its_own(lib: Any) -> None:
    """An attribute of the instance stands before the methods of its class."""
    ours, theirs = tcp_pair()
    with theirs, Spy(ours) as spy:
        own: Any = spy

        def send(data: Any) -> int:
            spy.called.append("send")
            return socket.socket.send(spy, data)

        own.send = send
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(Recorder, spy)
        await converse(lib, transport, protocol, theirs)
        lib.note(spy.called)


@on_loop
async def test_a_class_without_methods_of_its_own_costs_nothing(lib: Any) -> None:
    ours, theirs = tcp_pair()
    with theirs, Spy(ours) as spy:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Recorder, sock=spy)
        if lib.native_loop:
            assert type(transport).__module__ == "aioxide"
        await converse(lib, transport, protocol, theirs)
        lib.note(isinstance(transport, asyncio.Transport))


@on_loop
async def test_what_a_method_answers_is_what_happens(lib: Any) -> None:
    class Odd(Spy):
        def recv(self, size: int) -> bytes:
            got = super().recv(size)
            if got == b"fail":
                raise OSError(5, "as it should")
            return got.upper()

        def send(self, data: Any, *args: Any) -> int:
            return super().send(data[:2], *args)

    ours, theirs = tcp_pair()
    with theirs, Odd(ours) as odd:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Recorder, sock=odd)
        await loop.sock_sendall(theirs, b"shout")
        await protocol.seen("DR")
        lib.note(bytes(protocol.data))
        transport.write(b"abcde")
        got = b""
        while len(got) < 5:
            got += await loop.sock_recv(theirs, 100)
        lib.note(got)
        await loop.sock_sendall(theirs, b"fail")
        await protocol.seen("CL")
        lib.note(protocol.calls, repr(protocol.lost_with))


@on_loop
async def test_its_callbacks_run_in_the_connections_context(lib: Any) -> None:
    seen = []
    ours, theirs = tcp_pair()
    with theirs, spying("recv")(ours) as spy:
        loop = asyncio.get_running_loop()
        var.set("connecting")
        told = Recorder(
            connection_made=lambda *_: seen.append(var.get()),
            data_received=lambda *_: seen.append(var.get()),
        )
        transport, protocol = await loop.create_connection(lambda: told, sock=spy)
        var.set("later")
        await loop.sock_sendall(theirs, b"x")
        await protocol.seen("DR")
        transport.abort()
        await protocol.seen("CL")
        lib.note(seen)


@on_loop
async def test_streams_over_it(lib: Any) -> None:
    ours, theirs = tcp_pair()
    with theirs, spying(*METHODS)(ours) as spy:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(sock=spy)
        writer.write(b"question")
        await writer.drain()
        lib.note(await loop.sock_recv(theirs, 100))
        await loop.sock_sendall(theirs, b"answer\n")
        lib.note(await reader.readline())
        writer.close()
        await writer.wait_closed()
        lib.note(sorted(set(spy.called)))


@pytest.mark.parametrize("fallback", [False, True])
@on_loop
async def test_a_file_over_it(lib: Any, fallback: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    ours, theirs = tcp_pair()
    with theirs, spying("recv", "send")(ours) as spy, path.open("rb") as file:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Recorder, sock=spy)
        transport.write(b"before ")
        sending = asyncio.ensure_future(loop.sendfile(transport, file, fallback=fallback))
        got = b""
        while len(got) < 25_607:
            got += await loop.sock_recv(theirs, 1 << 16)
        lib.note(got == b"before " + path.read_bytes(), await sending, file.tell())
        transport.write(b"after")
        lib.note(await loop.sock_recv(theirs, 100), "sendfile" in dir(spy), spy.called)
        transport.close()
        await protocol.seen("CL")


@pytest.mark.parametrize("late", [False, True])
@on_loop
async def test_tls_over_it(lib: Any, late: bool) -> None:
    ours, theirs = tcp_pair()
    loop = asyncio.get_running_loop()
    with theirs, spying("recv", "recv_into", "send")(ours) as spy:
        server = asyncio.ensure_future(
            loop.connect_accepted_socket(Recorder, theirs, ssl=server_context())
        )
        if late:
            plain, client = await loop.create_connection(Recorder, sock=spy)
            transport: Any = await loop.start_tls(
                plain, client, client_context(), server_hostname=HOST
            )
        else:
            transport, client = await loop.create_connection(
                Recorder, sock=spy, ssl=client_context(), server_hostname=HOST
            )
        other, peer = await server
        transport.write(b"secret")
        await peer.seen("DR")
        lib.note(bytes(peer.data))
        other.write(b"known")
        other.close()
        await peer.seen("CL")
        if not late:
            await client.seen("CL")
            lib.note(bytes(client.data), client.calls)
        transport.close()
        await until(lambda: spy.fileno() == -1)
        lib.note(sorted(set(spy.called)))

"""What comes in one piece with the end of the handshake, and ends that follow at once."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tlswire import HOST, client_context, server_context
from wire import on_loop, turns

LINES = 6
LINE_BYTES = 10_000


class Client:
    """A TLS client by hand, in a thread: what it says leaves when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.settimeout(20)
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = client_context().wrap_bio(self.incoming, self.outgoing, server_hostname=HOST)

    def flush(self) -> None:
        """Send what is to leave, in one piece."""
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def shake_hands(self) -> None:
        """Come to the end of the handshake and keep the last flight back."""
        while True:
            try:
                return self.session.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.sock.recv(1 << 16))

    def read_to_the_end(self) -> None:
        """Wait until the server is gone."""
        while self.sock.recv(1 << 16):
            pass


class Server(asyncio.Protocol):
    """Counts; what it does when it is connected is given."""

    def __init__(self, act: Callable[[Any], None] | None = None) -> None:
        self.act = act
        self.count = 0
        self.calls: list[Any] = []
        self.lost = asyncio.get_event_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")
        if self.act:
            self.act(transport)

    def data_received(self, data: bytes) -> None:
        self.count += len(data)

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(exc)
        self.lost.set_result(None)


def say_goodbye_at_once(sock: socket.socket, goodbye: bool) -> None:
    """Send the last flight, more than a read of the session takes, and the end in one piece."""
    client = Client(sock)
    client.shake_hands()
    for _ in range(LINES):
        client.session.write(bytes(LINE_BYTES))
    if goodbye:
        with pytest.raises(ssl.SSLWantReadError):
            client.session.unwrap()
    client.flush()
    client.read_to_the_end()


@on_loop
async def test_closing_when_connected(lib: Any) -> None:
    """All that came is read before the shutdown, which then has nothing to wait for."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with far:
        near.setblocking(False)
        server = Server(lambda transport: transport.close())
        talking = asyncio.ensure_future(asyncio.to_thread(say_goodbye_at_once, far, True))
        await loop.connect_accepted_socket(
            lambda: server, near, ssl=server_context(), ssl_shutdown_timeout=15
        )
        await asyncio.wait_for(server.lost, 10)
        await talking
        lib.note(server.calls, server.count)


def test_an_exception_that_leaves_the_loop(lib: Any) -> None:
    """The loop runs on after it: no byte of the stream is missing."""

    def interrupt(transport: Any) -> None:
        raise KeyboardInterrupt

    def talk(client: Client) -> None:
        client.shake_hands()
        for _ in range(LINES):
            client.session.write(bytes(LINE_BYTES))
        client.flush()

    async def connect(server: Server, sock: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: server, sock, ssl=server_context()
        )

    async def rest(server: Server, client: Client) -> None:
        client.session.write(b"more")
        client.flush()
        client.sock.close()
        await asyncio.wait_for(asyncio.shield(server.lost), 20)

    loop = lib.loop
    near, far = socket.socketpair()
    near.setblocking(False)
    asyncio.set_event_loop(loop)
    try:
        server = Server(interrupt)
        client = Client(far)
        talking = loop.run_in_executor(None, talk, client)
        task = loop.create_task(connect(server, near))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        loop.run_until_complete(talking)
        loop.run_until_complete(rest(server, client))
        lib.note(server.count)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, OSError)):
            loop.run_until_complete(task)
    finally:
        asyncio.set_event_loop(None)


@on_loop
async def test_closed_after_the_loss(lib: Any) -> None:
    """Whoever keeps a transport that was lost and then closed keeps neither session nor context."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    server = Server()

    def leave() -> None:
        with far:
            client = Client(far)
            client.shake_hands()
            client.flush()

    leaving = asyncio.ensure_future(asyncio.to_thread(leave))
    context = server_context()
    transport, _ = await loop.connect_accepted_socket(lambda: server, near, ssl=context)
    watched = [
        weakref.ref(context),
        weakref.ref(transport.get_extra_info("ssl_object")),
        weakref.ref(transport._ssl_protocol),
    ]
    del context
    await leaving
    await server.lost
    transport.close()
    await turns(10)
    gc.collect()
    # asyncio's timers hold them a little longer on some versions.
    assert not lib.native_loop or [seen() for seen in watched] == [None] * 3
    lib.note(transport.is_closing())


@on_loop
async def test_lines_before_an_error(lib: Any) -> None:
    """Lines of an iterable that raises then are not lost: they leave with the next write."""

    def lines() -> Iterator[bytes]:
        yield b"one "
        yield b"two "
        raise LookupError("no more lines")

    received = bytearray()

    def listen(sock: socket.socket) -> None:
        client = Client(sock)
        client.shake_hands()
        client.flush()
        while b"three" not in received:
            client.incoming.write(sock.recv(1 << 16))
            try:
                while True:
                    received.extend(client.session.read(100))
            except ssl.SSLWantReadError:
                pass

    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with far:
        near.setblocking(False)
        server = Server()
        listening = asyncio.ensure_future(asyncio.to_thread(listen, far))
        transport, _ = await loop.connect_accepted_socket(
            lambda: server, near, ssl=server_context()
        )
        with pytest.raises(LookupError):
            transport.writelines(lines())
        transport.write(b"three")
        await listening
        lib.note(bytes(received))
        transport.abort()
        await server.lost

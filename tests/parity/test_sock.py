"""The sock_* methods (all but sendfile): data, waiting, cancelling, and errors."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from wire import listening, on_loop, tcp_pair, turns

MILLION = random.Random(7).randbytes(1_000_000)


@contextlib.contextmanager
def pair(kind: str = "tcp") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two connected non-blocking sockets."""
    one, two = tcp_pair() if kind == "tcp" else socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    with one, two:
        yield one, two


@contextlib.contextmanager
def datagrams() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two bound UDP sockets."""
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for sock in (one, two):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        yield one, two


kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])


@kinds
@on_loop
async def test_recv(lib: Any, kind: str) -> None:
    """What is there, at most n bytes; waiting for what is not; empty at the end."""
    loop = asyncio.get_running_loop()
    with pair(kind) as (one, two):
        two.send(b"hello world")
        lib.note(await loop.sock_recv(one, 5), await loop.sock_recv(one, 100))
        task = asyncio.ensure_future(loop.sock_recv(one, 100))
        await turns(3)
        lib.note(task.done())
        two.send(b"late")
        lib.note(await task)
        lib.note(await loop.sock_recv(one, 0))
        two.shutdown(socket.SHUT_WR)
        lib.note(await loop.sock_recv(one, 100), await loop.sock_recv(one, 100))


@kinds
@on_loop
async def test_recv_into(lib: Any, kind: str) -> None:
    """The count comes back, the bytes are in the caller's memory."""
    loop = asyncio.get_running_loop()
    with pair(kind) as (one, two):
        buffer = bytearray(8)
        two.send(b"hello world")
        lib.note(await loop.sock_recv_into(one, buffer), buffer)
        lib.note(await loop.sock_recv_into(one, memoryview(buffer)[2:]), buffer)
        task = asyncio.ensure_future(loop.sock_recv_into(one, buffer))
        await turns(3)
        two.send(b"late")
        lib.note(await task, buffer)
        two.close()
        lib.note(await loop.sock_recv_into(one, buffer))
        with pytest.raises((TypeError, BufferError)) as caught:
            await loop.sock_recv_into(one, b"read only")
        lib.note(type(caught.value))


@kinds
@on_loop
async def test_sendall(lib: Any, kind: str) -> None:
    """Everything, in order, however long it takes; any bytes-like object."""
    loop = asyncio.get_running_loop()
    with pair(kind) as (one, two):
        for data in (b"bytes ", bytearray(b"bytearray "), memoryview(b"view "), b""):
            lib.note(await loop.sock_sendall(one, data))
        lib.note(await loop.sock_recv(two, 100))
        task = asyncio.ensure_future(loop.sock_sendall(one, MILLION * 3))
        got = bytearray()
        while len(got) < 3 * len(MILLION):
            got += await loop.sock_recv(two, 1 << 17)
        assert got == MILLION * 3
        lib.note(await task)
        with pytest.raises(TypeError):
            await loop.sock_sendall(one, "text")
        two.close()
        with pytest.raises(ConnectionError):
            for _ in range(3):
                await loop.sock_sendall(one, MILLION)


@on_loop
async def test_connect_and_accept(lib: Any) -> None:
    """Both ends made by the loop; the accepted socket does not block."""
    loop = asyncio.get_running_loop()
    with listening() as listener, socket.socket() as client:
        client.setblocking(False)
        task = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(3)
        lib.note(task.done())
        lib.note(await loop.sock_connect(client, listener.getsockname()))
        conn, address = await task
        with conn:
            assert address == client.getsockname()
            lib.note(conn.gettimeout(), type(conn))
            await loop.sock_sendall(client, b"hello")
            lib.note(await loop.sock_recv(conn, 10))
        with socket.create_connection(listener.getsockname()):
            conn, _ = await loop.sock_accept(listener)
            conn.close()


@on_loop
async def test_connect_errors(lib: Any) -> None:
    """Refused, already connected, bad addresses; names are resolved."""
    loop = asyncio.get_running_loop()
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", 1)),
        (socket.AF_INET6, ("::1", 1)),
        (socket.AF_UNIX, "/no/such/socket"),
        (socket.AF_UNIX, "\0aioxide-nobody"),
        (socket.AF_INET, ("localhost", 1)),
        (socket.AF_INET, ("127.0.0.1",)),
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, ("127.0.0.1", 99999)),
        (socket.AF_INET, None),
    ):
        with socket.socket(family) as sock:
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except Exception as exc:
                lib.note(address, type(exc), str(exc))
            else:
                raise AssertionError(address)
    with listening() as listener, socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("localhost", listener.getsockname()[1]))
        with pytest.raises(OSError) as caught:
            for _ in range(2):  # Linux passes over the first one.
                await loop.sock_connect(sock, listener.getsockname())
        lib.note(caught.value)


@on_loop
async def test_datagrams(lib: Any) -> None:
    """sock_sendto, sock_recvfrom and sock_recvfrom_into."""
    loop = asyncio.get_running_loop()
    with datagrams() as (one, two):
        lib.note(await loop.sock_sendto(one, b"hello", two.getsockname()))
        data, address = await loop.sock_recvfrom(two, 100)
        assert address == one.getsockname()
        lib.note(data)
        task = asyncio.ensure_future(loop.sock_recvfrom(two, 3))
        await turns(3)
        lib.note(task.done(), await loop.sock_sendto(one, b"truncated", two.getsockname()))
        lib.note((await task)[0])
        buffer = bytearray(10)
        task = asyncio.ensure_future(loop.sock_recvfrom_into(two, buffer))
        await turns(3)
        await loop.sock_sendto(one, b"into", two.getsockname())
        count, address = await task
        assert address == one.getsockname()
        lib.note(count, buffer)
        await loop.sock_sendto(one, bytearray(b"again"), two.getsockname())
        lib.note((await loop.sock_recvfrom_into(two, buffer, 2))[0], buffer)
        with pytest.raises(ValueError) as caught:
            await loop.sock_recvfrom_into(two, buffer, 100)
        lib.note(caught.value)
        with pytest.raises(OSError) as caught:
            await loop.sock_sendto(one, bytes(70000), two.getsockname())
        lib.note(caught.value)


@on_loop
async def test_sendto_waits_for_room(lib: Any) -> None:
    """A Unix datagram socket whose receiver is full: sock_sendto waits."""
    loop = asyncio.get_running_loop()
    with pair("unix"):
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    from wire import abstract_name

    with one, two, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        name = abstract_name()
        receiver.bind(name)
        receiver.setblocking(False)
        one.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                two.setblocking(False)
                two.sendto(b"x" * 1000, name)
                sent += 1
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            task = asyncio.ensure_future(loop.sock_sendto(sender, b"waits", name))
            await turns(3)
            lib.note(task.done())
            for _ in range(sent):
                receiver.recv(2000)
            lib.note(await task, receiver.recv(2000))


@pytest.mark.parametrize(
    "name", ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_accept"]
)
@on_loop
async def test_cancelled_reads(lib: Any, name: str) -> None:
    """A cancelled read stops watching, takes no byte, and leaves the socket to the next one."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        if name == "sock_accept":
            sock = other = stack.enter_context(listening())
            arguments: tuple[Any, ...] = ()
        else:
            sock, other = stack.enter_context(datagrams() if "from" in name else pair())
            arguments = (bytearray(10),) if "into" in name else (10,)
            if "from" in name:
                other.connect(sock.getsockname())
        for waits in range(5):
            task = asyncio.ensure_future(getattr(loop, name)(sock, *arguments))
            await turns(waits)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            lib.note(loop.remove_reader(sock))
        if name == "sock_accept":
            with socket.create_connection(sock.getsockname()):
                conn, _ = await loop.sock_accept(sock)
                conn.close()
        else:
            other.send(b"kept")
            lib.note(bytes(sock.recv(10)))


@on_loop
async def test_cancelled_when_data_is_there(lib: Any) -> None:
    """A read that is cancelled in the turn in which data came does not lose the data."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        task = asyncio.ensure_future(loop.sock_recv(one, 10))
        await turns(2)
        two.send(b"kept")
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        lib.note(type(result), one.recv(10))


@on_loop
async def test_cancelled_sends(lib: Any) -> None:
    """A cancelled sock_sendall and sock_connect stop watching."""
    loop = asyncio.get_running_loop()
    with pair() as (one, _):
        task = asyncio.ensure_future(loop.sock_sendall(one, MILLION * 20))
        await turns(4)
        lib.note(task.cancel())
        with pytest.raises(asyncio.CancelledError):
            await task
        lib.note(loop.remove_writer(one))
        task = asyncio.ensure_future(loop.sock_sendall(one, MILLION * 20))
        await turns(2)
        task.cancel()
        await turns(2)
        lib.note(task.cancelled(), loop.remove_writer(one.fileno()))


@on_loop
async def test_a_cancel_does_not_stop_the_next_read(lib: Any) -> None:
    """A cancelled read whose socket is being read again at once must not unregister the new one."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        first = asyncio.ensure_future(loop.sock_recv(one, 10))
        await turns(2)
        first.cancel()
        second = asyncio.ensure_future(loop.sock_recv(one, 10))
        await turns(5)
        two.send(b"for the second")
        lib.note(await second, first.cancelled())


@on_loop
async def test_reading_and_writing_at_once(lib: Any) -> None:
    """One socket, both directions at the same time."""
    loop = asyncio.get_running_loop()

    async def pump(sock: socket.socket) -> bytes:
        got = bytearray()
        sender = asyncio.ensure_future(loop.sock_sendall(sock, MILLION))
        while len(got) < len(MILLION):
            got += await loop.sock_recv(sock, 1 << 16)
        await sender
        return bytes(got)

    with pair() as (one, two):
        results = await asyncio.gather(pump(one), pump(two))
        assert results == [MILLION, MILLION]


@on_loop
async def test_debug_mode_wants_non_blocking(lib: Any) -> None:
    """In debug mode a blocking socket is refused by every method."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    with socket.socket() as sock:
        for name, arguments in (
            ("sock_recv", (5,)),
            ("sock_recv_into", (bytearray(5),)),
            ("sock_recvfrom", (5,)),
            ("sock_recvfrom_into", (bytearray(5),)),
            ("sock_sendall", (b"x",)),
            ("sock_sendto", (b"x", ("127.0.0.1", 5))),
            ("sock_connect", (("127.0.0.1", 5),)),
            ("sock_accept", ()),
        ):
            with pytest.raises(ValueError) as caught:
                await getattr(loop, name)(sock, *arguments)
            lib.note(name, caught.value)


@on_loop
async def test_errors_of_the_socket(lib: Any) -> None:
    """Closed and unconnected sockets, resets."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        task = asyncio.ensure_future(loop.sock_recv(two, 5))
        await turns(2)
        one.close()
        with pytest.raises(ConnectionResetError) as caught:
            await task
        lib.note(caught.value)
        for call in (
            lambda: loop.sock_recv(one, 5),
            lambda: loop.sock_sendall(one, b"x"),
            lambda: loop.sock_accept(one),
            lambda: loop.sock_connect(one, ("127.0.0.1", 5)),
        ):
            with pytest.raises((OSError, ValueError)) as closed:
                await call()
            lib.note(type(closed.value))
    with socket.socket() as sock:
        sock.setblocking(False)
        for call in (
            lambda: loop.sock_recv(sock, 5),
            lambda: loop.sock_sendall(sock, b"x"),
            lambda: loop.sock_accept(sock),
        ):
            with pytest.raises(OSError) as caught2:
                await call()
            lib.note(caught2.value)
        with pytest.raises((TypeError, ValueError)):
            await loop.sock_recv(sock, -1)
        with pytest.raises(TypeError):
            await loop.sock_recv(sock, "5")


@on_loop
async def test_things_that_are_no_sockets(lib: Any) -> None:
    """TypeErrors and AttributeErrors, never an abort."""
    loop = asyncio.get_running_loop()
    for thing in (5, None, "sock", object()):
        for name, arguments in (("sock_recv", (5,)), ("sock_sendall", (b"",)), ("sock_accept", ())):
            with pytest.raises((TypeError, AttributeError, OSError)) as caught:
                await getattr(loop, name)(thing, *arguments)
            lib.note(name, type(caught.value))


@on_loop
async def test_tls_sockets_are_refused(lib: Any) -> None:
    """An ssl.SSLSocket is a TypeError."""
    import ssl

    loop = asyncio.get_running_loop()
    context = ssl.create_default_context()
    context.check_hostname = False
    with socket.socket() as raw, context.wrap_socket(raw, do_handshake_on_connect=False) as sock:
        for call in (
            lambda: loop.sock_recv(sock, 5),
            lambda: loop.sock_recv_into(sock, bytearray(5)),
            lambda: loop.sock_sendall(sock, b"x"),
            lambda: loop.sock_connect(sock, ("127.0.0.1", 5)),
            lambda: loop.sock_accept(sock),
            lambda: loop.create_connection(asyncio.Protocol, sock=sock),
            lambda: loop.create_server(asyncio.Protocol, sock=sock),
            lambda: loop.connect_accepted_socket(asyncio.Protocol, sock),
        ):
            with pytest.raises(TypeError) as caught:
                await call()
            lib.note(caught.value)


@on_loop
async def test_many_waiters(lib: Any) -> None:
    """Four hundred reads wait at the same time; each gets its own."""
    if sys.platform != "linux":
        return
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(pair("unix")) for _ in range(400)]
        tasks = [asyncio.ensure_future(loop.sock_recv(one, 10)) for one, _ in pairs]
        await turns(2)
        for n, (_, two) in enumerate(pairs):
            two.send(str(n).encode())
        assert await asyncio.gather(*tasks) == [str(n).encode() for n in range(400)]

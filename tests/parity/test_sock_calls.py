"""What the sock_* methods are as callables, and sockets whose own methods do strange things."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import sys
from collections.abc import Coroutine
from typing import Any

import pytest
from test_sock import pair
from test_sock_shared import message
from wire import io_turns, on_loop, turns


@on_loop
async def test_short_sends_of_a_subclass(lib: Any) -> None:
    """One send for each event, and positions are counted in items."""
    loop = asyncio.get_running_loop()
    sizes: list[int] = []

    class Short(socket.socket):
        def send(self, data: Any, flags: int = 0) -> int:
            sizes.append(len(data))
            if len(sizes) % 3 == 2:
                raise BlockingIOError
            return super().send(memoryview(data).cast("B")[:4], flags) // memoryview(data).itemsize

    with pair() as (one, two):
        with Short(fileno=one.detach()) as short:
            short.setblocking(False)
            lib.note(await loop.sock_sendall(short, b"0123456789"), sizes)
            lib.note(await loop.sock_recv(two, 100))
            wide = memoryview(bytearray(b"abcdefghij")).cast("H")
            lib.note(await loop.sock_sendall(short, wide), sizes, await loop.sock_recv(two, 100))


@on_loop
async def test_a_method_raises_while_an_operation_waits(lib: Any) -> None:
    loop = asyncio.get_running_loop()

    class Failing(socket.socket):
        def recv(self, *args: Any) -> bytes:
            data = super().recv(*args)
            raise ValueError(data)

    with pair() as (one, two):
        with Failing(fileno=one.detach()) as failing:
            failing.setblocking(False)
            for _ in range(2):
                task = asyncio.ensure_future(loop.sock_recv(failing, 10))
                await turns(3)
                two.send(b"x")
                with pytest.raises(ValueError, match="x"):
                    await task
            lib.note(loop.remove_reader(failing))


@on_loop
async def test_a_method_cancels_its_own_operation(lib: Any) -> None:
    """Whatever a socket's method does meanwhile, the loop goes on."""
    loop = asyncio.get_running_loop()
    reports: list[Any] = []
    loop.set_exception_handler(lambda _, context: reports.append(type(context["exception"])))

    class Strange(socket.socket):
        task: Any = None

        def recv(self, *args: Any) -> bytes:
            data = super().recv(*args)
            self.task.cancel()
            loop.remove_reader(self)
            return data

    with pair() as (one, two):
        with Strange(fileno=one.detach()) as strange:
            strange.setblocking(False)
            strange.task = asyncio.ensure_future(loop.sock_recv(strange, 10))
            await turns(3)
            two.send(b"x")
            await asyncio.wait([strange.task])
            lib.note(strange.task.cancelled(), loop.remove_reader(strange))
            await turns(3)
            if lib.kind == "asyncio":
                assert reports == [asyncio.InvalidStateError]


@on_loop
async def test_a_closed_coroutine_takes_nothing(lib: Any) -> None:
    """asyncio's goes on waiting and swallows what comes."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        coroutine = loop.sock_recv(one, 10)
        coroutine.send(None)
        coroutine.close()
        two.send(b"x")
        await io_turns()
        if lib.native_loop:
            assert await loop.sock_recv(one, 10) == b"x"
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(one, 10), 0.01)


METHODS = {
    "sock_recv": (10,),
    "sock_recv_into": (bytearray(10),),
    "sock_recvfrom": (10,),
    "sock_recvfrom_into": (bytearray(10),),
    "sock_sendall": (b"x",),
    "sock_sendto": (b"x", ("127.0.0.1", 1)),
    "sock_connect": (("127.0.0.1", 1),),
    "sock_accept": (),
}


@pytest.mark.parametrize("name", METHODS)
@on_loop
async def test_what_the_methods_are(lib: Any, name: str) -> None:
    """Coroutine functions with asyncio's parameters, which do nothing before they are awaited."""
    loop: Any = asyncio.get_running_loop()
    method = getattr(loop, name)
    # What inspect takes for one before 3.12 is written in Python.
    asks = inspect if sys.version_info >= (3, 12) else asyncio
    lib.note(asks.iscoroutinefunction(method), str(inspect.signature(method)), method.__name__)
    with pair() as (one, _):
        coroutine = method(one, *METHODS[name])
        lib.note(inspect.iscoroutine(coroutine) or isinstance(coroutine, Coroutine))
        lib.note(coroutine.__name__)
        coroutine.close()
        with pytest.raises(TypeError):
            method()
        with pytest.raises(TypeError):
            method(one, *METHODS[name], 1, 2, 3)
        with pytest.raises(TypeError):
            method(one, *METHODS[name], strange=1)
        loop.set_debug(True)
        one.setblocking(True)
        with pytest.raises(ValueError, match="non-blocking"):
            await method(one, *METHODS[name])
        loop.set_debug(False)
        context = ssl.create_default_context()
        with context.wrap_socket(socket.socket(), server_hostname="x") as wrapped:
            with pytest.raises(TypeError, match="SSLSocket"):
                await method(wrapped, *METHODS[name])


@on_loop
async def test_in_debug_mode(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    with pair() as (one, two):
        for text in (b"x", b"y"):
            lib.note(await message(loop, one, two, text))
        lib.note(await loop.sock_sendall(one, b"z"), await loop.sock_recv(two, 10))
        sending = asyncio.ensure_future(loop.sock_sendall(one, bytes(8_000_000)))
        await turns(3)
        sending.cancel()
        await asyncio.wait([sending])
        lib.note(loop.remove_writer(one))


@on_loop
async def test_connecting(lib: Any) -> None:
    """At once, refused, in vain, by a resolver, by a family without names."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        for host in ("127.0.0.1", "localhost"):
            with socket.socket() as sock:
                sock.setblocking(False)
                lib.note(await loop.sock_connect(sock, (host, address[1])))
                lib.note(sock.getpeername() == address)
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.sock_connect(sock, address)
        lib.note(str(caught.value).replace(str(address[1]), "PORT"), caught.value.errno)
        with pytest.raises(TypeError):
            await loop.sock_connect(sock, None)  # type: ignore[arg-type]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        with pytest.raises(FileNotFoundError):
            await loop.sock_connect(sock, "/nowhere/at/all")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        lib.note(await loop.sock_connect(sock, ("127.0.0.1", 9)), sock.getpeername())


@on_loop
async def test_accepting_in_vain(lib: Any) -> None:
    """A connection that came before the cancellation is closed, one that comes later waits."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        task = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(3)
        task.cancel()
        with socket.create_connection(listener.getsockname()):
            await asyncio.wait([task])
            accepted, address = await loop.sock_accept(listener)
            lib.note(task.cancelled(), accepted.gettimeout(), address[0])
            accepted.close()
        for _ in range(3):
            task = asyncio.ensure_future(loop.sock_accept(listener))
            await turns(3)
            with socket.create_connection(listener.getsockname()):
                accepted, _ = await task
                accepted.close()

"""sock_* on sockets that others use, too: watchers, transports, loops, processes, new owners."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from typing import Any

import pytest
from test_sock import pair
from test_sock_ready import kinds, waiting_recv
from test_stale_fds import watched_by_the_kernel
from wire import io_turns, on_loop, turns


async def message(loop: Any, one: socket.socket, two: socket.socket, text: bytes) -> bytes:
    """Have `one` wait for what `two` sends."""
    task = await waiting_recv(loop, one)
    two.send(text)
    return await task


@kinds
@on_loop
async def test_nobody_waits_for_what_comes(lib: Any, kind: str) -> None:
    """Data that comes while nobody waits is kept, and keeps nothing busy."""
    loop: Any = asyncio.get_running_loop()
    with pair(kind) as (one, two):
        lib.note(await message(loop, one, two, b"first"))
        lib.note(one.fileno() in loop._selector.get_map())
        two.send(b"second")
        await io_turns()
        lib.note(one.fileno() in watched_by_the_kernel())
        lib.note(await loop.sock_recv(one, 100), await message(loop, one, two, b"third"))
        two.send(b"in two pieces")
        lib.note(await loop.sock_recv(one, 6))
        await io_turns()
        lib.note(one.fileno() in watched_by_the_kernel(), await loop.sock_recv(one, 100))
        two.close()
        await io_turns()
        lib.note(one.fileno() in watched_by_the_kernel(), await loop.sock_recv(one, 100))


@on_loop
async def test_a_replaced_handle_is_cancelled(lib: Any) -> None:
    loop: Any = asyncio.get_running_loop()
    with pair() as (one, two):
        handle = loop._add_reader(one.fileno(), print)
        lib.note(await message(loop, one, two, b"x"), handle.cancelled(), loop.remove_reader(one))
        writer = loop._add_writer(two.fileno(), print)
        sending = asyncio.ensure_future(loop.sock_sendall(two, bytes(8_000_000)))
        await turns(3)
        lib.note(writer.cancelled(), sending.done(), loop.remove_writer(two))
        sending.cancel()
        await asyncio.wait([sending])
        lib.note(loop.remove_writer(two))


@on_loop
async def test_a_watcher_stays_when_the_operation_beside_it_ends(lib: Any) -> None:
    loop: Any = asyncio.get_running_loop()
    with pair() as (one, two):
        task = await waiting_recv(loop, one)
        writable, readable = asyncio.Event(), asyncio.Event()
        loop.add_writer(one, writable.set)
        task.cancel()
        await asyncio.wait([task])
        writable.clear()
        await writable.wait()
        lib.note(loop._selector.get_key(one).events, loop.remove_writer(one))
        sending = asyncio.ensure_future(loop.sock_sendall(one, bytes(8_000_000)))
        await turns(3)
        loop.add_reader(one, readable.set)
        while not sending.done():
            two.setblocking(True)
            await asyncio.to_thread(two.recv, 1_000_000)
        two.setblocking(False)
        lib.note(readable.is_set(), loop._selector.get_key(one).events)
        two.send(b"x")
        await readable.wait()
        lib.note(loop.remove_reader(one), one.recv(10))


@on_loop
async def test_removed_by_somebody_else(lib: Any) -> None:
    """remove_reader ends the wait of an operation, which then waits for ever."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        lib.note(await message(loop, one, two, b"x"), loop.remove_reader(one))
        task = await waiting_recv(loop, one)
        lib.note(loop.remove_reader(one), loop.remove_reader(one))
        two.send(b"y")
        await io_turns()
        lib.note(task.done(), await loop.sock_recv(one, 10))
        task.cancel()
        await asyncio.wait([task])


@kinds
@on_loop
async def test_a_cancelled_wait_loses_nothing(lib: Any, kind: str) -> None:
    loop = asyncio.get_running_loop()
    with pair(kind) as (one, two):
        for before in (True, False):
            lib.note(await message(loop, one, two, b"x"))
            task = await waiting_recv(loop, one)
            if before:
                two.send(b"data")
            task.cancel()
            if not before:
                two.send(b"data")
            await asyncio.wait([task])
            await io_turns()
            lib.note(task.cancelled(), await loop.sock_recv(one, 100))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(one, 100), 0.001)
            lib.note(loop.remove_reader(one))


@on_loop
async def test_nothing_is_sent_once(lib: Any) -> None:
    """Sending nothing asks the kernel: an empty datagram, an error."""
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair(type=socket.SOCK_DGRAM)
    with one, two:
        for sock in (one, two):
            sock.setblocking(False)
        for empty in (b"", bytearray(), memoryview(b"")):
            lib.note(await loop.sock_sendall(one, empty), two.recv(10))
    with pair("unix") as (one, two):
        lib.note(await loop.sock_sendall(one, b""))
        one.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError) as caught:
            await loop.sock_sendall(one, b"")
        lib.note(caught.value)


@on_loop
async def test_memory_views(lib: Any) -> None:
    """Of single bytes, of wider items, of other shapes."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        views = [memoryview(b"0123456789"), memoryview(b"0123456789")[::2]]
        for view in views:
            try:
                lib.note(await loop.sock_sendall(one, view))
            except BufferError as error:
                lib.note(str(error))
        lib.note(await loop.sock_recv(two, 100))
        room = bytearray(10)
        two.send(b"abcdef")
        wide = memoryview(room).cast("H")
        lib.note(await loop.sock_recv(one, 2), await loop.sock_recv_into(one, wide), room)
        released = memoryview(b"x")
        released.release()
        with pytest.raises(ValueError) as caught:
            await loop.sock_sendall(one, released)
        lib.note(caught.value)


@on_loop
async def test_a_low_water_mark(lib: Any) -> None:
    """SO_RCVLOWAT: what is there is received at once, waiting ends with enough."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        lib.note(await message(loop, one, two, b"x"))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
        task = await waiting_recv(loop, one)
        two.send(b"ab")
        await io_turns()
        lib.note(task.done())
        two.send(b"cd")
        lib.note(await task)
        two.send(b"ef")
        lib.note(await loop.sock_recv(one, 100))


@on_loop
async def test_blocking_sockets_block(lib: Any) -> None:
    """A timeout of the socket's own is kept, also on one that was waited for before."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        lib.note(await message(loop, one, two, b"x"))
        one.settimeout(0.01)
        with pytest.raises(TimeoutError) as caught:
            await loop.sock_recv(one, 10)
        lib.note(type(caught.value), str(caught.value))
        one.setblocking(True)
        two.send(b"y")
        lib.note(await loop.sock_recv(one, 10))
        one.setblocking(False)
        lib.note(await message(loop, one, two, b"z"))


@on_loop
async def test_replaced_methods_of_the_class_are_called(
    lib: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    calls: list[str] = []

    def record(name: str) -> None:
        stock: Any = getattr(socket.socket, name)

        def method(sock: socket.socket, *args: Any) -> Any:
            calls.append(name)
            return stock(sock, *args)

        monkeypatch.setattr(socket.socket, name, method, raising=False)

    with pair() as (one, two):
        lib.note(await message(loop, one, two, b"x"))
        for name in ("recv", "recv_into", "send"):
            record(name)
        await loop.sock_sendall(one, b"y")
        lib.note(await loop.sock_recv(two, 10), await message(loop, one, two, b"z"))
        two.send(b"again")
        lib.note(await loop.sock_recv_into(one, bytearray(10)), calls)


@kinds
@on_loop
async def test_a_number_with_a_new_owner(lib: Any, kind: str) -> None:
    """The number of a closed socket becomes a file's, another socket's, a watched pipe's."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    with pair(kind) as (one, two), tempfile.TemporaryFile() as file:
        lib.note(await message(loop, one, two, b"x"))
        number = one.fileno()
        one.close()
        os.dup2(file.fileno(), number)
        with pytest.raises(PermissionError) as caught:
            loop.add_reader(number, print)
        lib.note(type(caught.value), loop.remove_reader(number))
        os.dup2(reading, number)
        readable = asyncio.Event()
        loop.add_reader(number, readable.set)
        os.write(writing, b"x")
        await readable.wait()
        lib.note(loop.remove_reader(number))
        for descriptor in (reading, writing):
            os.close(descriptor)
        with pair(kind) as (three, four):
            with socket.socket(fileno=os.dup2(three.fileno(), number)) as again:
                lib.note(await message(loop, again, four, b"y"))
                task = await waiting_recv(loop, again)
                four.close()
                lib.note(await task)


@on_loop
async def test_the_next_owner_of_a_number_is_registered(lib: Any) -> None:
    """At once: nothing of the socket that had the number before counts for it."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        lib.note(await message(loop, one, two, b"x"))
        number = one.fileno()
        one.close()
        with pair() as (three, _):
            task = await waiting_recv(loop, three)
            lib.note(three.fileno() == number, number in watched_by_the_kernel())
            task.cancel()
            await asyncio.wait([task])


@on_loop
async def test_a_second_object_of_the_same_number(lib: Any) -> None:
    """detach() and socket(fileno=...): another object, the same descriptor and file."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        for _ in range(3):
            lib.note(await message(loop, one, two, b"x"))
            one = socket.socket(fileno=one.detach())
            lib.note(one.gettimeout())
            one.setblocking(False)
        one.close()


@on_loop
async def test_a_duplicate_outlives_the_socket(lib: Any) -> None:
    """A closed socket whose file lives on is not listened to for ever."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        lib.note(await message(loop, one, two, b"x"))
        number = one.fileno()
        with one.dup() as double:
            one.close()
            two.send(b"y")
            for _ in range(20):
                await asyncio.sleep(0.001)
            lib.note(number in watched_by_the_kernel(), double.recv(10))
            with pair() as (three, four):
                lib.note(three.fileno() == number, await message(loop, three, four, b"z"))


@pytest.mark.parametrize("lives", [True, False])
@on_loop
async def test_another_file_under_the_number(lib: Any, lives: bool) -> None:
    """dup2() over a socket that waited before; its old file lives on and has data, or is gone."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two), pair() as (three, four):
        lib.note(await message(loop, one, two, b"x"))
        with one.dup() as double:
            if not lives:
                double.close()
            else:
                two.send(b"for the old file")
            os.dup2(three.fileno(), one.fileno())
            task = asyncio.ensure_future(loop.sock_recv(one, 100))
            await turns(3)
            lib.note(task.done())
            four.send(b"for the new file")
            lib.note(await task)
            if lives:
                lib.note(double.recv(100))


@on_loop
async def test_another_file_under_the_number_of_a_busy_loop(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    with pair() as (one, two), pair() as (three, four):
        lib.note(await message(loop, one, two, b"x"))
        os.dup2(three.fileno(), one.fileno())
        task = asyncio.ensure_future(loop.sock_recv(one, 100))
        await turns(3)
        four.send(b"y")

        def spin() -> None:
            if not task.done():
                loop.call_soon(spin)

        spin()
        lib.note(await task)


@on_loop
async def test_transports_take_sockets_over(lib: Any) -> None:
    """Listening and connected sockets go from sock_* to transports; those have them alone."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    accepting = asyncio.ensure_future(loop.sock_accept(listener))
    await turns(3)
    with socket.create_connection(listener.getsockname()) as client:
        accepted, _ = await accepting
        client.setblocking(False)
        lib.note(await message(loop, accepted, client, b"x"))
        connected: asyncio.Future[None] = loop.create_future()

        class Paused(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                transport.pause_reading()
                connected.set_result(None)

        transport, _ = await loop.connect_accepted_socket(Paused, accepted)
        await connected
        client.send(b"y")
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_sendall(accepted, bytes(50_000_000))
        lib.note(await loop.sock_recv(accepted, 10))
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(accepted, 10)
        transport.abort()
        await io_turns()
    served: asyncio.Future[None] = loop.create_future()
    server = await loop.create_server(
        lambda: (served.set_result(None), asyncio.Protocol())[1], sock=listener
    )
    with socket.create_connection(listener.getsockname()):
        await served
    server.close()


def test_forks(lib: Any) -> None:
    """A child that closes everything takes nothing from its parent; one that lives on neither."""
    loop = lib.new_loop()
    with pair() as (one, two):

        async def body() -> None:
            lib.note(await message(loop, one, two, b"x"))
            for closes in (True, False):
                child = os.fork()
                if child == 0:
                    if closes:
                        one.close()
                        two.close()
                        os._exit(0)
                    signal.pause()
                if closes:
                    os.waitpid(child, 0)
                try:
                    lib.note(await message(loop, one, two, b"y"))
                    if not closes:
                        number = one.fileno()
                        one.close()
                        two.send(b"z")
                        for _ in range(20):
                            await asyncio.sleep(0.001)
                        lib.note(number in watched_by_the_kernel())
                        with pair() as (three, four):
                            lib.note(await message(loop, three, four, b"after"))
                finally:
                    if not closes:
                        os.kill(child, signal.SIGKILL)
                        os.waitpid(child, 0)

        loop.run_until_complete(body())


def test_a_signal_handler_raises_while_something_comes(lib: Any) -> None:
    """What has come meanwhile is still there for the next run."""

    class Interrupt(Exception):
        pass

    def handler(*_: Any) -> None:
        two.send(b"data")
        raise Interrupt

    loop = lib.new_loop()
    old = signal.signal(signal.SIGALRM, handler)
    try:
        with pair() as (one, two):
            loop.run_until_complete(message(loop, one, two, b"x"))
            task = loop.create_task(loop.sock_recv(one, 10))
            for _ in range(5):
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                with pytest.raises(Interrupt):
                    loop.run_forever()
                lib.note(loop.run_until_complete(task))
                task = loop.create_task(loop.sock_recv(one, 10))
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))
    finally:
        signal.signal(signal.SIGALRM, old)


@on_loop
async def test_libraries_enter_transports(lib: Any) -> None:
    """Who enters a transport has the descriptor from then on."""
    loop: Any = asyncio.get_running_loop()
    with pair() as (one, two):
        lib.note(await message(loop, one, two, b"x"))

        class Foreign(asyncio.Transport):
            def is_closing(self) -> bool:
                return False

        foreign = Foreign()
        loop._transports[one.fileno()] = foreign
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(one, 10)
        del loop._transports[one.fileno()]
        lib.note(await message(loop, one, two, b"y"))

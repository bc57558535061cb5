"""sock_* on sockets that are used again and again, shared with watchers, closed and reused."""

from __future__ import annotations

import array
import asyncio
import gc
import os
import socket
import weakref
from typing import Any

import pytest
from test_sock import pair
from wire import on_loop, turns

kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])


async def waiting_recv(loop: Any, sock: socket.socket, count: int = 100) -> asyncio.Task[bytes]:
    """Start a sock_recv and let it come to wait."""
    task = asyncio.ensure_future(loop.sock_recv(sock, count))
    await turns(3)
    assert not task.done()
    return task


@kinds
@on_loop
async def test_many_waits_on_one_socket(lib: Any, kind: str) -> None:
    """Each wait ends with its message, whether it came before, between or after."""
    loop = asyncio.get_running_loop()
    with pair(kind) as (one, two):
        for number in range(20):
            task = await waiting_recv(loop, one)
            two.send(b"%d" % number)
            lib.note(await task)
            two.send(b"early")
            lib.note(await loop.sock_recv(one, 100))
            two.send(b"in two pieces")
            lib.note(await loop.sock_recv(one, 6), await loop.sock_recv(one, 100))


@kinds
@on_loop
async def test_the_end_stands_behind_data(lib: Any, kind: str) -> None:
    """Data and end of stream arrive together: a short read does not hide the end."""
    loop = asyncio.get_running_loop()
    for waits in (False, True):
        with pair(kind) as (one, two):
            task = await waiting_recv(loop, one)
            two.send(b"first")
            lib.note(await task)
            task = await waiting_recv(loop, one) if waits else None
            two.send(b"last")
            two.close()
            lib.note(await (task or loop.sock_recv(one, 100)))
            lib.note(await loop.sock_recv(one, 100), await loop.sock_recv(one, 100))


@on_loop
async def test_the_end_comes_after_a_short_read(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        task = await waiting_recv(loop, one)
        two.send(b"data")
        lib.note(await task)
        task = await waiting_recv(loop, one)
        two.shutdown(socket.SHUT_WR)
        lib.note(await task, await loop.sock_recv(one, 100))


@on_loop
async def test_reads_stop_at_urgent_data(lib: Any) -> None:
    """Urgent data cuts a read short with more behind it."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        task = await waiting_recv(loop, one)
        two.send(b"before")
        two.send(b"!", socket.MSG_OOB)
        two.send(b"after")
        received = await task
        while b"after" not in received:
            received += await loop.sock_recv(one, 100)
        lib.note(received)


@on_loop
async def test_reads_stop_at_passed_descriptors(lib: Any) -> None:
    """On Unix sockets a read ends with the message that carries descriptors."""
    loop = asyncio.get_running_loop()
    with pair("unix") as (one, two):
        task = await waiting_recv(loop, one)
        for text in (b"one", b"two", b"three"):
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [two.fileno()]))]
            two.sendmsg([text], ancillary)
        received = await task
        while not received.endswith(b"three"):
            received += await loop.sock_recv(one, 100)
        lib.note(received)


@on_loop
async def test_reset_while_waiting(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        first = await waiting_recv(loop, one)
        two.send(b"x")
        await first
        task = await waiting_recv(loop, one)
        two.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        two.close()
        with pytest.raises(ConnectionResetError) as caught:
            await task
        lib.note(caught.value)
        lib.note(await loop.sock_recv(one, 100))


@kinds
@on_loop
async def test_both_directions_at_once(lib: Any, kind: str) -> None:
    """Megabytes both ways through full buffers."""
    loop = asyncio.get_running_loop()
    content = bytes(range(256)) * 12_000

    async def receive(sock: socket.socket) -> bytes:
        received = bytearray()
        while len(received) < len(content):
            received += await loop.sock_recv(sock, 50_000)
        return bytes(received)

    async def receive_into(sock: socket.socket) -> bytes:
        received, room = bytearray(), bytearray(70_000)
        while len(received) < len(content):
            count = await loop.sock_recv_into(sock, room)
            received += room[:count]
        return bytes(received)

    with pair(kind) as (one, two):
        for data in (content, bytearray(content), memoryview(content)):
            results = await asyncio.gather(
                loop.sock_sendall(one, data),
                loop.sock_sendall(two, data),
                receive(one),
                receive_into(two),
            )
            lib.note([result if result is None else result == content for result in results])


@kinds
@on_loop
async def test_a_watcher_beside_a_waiting_operation(lib: Any, kind: str) -> None:
    """add_reader beside a waiting send, add_writer beside a waiting receive: both are served."""
    loop = asyncio.get_running_loop()
    with pair(kind) as (one, two):
        sending = asyncio.ensure_future(loop.sock_sendall(one, bytes(8_000_000)))
        await turns(3)
        readable = asyncio.Event()
        loop.add_reader(one, readable.set)
        two.send(b"x")
        await readable.wait()
        lib.note(sending.done())
        # Still readable: a reader is told again and again.
        readable.clear()
        await readable.wait()
        lib.note(loop.remove_reader(one), loop.remove_reader(one), one.recv(10))
        total = 0
        while total < 8_000_000:
            total += len(await loop.sock_recv(two, 1_000_000))
        lib.note(await sending)

        receiving = await waiting_recv(loop, one)
        writable = asyncio.Event()
        loop.add_writer(one, writable.set)
        await writable.wait()
        writable.clear()
        await writable.wait()
        two.send(b"received")
        lib.note(await receiving, loop.remove_writer(one), loop.remove_writer(one))


@on_loop
async def test_watchers_replace_operations_and_the_other_way_round(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        replaced = await waiting_recv(loop, one)
        readable = asyncio.Event()
        loop.add_reader(one, readable.set)
        two.send(b"x")
        await readable.wait()
        lib.note(replaced.done(), loop.remove_reader(one), one.recv(10))
        loop.add_reader(one, readable.set)
        task = await waiting_recv(loop, one)
        readable.clear()
        two.send(b"y")
        lib.note(await task, readable.is_set(), loop.remove_reader(one))
        removed = await waiting_recv(loop, one)
        lib.note(loop.remove_reader(one), loop.remove_reader(one))
        second = await waiting_recv(loop, one)
        two.send(b"z")
        lib.note(await second, removed.done())
        for task in (replaced, removed):
            task.cancel()
        await asyncio.wait([replaced, removed])


@on_loop
async def test_two_receivers_on_one_socket(lib: Any) -> None:
    """The later one replaces the earlier one, as a reader would."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        first = await waiting_recv(loop, one)
        second = await waiting_recv(loop, one)
        two.send(b"once")
        lib.note(await second, first.done())
        two.send(b"twice")
        lib.note(await loop.sock_recv(one, 10), first.done())
        first.cancel()
        await asyncio.wait([first])


@kinds
@on_loop
async def test_numbers_are_used_again(lib: Any, kind: str) -> None:
    """A socket that waited is closed, and another one gets its number."""
    loop = asyncio.get_running_loop()
    numbers = set()
    for round_ in range(10):
        with pair(kind) as (one, two):
            numbers.add(one.fileno())
            task = await waiting_recv(loop, one)
            two.send(b"%d" % round_)
            lib.note(await task)
            task = await waiting_recv(loop, one)
            two.send(b"again")
            lib.note(await task)
    lib.note(len(numbers))


@on_loop
async def test_closed_while_waiting(lib: Any) -> None:
    """Closing ends the watch; the number's next owner is served."""
    lib.stock_defect(True, "asyncio goes on with the closed socket's entry")
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        orphan = await waiting_recv(loop, one)
        number = one.fileno()
        one.close()
        with pair() as (three, four):
            lib.note(number in (three.fileno(), four.fileno()))
            task = await waiting_recv(loop, three)
            other = await waiting_recv(loop, four)
            four.send(b"for three")
            three.send(b"for four")
            lib.note(await task, await other, orphan.done())
        orphan.cancel()
        await asyncio.wait([orphan])


@on_loop
async def test_duplicates_share_a_stream(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    with pair() as (one, two), one.dup() as double:
        for sock in (one, double, one, double):
            task = await waiting_recv(loop, sock)
            two.send(b"x")
            lib.note(await task)
        one.close()
        task = await waiting_recv(loop, double)
        two.send(b"last")
        lib.note(await task)


@on_loop
async def test_a_transport_takes_over(lib: Any) -> None:
    """A socket that waited becomes a transport's, which then has it to itself."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        task = await waiting_recv(loop, one)
        two.send(b"hello")
        lib.note(await task)
        reader, writer = await asyncio.open_connection(sock=one)
        two.send(b"line\n")
        lib.note(await reader.readline())
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(one, 10)
        writer.write(b"answer")
        await writer.drain()
        lib.note(await loop.sock_recv(two, 10))
        writer.close()
        await writer.wait_closed()


@on_loop
async def test_cancelled_operations_keep_nothing_alive(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    for sock in (one, two):
        sock.setblocking(False)
    task = await waiting_recv(loop, one)
    task.cancel()
    await asyncio.wait([task])
    seen = weakref.ref(one)
    two.close()
    os.close(one.detach())
    del one, sock, task
    await turns(2)
    gc.collect()
    lib.note(seen() is None)


@on_loop
async def test_buffers_may_change_while_waiting(lib: Any) -> None:
    """The target is looked at when bytes are there; what is sent cannot be resized meanwhile."""
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        room = bytearray(2)
        task = asyncio.ensure_future(loop.sock_recv_into(one, room))
        await turns(3)
        room.extend(bytes(6))
        two.send(b"12345678")
        lib.note(await task, room)
        data = bytearray(8_000_000)
        sending = asyncio.ensure_future(loop.sock_sendall(one, data))
        await turns(3)
        with pytest.raises(BufferError) as caught:
            data.append(1)
        lib.note(caught.value)
        sending.cancel()
        await asyncio.wait([sending])
        data.append(1)


@on_loop
async def test_classes_of_the_user_are_asked(lib: Any) -> None:
    """A subclass that overrides recv and send is called."""
    calls = []

    class Spy(socket.socket):
        def recv(self, *args: Any) -> bytes:
            calls.append("recv")
            return super().recv(*args)

        def send(self, *args: Any) -> int:
            calls.append("send")
            return super().send(*args)

    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        with Spy(fileno=one.detach()) as spy:
            spy.setblocking(False)
            task = await waiting_recv(loop, spy)
            two.send(b"x")
            lib.note(await task)
            await loop.sock_sendall(spy, b"y")
            lib.note(await loop.sock_recv(two, 5), calls)


@on_loop
async def test_arguments_that_make_no_sense(lib: Any) -> None:
    loop = asyncio.get_running_loop()
    with pair() as (one, two):
        two.send(b"x")
        for call, argument in [
            (loop.sock_recv, "10"),
            (loop.sock_recv, -1),
            (loop.sock_recv, None),
            (loop.sock_recv, 1 << 70),
            (loop.sock_recv_into, b"read only"),
            (loop.sock_recv_into, 5),
            (loop.sock_sendall, "text"),
            (loop.sock_sendall, None),
        ]:
            with pytest.raises((TypeError, ValueError, BufferError, OverflowError)) as caught:
                await call(one, argument)
            lib.note(call.__name__, type(caught.value), str(caught.value))
        lib.note(await loop.sock_sendall(one, b""), await loop.sock_recv_into(one, bytearray(1)))
    for call, argument in [(loop.sock_recv, 1), (loop.sock_sendall, b"x")]:
        with pytest.raises(OSError) as failed:
            await call(one, argument)
        lib.note(failed.value)


def test_one_socket_on_two_loops(lib: Any) -> None:
    """Each loop watches for itself."""
    first, second = lib.new_loop(), lib.new_loop()
    with pair() as (one, two):
        for loop in (first, second, first, second):

            async def receive(loop: Any = loop) -> bytes:
                task = await waiting_recv(loop, one)
                two.send(b"x")
                return await task

            lib.note(loop.run_until_complete(receive()))

"""Large messages: what is kept stays as it came, whatever comes after it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from wire import listening, on_loop, tcp_pair

LARGE = 64 * 1024
# Around the sizes from which on, and up to which, memory is used again.
SIZES = (100_000, 8191, 8192, 65_536, 33_000, 32_767, 65_536, 9000, 65_536, 20_000, 250_000, 65_535)
ROUNDS = 6

Receive = Callable[[int], Awaitable[bytes]]


def messages() -> list[bytes]:
    """Make messages of many sizes, none like another."""
    source = random.Random(5)
    return [source.randbytes(size) for _ in range(ROUNDS) for size in SIZES]


@contextlib.asynccontextmanager
async def sock_receiver(near: socket.socket) -> AsyncIterator[Receive]:
    """Receive by `sock_recv`."""
    loop = asyncio.get_running_loop()
    yield lambda most: loop.sock_recv(near, most)


@contextlib.asynccontextmanager
async def stream_receiver(near: socket.socket) -> AsyncIterator[Receive]:
    """Receive by a StreamReader."""
    reader, writer = await asyncio.open_connection(sock=near)
    yield reader.read
    writer.close()
    await writer.wait_closed()


@contextlib.asynccontextmanager
async def protocol_receiver(near: socket.socket) -> AsyncIterator[Receive]:
    """Receive by a Protocol that queues."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    class Queuing(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            queue.put_nowait(data)

    transport, _ = await loop.create_connection(Queuing, sock=near)
    yield lambda _most: queue.get()
    transport.close()


receivers = pytest.mark.parametrize(
    "receiver",
    [sock_receiver, stream_receiver, protocol_receiver],
    ids=["sock", "stream", "protocol"],
)


@receivers
@pytest.mark.parametrize("keeps", [0, 1, 3, 1000])
@on_loop
async def test_what_is_kept_stays(lib: Any, receiver: Any, keeps: int) -> None:
    """Pieces that a program keeps, with their hashes, are not written to again."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    near.setblocking(False)
    far.setblocking(False)
    kept: list[tuple[bytes, int, bytearray]] = []
    with near, far:
        async with receiver(near) as receive:
            for message in messages():
                sending = asyncio.ensure_future(loop.sock_sendall(far, message))
                whole = bytearray()
                while len(whole) < len(message):
                    piece = await receive(LARGE)
                    assert type(piece) is bytes
                    assert sys.getsizeof(piece) == sys.getsizeof(b"") + len(piece)
                    kept.append((piece, hash(piece), bytearray(piece)))
                    del kept[: max(0, len(kept) - keeps)]
                    whole += piece
                    del piece
                await sending
                assert whole == message
            for piece, told, copy in kept:
                assert piece == copy
                assert hash(piece) == told == hash(bytes(copy))
    lib.note(len(messages()))


@on_loop
async def test_many_connections_at_once(lib: Any) -> None:
    """Connections that all bring much are all answered, each with its own."""
    loop = asyncio.get_running_loop()
    count, rounds = 30, 4

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(LARGE):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def ask(near: socket.socket, number: int) -> int:
        reader, writer = await asyncio.open_connection(sock=near)
        answered = 0
        for turn in range(rounds):
            message = random.Random(number * rounds + turn).randbytes(100 * 1024)
            writer.write(message)
            answered += await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()
        return answered

    with listening() as listener:
        server = await asyncio.start_server(echo, sock=listener)
        async with server:
            asked = []
            for number in range(count):
                near = socket.socket()
                near.setblocking(False)
                await loop.sock_connect(near, listener.getsockname())
                asked.append(ask(near, number))
            lib.note(await asyncio.gather(*asked))


@pytest.mark.parametrize("size", [LARGE, 10_000, 8192, 100])
@on_loop
async def test_reads_of_one_size(lib: Any, size: int) -> None:
    """Reads of the same size give the same pieces as on asyncio, then others, then the end."""
    near, far = tcp_pair()
    message = random.Random(3).randbytes(200_000)
    with far:
        reader, writer = await asyncio.open_connection(sock=near)
        far.sendall(message[:1000])
        lib.note(await reader.read(size))
        for begin in range(1000, len(message), 30_000):
            part = message[begin : begin + 30_000]
            got = asyncio.ensure_future(reader.readexactly(len(part) - 50))
            far.sendall(part)
            lib.note(await got, await reader.readexactly(20), await reader.readexactly(30))
        far.shutdown(socket.SHUT_WR)
        lib.note(await reader.read(size), reader.at_eof())
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("receiver", [sock_receiver, stream_receiver], ids=["sock", "stream"])
@on_loop
async def test_fewer_at_once(lib: Any, receiver: Any) -> None:
    """Where each of many brings much that is kept, ours asks the kernel for a part of them."""
    loop = asyncio.get_running_loop()
    count = 40
    kept: list[bytes] = []
    # How many were taken in each turn in which any were; `end_turn` makes the loop a busy one.
    taken: list[int] = []
    is_turn = False
    all_came = loop.create_future()

    def end_turn() -> None:
        nonlocal is_turn
        is_turn = False

    async def take(receive: Receive) -> None:
        nonlocal is_turn
        while data := await receive(LARGE):
            kept.append(data)
            if not is_turn:
                is_turn = True
                taken.append(0)
                loop.call_soon(end_turn)
            taken[-1] += 1
            if len(kept) % count == 0:
                all_came.set_result(None)

    async with contextlib.AsyncExitStack() as stack:
        fars, tasks = [], []
        for _ in range(count):
            near, far = map(stack.enter_context, socket.socketpair())
            near.setblocking(False)
            fars.append(far)
            receive = await stack.enter_async_context(receiver(near))
            tasks.append(loop.create_task(take(receive)))
        # What each brings is known when the first ones have come.
        for _ in range(4):
            taken.clear()
            all_came = loop.create_future()
            for far in fars:
                far.sendall(bytes(LARGE))
            # Not by turns: only a loop with nothing else to do asks for a part.
            await all_came
        # Half a MiB, with what is around each.
        assert taken[0] == count if lib.kind == "asyncio" else taken[0] == 7
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    lib.note(len(kept))


@on_loop
async def test_many_small_ones_come_in_parts(lib: Any) -> None:
    """Where many receive, the first of them goes on before the last has received: ours alone."""
    count, size = 180, 1024
    pairs = [socket.socketpair() for _ in range(count)]
    listening_for = select.poll()
    unread: list[int] = []

    async def receive_one(receive: Receive) -> int:
        data = await receive(size)
        unread.append(len(listening_for.poll(0)))
        return len(data)

    async with contextlib.AsyncExitStack() as stack:
        receives = []
        for near, far in pairs:
            stack.enter_context(far)
            stack.enter_context(near)
            near.setblocking(False)
            receives.append(await stack.enter_async_context(sock_receiver(near)))
            listening_for.register(near, select.POLLIN)
        for _ in range(2):
            unread.clear()
            receiving = [asyncio.ensure_future(receive_one(receive)) for receive in receives]
            # Until all of them wait.
            for _ in range(3):
                await asyncio.sleep(0)
            for _, far in pairs:
                far.sendall(bytes(size))
            lib.note(await asyncio.gather(*receiving))
    # What the first round brought tells how much the second will.
    assert (unread[0] > 0) == lib.native_loop
    assert unread[-1] == 0

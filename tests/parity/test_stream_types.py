"""StreamReader by itself, on every kind of loop.

The stock kind has asyncio's classes, every other kind aioxide's, also on loops and under tasks that
are not aioxide's. Transports are fakes that note what they are asked.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from unittest import mock

import pytest
from streamends import Transport, make, of, outcome
from wire import on_loop, turns

pytestmark = pytest.mark.kinds("asyncio", "aioxide", "foreign", "guest", "visiting")


@on_loop
async def test_feeding(lib: Any) -> None:
    """What may be fed, and how a reader shows itself meanwhile."""
    reader = make(lib)
    for data in (b"", b"one", bytearray(b"two"), memoryview(b"three"), [52, 53], b"six"):
        lib.note(reader.feed_data(data), reader, reader.at_eof())
    lib.catch(reader.feed_data, "text")
    lib.catch(reader.feed_data, 5)
    lib.note(await reader.read(4), await reader.read(2), await reader.readexactly(6), reader)
    lib.note(reader.feed_eof(), reader, reader.at_eof())
    lib.catch(reader.feed_data, b"late")
    lib.catch(reader.feed_data, b"")
    lib.note(await reader.read(), reader.at_eof(), reader)
    lib.note(await reader.read(3), await reader.readline())


@on_loop
async def test_reads_cut_and_join(lib: Any) -> None:
    """Every way of reading over every cut of what was fed."""
    text = b"a line\nanother;one\n\nand the rest"
    for size in (1, 2, 3, 5, 7, 11, 64):
        reader = make(lib)
        for start in range(0, len(text), size):
            reader.feed_data(text[start : start + size])
        reader.feed_eof()
        lib.note(await reader.read(2), await reader.readline(), await reader.readexactly(3))
        lib.note(await reader.readuntil(b";o"), await reader.readline(), await reader.readline())
        lib.note(len(reader._buffer), [line async for line in reader], await reader.read())


@on_loop
async def test_the_buffer(lib: Any) -> None:
    """Python code that holds `_buffer` holds what the reader reads."""
    reader = make(lib)
    reader.feed_data(b"some")
    buffer = reader._buffer
    lib.note(type(buffer).__name__, bytes(buffer), reader._buffer is buffer)
    reader.feed_data(b"thing")
    lib.note(bytes(buffer), await reader.read(3), bytes(buffer))
    del buffer[:2]
    buffer += b"!\nmore"
    lib.note(reader, await reader.readline(), bytes(buffer))
    with memoryview(buffer):
        await outcome(lib, reader.read(2))
        lib.catch(reader.feed_data, b"x")
    lib.note(bytes(buffer))
    buffer.clear()
    lib.note(reader, reader.at_eof())
    del buffer
    reader.feed_data(b"again")
    reader._buffer.extend(b" and again")
    lib.note(await reader.readexactly(15))
    reader._buffer = bytearray(b"set")
    lib.note(await reader.read(2), reader._buffer)


@on_loop
async def test_bad_arguments(lib: Any) -> None:
    """What cannot be read, and when that is said."""
    reader = make(lib)
    reader.feed_data(b"data")
    for length in (None, "5", -1, -7):
        await outcome(lib, reader.readexactly(length))
    await outcome(lib, reader.read(None))
    await outcome(lib, reader.read("5"))
    await outcome(lib, reader.read(True))
    separators: list[Any] = [b"", None, 5, "text", bytearray(b"t"), memoryview(b"a")]
    if sys.version_info >= (3, 13):
        separators += [(), (b"",), (b"x", b""), (b"x", "y")]
    reader.feed_data(b" data data")
    reader.feed_eof()
    for separator in separators:
        await outcome(lib, reader.readuntil(separator))
    for limit in (0, -5):
        lib.catch(make, lib, limit=limit)
    lib.note(reader.set_exception(ZeroDivisionError("set")), reader.exception())
    for coroutine in (
        reader.readexactly(-1),
        reader.readexactly(0),
        reader.read(0),
        reader.read(),
        reader.readuntil(b""),
        reader.readline(),
        reader.__anext__(),
    ):
        await outcome(lib, coroutine)
    reader.set_exception(KeyError)
    await outcome(lib, reader.read(1))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="one separator before 3.13")
@on_loop
async def test_several_separators(lib: Any) -> None:
    """The nearest end of any, the shortest one of those."""
    reader = make(lib, limit=12)
    reader.feed_data(b"one;two--three---four")
    lib.note(await reader.readuntil((b"--", b";")), await reader.readuntil((b"--", b"---")))
    lib.note(await reader.readuntil((b"---", b"--")))
    waiting = asyncio.ensure_future(reader.readuntil((b"END", b"-end-")))
    await turns(2)
    for piece in (b"-en", b"d", b"-"):
        reader.feed_data(piece)
        await turns(3)
        lib.note(waiting.done())
    lib.note(await waiting)
    reader.feed_data(b"x" * 30)
    exc = await outcome(lib, reader.readuntil((b"END", b"E")))
    lib.note(exc.consumed)
    reader.feed_data(b"END")
    exc = await outcome(lib, reader.readuntil((b"END", b"E")))
    lib.note(exc.consumed, len(reader._buffer))


@on_loop
async def test_limits(lib: Any) -> None:
    """Lines at the limit and beyond, found and not; what stays behind; who is paused."""
    for length in (7, 8, 9, 16, 17):
        for ends in (b"", b"\n", b"\nrest"):
            reader = make(lib, limit=8)
            reader.set_transport(Transport(lib))
            reader.feed_data(b"x" * length + ends)
            lib.note(length, ends, reader._paused)
            reader.feed_eof()
            await outcome(lib, reader.readline())
            lib.note(bytes(reader._buffer), reader._paused, reader)
    for limit in (10.5, float("inf")):
        reader = make(lib, limit=limit)
        reader.feed_data(b"0123456789ab\n")
        reader.feed_eof()
        await outcome(lib, reader.readline())
        lib.note(reader._limit, reader)


@on_loop
async def test_pausing(lib: Any) -> None:
    """Paused beyond twice the limit, resumed at the limit, or when somebody waits."""
    reader = make(lib, limit=4)
    transport = Transport(lib)
    reader.set_transport(transport)
    lib.catch(reader.set_transport, transport)
    for data in (b"12345678", b"9", b"0"):
        reader.feed_data(data)
        lib.note(reader._paused, reader)
    for count in (3, 3, 1):
        lib.note(await reader.read(count), reader._paused)
    reader.feed_data(b"abcdefghi")
    waiting = asyncio.ensure_future(reader.readexactly(20))
    await turns(2)
    lib.note(reader._paused)
    reader.feed_data(b"jklmnopqrstu")
    lib.note(await waiting, reader._paused)
    stubborn = make(lib, limit=1)
    stubborn.set_transport(Transport(lib, refuses=NotImplementedError))
    stubborn.feed_data(b"12345")
    lib.note(stubborn._transport, stubborn._paused)
    broken = make(lib, limit=1)
    broken.set_transport(Transport(lib, refuses=ZeroDivisionError))
    lib.catch(broken.feed_data, b"12345")
    lib.note(broken._paused, bytes(broken._buffer))


@on_loop
async def test_waiting(lib: Any) -> None:
    """One may wait; who wakes whom in which turn; cancelling; errors."""
    loop = asyncio.get_running_loop()
    for method, argument in (
        ("read", (5,)),
        ("read", ()),
        ("readexactly", (5,)),
        ("readline", ()),
        ("readuntil", (b"\n",)),
        ("__anext__", ()),
    ):
        for event in (b"12345\n", b"12", "eof", "exception", "cancel", "wakeup"):
            reader = make(lib)
            task = asyncio.ensure_future(getattr(reader, method)(*argument))
            await turns()
            lib.note(method, event, reader._waiter is not None)
            await outcome(lib, getattr(reader, method)(*argument))
            order: list[str] = []
            loop.call_soon(order.append, "before")
            if event == "eof":
                reader.feed_eof()
            elif event == "exception":
                reader.set_exception(OSError("broken"))
            elif event == "cancel":
                task.cancel("enough")
            elif event == "wakeup":
                reader._wakeup_waiter()
            else:
                reader.feed_data(event)
            task.add_done_callback(lambda _task, order=order: order.append("done"))
            loop.call_soon(order.append, "after")
            await turns(3)
            lib.note(order, task.done(), bytes(reader._buffer))
            reader.feed_eof()
            await outcome(lib, task)
            lib.note(reader._waiter, bytes(reader._buffer))
    reader = make(lib)
    reader.feed_eof()
    await outcome(lib, reader._wait_for_data("read"))


@on_loop
async def test_subclasses_of_readers(lib: Any) -> None:
    """Whatever a subclass overrides is called where asyncio calls it."""
    calls = lib.note

    class Reader(of(lib).StreamReader):  # type: ignore[misc]
        def feed_data(self, data: bytes) -> None:
            calls("feed_data", data)
            super().feed_data(data)

        def feed_eof(self) -> None:
            calls("feed_eof")
            super().feed_eof()

        def set_exception(self, exc: BaseException) -> None:
            super().set_exception(calls("set_exception", exc) or exc)

        def exception(self) -> Any:
            calls("exception")
            return super().exception()

        def set_transport(self, transport: Any) -> None:
            calls("set_transport")
            super().set_transport(transport)

        def _wakeup_waiter(self) -> None:
            calls("_wakeup_waiter")
            super()._wakeup_waiter()

        def _maybe_resume_transport(self) -> None:
            calls("_maybe_resume_transport")
            super()._maybe_resume_transport()

        async def _wait_for_data(self, func_name: str) -> None:
            calls("_wait_for_data", func_name)
            await super()._wait_for_data(func_name)

        async def read(self, n: int = -1) -> bytes:
            calls("read", n)
            return await super().read(n)

        async def readuntil(self, separator: Any = b"\n") -> bytes:
            calls("readuntil", separator)
            return await super().readuntil(separator)

        async def readline(self) -> bytes:
            calls("readline")
            return await super().readline()

    loop = asyncio.get_running_loop()
    reader = Reader(limit=6, loop=loop)
    protocol = of(lib).StreamReaderProtocol(reader, loop=loop)
    transport: Any = Transport(lib)
    protocol.connection_made(transport)
    writer = of(lib).StreamWriter(transport, protocol, reader, loop)
    await writer.drain()
    task = asyncio.ensure_future(reader.readline())
    await turns()
    for data in (b"on", b"e\ntwo\nthr", b"ee\n"):
        protocol.data_received(data)
        await turns(3)
    lib.note(await task, await anext(reader))
    protocol.data_received(b"0123456789\nlast\nall the rest")
    await outcome(lib, reader.readline())
    task = asyncio.ensure_future(reader.read())
    await turns(8)
    protocol.eof_received()
    lib.note(await task, [line async for line in reader])
    protocol.connection_lost(OSError("gone"))
    await outcome(lib, writer.drain())
    transport.closing = True


@on_loop
async def test_attributes_of_instances(lib: Any) -> None:
    """A mock set on one object, or on the class, is called."""
    loop = asyncio.get_running_loop()
    cls = of(lib)
    reader = make(lib)
    protocol = cls.StreamReaderProtocol(reader, loop=loop)
    reader.feed_data = fed = mock.Mock()
    protocol.data_received(b"data")
    lib.note(fed.mock_calls)
    del reader.feed_data
    with mock.patch.object(reader, "_wait_for_data", mock.AsyncMock()) as waits:
        lib.note(await reader.read(3), waits.mock_calls)
    with mock.patch.object(cls.StreamReader, "readuntil", mock.AsyncMock(return_value=b"m")):
        lib.note(await reader.readline())
    with mock.patch.object(cls.StreamReader, "feed_data") as fed:
        protocol.data_received(b"data")
        lib.note(fed.mock_calls)
    protocol.data_received(b"real")
    lib.note(await reader.read(9))
    with mock.patch.object(protocol, "_drain_helper", mock.AsyncMock()) as helper:
        writer = cls.StreamWriter(Transport(lib), protocol, reader, loop)
        await writer.drain()
        lib.note(helper.mock_calls)
        writer.close()


@on_loop
async def test_an_exception_while_all_is_read(lib: Any) -> None:
    for taken in (False, True):
        reader = make(lib)
        task = asyncio.ensure_future(reader.read())
        await turns()
        reader.feed_data(b"some")
        await turns(2)
        reader.feed_data(b"more")
        reader.set_exception(LookupError("set"))
        if taken:
            # Nothing is left when the task goes on, which it takes for the end.
            reader._buffer.clear()
        await outcome(lib, task)

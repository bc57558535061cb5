"""StreamReaderProtocol and StreamWriter by themselves, and what all stream types have in common.

Kinds and transports are those of `test_stream_types.py`.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from streamends import Transport, make, of, outcome
from wire import on_loop, turns

import aioxide
from aioxide import primitives

pytestmark = pytest.mark.kinds("asyncio", "aioxide", "foreign", "guest", "visiting")

#: `inspect` knows no marked coroutine functions before 3.12.
is_coroutine_function: Any = (
    inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction
)


@on_loop
async def test_flow_control(lib: Any) -> None:
    """pause_writing, resume_writing, drain, connection_lost."""
    loop = asyncio.get_running_loop()
    cls = of(lib)
    for exc in (None, OSError("reset")):
        reader = make(lib)
        protocol = cls.StreamReaderProtocol(reader, loop=loop)
        transport = Transport(lib)
        protocol.connection_made(transport)
        writer = cls.StreamWriter(transport, protocol, reader, loop)
        lib.catch(protocol.resume_writing)
        protocol.pause_writing()
        lib.catch(protocol.pause_writing)
        drains = [asyncio.ensure_future(writer.drain()) for _ in range(3)]
        drains.append(asyncio.ensure_future(protocol._drain_helper()))
        await turns()
        lib.note(len(protocol._drain_waiters), type(protocol._drain_waiters).__name__)
        drains[1].cancel()
        await turns()
        lib.note(len(protocol._drain_waiters), [d.done() for d in drains])
        protocol.resume_writing()
        await turns(2)
        lib.note(len(protocol._drain_waiters), [d.done() for d in drains])
        protocol.pause_writing()
        waiting = asyncio.ensure_future(writer.drain())
        closed = asyncio.ensure_future(writer.wait_closed())
        await turns()
        protocol.connection_lost(exc)
        lib.note(protocol._connection_lost, protocol._transport, protocol._stream_reader)
        await outcome(lib, waiting)
        await outcome(lib, closed)
        await outcome(lib, writer.drain())
        await outcome(lib, protocol._drain_helper())
        await outcome(lib, protocol._get_close_waiter(writer))
        lib.note(protocol._closed.done(), reader)
        transport.closing = True


@on_loop
async def test_drain_of_a_closing_transport(lib: Any) -> None:
    """It gives connection_lost() a turn."""
    loop = asyncio.get_running_loop()
    reader = make(lib)
    protocol = of(lib).StreamReaderProtocol(reader, loop=loop)
    transport = Transport(lib)
    writer = of(lib).StreamWriter(transport, protocol, reader, loop)
    await writer.drain()
    transport.closing = True
    loop.call_soon(protocol.connection_lost, None)
    await outcome(lib, writer.drain())


@on_loop
async def test_handlers(lib: Any) -> None:
    """A handler that is a function, a coroutine function, fails, is cancelled."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    kept: list[Any] = []

    def plain(reader: Any, writer: Any) -> str:
        kept.append(writer)
        lib.note("plain", type(writer).__name__, writer._protocol is protocol)
        return "no coroutine"

    async def fine(reader: Any, writer: Any) -> None:
        kept.append(writer)
        lib.note("fine", await reader.read(2))

    async def fails(reader: Any, writer: Any) -> None:
        kept.append(writer)
        raise ZeroDivisionError("coroutine")

    async def waits(reader: Any, writer: Any) -> None:
        kept.append(writer)
        await loop.create_future()

    def raises(reader: Any, writer: Any) -> None:
        kept.append(writer)
        raise ZeroDivisionError("function")

    for handler in (plain, fine, fails, waits, raises):
        reader = make(lib)
        protocol = of(lib).StreamReaderProtocol(reader, handler, loop=loop)
        weak = weakref.ref(reader)
        del reader
        gc.collect()
        lib.note(weak() is not None, protocol._stream_reader is weak())
        transport = Transport(lib)
        lib.catch(protocol.connection_made, transport)
        protocol.data_received(b"hi")
        if handler is waits:
            await turns()
            protocol._task.cancel()
        await turns(4)
        lib.note(transport.closing, protocol._task is not None)
        lib.note([sorted(context) for context in contexts])
        # Where a callback itself fails, the message names it: docs/semantics.md.
        messages = [c["message"] for c in contexts]
        lib.note([text for text in messages if not text.startswith("Exception in callback")])
        lib.note([c["exception"] for c in contexts])
        contexts.clear()
        protocol.connection_lost(None)
        lib.note(protocol._task)
        transport.closing = True


@on_loop
async def test_readers_that_are_gone(lib: Any) -> None:
    """A protocol does not keep its reader; a rejected connection is aborted."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    protocol = of(lib).StreamReaderProtocol(make(lib), loop=loop)
    gc.collect()
    lib.note(protocol._stream_reader, protocol.eof_received())
    protocol.data_received(b"lost")
    protocol._reject_connection = True
    protocol.connection_made(Transport(lib))
    lib.note([context["message"] for context in contexts])
    contexts.clear()
    protocol.connection_lost(OSError("unseen"))
    nobody = of(lib).StreamReaderProtocol(None, loop=loop)
    nobody.connection_made(Transport(lib))
    nobody.data_received(b"lost")
    lib.note(nobody._stream_reader, nobody.eof_received())


@on_loop
async def test_over_tls(lib: Any) -> None:
    """A transport that does TLS cannot stay half open."""
    loop = asyncio.get_running_loop()
    transport = Transport(lib)
    transport.extra["sslcontext"] = "context"
    reader = make(lib)
    protocol = of(lib).StreamReaderProtocol(reader, loop=loop)
    protocol.connection_made(transport)
    lib.note(protocol._over_ssl, protocol.eof_received(), reader)


@on_loop
async def test_writers(lib: Any) -> None:
    """What a writer passes on, and what it says."""
    loop = asyncio.get_running_loop()
    cls = of(lib)
    reader = make(lib)
    transport = Transport(lib)
    protocol = cls.StreamReaderProtocol(reader, loop=loop)
    writer = cls.StreamWriter(transport, protocol, reader, loop)
    lib.note(writer, writer.transport is transport, writer._reader is reader)
    lib.note(writer.write(b"data"), writer.writelines([b"a", b"b"]), writer.write_eof())
    lib.note(writer.can_write_eof(), writer.is_closing(), writer.get_extra_info("x", 5))
    lib.note(writer.get_extra_info(name="x", default=6), writer._complete_fut.result())
    lib.catch(setattr, writer, "transport", None)
    lib.note(writer.close(), writer.is_closing())
    without = cls.StreamWriter(transport, protocol, None, loop)
    lib.note(without)
    await outcome(lib, without.drain())
    lib.catch(cls.StreamWriter, transport, protocol, "no reader", loop)


@on_loop
async def test_forgotten(lib: Any) -> None:
    """A writer that is dropped closes its transport; one that is closed does not."""
    loop = asyncio.get_running_loop()
    for closing in (False, True):
        transport = Transport(lib)
        transport.closing = closing
        writer: Any = of(lib).StreamWriter(transport, None, None, loop)
        del writer
        gc.collect()
    lib.note(sorted(lib.warnings_taken()))


@on_loop
async def test_start_tls(lib: Any) -> None:
    """start_tls drains, asks the loop, and goes on over the new transport."""
    loop = asyncio.get_running_loop()
    cls = of(lib)

    class Loop:
        """The running loop with a start_tls of its own."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        async def start_tls(self, transport: Any, protocol: Any, context: Any, **kw: Any) -> Any:
            lib.note("start_tls", transport, context, kw)
            return new

    kept: list[Any] = []
    for handler in (None, lambda reader, writer: kept.append(writer)):
        reader = make(lib)
        new, old = Transport(lib), Transport(lib)
        new.extra["sslcontext"] = "context"
        protocol = cls.StreamReaderProtocol(reader, handler, loop=loop)
        protocol.connection_made(old)
        writer = cls.StreamWriter(old, protocol, reader, Loop())
        await writer.start_tls("context", server_hostname="host")
        lib.note(writer.transport is new, protocol._transport is new, protocol._over_ssl)
        lib.note(reader._transport is new)
        old.closing = new.closing = True


@on_loop
async def test_they_are_coroutine_functions(lib: Any) -> None:
    """The methods look like asyncio's to inspect."""
    cls = of(lib)
    for class_name in ("StreamReader", "StreamWriter", "StreamReaderProtocol"):
        ours, stock = getattr(cls, class_name), primitives.STOCK[class_name]
        for name in sorted(vars(stock)):
            method = getattr(stock, name)
            if name.startswith("__") or not callable(method):
                continue
            mine = getattr(ours, name)
            lib.note(class_name, name, is_coroutine_function(mine))
            lib.note([p for p in inspect.signature(mine).parameters if p != "self"])
        lib.note(issubclass(ours, stock), issubclass(stock, ours))
    unused = make(lib).read(5)
    lib.note(inspect.isawaitable(unused), unused.__qualname__)
    unused.close()


@on_loop
async def test_both_ways(lib: Any) -> None:
    """An instance of either is an instance of both; subclasses answer for themselves."""
    loop = asyncio.get_running_loop()
    stock = SimpleNamespace(**primitives.STOCK)
    for cls in (stock, aioxide):
        reader = cls.StreamReader(loop=loop)
        protocol = cls.StreamReaderProtocol(reader, loop=loop)
        writer = cls.StreamWriter(Transport(lib), protocol, reader, loop)
        for other in (stock, aioxide):
            lib.note(isinstance(reader, other.StreamReader))
            lib.note(isinstance(writer, other.StreamWriter))
            lib.note(isinstance(protocol, other.StreamReaderProtocol))
        lib.note(isinstance(protocol, asyncio.Protocol))
        lib.note(isinstance(protocol, asyncio.streams.FlowControlMixin))
        writer.close()


@pytest.mark.filterwarnings("ignore:There is no current event loop")
def test_without_a_loop(lib: Any) -> None:
    """Without `loop` they take the running one, or the thread's, as this Python does."""
    cls = of(lib)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader = cls.StreamReader()
        protocol = cls.StreamReaderProtocol(reader)
        lib.note(reader._loop is loop, protocol._loop is loop)
        lib.note(reader._source_traceback is None, protocol._source_traceback is None)

    lib.run(main)
    asyncio.set_event_loop(None)
    lib.catch(cls.StreamReader)
    lib.catch(cls.StreamReaderProtocol, None)


@on_loop
async def test_debug(lib: Any) -> None:
    """In debug mode a reader remembers where it was made, and its protocol does so, too."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    reader = make(lib)
    protocol = of(lib).StreamReaderProtocol(reader, loop=loop)
    lib.note(reader._source_traceback[-1].name, protocol._source_traceback[-1].name)
    protocol.pause_writing()
    protocol.resume_writing()


@on_loop
async def test_circles_are_collected(lib: Any) -> None:
    """Reader, protocol, writer and what refers to them, in a circle, of a subclass too."""
    loop = asyncio.get_running_loop()

    class Reader(of(lib).StreamReader):  # type: ignore[misc]
        pass

    for cls in (of(lib).StreamReader, Reader):
        reader = cls(loop=loop)
        protocol = of(lib).StreamReaderProtocol(reader, loop=loop)
        transport = Transport(lib)
        transport.closing = True
        writer = of(lib).StreamWriter(transport, protocol, reader, loop)
        reader.writer = writer
        reader._buffer.extend(b"data")
        weak = weakref.ref(reader)
        del reader, writer, protocol
        gc.collect()
        lib.note(weak())


@on_loop
async def test_wrong_arguments(lib: Any) -> None:
    """What is no coroutine refuses arguments in the words of Python functions."""
    cls, loop = of(lib), asyncio.get_running_loop()
    reader = make(lib)
    protocol = cls.StreamReaderProtocol(reader, loop=loop)
    writer = cls.StreamWriter(Transport(lib), protocol, reader, loop)
    names: dict[Any, tuple[str, ...]] = {
        reader: ("exception", "set_exception", "set_transport", "feed_eof", "at_eof", "feed_data"),
        writer: ("write", "writelines", "write_eof", "can_write_eof", "close", "is_closing"),
        protocol: ("connection_made", "connection_lost", "data_received", "eof_received")
        + ("pause_writing", "resume_writing", "_get_close_waiter"),
    }
    names[writer] += ("get_extra_info",)
    for owner, methods in names.items():
        for method in methods:
            found = getattr(owner, method)
            lib.note(method, str(inspect.signature(found)))
            for args, options in (((1, 2, 3), {}), ((), {"wrong": 1}), ((1,), {"wrong": 1})):
                lib.catch(found, *args, **options)
    lib.catch(found, stream=1)
    for arguments in ((), (1, 2, 3, 4, 5)):
        lib.catch(cls.StreamWriter, *arguments)
        lib.catch(cls.StreamReader, *arguments, wrong=1)
        lib.catch(cls.StreamReaderProtocol, *arguments)
    for owner, name in ((writer, "transport"), (protocol, "_stream_reader")):
        lib.catch(setattr, owner, name, None)
        lib.catch(delattr, owner, name)
    writer.close()
    # asyncio's half-made writers fail once more at their end.
    gc.collect()
    lib.unraisable_taken()

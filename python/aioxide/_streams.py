"""`open_connection`, `start_server` and their sisters, with native readers and writers.

What happens once for each connection that is opened, and for each server; what happens for each
byte is native (`StreamReader`, `StreamWriter`, `StreamReaderProtocol`). asyncio's own functions
take the native types, too, where `install` has put them into `asyncio.streams`.

*Source*: `asyncio.streams`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._aioxide import StreamReader, StreamReaderProtocol, StreamWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes that may wait to be read before a search for a separator fails; twice as many before the
#: transport is paused.
LIMIT_BYTES = 2**16


class _End:
    """Our end of one connection: a reader and its protocol, then a writer."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.reader = StreamReader(limit=limit, loop=loop)
        self.protocol = StreamReaderProtocol(self.reader, loop=loop)

    def factory(self) -> StreamReaderProtocol:
        """Return the protocol, as a protocol factory."""
        return self.protocol

    def over(self, transport: Any) -> tuple[StreamReader, StreamWriter]:
        """Return reader and writer over the transport that the protocol was connected to."""
        return self.reader, StreamWriter(transport, self.protocol, self.reader, self.loop)


def _factory(
    client_connected_cb: Any, limit: int, loop: asyncio.AbstractEventLoop
) -> Callable[[], StreamReaderProtocol]:
    """Return the protocol factory of a server."""

    def factory() -> StreamReaderProtocol:
        reader = StreamReader(limit=limit, loop=loop)
        return StreamReaderProtocol(reader, client_connected_cb, loop=loop)

    return factory


async def open_connection(
    host: Any = None, port: Any = None, *, limit: int = LIMIT_BYTES, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect, and return (reader, writer); keywords are those of `loop.create_connection()`."""
    loop = asyncio.get_running_loop()
    end = _End(limit, loop)
    transport, _ = await loop.create_connection(end.factory, host, port, **kwds)
    return end.over(transport)


async def start_server(
    client_connected_cb: Any,
    host: Any = None,
    port: Any = None,
    *,
    limit: int = LIMIT_BYTES,
    **kwds: Any,
) -> asyncio.Server:
    """Start a server that calls `client_connected_cb(reader, writer)` for each connection.

    A coroutine that it returns becomes a task. Keywords are those of `loop.create_server()`.
    """
    loop = asyncio.get_running_loop()
    factory = _factory(client_connected_cb, limit, loop)
    server: Any = await loop.create_server(factory, host, port, **kwds)
    return server  # type: ignore[no-any-return]


async def open_unix_connection(
    path: Any = None, *, limit: int = LIMIT_BYTES, **kwds: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect to a Unix socket, and return (reader, writer)."""
    loop = asyncio.get_running_loop()
    end = _End(limit, loop)
    transport, _ = await loop.create_unix_connection(end.factory, path, **kwds)
    return end.over(transport)


async def start_unix_server(
    client_connected_cb: Any, path: Any = None, *, limit: int = LIMIT_BYTES, **kwds: Any
) -> asyncio.Server:
    """Start a server on a Unix socket; otherwise as `start_server`."""
    loop = asyncio.get_running_loop()
    factory = _factory(client_connected_cb, limit, loop)
    server: Any = await loop.create_unix_server(factory, path, **kwds)
    return server  # type: ignore[no-any-return]


#: Name -> function: what `aioxide` has under asyncio's names.
FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (open_connection, open_unix_connection, start_server, start_unix_server)
}

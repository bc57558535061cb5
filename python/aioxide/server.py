"""`Server`: what `create_server` returns.

asyncio's own class in all but two points: `close_clients` and `abort_clients` are there on every
version of Python, and the native accept hands each transport to `_attach` and `_detach`.
`wait_closed` and `serve_forever` behave as in the running version.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from asyncio import base_events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


if sys.version_info >= (3, 13):

    class Server(base_events.Server):
        """A server of an aioxide loop. *Source*: `asyncio.base_events.Server`."""

else:

    class Server(base_events.Server):
        """A server of an aioxide loop. *Source*: `asyncio.base_events.Server` as of 3.13."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._clients: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()

        def _attach(self, transport: asyncio.WriteTransport | None = None) -> None:
            super()._attach()  # type: ignore[misc]
            if transport is not None:
                self._clients.add(transport)

        def _detach(self, transport: asyncio.WriteTransport | None = None) -> None:
            if transport is not None:
                self._clients.discard(transport)
            super()._detach()  # type: ignore[misc]

        def close_clients(self) -> None:
            """Close the transports of all accepted connections; buffered data is still sent."""
            for transport in self._clients.copy():
                transport.close()

        def abort_clients(self) -> None:
            """Close the transports of all accepted connections at once, losing their data."""
            for transport in self._clients.copy():
                transport.abort()

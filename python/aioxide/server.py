"""`Server`: what `create_server` returns.

asyncio's own class in all but three points: `close_clients` and `abort_clients` are there on every
version of Python, the native accept hands each transport to `_attach` and `_detach`, and the
transports are listed without a weak reference for each. `wait_closed` and `serve_forever` behave
as in the running version.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import base_events

from ._aioxide import Clients

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


if sys.version_info >= (3, 13):

    class Server(base_events.Server):
        """A server of an aioxide loop. *Source*: `asyncio.base_events.Server`."""

        _clients: Clients

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._clients = Clients()

else:

    class Server(base_events.Server):
        """A server of an aioxide loop. *Source*: `asyncio.base_events.Server` as of 3.13."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._clients = Clients()

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

"""Pipes: what a program attaches to the loop as a file object, once for each.

The transports are native; here is only the waiting for `connection_made`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from . import _aioxide
from ._room import Room, logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


class Pipes(Room):
    """`connect_read_pipe` and `connect_write_pipe`. *Source*: `asyncio.base_events`,
    `asyncio.unix_events`.
    """

    def _make_read_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.ReadTransport:
        """Return the transport of a reading end, the owner of `pipe` from now on."""
        return _aioxide.ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.WriteTransport:
        """Return the transport of a writing end, the owner of `pipe` from now on."""
        return _aioxide.WritePipeTransport(self, pipe, protocol, waiter, extra)

    async def connect_read_pipe(
        self, protocol_factory: Callable[[], _Protocol], pipe: Any
    ) -> tuple[asyncio.ReadTransport, _Protocol]:
        """Read from `pipe`, a pipe, FIFO, socket or character device, and own it.

        Raises ValueError, and leaves the file alone, if it is anything else.
        """
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_read_pipe_transport(pipe, protocol, waiter)
        await self._pipe_connected(transport, waiter)
        if self.get_debug():
            logger.debug("Read pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol

    async def connect_write_pipe(
        self, protocol_factory: Callable[[], _Protocol], pipe: Any
    ) -> tuple[asyncio.WriteTransport, _Protocol]:
        """Write to `pipe`; for the rest as `connect_read_pipe`."""
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_write_pipe_transport(pipe, protocol, waiter)
        await self._pipe_connected(transport, waiter)
        if self.get_debug():
            logger.debug("Write pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol

    async def _pipe_connected(
        self, transport: asyncio.BaseTransport, waiter: asyncio.Future[None]
    ) -> None:
        """Wait until the protocol knows its transport; close the transport if that fails."""
        try:
            await waiter
        except BaseException:
            transport.close()
            raise

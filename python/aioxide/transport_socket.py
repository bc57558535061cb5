"""What `get_extra_info("socket")` gives: asyncio's object, which asks once for what never changes.

Imported with the first part that makes transports of sockets. A socket's family and kind are
numbers of the kernel's, which `socket.socket` makes into members of enumerations whenever it is
asked: HTTP clients that look whether idle connections are alive ask each of them at each request.
"""

from __future__ import annotations

from asyncio import trsock

from . import _aioxide


class TransportSocket(trsock.TransportSocket):
    """A transport's socket, for options and addresses. *Source*: `asyncio.trsock`."""

    __slots__ = ("_family", "_type")

    @property
    def family(self) -> int:
        """Return what the socket said when it was asked first."""
        try:
            return self._family
        except AttributeError:
            self._family: int = super().family
            return self._family

    @property
    def type(self) -> int:
        """Return what the socket said when it was asked first."""
        try:
            return self._type
        except AttributeError:
            self._type: int = super().type
            return self._type


_aioxide._show_sockets_as(TransportSocket)

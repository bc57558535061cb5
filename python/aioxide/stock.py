"""What still is asyncio's own: datagrams and sendfile.

Their transports are the standard library's, working on this loop's `_add_reader` and
`_add_writer`; their endpoints are the standard library's functions, so they follow the running
version of Python to the letter. Native ones take their place one by one.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import weakref
from asyncio import base_events, selector_events, unix_events
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._room import Room

_base: Any = base_events.BaseEventLoop
_unix: Any = unix_events.SelectorEventLoop
_modules: Any = unix_events
_selector: Any = selector_events

#: `sendfile` without the system call reads this much at once: asyncio's number.
_PIECE_BYTES = 16 * 1024


def _nothing(fd: int) -> int:
    """Interest in any descriptor, for a native loop that cannot tell."""
    return 0


class _Watched:
    """The part of a selector that the standard library's transports ask in their `__repr__`."""

    __slots__ = ("_interest",)

    def __init__(self, interest: Callable[[int], int]) -> None:
        self._interest = interest

    def get_key(self, file: Any) -> selectors.SelectorKey:
        """Return what is watched of a descriptor or its object; KeyError if nothing is."""
        fd = file if isinstance(file, int) else file.fileno()
        events = self._interest(fd)
        if not events:
            raise KeyError(f"{file!r} is not registered")
        return selectors.SelectorKey(file, fd, events, None)


class _Feeding(asyncio.Protocol):
    """Stands in for a transport's protocol while `sendfile` has the transport to itself.

    Reading pauses meanwhile. *Source*: `asyncio.base_events._SendfileFallbackProtocol`.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._protocol: Any = transport.get_protocol()
        self._was_reading: bool = transport.is_reading()
        #: The protocol was told to pause and not yet to resume.
        self._was_paused = bool(getattr(transport, "_protocol_paused", False))
        self._writable: asyncio.Future[None] | None = None
        if self._was_paused:
            self.pause_writing()
        transport.pause_reading()
        transport.set_protocol(self)

    async def drain(self) -> None:
        """Wait until the transport takes more; raise ConnectionError if it never will."""
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._writable is not None:
            await self._writable

    async def flush(self) -> None:
        """Wait until the transport has sent all it was given; raise as `drain`."""
        low, high = self._transport.get_write_buffer_limits()
        self._transport.set_write_buffer_limits(high=0)
        try:
            await self.drain()
        finally:
            self._transport.set_write_buffer_limits(high=high, low=low)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: the connection is there already."""
        raise RuntimeError("Invalid state: connection should have been established already.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the file's sender, then the protocol proper."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Make `drain` wait."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let `drain` go on."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Never called: reading is paused."""
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> bool | None:
        """Never called: reading is paused."""
        raise RuntimeError("Invalid state: reading should be paused")

    def restore(self) -> None:
        """Give the transport back to its protocol, which learns if its pause is over."""
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        paused = self._writable is not None
        if self._writable is not None:
            self._writable.cancel()
        if self._was_paused and not paused:
            self._protocol.resume_writing()


class Stock(Room):
    """Datagrams and sendfile. *Source*: `asyncio.base_events`,
    `asyncio.selector_events`, `asyncio.unix_events`.
    """

    def _init_stock(self) -> None:
        #: Standard library transports by descriptor; they enter themselves.
        self._transports = weakref.WeakValueDictionary()

    if TYPE_CHECKING:
        create_datagram_endpoint: Any
        sock_sendfile: Any
        sendfile: Any
    else:
        create_datagram_endpoint = _base.create_datagram_endpoint
        sock_sendfile = _base.sock_sendfile
        sendfile = _base.sendfile

        # What the functions above call of themselves.
        _check_sendfile_params = _base._check_sendfile_params
        _sock_sendfile_fallback = _base._sock_sendfile_fallback
        _sock_sendfile_native = _unix._sock_sendfile_native
        _sock_sendfile_native_impl = _unix._sock_sendfile_native_impl
        _sock_sendfile_update_filepos = _unix._sock_sendfile_update_filepos
        _sock_add_cancellation_callback = _unix._sock_add_cancellation_callback

    @property
    def _selector(self) -> _Watched | None:
        """What the standard library's transports show of themselves in `__repr__`."""
        if self.is_closed():
            return None
        return _Watched(getattr(self, "_interest", _nothing))

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        """Raise RuntimeError if a live transport uses `fd`: its descriptor is not for others.

        Raises ValueError if `fd` is neither a descriptor nor an object that has one.
        """
        number = fd
        if not isinstance(number, int):
            try:
                number = int(fd.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fd!r}") from None
        # A closed socket has no number, and no transport uses it.
        native = self._native_transport(number) if number >= 0 else None
        transport: Any = native or self._transports.get(number)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport:
        self._ensure_fd_no_transport(sock)
        transport: asyncio.DatagramTransport = _selector._SelectorDatagramTransport(
            self, sock, protocol, address, waiter, extra
        )
        return transport

    async def _sendfile_native(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        """Send `file` with the system call, once what was written before is on its way.

        It works on a duplicate descriptor: the transport's own stays the transport's, which
        refuses to write meanwhile if it knows how to.
        """
        feeding = _Feeding(transport, self)
        exclusive = hasattr(transport, "_make_empty_waiter")
        try:
            if exclusive:
                await transport._make_empty_waiter()
            else:
                await feeding.flush()
            sock = transport.get_extra_info("socket").dup()
            try:
                sock.setblocking(False)
                sent: int = await self.sock_sendfile(sock, file, offset, count, fallback=False)
                return sent
            finally:
                # Both numbers are one file to epoll: closing does not end the watch.
                self._remove_writer(sock.fileno())
                sock.close()
        finally:
            if exclusive:
                transport._reset_empty_waiter()
            feeding.restore()

    async def _sendfile_fallback(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        """Send `file` by reading and writing; return the number of bytes sent."""
        if hasattr(file, "seek"):
            file.seek(offset)
        buffer = bytearray(min(count, _PIECE_BYTES) if count else _PIECE_BYTES)
        sent = 0
        feeding = _Feeding(transport, self)
        try:
            while not count or sent < count:
                size = min(count - sent, len(buffer)) if count else len(buffer)
                view = memoryview(buffer)[:size]
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    break
                transport.write(bytes(view[:read]))
                await feeding.drain()
                sent += read
            return sent
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)
            feeding.restore()

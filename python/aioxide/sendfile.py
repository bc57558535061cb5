"""`sendfile` and `sock_sendfile`: files into sockets, by the system call where that can be.

Arguments are checked here and the file is looked at; sending and waiting for room are native
(`_aioxide.Loop._send_file`). Where the system call does not do, the file is read in the default
executor and written piece by piece. File, socket and transport stay their owners'.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import socket
from asyncio import constants, transports

from . import _aioxide
from ._room import Room, stock_loop
from .sock import check_ssl_socket
from .tls import STOCK_TRANSPORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

#: A transport is sent so much at once where the system call does not do: asyncio's number.
_PIECE_BYTES = 16 * 1024

#: A plain socket is: asyncio's number. Also what tells how a transport can send files.
_constants: Any = constants
_modes: Any = _constants._SendfileMode

#: Before 3.14 the file's position is left alone if nothing was sent, and reading begins there if
#: the offset is 0.
_set_position: Any = getattr(stock_loop, "_sock_sendfile_update_filepos", None)
_SEEKS_ALWAYS: bool = (
    _set_position is None or "total_sent" not in inspect.signature(_set_position).parameters
)


def _seek(file: Any, offset: int) -> None:
    """Have `file` read from `offset` on."""
    if offset or (_SEEKS_ALWAYS and hasattr(file, "seek")):
        file.seek(offset)


class _Feeding(asyncio.Protocol):
    """Stands in for a transport's protocol while a file is written to the transport.

    Reading pauses meanwhile. *Source*: `asyncio.base_events._SendfileFallbackProtocol`.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        flow_control: Any = getattr(transports, "_FlowControlMixin")  # noqa: B009
        if not isinstance(transport, flow_control) and not hasattr(transport, "_protocol_paused"):
            raise TypeError("transport should be _FlowControlMixin instance")
        self._transport = transport
        self._loop = loop
        self._protocol: Any = transport.get_protocol()
        self._was_reading: bool = transport.is_reading()
        #: The protocol was told to pause and not yet to resume.
        self._was_paused = bool(transport._protocol_paused)
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
        """Give the transport back to its protocol, which learns what it missed of pauses."""
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        is_paused = self._writable is not None
        if self._writable is not None:
            self._writable.cancel()
        if self._was_paused and not is_paused:
            self._protocol.resume_writing()
        elif is_paused and not self._was_paused and not self._transport.is_closing():
            self._protocol.pause_writing()


class Sendfile(Room):
    """Sending files. *Source*: `asyncio.base_events`, `selector_events`, `unix_events`."""

    async def sock_sendfile(
        self,
        sock: socket.socket,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """Send `file` from `offset` on, `count` bytes or all; return the number of bytes sent.

        The file's position is behind them afterwards. Raises SendfileNotAvailableError if the
        system call does not do and `fallback` is false.
        """
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        check_ssl_socket(sock)
        self._check_sendfile_params(sock, file, offset, count)
        try:
            return await self._sock_sendfile_native(sock, file, offset, count)
        except asyncio.SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._sock_sendfile_fallback(sock, file, offset, count)

    def _check_sendfile_params(self, sock: Any, file: Any, offset: Any, count: Any) -> None:
        """Raise ValueError or TypeError, in asyncio's words, for what cannot be meant."""
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError("file should be opened in binary mode")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        if count is not None:
            wrong = f"count must be a positive integer (got {count!r})"
            if not isinstance(count, int):
                raise TypeError(wrong)
            if count <= 0:
                raise ValueError(wrong)
        wrong = f"offset must be a non-negative integer (got {offset!r})"
        if not isinstance(offset, int):
            raise TypeError(wrong)
        if offset < 0:
            raise ValueError(wrong)

    async def _sock_sendfile_native(
        self, target: Any, file: Any, offset: int, count: int | None
    ) -> int:
        """Send `file` by the system call to `target`, a socket or a native transport."""
        try:
            fileno = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            raise asyncio.SendfileNotAvailableError("not a regular file")  # noqa: B904
        try:
            size = os.fstat(fileno).st_size
        except OSError:
            raise asyncio.SendfileNotAvailableError("not a regular file")  # noqa: B904
        if not (count or size):
            return 0  # empty file
        future: asyncio.Future[int] = self.create_future()
        self._send_file(target, file, fileno, offset, count, _SEEKS_ALWAYS, future)
        return await future

    async def _sock_sendfile_fallback(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        """Send `file` by reading and `sock_sendall`."""
        _seek(file, offset)
        piece: int = _constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        buffer = bytearray(min(count, piece) if count else piece)
        sent = 0
        try:
            while not count or sent < count:
                size = min(count - sent, len(buffer)) if count else len(buffer)
                view = memoryview(buffer)[:size]
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    break
                await self.sock_sendall(sock, view[:read])
                sent += read
            return sent
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)

    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: IO[bytes],
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send `file` from `offset` on, `count` bytes or all; return the number of bytes sent.

        What was written before goes first; nothing else can be written meanwhile, and nothing is
        read. The file's position is behind what was sent afterwards. Raises
        SendfileNotAvailableError or RuntimeError if the system call does not do and `fallback` is
        false.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        mode = getattr(transport, "_sendfile_compatible", _modes.UNSUPPORTED)
        if mode is _modes.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if mode is _modes.TRY_NATIVE:
            try:
                return await self._sendfile_native(transport, file, offset, count)
            except asyncio.SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(
                f"fallback is disabled and native sendfile is not "
                f"supported for transport {transport!r}"
            )
        return await self._sendfile_fallback(transport, file, offset, count)

    async def _sendfile_native(
        self, transport: object, file: Any, offset: int, count: int | None
    ) -> int:
        """Send `file` by the system call, once what was written before is on its way."""
        if isinstance(transport, STOCK_TRANSPORT):
            stock: Any = stock_loop
            sent: int = await stock._sendfile_native(self, transport, file, offset, count)
            return sent
        if not isinstance(transport, _aioxide.StreamTransport):
            raise asyncio.SendfileNotAvailableError("sendfile syscall is not supported")
        native: Any = transport
        if native._empty_waiter is not None:
            raise RuntimeError("unable to sendfile; sendfile is in progress")
        was_reading = native.is_reading()
        native.pause_reading()
        try:
            await native._make_empty_waiter()
            if native.is_closing():
                raise ConnectionError("Connection is closed by peer")
            self._check_sendfile_params(native._sock, file, offset, count)
            return await self._sock_sendfile_native(native, file, offset, count)
        finally:
            native._reset_empty_waiter()
            if was_reading:
                native.resume_reading()

    async def _sendfile_fallback(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        """Send `file` by reading and writing."""
        _seek(file, offset)
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

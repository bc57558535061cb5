"""`sock_*`: non-blocking sockets of the caller, driven by the loop.

Each operation is tried at once and waits for readiness only if the kernel says so. The socket
stays the caller's: nothing here ever closes it, and cancelling an operation merely forgets about
it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._room import Room

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    import ssl
except ImportError:  # a Python without OpenSSL
    ssl = None  # type: ignore[assignment]

_T = TypeVar("_T")


def check_ssl_socket(sock: object) -> None:
    """Raise TypeError for an `ssl.SSLSocket`: it cannot be driven by readiness alone."""
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def _connected(sock: socket.socket, address: Any) -> None:
    """Raise OSError if the connection attempt of `sock` has failed."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code != 0:
        raise OSError(code, f"Connect call failed {address}")


def _accept(sock: socket.socket) -> tuple[socket.socket, Any]:
    """Accept one connection, as a non-blocking socket."""
    conn, address = sock.accept()
    conn.setblocking(False)
    return conn, address


class _Sending:
    """What is left to send of one `sock_sendall`."""

    __slots__ = ("_rest", "_sock")

    def __init__(self, sock: socket.socket, rest: memoryview) -> None:
        self._sock = sock
        self._rest = rest

    def __call__(self) -> None:
        """Send some; BlockingIOError means there is more, as an attempt that has to wait."""
        self._rest = self._rest[self._sock.send(self._rest) :]
        if len(self._rest):
            raise BlockingIOError


class Sock(Room):
    """Socket operations. *Source*: `asyncio.selector_events.BaseSelectorEventLoop`."""

    def _check_sock(self, sock: socket.socket) -> None:
        """Raise TypeError for TLS sockets and, in debug mode, ValueError for blocking ones."""
        check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _when_ready(
        self, sock: socket.socket, operation: Callable[[], _T], reads: bool
    ) -> _T:
        """Return what `operation()` gives, tried whenever `sock` is ready for it."""
        fd = sock.fileno()
        return await self._waited_for(fd, self._sock_wait(sock, operation, reads))

    async def _waited_for(self, fd: int, future: asyncio.Future[_T]) -> _T:
        """Return the outcome of an operation on `fd`; one that is given up is forgotten."""
        try:
            return await future
        except BaseException:
            self._sock_forget(fd, future)
            raise
        finally:
            # An exception in the future refers to this frame: no cycle may stay behind.
            del future

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to `nbytes` bytes; b"" is the end of the stream."""
        received = self._sock_recv(sock, nbytes)
        if isinstance(received, bytes):
            return received
        if received is not None:
            return await self._waited_for(sock.fileno(), received)
        self._check_sock(sock)
        try:
            return sock.recv(nbytes)
        except (BlockingIOError, InterruptedError):
            pass
        return await self._when_ready(sock, lambda: sock.recv(nbytes), True)

    async def sock_recv_into(self, sock: socket.socket, buf: Buffer) -> int:
        """Receive into the writable buffer `buf`; return the number of bytes received."""
        received = self._sock_recv_into(sock, buf)
        if isinstance(received, int):
            return received
        if received is not None:
            return await self._waited_for(sock.fileno(), received)
        self._check_sock(sock)
        try:
            return sock.recv_into(buf)
        except (BlockingIOError, InterruptedError):
            pass
        return await self._when_ready(sock, lambda: sock.recv_into(buf), True)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to `bufsize` bytes; return it and its sender's address."""
        self._check_sock(sock)
        try:
            return sock.recvfrom(bufsize)
        except (BlockingIOError, InterruptedError):
            pass
        return await self._when_ready(sock, lambda: sock.recvfrom(bufsize), True)

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: Buffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into `buf`; return its size in bytes and its sender's address.

        `nbytes` limits the size; 0 means as much as `buf` holds.
        """
        self._check_sock(sock)
        if not nbytes:
            nbytes = len(buf)  # type: ignore[arg-type]
        try:
            return sock.recvfrom_into(buf, nbytes)
        except (BlockingIOError, InterruptedError):
            pass
        return await self._when_ready(sock, lambda: sock.recvfrom_into(buf, nbytes), True)

    async def sock_sendall(self, sock: socket.socket, data: Buffer) -> None:
        """Send all of `data`. After an error or a cancellation some of it may have been sent."""
        all_sent = self._sock_sendall(sock, data)
        if all_sent is True:
            return
        if all_sent is not None:
            await self._waited_for(sock.fileno(), all_sent)
            return
        self._check_sock(sock)
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent == len(data):  # type: ignore[arg-type]
            return
        await self._when_ready(sock, _Sending(sock, memoryview(data)[sent:]), False)

    async def sock_sendto(self, sock: socket.socket, data: Buffer, address: Any) -> int:
        """Send `data` as one datagram to `address`; return the number of bytes sent."""
        self._check_sock(sock)
        try:
            return sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            pass
        return await self._when_ready(sock, lambda: sock.sendto(data, 0, address), False)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect `sock` to `address`; a host name of an internet address is resolved first."""
        self._check_sock(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            # An interrupted connect() goes on in the background, as a blocked one does.
            pass
        await self._when_ready(sock, lambda: _connected(sock, address), False)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection on the listening `sock`; return its socket and the peer's address.

        Cancellation safe: a connection accepted in vain is closed.
        """
        self._check_sock(sock)
        try:
            return _accept(sock)
        except (BlockingIOError, InterruptedError):
            pass
        fd = sock.fileno()
        accepted = self._sock_wait(sock, lambda: _accept(sock), True)
        try:
            return await accepted
        except BaseException:
            self._sock_forget(fd, accepted)
            if accepted.done() and not accepted.cancelled() and accepted.exception() is None:
                accepted.result()[0].close()
            raise
        finally:
            # An exception in the future refers to this frame: no cycle may stay behind.
            del accepted

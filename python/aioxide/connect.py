"""Outgoing connections: `create_connection`, `create_unix_connection`, `connect_accepted_socket`.

Who closes a socket: one made here belongs to this file until a transport has it, and is closed on
every way out that does not return that transport, cancellation included. A caller's socket
(`sock=`) stays the caller's until its protocol is to be made; from then on it is the transport's.
Where no transport comes of it, because the protocol factory fails, the running version of asyncio
decides: before 3.14 it goes back to the caller, later it is closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
from asyncio import base_events, staggered
from collections.abc import Callable

from . import transport_socket  # noqa: F401 - what its transports show of their sockets
from ._room import Room, logger, socket_module, unix_socket_module
from .sock import check_ssl_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl as ssl_module
    from typing import Any, NoReturn

    Ssl = bool | ssl_module.SSLContext | None

_interleave_addrinfos: Any = getattr(base_events, "_interleave_addrinfos")  # noqa: B009

#: From 3.14 on a caller's socket, too, is closed if no transport comes of it.
_OWNS_CALLERS_SOCKET = sys.version_info >= (3, 14)


def bind_error(address: Any, error: OSError) -> str:
    """Return asyncio's wording, as of the running version, of a failed bind."""
    if sys.version_info >= (3, 13):
        reason = str(error).lower()
    else:
        reason = (error.strerror or "").lower()
    return f"error while attempting to bind on address {address!r}: {reason}"


def check_ssl_timeouts(
    ssl: object, handshake_timeout: float | None, shutdown_timeout: float | None
) -> None:
    """Raise ValueError for a TLS timeout without TLS."""
    if handshake_timeout is not None and not ssl:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown_timeout is not None and not ssl:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def _name_to_verify(ssl: object, host: str | None, server_hostname: str | None) -> str | None:
    """Return the name that the server's certificate is to have; "" asks for no check.

    Raises ValueError if it is given without TLS, or cannot be known with it.
    """
    if server_hostname is not None:
        if not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        return server_hostname
    if not ssl:
        return None
    if not host:
        raise ValueError("You must set server_hostname when using ssl without a host")
    return host


def check_unix_stream(sock: socket.socket) -> None:
    """Raise ValueError unless `sock` is a Unix stream socket."""
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def _close_quietly(sock: socket.socket) -> None:
    """Close `sock`; an error in that must not hide the one being handled."""
    try:
        sock.close()
    except OSError:
        return


def _bind_one_of(
    sock: socket.socket, family: int, local_addrs: list[Any], errors: list[OSError]
) -> None:
    """Bind `sock` to the first address of its family that lets it.

    Failures are appended to `errors`, but for the last one if all fail: that is raised.
    """
    for local_family, _, _, _, address in local_addrs:
        if local_family != family:
            continue
        try:
            sock.bind(address)
        except OSError as error:
            errors.append(OSError(error.errno, bind_error(address, error)))
        else:
            return
    if errors:
        raise errors.pop()
    raise OSError(f"no matching local address with {family=} found")


def _raise_connect_errors(errors: list[OSError], all_errors: bool) -> NoReturn:
    """Raise what `create_connection` raises when every address has failed."""
    try:
        if all_errors:
            raise ExceptionGroup("create_connection failed", errors)
        if not errors:
            raise TimeoutError("create_connection failed")
        texts = [str(error) for error in errors]
        if all(text == texts[0] for text in texts):
            raise errors[0]
        raise OSError("Multiple exceptions: {}".format(", ".join(texts)))
    finally:
        # The raised error's traceback refers to this frame.
        del errors


class Connect(Room):
    """Client side. *Source*: `asyncio.base_events.BaseEventLoop`, `asyncio.unix_events`."""

    async def _connect_sock(
        self,
        errors: list[list[OSError]],
        addr_info: tuple[Any, ...],
        local_addrs: list[Any] | None = None,
    ) -> socket.socket:
        """Return a new socket connected to the address of `addr_info`.

        An OSError is raised, and noted in a new list appended to `errors`.
        """
        mine: list[OSError] = []
        errors.append(mine)
        family, kind, proto, _, address = addr_info
        sock: socket.socket | None = None
        try:
            made: socket.socket = socket_module.socket(family=family, type=kind, proto=proto)
            sock = made
            made.setblocking(False)
            if local_addrs is not None:
                _bind_one_of(made, family, local_addrs, mine)
            await self.sock_connect(made, address)
            return made
        except BaseException as error:
            if sock is not None:
                _close_quietly(sock)
            if isinstance(error, OSError):
                mine.append(error)
            raise
        finally:
            # The errors' tracebacks refer to this frame.
            del errors, mine

    async def _connect_any(
        self,
        infos: list[Any],
        local_addrs: list[Any] | None,
        happy_eyeballs_delay: float | None,
        all_errors: bool,
    ) -> socket.socket:
        """Return a socket connected to one of `infos`: in turn, or racing (RFC 8305)."""
        errors: list[list[OSError]] = []
        try:
            if happy_eyeballs_delay is None:
                for info in infos:
                    try:
                        return await self._connect_sock(errors, info, local_addrs)
                    except OSError:
                        continue
            else:
                winner = await self._race(errors, infos, local_addrs, happy_eyeballs_delay)
                if winner is not None:
                    return winner
            _raise_connect_errors([error for part in errors for error in part], all_errors)
        finally:
            # The errors' tracebacks refer to frames that refer to this list.
            errors.clear()

    async def _race(
        self,
        errors: list[list[OSError]],
        infos: list[Any],
        local_addrs: list[Any] | None,
        delay: float,
    ) -> socket.socket | None:
        """Connect to all `infos`, each `delay` seconds after the one before; None if all fail.

        The race may be cancelled when it is already won: no socket is left open then.
        """
        won: list[socket.socket] = []

        async def attempt(info: tuple[Any, ...]) -> socket.socket:
            sock = await self._connect_sock(errors, info, local_addrs)
            won.append(sock)
            return sock

        try:
            outcome = await staggered.staggered_race(
                [lambda info=info: attempt(info) for info in infos],  # type: ignore[misc]
                delay,
                loop=self,
            )
            winner: socket.socket | None = outcome[0]
            for sock in won:
                if sock is not winner:
                    _close_quietly(sock)
            return winner
        except BaseException:
            for sock in won:
                _close_quietly(sock)
            raise

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | str | None = None,
        *,
        ssl: Ssl = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[asyncio.Transport, Any]:
        """Connect a stream to `host` and `port`, or wrap the connected `sock`.

        Returns `(transport, protocol)`. Times are in seconds. Raises OSError (an ExceptionGroup
        of all errors with `all_errors`) if no address could be reached and ValueError for
        arguments that exclude each other.
        """
        server_hostname = _name_to_verify(ssl, host, server_hostname)
        check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_ssl_socket(sock)
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1

        owned = host is not None or port is not None
        if owned:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            options = {"family": family, "proto": proto, "flags": flags}
            infos = await self._resolve_some((host, port), options)
            local = None if local_addr is None else await self._resolve_some(local_addr, options)
            if interleave:
                infos = _interleave_addrinfos(infos, interleave)
            sock = await self._connect_any(infos, local, happy_eyeballs_delay, all_errors)
        elif sock is None:
            raise ValueError("host and port was not specified and no sock specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")

        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            owned=owned,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self._debug:
            logger.debug(
                "%r connected to %s:%r: (%r, %r)",
                transport.get_extra_info("socket"),
                host,
                port,
                transport,
                protocol,
            )
        return transport, protocol

    async def _resolve_some(self, address: tuple[Any, ...], options: dict[str, int]) -> list[Any]:
        """Resolve `address` for a stream; raise OSError if that gives no address at all."""
        infos = await self._ensure_resolved(address, type=socket.SOCK_STREAM, loop=self, **options)
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos

    async def _create_connection_transport(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        ssl: Ssl,
        server_hostname: str | None,
        *,
        owned: bool,
        server_side: bool = False,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Give the connected `sock` a transport and wait until that has begun.

        `owned`: the socket was made here, so it is closed if no transport comes of it.
        """
        waiter: asyncio.Future[None] | None
        refused = False
        try:
            sock.setblocking(False)
            protocol = protocol_factory()
            waiter = self.create_future()
            refused = True
            self._ensure_fd_no_transport(sock)
            refused = False
            # Everything of the connection runs in one copy of the context it was created in.
            context = contextvars.copy_context()
            if ssl:
                transport = self._make_ssl_transport(
                    sock,
                    protocol,
                    None if isinstance(ssl, bool) else ssl,
                    waiter,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                    context=context,
                )
            else:
                transport = self._make_socket_transport(sock, protocol, waiter, context=context)
        except BaseException:
            # A descriptor that another transport uses is that transport's to close.
            if owned or (_OWNS_CALLERS_SOCKET and not refused):
                sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            waiter = None  # its exception refers to this frame
            raise
        return transport, protocol

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | bytes | os.PathLike[Any] | None = None,
        *,
        ssl: Ssl = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Connect a stream to the Unix socket `path`, or wrap the connected `sock`.

        A path that begins with a null character or byte is abstract. Returns and raises as
        `create_connection`.
        """
        assert server_hostname is None or isinstance(server_hostname, str)
        if ssl:
            if server_hostname is None:
                raise ValueError("you have to pass server_hostname when using ssl")
        elif server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)

        owned = path is not None
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            sock = unix_socket_module.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, path)
            except BaseException:
                sock.close()
                raise
        elif sock is None:
            raise ValueError("no path and sock were specified")
        else:
            check_unix_stream(sock)
            sock.setblocking(False)

        return await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            owned=owned,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    async def connect_accepted_socket(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        *,
        ssl: Ssl = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Give the accepted stream socket `sock` a transport; return `(transport, protocol)`."""
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        check_ssl_socket(sock)
        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            "",
            owned=False,
            server_side=True,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self._debug:
            logger.debug(
                "%r handled: (%r, %r)", transport.get_extra_info("socket"), transport, protocol
            )
        return transport, protocol

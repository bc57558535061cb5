"""Listening: `create_server` and `create_unix_server`. Accepting itself is native.

A listening socket belongs to the `Server` once that exists; what was opened before is closed if
any address fails.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import posix
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Sequence

from . import _aioxide
from ._room import Room, logger, socket_module, unix_socket_module
from .connect import bind_error, check_ssl_timeouts, check_unix_stream
from .server import Server
from .sock import check_ssl_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl as ssl_module
    from typing import Any

#: From 3.13 on an address whose family is switched off is skipped instead of fatal ...
_SKIPS_UNAVAILABLE = sys.version_info >= (3, 13)
#: ... and a Unix server removes its socket file when it closes.
_REMOVES_SOCKET_FILE = sys.version_info >= (3, 13)


def set_reuseport(sock: socket.socket) -> None:
    """Set SO_REUSEPORT; raise ValueError where that cannot be done."""
    if not hasattr(socket_module, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket_module.SO_REUSEPORT, 1)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented."
        ) from None


def _set_server_options(
    sock: socket.socket, reuse_address: bool, reuse_port: bool | None, keep_alive: bool | None
) -> None:
    """Set the options of a listening socket, as asked for."""
    if reuse_address:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
    if reuse_port and (
        sys.version_info < (3, 14) or sock.family in (socket.AF_INET, socket.AF_INET6)
    ):
        set_reuseport(sock)
    if keep_alive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
    if sock.family == socket.AF_INET6:
        # One socket per family: a dual-stack one would collide with its IPv4 sibling.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)


def _hosts(host: Any) -> Iterable[Any]:
    """Return the hosts that `create_server` was given; None means every interface."""
    if host == "":
        return [None]
    if isinstance(host, str) or not isinstance(host, Iterable):
        return [host]
    return host


def _is_abstract(path: str | bytes) -> bool:
    """Whether the Unix socket address is in the abstract name space: no file."""
    return path[0] in (0, "\x00")


def _remove_stale_socket(path: str | bytes) -> None:
    """Remove the socket file that an earlier server has left at `path`.

    Not by `os`: those who look for calls that block replace its functions, and excuse asyncio.
    """
    try:
        if stat.S_ISSOCK(posix.stat(path).st_mode):
            posix.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # The directory may allow nothing but making sockets.
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, error)


def _bind_unix(path: str | bytes) -> socket.socket:
    """Return a new Unix stream socket bound to `path`; name the path if it is in use."""
    sock: socket.socket = unix_socket_module.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not _is_abstract(path):
            _remove_stale_socket(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


class Serve(Room):
    """Server side. *Source*: `asyncio.base_events.BaseEventLoop`, `asyncio.unix_events`."""

    @functools.cached_property
    def _unix_server_sockets(self) -> dict[socket.socket, int]:
        """Listening sockets whose files are removed with them, each with its file's inode."""
        return {}

    async def _create_server_getaddrinfo(
        self, host: str | None, port: Any, family: int, flags: int
    ) -> list[Any]:
        infos = await self._ensure_resolved(
            (host, port), family=family, type=socket.SOCK_STREAM, flags=flags, loop=self
        )
        if not infos:
            raise OSError(f"getaddrinfo({host!r}) returned empty list")
        return infos

    def _listen_socket(
        self, info: tuple[Any, ...], options: tuple[bool, bool | None, bool | None]
    ) -> socket.socket | None:
        """Return a new socket bound to the address of `info`; None if this system lacks that."""
        family, kind, proto, _, address = info
        try:
            sock: socket.socket = socket_module.socket(family, kind, proto)
        except OSError:
            # An unsupported combination of family, type and protocol.
            if self._debug:
                logger.warning(
                    "create_server() failed to create socket.socket(%r, %r, %r)",
                    family,
                    kind,
                    proto,
                    exc_info=True,
                )
            return None
        try:
            _set_server_options(sock, *options)
            try:
                sock.bind(address)
            except OSError as error:
                message = bind_error(address, error)
                if error.errno == errno.EADDRNOTAVAIL and _SKIPS_UNAVAILABLE:
                    sock.close()
                    if self._debug:
                        logger.warning(message)
                    return None
                raise OSError(error.errno, message) from None
        except BaseException:
            sock.close()
            raise
        return sock

    def _listen_sockets(
        self, infos: Iterable[Any], options: tuple[bool, bool | None, bool | None]
    ) -> list[socket.socket]:
        """Return sockets bound to all of `infos`, or raise with none left open."""
        sockets: list[socket.socket] = []
        infos = set(infos)
        try:
            for info in infos:
                sock = self._listen_socket(info, options)
                if sock is not None:
                    sockets.append(sock)
            if not sockets and _SKIPS_UNAVAILABLE:
                addresses = [info[4] for info in infos]
                raise OSError(f"could not bind on any address out of {addresses!r}")
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | str | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | None = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listen on `port` of `host` (one, several, or None for all), or on the bound `sock`.

        `backlog` is the number of connections the kernel may keep waiting; times are in seconds.
        Raises OSError if an address cannot be bound and ValueError for arguments that exclude
        each other.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_ssl_timeouts(ssl is not None, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_ssl_socket(sock)

        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            if reuse_address is None:
                reuse_address = os.name == "posix" and sys.platform != "cygwin"
            found = await asyncio.gather(
                *[
                    self._create_server_getaddrinfo(each, port, family, flags)
                    for each in _hosts(host)
                ]
            )
            sockets = self._listen_sockets(
                [info for infos in found for info in infos],
                (reuse_address, reuse_port, keep_alive),
            )
        else:
            if sock is None:
                raise ValueError("Neither host/port nor sock were specified")
            if sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A Stream Socket was expected, got {sock!r}")
            sockets = [sock]

        for listener in sockets:
            listener.setblocking(False)
        server = Server(
            self,
            sockets,
            protocol_factory,
            ssl,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if start_serving:
            await self._begin_serving(server, owned=sock is None)
        if self._debug:
            logger.info("%r is serving", server)
        return server

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: str | bytes | os.PathLike[Any] | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = _REMOVES_SOCKET_FILE,
    ) -> Server:
        """Listen on the Unix socket `path` (abstract if it begins with a null), or on `sock`.

        A socket file left at `path` by an earlier server is replaced. `cleanup_socket` removes
        the file when the server closes, unless another server has replaced it meanwhile; it is
        on by default where asyncio has it, from Python 3.13 on.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)

        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = _bind_unix(os.fspath(path))
        elif sock is None:
            raise ValueError("path was not specified, and no sock specified")
        else:
            check_unix_stream(sock)

        if cleanup_socket:
            address = sock.getsockname()
            if not _is_abstract(address):
                try:
                    self._unix_server_sockets[sock] = posix.stat(address).st_ino
                except FileNotFoundError:
                    pass

        sock.setblocking(False)
        server = Server(
            self,
            [sock],
            protocol_factory,
            ssl,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if start_serving:
            await self._begin_serving(server, owned=path is not None)
        return server

    async def _begin_serving(self, server: Server, *, owned: bool) -> None:
        """Start `server`; if that fails or is cancelled, leave none of our sockets open."""
        try:
            await server.start_serving()
        except BaseException:
            if owned:
                server.close()
            raise

    def _stop_serving(self, sock: socket.socket) -> None:
        """Stop accepting on `sock` and close it; remove its file if that is still its own."""
        inode = self._unix_server_sockets.pop(sock, None)
        path = None if inode is None else sock.getsockname()
        _aioxide.Loop._stop_serving(self, sock)
        if path is None:
            return
        try:
            if posix.stat(path).st_ino == inode:
                posix.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, error)

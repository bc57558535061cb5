"""Datagram endpoints: `create_datagram_endpoint`. Sending and receiving are native.

Who closes a socket: one made here belongs to this file until a transport has it, and is closed on
every way out that does not return that transport. A caller's socket (`sock=`) stays the caller's
until a transport has it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import Callable

from . import _aioxide
from ._room import Room, logger, socket_module
from .serve import set_reuseport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    _Candidate: TypeAlias = tuple[int, int, Any, Any]

#: A family, a protocol number, and the local and the remote address to use with them.


def _check_datagram_socket(sock: socket.socket) -> None:
    """Raise ValueError for a socket of another type: from 3.13 on only streams are refused."""
    if sys.version_info >= (3, 13):
        if sock.type == socket.SOCK_STREAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
    elif sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"A UDP Socket was expected, got {sock!r}")


def _check_alone(options: dict[str, Any]) -> None:
    """Raise ValueError for options that say how to make the socket that the caller has made."""
    problems = ", ".join(f"{name}={value}" for name, value in options.items() if value)
    if problems:
        raise ValueError(
            "socket modifier keyword arguments can not be used when sock is specified. "
            f"({problems})"
        )


def _remove_stale_socket(path: str) -> None:
    """Remove a socket file that a dead process may have left where we are to bind."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    except FileNotFoundError:
        return
    except OSError as error:
        # The folder may only let sockets be made: binding will tell.
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, error)


def _unix_candidate(family: int, proto: int, local: Any, remote: Any) -> _Candidate:
    """Check Unix addresses, and make room for the local one."""
    for address in (local, remote):
        if address is not None and not isinstance(address, str):
            raise TypeError("string is expected")
    if local and local[0] != "\0":
        _remove_stale_socket(local)
    return family, proto, local, remote


class Datagram(Room):
    """*Source*: `asyncio.base_events`, `asyncio.selector_events`."""

    async def create_datagram_endpoint(  # type: ignore[override]  # typeshed has reuse_address
        self,
        protocol_factory: Callable[[], Any],
        local_addr: tuple[str, int] | str | None = None,
        remote_addr: tuple[str, int] | str | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """Make a transport of datagrams, bound to `local_addr`, sending to `remote_addr`, or both.

        Addresses are `(host, port)`, or paths with `family=socket.AF_UNIX`. With
        `allow_broadcast` the socket is not connected to `remote_addr`, so anybody may answer.
        Returns `(transport, protocol)`. Raises the first OSError if no address could be used.
        """
        remote_address = None
        owned = sock is None
        if sock is not None:
            _check_datagram_socket(sock)
            _check_alone(
                {
                    "local_addr": local_addr,
                    "remote_addr": remote_addr,
                    "family": family,
                    "proto": proto,
                    "flags": flags,
                    "reuse_port": reuse_port,
                    "allow_broadcast": allow_broadcast,
                }
            )
            sock.setblocking(False)
        else:
            sock, remote_address = await self._open_datagram_socket(
                await self._datagram_candidates(local_addr, remote_addr, family, proto, flags),
                bind=bool(local_addr),
                connect=bool(remote_addr),
                reuse_port=bool(reuse_port),
                broadcast=bool(allow_broadcast),
            )
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self._make_datagram_transport(sock, protocol, remote_address, waiter)
        except BaseException:
            if owned:
                sock.close()
            raise
        if self._debug:
            where, log = f"remote_addr={remote_addr!r}", logger.debug
            if local_addr:
                where, log = f"local_addr={local_addr!r} {where}", logger.info
            log("Datagram endpoint %s created: (%r, %r)", where, transport, protocol)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _datagram_candidates(
        self, local: Any, remote: Any, family: int, proto: int, flags: int
    ) -> list[_Candidate]:
        """Return the addresses to try, in order, by family and protocol."""
        if not (local or remote):
            if family == 0:
                raise ValueError("unexpected address family")
            return [(family, proto, None, None)]
        if family == socket.AF_UNIX:
            return [_unix_candidate(family, proto, local, remote)]
        found: dict[tuple[int, int], list[Any]] = {}
        for place, address in enumerate((local, remote)):
            if address is None:
                continue
            if not (isinstance(address, tuple) and len(address) == 2):
                raise TypeError("2-tuple is expected")
            infos = await self._ensure_resolved(
                address,
                family=family,
                type=socket.SOCK_DGRAM,
                proto=proto,
                flags=flags,
                loop=self,
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for info_family, _, info_proto, _, resolved in infos:
                found.setdefault((info_family, info_proto), [None, None])[place] = resolved
        # Each address that was asked for must be there in a candidate's family.
        candidates = [
            (*key, *pair)
            for key, pair in found.items()
            if not ((local and pair[0] is None) or (remote and pair[1] is None))
        ]
        if not candidates:
            raise ValueError("can not get address information")
        return candidates

    async def _open_datagram_socket(
        self,
        candidates: list[_Candidate],
        *,
        bind: bool,
        connect: bool,
        reuse_port: bool,
        broadcast: bool,
    ) -> tuple[socket.socket, Any]:
        """Open the first candidate that can be; return its socket and its remote address.

        Raises the first OSError if none can be.
        """
        errors: list[OSError] = []
        try:
            for family, proto, local, remote in candidates:
                sock: socket.socket | None = None
                try:
                    sock = socket_module.socket(family=family, type=socket.SOCK_DGRAM, proto=proto)
                    if reuse_port:
                        set_reuseport(sock)
                    if broadcast:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setblocking(False)
                    if bind:
                        sock.bind(local)
                    if not connect:
                        return sock, None
                    if not broadcast:
                        await self.sock_connect(sock, remote)
                    return sock, remote
                except BaseException as error:
                    if sock is not None:
                        sock.close()
                    if not isinstance(error, OSError):
                        raise
                    errors.append(error)
            raise errors[0]
        finally:
            # The errors' tracebacks refer to this frame, which refers to this list.
            errors.clear()

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport:
        """Return a native transport, the owner of `sock` from now on."""
        self._ensure_fd_no_transport(sock)
        return _aioxide.DatagramTransport(self, sock, protocol, address, waiter, extra)

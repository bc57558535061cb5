"""Names and addresses: `getaddrinfo`, `getnameinfo`, and the shortcut for literal addresses."""

from __future__ import annotations

import asyncio
import socket
from asyncio import base_events
from typing import Any

from ._room import Room, logger, socket_module

_ipaddr_info: Any = getattr(base_events, "_ipaddr_info")  # noqa: B009 - private to typeshed


class Dns(Room):
    """Name resolution, in the default executor. *Source*: `asyncio.base_events.BaseEventLoop`."""

    def _getaddrinfo_debug(
        self, host: Any, port: Any, family: int, type: int, proto: int, flags: int
    ) -> list[Any]:
        """`socket.getaddrinfo` that logs what it asks for and how long that took."""
        words = [f"{host}:{port!r}"]
        for name, value in (
            ("family", family),
            ("type", type),
            ("proto", proto),
            ("flags", flags),
        ):
            if value:
                words.append(f"{name}={value!r}")
        asked = ", ".join(words)
        logger.debug("Get address info %s", asked)
        began = self.time()
        found: list[Any] = socket_module.getaddrinfo(host, port, family, type, proto, flags)
        took = self.time() - began
        report = f"Getting address info {asked} took {took * 1e3:.3f}ms: {found!r}"
        if took >= self.slow_callback_duration:
            logger.info(report)
        else:
            logger.debug(report)
        return found

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """`socket.getaddrinfo` in the default executor. Raises socket.gaierror as that does."""
        ask = self._getaddrinfo_debug if self._debug else socket_module.getaddrinfo
        found: list[Any] = await self.run_in_executor(
            None, ask, host, port, family, type, proto, flags
        )
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """`socket.getnameinfo` in the default executor."""
        return await self.run_in_executor(None, socket_module.getnameinfo, sockaddr, flags)

    async def _ensure_resolved(
        self,
        address: tuple[Any, ...],
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
        loop: asyncio.AbstractEventLoop,
    ) -> list[Any]:
        """Resolve `address` (host, port, and for IPv6 flow info and zone) to address infos.

        A literal address needs no resolver and no thread; its zone is kept.
        """
        host, port = address[:2]
        info = _ipaddr_info(host, port, family, type, proto, *address[2:])
        if info is not None:
            return [info]
        return await loop.getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

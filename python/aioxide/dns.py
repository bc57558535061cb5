"""Names and addresses: `getaddrinfo`, `getnameinfo`, and lookups that need no thread.

A question whose answer no resolver is asked for (a literal address or none, with a numeric port)
is answered at once, by `socket.getaddrinfo` itself. All others go to the default executor, but
never to so many of its threads that no other job would find one: what exceeds the bound waits in
order, without a thread. See `docs/design/dns.md`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import re
import socket
from asyncio import base_events
from collections.abc import Callable

from ._room import Room, logger, socket_module, stock_getaddrinfo, stock_getnameinfo
from .executor import Executor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ipaddr_info: Any = getattr(base_events, "_ipaddr_info")  # noqa: B009 - private to typeshed

#: May be a literal address, in any spelling the C library takes. Whether it is one, that decides.
_LITERAL = re.compile(r"[0-9A-Fa-fxX.:]+(?:%[!-~]+)?")

#: Flags that ask for nothing beyond the machine.
_LOCAL_FLAGS = (
    socket.AI_PASSIVE
    | socket.AI_CANONNAME
    | socket.AI_NUMERICHOST
    | socket.AI_NUMERICSERV
    | socket.AI_V4MAPPED
    | socket.AI_ALL
    | socket.AI_ADDRCONFIG
)

#: Flags of `getnameinfo` with which it asks nobody.
_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV

#: The part of the default executor's threads that lookups may occupy: of the six threads of a
#: machine with two processors four, which is what libuv gives them.
_LOOKUP_SHARE = (3, 4)


def _is_numeric_port(port: object) -> bool:
    """Tell whether no list of services is asked for `port`."""
    if port is None or type(port) is int:
        return True
    digits: Any = port
    return type(port) in (str, bytes) and bool(digits.isascii() and digits.isdigit())


def _answer_locally(
    host: Any, port: Any, family: int, type_: int, proto: int, flags: int
) -> list[Any] | None:
    """Answer without asking anybody outside this machine; None where that cannot be."""
    if not _is_numeric_port(port) or not isinstance(flags, int) or flags & ~_LOCAL_FLAGS:
        return None
    if host is not None:
        text = host
        if type(host) is bytes:
            text = host.decode("latin-1")
        if type(text) is not str or not _LITERAL.fullmatch(text):
            return None
        # With this flag the C library refuses rather than asks.
        flags |= socket.AI_NUMERICHOST
    try:
        return stock_getaddrinfo(host, port, family, type_, proto, flags)
    except Exception:
        # What the error is without that flag, the thread finds out.
        return None


class Dns(Room):
    """Name resolution, in the default executor. *Source*: `asyncio.base_events.BaseEventLoop`."""

    #: Lookups that occupy a thread, or are about to.
    _lookups = 0

    @functools.cached_property
    def _lookups_waiting(self) -> dict[asyncio.Future[None], None]:
        """Lookups that wait for their turn, in order."""
        return {}

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
        """`socket.getaddrinfo`, in the default executor unless nobody need be asked.

        Raises socket.gaierror as that does.
        """
        if (
            socket_module.getaddrinfo is stock_getaddrinfo
            and not self._debug
            and self._asks_directly()
        ):
            answer = _answer_locally(host, port, family, type, proto, flags)
            if answer is not None:
                return answer
        ask = self._getaddrinfo_debug if self._debug else socket_module.getaddrinfo
        found: list[Any] = await self._look_up(ask, host, port, family, type, proto, flags)
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """`socket.getnameinfo`, in the default executor unless nobody need be asked."""
        getnameinfo = socket_module.getnameinfo
        if getnameinfo is stock_getnameinfo and not self._debug and self._asks_directly():
            if isinstance(flags, int) and flags & _NUMERIC == _NUMERIC:
                found: tuple[str, str] = stock_getnameinfo(sockaddr, flags)
                return found
        found = await self._look_up(getnameinfo, sockaddr, flags)
        return found

    def _asks_directly(self) -> bool:
        """Tell whether nobody replaced `run_in_executor`, and so would miss a call of it."""
        return (
            type(self).run_in_executor is Executor.run_in_executor
            and "run_in_executor" not in self.__dict__
        )

    async def _look_up(self, ask: Callable[..., Any], *args: Any) -> Any:
        """Call `ask(*args)` in the default executor, as soon as there are few enough of them."""
        if not self._asks_directly():
            return await self.run_in_executor(None, ask, *args)
        self._get_default_executor()
        if self._lookups_waiting or self._lookups >= self._lookups_max():
            await self._wait_for_lookup()
        else:
            self._lookups += 1
        try:
            # Asked again: it may have been replaced or shut down meanwhile.
            job = self._get_default_executor().submit(ask, *args)
        except BaseException:
            self._end_lookup()
            raise
        future: asyncio.Future[Any] = asyncio.wrap_future(job, loop=self)
        future.add_done_callback(lambda future: self._lookup_done(future, job))
        return await future

    async def _wait_for_lookup(self) -> None:
        """Wait in the queue until an ended lookup passes its place on."""
        turn: asyncio.Future[None] = self.create_future()
        self._lookups_waiting[turn] = None
        self._begin_lookups()
        try:
            await turn
        except BaseException:
            if self._lookups_waiting.pop(turn, turn) is turn and not turn.cancelled():
                # It was cancelled after its turn had come.
                self._end_lookup()
            raise

    def _lookup_done(
        self, future: asyncio.Future[Any], job: concurrent.futures.Future[Any]
    ) -> None:
        """Pass the place on: now, or when the thread of a cancelled lookup is back."""
        if not future.cancelled() or job.done():
            self._end_lookup()
        else:
            job.add_done_callback(self._lookup_back)

    def _lookup_back(self, job: concurrent.futures.Future[Any]) -> None:
        """A thread is back from a lookup that nobody waits for; runs in that thread."""
        try:
            self.call_soon_threadsafe(self._end_lookup)
        except RuntimeError:
            pass  # the loop was closed

    def _end_lookup(self) -> None:
        """One lookup less: let the next begin."""
        self._lookups -= 1
        self._begin_lookups()

    def _begin_lookups(self) -> None:
        """Let those begin for which there is room, in order."""
        most = self._lookups_max()
        while self._lookups_waiting and self._lookups < most:
            turn = next(iter(self._lookups_waiting))
            del self._lookups_waiting[turn]
            if not turn.done():
                turn.set_result(None)
                self._lookups += 1

    def _lookups_max(self) -> int:
        """Return how many threads of the default executor lookups may have, as it is now."""
        workers: int = getattr(self._default_executor, "_max_workers", 1)
        numerator, denominator = _LOOKUP_SHARE
        return max(1, workers * numerator // denominator)

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

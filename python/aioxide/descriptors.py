"""Which descriptors are whose: what a loop says of the transports and watches on it.

Transports that are not ours may work on this loop, by `_add_reader` and `_add_writer`: those of the
standard library's classes, made by hand, and of libraries that derive from them. They enter
themselves in `_transports` and ask `_selector`, as on asyncio's loop. Both also answer those who
look for what was left open.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import weakref
from collections.abc import Iterator, MutableMapping

from . import _aioxide
from ._room import Room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Watched:
    """The part of a selector that is asked by others: what is watched."""

    __slots__ = ("_loop",)

    def __init__(self, loop: _aioxide.Loop) -> None:
        self._loop = loop

    def get_map(self) -> dict[int, selectors.SelectorKey]:
        """Return what is watched, by descriptor; `data` are the handles of reader and writer."""
        return {
            fd: selectors.SelectorKey(fd, fd, events, (reader, writer))
            for fd, events, reader, writer in self._loop._watched
        }

    def get_key(self, file: Any) -> selectors.SelectorKey:
        """Return what is watched of a descriptor or its object; KeyError if nothing is."""
        fd = file if isinstance(file, int) else file.fileno()
        key = self.get_map().get(fd)
        if key is None:
            raise KeyError(f"{file!r} is not registered")
        return key._replace(fileobj=file)


class _Transports(MutableMapping[int, asyncio.BaseTransport]):
    """The transports of a loop by descriptor: native ones, and those that enter themselves."""

    __slots__ = ("_entered", "_loop")

    def __init__(self, loop: _aioxide.Loop, entered: MutableMapping[int, Any]) -> None:
        self._loop = loop
        self._entered = entered

    def _all(self) -> dict[int, asyncio.BaseTransport]:
        return {**self._entered, **dict(self._loop._native_transports)}

    def __getitem__(self, fd: int) -> asyncio.BaseTransport:
        return self._all()[fd]

    def __setitem__(self, fd: int, transport: asyncio.BaseTransport) -> None:
        # Operations of sock_* are to notice, also those that need not ask the kernel.
        self._loop._sock_settle(fd)
        self._entered[fd] = transport

    def __delitem__(self, fd: int) -> None:
        del self._entered[fd]

    def __iter__(self) -> Iterator[int]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class Descriptors(Room):
    """*Source*: `asyncio.selector_events`."""

    @functools.cached_property
    def _entered_transports(self) -> weakref.WeakValueDictionary[int, asyncio.BaseTransport]:
        """Standard library transports by descriptor."""
        return weakref.WeakValueDictionary()

    @property
    def _transports(self) -> _Transports:
        """The transports by descriptor; others than native ones enter themselves."""
        return _Transports(self, self._entered_transports)

    @property
    def _selector(self) -> _Watched | None:
        """What is watched, for the standard library's transports and for those who debug."""
        return None if self.is_closed() else _Watched(self)

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
        transport: Any = native or self._entered_transports.get(number)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

"""`asyncio.all_tasks` before Python 3.14: native tasks beside asyncio's own.

asyncio enters each task into a WeakSet there, which costs more than making the task. Native tasks
are in a list of their own instead, a few stores each, and `all_tasks` is shown both as one set.
From 3.14 on asyncio has such a list itself, and native tasks are in it.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import tasks
from collections.abc import Iterator

from . import _aioxide

TYPE_CHECKING = False
if TYPE_CHECKING:
    import weakref
    from typing import Any

_tasks: Any = tasks

#: Where `asyncio.tasks` keeps the set of all tasks that are not running eagerly.
_SET_NAME = "_scheduled_tasks" if sys.version_info >= (3, 12) else "_all_tasks"


class _AllTasks:
    """asyncio's WeakSet of tasks and the native list, read as one set; changes go to the former."""

    def __init__(self, stock: weakref.WeakSet[asyncio.Task[Any]]) -> None:
        self._stock = stock

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        # A list of both: RuntimeError while another thread adds a task, as asyncio expects.
        native: list[asyncio.Task[Any]] = _native_tasks()
        return iter([*self._stock, *native])

    def __len__(self) -> int:
        return len(self._stock) + len(_native_tasks())

    def __contains__(self, task: object) -> bool:
        return task in self._stock or task in _native_tasks()

    def add(self, task: asyncio.Task[Any]) -> None:
        """Enter a stock task."""
        self._stock.add(task)

    def discard(self, task: asyncio.Task[Any]) -> None:
        """Remove a stock task, if it is there."""
        self._stock.discard(task)


def _native_tasks() -> list[Any]:
    """Return the native tasks that may be pending."""
    listed: list[Any] = getattr(_aioxide, "_native_tasks", list)()
    return listed


def chain() -> None:
    """Let `asyncio.all_tasks` see native tasks. Called once, at import."""
    if sys.version_info < (3, 14):
        setattr(_tasks, _SET_NAME, _AllTasks(getattr(_tasks, _SET_NAME)))

"""What bodies about waiting look at: the turn of each event, and how errors are chained."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


def chain(error: BaseException | None, depth: int = 6) -> Any:
    """Give an exception with its cause and context, as far as they go."""
    if error is None or depth == 0:
        return None
    return (
        type(error).__name__,
        error.args,
        "cause",
        chain(error.__cause__, depth - 1),
        "context",
        chain(error.__context__, depth - 1),
        error.__suppress_context__,
    )


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """Give a result, or the chain of an exception, of whatever class."""
    try:
        return await awaitable
    except BaseException as error:
        return chain(error)


class Turns:
    """Counts the turns of the running loop, by a callback that is there in each."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._number += 1
        self._handle = self._loop.call_soon(self._next)

    def note(self, *values: Any) -> None:
        """Note something with the number of the turn."""
        self._lib.note(self._number, *values)

    def start(self, name: str, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Start a task that notes its outcome in the turn in which it has it."""

        async def run() -> None:
            self.note(name, "starts")
            self.note(name, await outcome(awaitable))

        return self._loop.create_task(run(), name=name)

    async def take(self, count: int) -> None:
        """Let some turns pass."""
        for _ in range(count):
            future = self._loop.create_future()
            self._loop.call_soon(future.set_result, None)
            await future

    def stop(self) -> None:
        """Count no more."""
        self._handle.cancel()

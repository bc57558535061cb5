"""Tools that look into a loop."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import events
from typing import Any

from . import Has, lesson


@lesson(
    "uvloop#656",
    rloop=Has("callback"),
    rsloop=Has("callback"),
    zuvloop=Has("callback"),
)
async def slow_callback_duration() -> None:
    """Debug mode does not tell of a slow callback."""
    loop = asyncio.get_running_loop()
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    async def slow_by_name() -> None:
        await asyncio.sleep(0)
        time.sleep(0.06)

    logging.getLogger("asyncio").addHandler(Kept())
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05
    loop.call_soon(time.sleep, 0.07)
    await asyncio.sleep(0)
    await loop.create_task(slow_by_name())
    await asyncio.sleep(0)
    loop.set_debug(False)
    told = [line for line in lines if line.startswith("Executing") and "took" in line]
    assert any("sleep" in line for line in told), f"callback: {lines}"
    assert any("slow_by_name" in line for line in told), f"task: {lines}"


@lesson(
    "logfire#2186, osparc-simcore#8047, aiodebug",
    aioxide=Has(
        "is not seen",
        reason=(
            "a Python function around every callback would cost more than the callback;"
            " debug mode tells of slow ones (`slow_callback_duration`)"
        ),
    ),
    uvloop=Has("is not seen"),
    rloop=Has("is not seen"),
    rsloop=Has("is not seen"),
    zuvloop=Has("is not seen"),
)
def patched_handle_run(new_event_loop: Any) -> None:
    """Tools that replace `Handle._run` (aiodebug, logfire) see none of the loop's callbacks."""
    seen: list[str] = []
    original = events.Handle._run

    def run(self: Any) -> Any:
        seen.append(repr(self))
        return original(self)

    def callback_by_name() -> None:
        pass

    def timer_by_name() -> None:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(callback_by_name)
        loop.call_later(0.001, timer_by_name)
        await asyncio.sleep(0.02)

    events.Handle._run = run  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    for name in ("callback_by_name", "timer_by_name"):
        assert any(name in text for text in seen), f"{name} is not seen"


@lesson("dd-trace-py#16100, sentry-python, tornado")
async def tasks_are_asyncio_tasks() -> None:
    """Tools do not find the loop's tasks: no asyncio tasks, not in `all_tasks`, none current."""
    loop = asyncio.get_running_loop()

    async def work() -> bool:
        await asyncio.sleep(0)
        return asyncio.current_task() is task

    task = loop.create_task(work())
    assert isinstance(task, asyncio.Task)
    assert isinstance(loop.create_future(), asyncio.Future)
    assert task in asyncio.all_tasks()
    assert task.get_coro().__name__ == "work"  # type: ignore[union-attr]
    assert await task

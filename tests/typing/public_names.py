"""The types that users see: mypy reads this in `make lint`, nothing runs it."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

import aioxide


async def number() -> int:
    """A coroutine whose type must come through."""
    return 1


def running() -> None:
    """Ways to run a coroutine."""
    assert_type(aioxide.run(number()), int)
    assert_type(aioxide.run(number(), debug=True, loop_factory=aioxide.new_event_loop), int)
    with asyncio.Runner(loop_factory=aioxide.Loop) as stock:
        assert_type(stock.run(number()), int)
    aioxide.install()


def loops() -> None:
    """A loop is an event loop of asyncio's."""
    loop = aioxide.new_event_loop()
    assert_type(loop, aioxide.Loop)
    abstract: asyncio.AbstractEventLoop = loop
    assert_type(abstract.time(), float)
    assert_type(loop.run_until_complete(number()), int)
    assert_type(loop.create_future(), asyncio.Future[Any])
    assert_type(loop.create_task(number()), asyncio.Task[int])
    assert_type(loop.call_later(1, print, "x"), asyncio.TimerHandle)
    aioxide.Loop(hold_tasks=False).close()


def native_types(loop: aioxide.Loop) -> None:
    """Native types are generic as asyncio's are."""
    future: aioxide.Future[int] = aioxide.Future(loop=loop)
    stock_future: asyncio.Future[int] = future
    assert_type(stock_future.result(), int)
    task = aioxide.Task(number(), loop=loop, name="n")
    assert_type(task, aioxide.Task[int])
    assert_type(task.result(), int)


async def names_of_asyncio() -> None:
    """What asyncio exports is here, with its types."""
    assert_type(await aioxide.gather(number(), number()), tuple[int, int])
    assert_type(await aioxide.wait_for(number(), 1), int)
    queue: aioxide.Queue[int] = aioxide.Queue()
    assert_type(await queue.get(), int)
    async with aioxide.TaskGroup() as group:
        assert_type(await group.create_task(number()), int)

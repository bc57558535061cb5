"""Random programs over locks and queues: every wake-up in the same turn as asyncio's.

A program is a few tasks that go through random steps on shared objects, and a main task that
cancels and replaces some of them. What each step gave is noted with the turn in which it did.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from observe import Turns, chain

pytestmark = pytest.mark.kinds("all")

WORKERS = 7
TURNS = 120

Step = Callable[[], Awaitable[Any]]


class Shared:
    """What the tasks of a program share."""

    def __init__(self, rng: random.Random, *, look: bool) -> None:
        self.rng = rng
        self.look = look
        self.lock = asyncio.Lock()
        self.event = asyncio.Event()
        self.semaphore = asyncio.Semaphore(rng.choice((0, 1, 2)))
        self.bounded = asyncio.BoundedSemaphore(2)
        self.condition = asyncio.Condition(rng.choice((None, asyncio.Lock())))
        self.barrier = asyncio.Barrier(rng.choice((2, 3)))
        kind = rng.choice((asyncio.Queue, asyncio.LifoQueue, asyncio.PriorityQueue))
        self.queue: asyncio.Queue[int] = kind(rng.choice((0, 1, 2)))
        self.flag = False

    async def idle(self) -> None:
        """Take a few turns."""
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)

    async def hold(self, what: Any) -> str:
        """Hold something for a few turns."""
        async with what:
            await self.idle()
        return "held"

    async def wait_in_condition(self) -> Any:
        """Wait for a notification."""
        async with self.condition:
            got = await self.condition.wait()
            await self.idle()
            return got

    async def wait_for_flag(self) -> Any:
        """Wait for a notification after which the flag is set."""
        async with self.condition:
            return await self.condition.wait_for(lambda: self.flag)

    async def notify(self) -> None:
        """Notify some."""
        async with self.condition:
            self.flag = not self.flag
            if self.rng.random() < 0.3:
                self.condition.notify_all()
            else:
                self.condition.notify(self.rng.randrange(3))

    async def take_and_finish(self) -> int:
        """Get an item and mark it done."""
        item = await self.queue.get()
        await self.idle()
        self.queue.task_done()
        return item

    async def acquire_only(self) -> Any:
        """Acquire without a context manager."""
        got = await self.lock.acquire()
        await self.idle()
        self.lock.release()
        return got

    def steps(self) -> dict[str, Step]:
        """Give the steps by name."""
        return {
            "lock": lambda: self.hold(self.lock),
            "acquire": self.acquire_only,
            "semaphore": lambda: self.hold(self.semaphore),
            "bounded": lambda: self.hold(self.bounded),
            "event": self.event.wait,
            "condition": self.wait_in_condition,
            "wait_for": self.wait_for_flag,
            "notify": self.notify,
            "barrier": self.barrier.wait,
            "put": lambda: self.queue.put(self.rng.randrange(100)),
            "get": self.queue.get,
            "finish": self.take_and_finish,
            "join": self.queue.join,
        }

    def touch(self) -> list[Any]:
        """Do something at once, and look at the objects."""
        seen: list[Any] = []
        move = self.rng.randrange(8)
        try:
            if move == 0:
                self.event.set()
            elif move == 1:
                self.event.clear()
            elif move == 2:
                seen.append(self.queue.put_nowait(self.rng.randrange(100)))
            elif move == 3:
                seen.append(self.queue.get_nowait())
            elif move == 4:
                self.semaphore.release()
            elif move == 5:
                self.bounded.release()
            elif move == 6 and self.rng.random() < 0.2:
                self.lock.release()
        except Exception as exc:
            seen.append(type(exc).__name__)
        objects: list[Any] = [self.lock, self.event, self.semaphore, self.bounded]
        seen += [repr(each) for each in (*objects, self.condition, self.barrier, self.queue)]
        if self.look and self.rng.random() < 0.05:
            # From here on some of these are Python objects instead of native ones.
            seen += [len(each._waiters or ()) for each in self.rng.sample(objects, 2)]
            seen.append(len(getattr(self.queue, self.rng.choice(("_getters", "_queue")))))
        return seen


async def worker(name: str, shared: Shared, turns: Turns) -> None:
    """Go through random steps, for ever."""
    names = list(shared.steps())
    while True:
        step = shared.rng.choice(names)
        try:
            turns.note(name, step, await shared.steps()[step]())
        except asyncio.CancelledError as exc:
            turns.note(name, step, chain(exc))
            if shared.rng.random() < 0.5:
                raise
        except Exception as exc:
            turns.note(name, step, chain(exc))
        await asyncio.sleep(0)


@pytest.mark.parametrize("look", [False, True])
# The last ones cancel twice while the lock of a condition is taken again.
@pytest.mark.parametrize("seed", [*range(10), 1044, 2068])
def test_random_program(lib: Any, seed: int, look: bool) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        shared, turns = Shared(rng, look=look), Turns(lib)

        def start(number: int) -> asyncio.Task[None]:
            name = f"w{number}"
            return asyncio.create_task(worker(name, shared, turns), name=name)

        tasks = [start(number) for number in range(WORKERS)]
        for turn in range(TURNS):
            await turns.take(1)
            if rng.random() < 0.4:
                turns.note(shared.touch())
            if rng.random() < 0.25:
                number = rng.randrange(WORKERS)
                tasks[number].cancel(f"turn {turn}")
                if rng.random() < 0.3:
                    tasks[number].cancel(f"again {turn}")
            if rng.random() < 0.05:
                turns.note("reset", await shared.barrier.reset())
            for number, task in enumerate(tasks):
                if task.done():
                    tasks[number] = start(number)
        if sys.version_info >= (3, 13):
            shared.queue.shutdown(immediate=rng.random() < 0.5)
        await turns.take(5)
        rng.random = lambda: 0.0  # type: ignore[method-assign]
        while any(not task.done() for task in tasks):
            for task in tasks:
                task.cancel()
            if not shared.lock.locked():
                shared.event.set()
            await turns.take(1)
        turns.stop()

    lib.run(main)

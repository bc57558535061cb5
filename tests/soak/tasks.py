"""Timers, tasks, threads, queues, and callbacks that raise: the loop without the kernel."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import threading
import time
from typing import Any

from .stage import Load, Stage


class Tasks:
    """The loads of this module."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def timers(self, rng: random.Random) -> None:
        """Start timers, cancel half of them, and see the others fire in order and not early."""
        loop, ledger = self.stage.loop, self.stage.ledger
        fired: list[float] = []
        done = asyncio.Event()

        def fire(when: float) -> None:
            if loop.time() < when - time.get_clock_info("monotonic").resolution:
                ledger.violation("error: a timer fired early")
            fired.append(when)
            if len(fired) == len(kept):
                done.set()

        handles = []
        for _ in range(rng.randrange(2, 200)):
            when = loop.time() + rng.expovariate(100)
            handles.append(loop.call_at(when, fire, when))
        kept = handles[::2]
        for handle in handles[1::2]:
            handle.cancel()
        try:
            await done.wait()
        finally:
            for handle in kept:
                handle.cancel()
        if fired != sorted(fired):
            ledger.violation("error: timers fired out of order")

    async def groups(self, rng: random.Random) -> None:
        """Run trees of tasks some of which fail, time out or are cancelled."""
        ledger = self.stage.ledger

        async def leaf(number: int) -> int:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0 if rng.randrange(3) else rng.expovariate(2000))
            if number == unlucky:
                raise LookupError(number)
            return number

        count = rng.randrange(1, 60)
        unlucky = rng.randrange(count * 2)
        try:
            async with asyncio.TaskGroup() as group:
                made = [group.create_task(leaf(number)) for number in range(count)]
        except* LookupError:
            if unlucky >= count:
                ledger.violation("error: a group failed without a reason")
        else:
            if unlucky < count or [task.result() for task in made] != list(range(count)):
                ledger.violation("error: a group's results are wrong")
        unlucky = -1
        if await asyncio.gather(*map(leaf, range(count))) != list(range(count)):
            ledger.violation("error: gather's results are wrong")
        try:
            await asyncio.wait_for(asyncio.sleep(60), rng.expovariate(500))
        except TimeoutError:
            ledger.faults["timed out"] += 1

    async def queues(self, rng: random.Random) -> None:
        """Pass numbers through a chain of queues, and see them come in order."""
        count = rng.randrange(1, 300)
        queues: list[asyncio.Queue[int]] = [asyncio.Queue(rng.randrange(1, 5)) for _ in range(4)]

        async def pass_on(source: asyncio.Queue[int], sink: asyncio.Queue[int]) -> None:
            for _ in range(count):
                await sink.put(await source.get())

        async def feed() -> None:
            for number in range(count):
                await queues[0].put(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            for source, sink in zip(queues, queues[1:], strict=False):
                group.create_task(pass_on(source, sink))
            got = [await queues[-1].get() for _ in range(count)]
        if got != list(range(count)):
            self.stage.ledger.violation(f"bytes: queues: {got}")

    async def threads(self, rng: random.Random) -> None:
        """Let threads work, and others call into the loop."""
        ledger, loop = self.stage.ledger, self.stage.loop
        payload = self.stage.payload(rng)
        wanted = hashlib.sha256(payload).digest()
        ledger.check(
            "to_thread", await asyncio.to_thread(lambda: hashlib.sha256(payload).digest()), wanted
        )
        count = rng.randrange(1, 100)
        got: list[int] = []
        done = asyncio.Event()

        def take(number: int) -> None:
            got.append(number)
            if len(got) == count:
                done.set()

        def call() -> None:
            for number in range(count):
                loop.call_soon_threadsafe(take, number)

        thread = threading.Thread(target=call)
        thread.start()
        try:
            await done.wait()
        finally:
            thread.join()
        if got != list(range(count)):
            ledger.violation(f"bytes: call_soon_threadsafe: {got}")

    async def raising(self, rng: random.Random) -> None:
        """Let callbacks of every kind raise, which must be reported once each."""
        ledger, loop = self.stage.ledger, self.stage.loop

        def fail(*_: Any) -> None:
            raise ledger.inject("callback raises")

        how = rng.randrange(4)
        if how == 0:
            loop.call_soon(fail)
        elif how == 1:
            loop.call_later(rng.expovariate(1000), fail)
        elif how == 2:
            loop.call_soon_threadsafe(fail)
        else:
            future = loop.create_future()
            future.add_done_callback(fail)
            future.set_result(None)
        await asyncio.sleep(rng.expovariate(50))


class Broken:
    """What `--break` does: the soak must see it."""

    def __init__(self, stage: Stage, what: str) -> None:
        self.stage = stage
        self.what = what
        self.kept: list[Any] = []

    async def once(self, rng: random.Random) -> None:
        """Break one thing."""
        await asyncio.sleep(0.05)
        if self.what == "fd":
            self.kept.append(os.open(os.devnull, os.O_RDONLY))
        elif self.what == "memory":
            self.kept.append([bytearray(1 << 20), *([number] for number in range(1000))])
        elif self.what == "byte":
            self.stage.flip_a_byte = True
        elif self.what == "task":
            self.kept.append(self.stage.loop.create_task(asyncio.sleep(3600)))
        elif self.what == "error":
            self.stage.loop.call_soon(lambda: 1 / 0)


async def start(stage: Stage) -> list[Any]:
    """Add the loads; there is no server."""
    tasks = Tasks(stage)
    stage.loads += [
        Load("timers", tasks.timers),
        Load("groups", tasks.groups),
        Load("queues", tasks.queues, 1),
        Load("threads", tasks.threads, cancels=True),
        Load("raising", tasks.raising, 1),
    ]
    return []

"""What is measured inside one process: each row runs `count` operations on a running loop.

A row's body is a coroutine function of (loop, library, count); `library` is asyncio or aioxide,
whose `sleep`, `gather`, ... are used. The bodies hold nothing but the operation and a bare `for`.
The rows of this file are the table of the design; `primitive_rows.py` has more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

Body: TypeAlias = Callable[[asyncio.AbstractEventLoop, Any, int], Awaitable[None]]
Prepared: TypeAlias = Callable[[asyncio.AbstractEventLoop, Any], AbstractAsyncContextManager[Body]]

# Callbacks of one turn, and tasks of one gather or group.
BATCH = 1000
# Timers are set in heaps of this size; loops with a millisecond clock then idle below 100 ns each.
TIMERS = 10_000
# All timers of a heap fall due within this time, in random order.
TIMER_SPREAD_S = 0.001
# Deadlines that never arrive.
FAR_S = 3600.0


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    # None where it has to be prepared.
    body: Body | None
    # Operations come in groups of this size; counts are rounded up to it.
    group: int = 1
    # A row that hands work to a thread gets both cores.
    threads: bool = False
    # A row that waits for another thread or process; its samples are as long by the wall clock.
    waits: bool = False
    # Library functions that aioxide has of its own decide it, not the loop alone.
    primitive: bool = False
    # Gives the body once what it needs is there: connections, pending tasks.
    prepared: Prepared | None = None
    # Left to the full form, because another row tells nearly the same.
    full_only: bool = False
    # What it talks to, as `services.py` starts it.
    service: str = ""
    # Runs on `limit_loop.py` too, which has what it needs.
    limited: bool = False

    @contextlib.asynccontextmanager
    async def open(self, loop: asyncio.AbstractEventLoop, lib: Any) -> AsyncIterator[Body]:
        """Give the body, ready to run."""
        if self.prepared is not None:
            async with self.prepared(loop, lib) as body:
                yield body
        else:
            assert self.body is not None
            yield self.body


async def nothing() -> None:
    """Return at once."""


def nothing_called() -> None:
    """Return at once."""


async def sleep_zero(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    sleep = lib.sleep
    for _ in itertools.repeat(None, count):
        await sleep(0)


async def call_soon_chain(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    done = loop.create_future()
    call_soon = loop.call_soon
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            call_soon(step)
        else:
            done.set_result(None)

    call_soon(step)
    await done


async def call_soon_batch(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    call_soon = loop.call_soon
    for _ in itertools.repeat(None, count // BATCH):
        for _ in itertools.repeat(None, BATCH):
            call_soon(nothing_called)
        await asyncio.sleep(0)


async def call_later_cancel(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    call_later = loop.call_later
    for _ in itertools.repeat(None, count // BATCH):
        for _ in itertools.repeat(None, BATCH):
            call_later(FAR_S, nothing_called).cancel()
        await asyncio.sleep(0)


async def timers_firing(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    delays = [TIMER_SPREAD_S * index / TIMERS for index in range(TIMERS)]
    random.Random(1).shuffle(delays)
    call_at = loop.call_at
    for _ in itertools.repeat(None, count // TIMERS):
        done = loop.create_future()
        left = TIMERS

        def fire(done: asyncio.Future[None] = done) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        now = loop.time()
        for delay in delays:
            call_at(now + delay, fire)
        await done


async def create_task_await(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    create_task = loop.create_task
    for _ in itertools.repeat(None, count):
        await create_task(nothing())


async def gather(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    for _ in itertools.repeat(None, count // BATCH):
        await lib.gather(*[nothing() for _ in range(BATCH)])


async def task_group(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    for _ in itertools.repeat(None, count // BATCH):
        async with lib.TaskGroup() as group:
            for _ in itertools.repeat(None, BATCH):
                group.create_task(nothing())


async def queue_pair(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    queue = lib.Queue(1)

    async def produce() -> None:
        for _ in itertools.repeat(None, count):
            await queue.put(None)

    task = loop.create_task(produce())
    for _ in itertools.repeat(None, count):
        await queue.get()
    await task


async def ping_pong(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    create_future = loop.create_future
    ping, pong = create_future(), create_future()

    async def other() -> None:
        nonlocal ping
        for _ in itertools.repeat(None, count):
            await ping
            ping = create_future()
            pong.set_result(None)

    task = loop.create_task(other())
    for _ in itertools.repeat(None, count):
        pong = create_future()
        ping.set_result(None)
        await pong
    await task


async def wait_for(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    # What is waited for does wait, for one turn: without that no timer is ever looked at.
    wait_for, sleep = lib.wait_for, lib.sleep
    for _ in itertools.repeat(None, count):
        await wait_for(sleep(0), FAR_S)


async def timeout(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    timeout, sleep = lib.timeout, lib.sleep
    for _ in itertools.repeat(None, count):
        async with timeout(FAR_S):
            await sleep(0)


async def to_thread(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    to_thread = lib.to_thread
    for _ in itertools.repeat(None, count):
        await to_thread(nothing_called)


ROWS = {
    "sleep0": Row("`await sleep(0)`", sleep_zero, primitive=True, limited=True),
    "chain": Row("call_soon chain", call_soon_chain, limited=True),
    "batch": Row("call_soon, batch", call_soon_batch, group=BATCH, limited=True),
    "cancel": Row("call_later + cancel", call_later_cancel, group=BATCH, limited=True),
    "timers": Row("timers firing", timers_firing, group=TIMERS, limited=True),
    "task": Row("create_task + await", create_task_await, limited=True),
    "gather": Row(f"gather of {BATCH}, each", gather, group=BATCH, primitive=True),
    "group": Row(f"TaskGroup of {BATCH}, each", task_group, group=BATCH, primitive=True),
    "queue": Row("Queue(1) put/get pair", queue_pair, primitive=True),
    "pingpong": Row("two tasks, future ping-pong", ping_pong, limited=True),
    "wait_for": Row("wait_for", wait_for, primitive=True),
    "timeout": Row("timeout()", timeout, primitive=True),
    "to_thread": Row("to_thread round trip", to_thread, threads=True, waits=True, primitive=True),
}

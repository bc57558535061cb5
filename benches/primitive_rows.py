"""More rows, as `rows.py` has them: locks, cancellation, chains, generators, wakes."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Generator
from typing import Any

from rows import BATCH, FAR_S, Row, nothing, nothing_called

# Tasks that want the same lock, semaphore, event, condition or queue.
RIVALS = 100
PERMITS = 10
# Coroutines that await each other.
DEPTH = 100


async def lock_free(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    lock = lib.Lock()
    for _ in itertools.repeat(None, count):
        async with lock:
            pass


async def lock_contended(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    lock, sleep = lib.Lock(), lib.sleep

    async def rival() -> None:
        for _ in itertools.repeat(None, count // RIVALS):
            async with lock:
                await sleep(0)

    await lib.gather(*[rival() for _ in range(RIVALS)])


async def semaphore_contended(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    semaphore, sleep = lib.Semaphore(PERMITS), lib.sleep

    async def rival() -> None:
        for _ in itertools.repeat(None, count // RIVALS):
            async with semaphore:
                await sleep(0)

    await lib.gather(*[rival() for _ in range(RIVALS)])


async def event_waiters(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    event, sleep = lib.Event(), lib.sleep

    async def wait() -> None:
        for _ in itertools.repeat(None, count // RIVALS):
            await event.wait()

    waiting = lib.gather(*[wait() for _ in range(RIVALS)])
    while not waiting.done():
        await sleep(0)
        event.set()
        event.clear()
    await waiting


async def condition_turns(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    condition, turn = lib.Condition(), 0

    async def player(number: int) -> None:
        nonlocal turn
        for _ in itertools.repeat(None, count // 2):
            async with condition:
                while turn % 2 != number:
                    await condition.wait()
                turn += 1
                condition.notify()

    await lib.gather(player(0), player(1))


async def barrier_parties(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    barrier = lib.Barrier(RIVALS)

    async def party() -> None:
        for _ in itertools.repeat(None, count // RIVALS):
            await barrier.wait()

    await lib.gather(*[party() for _ in range(RIVALS)])


async def queue_workers(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    queue = lib.Queue()

    async def work() -> None:
        while await queue.get() is not None:
            queue.task_done()

    workers = [loop.create_task(work()) for _ in range(PERMITS)]
    for index in range(count):
        queue.put_nowait(index + 1)
    await queue.join()
    for _ in workers:
        queue.put_nowait(None)
    await lib.gather(*workers)


async def priority_queue(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    queue = lib.PriorityQueue(RIVALS)

    async def produce() -> None:
        for index in range(count):
            await queue.put(-index)

    task = loop.create_task(produce())
    for _ in itertools.repeat(None, count):
        await queue.get()
    await task


async def cancel_storm(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    create_task, sleep, gather = loop.create_task, lib.sleep, lib.gather
    for _ in itertools.repeat(None, count // BATCH):
        tasks = [create_task(sleep(FAR_S)) for _ in range(BATCH)]
        await sleep(0)
        for task in tasks:
            task.cancel()
        await gather(*tasks, return_exceptions=True)


async def wait_all(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    create_task = loop.create_task
    for _ in itertools.repeat(None, count // BATCH):
        await lib.wait([create_task(nothing()) for _ in range(BATCH)])


async def wait_first(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    create_task, wait, first = loop.create_task, lib.wait, lib.FIRST_COMPLETED
    never = loop.create_future()
    for _ in itertools.repeat(None, count):
        await wait([create_task(nothing()), never], return_when=first)


async def as_completed(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    for _ in itertools.repeat(None, count // BATCH):
        for each in lib.as_completed([nothing() for _ in range(BATCH)]):
            await each


async def shield(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    shield = lib.shield
    for _ in itertools.repeat(None, count):
        await shield(nothing())


async def sleep_short(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    sleep, gather = lib.sleep, lib.gather
    for _ in itertools.repeat(None, count // BATCH):
        await gather(*[sleep(1e-6) for _ in range(BATCH)])


class Turn:
    """Waits for the next turn, as nothing but the language does."""

    def __await__(self) -> Generator[None]:
        yield


async def await_chain(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    async def link(depth: int) -> None:
        if depth:
            await link(depth - 1)
            return
        turn = Turn()
        for _ in itertools.repeat(None, count):
            await turn

    await link(DEPTH)


async def async_generator(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    sleep = lib.sleep

    async def numbers() -> AsyncIterator[int]:
        for index in range(count):
            await sleep(0)
            yield index

    async for _ in numbers():
        pass


async def async_generator_made(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    async def one() -> AsyncIterator[int]:
        yield 1

    for _ in itertools.repeat(None, count):
        async for _ in one():
            pass


async def executor(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    run_in_executor = loop.run_in_executor
    for _ in itertools.repeat(None, count // RIVALS):
        await lib.gather(*[run_in_executor(None, nothing_called) for _ in range(RIVALS)])


async def from_thread(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    done = loop.create_future()
    left = count

    def arrive() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    def send() -> None:
        call = loop.call_soon_threadsafe
        for _ in itertools.repeat(None, count):
            call(arrive)

    thread = threading.Thread(target=send)
    thread.start()
    await done
    thread.join()


async def coroutine_from_thread(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    def ask() -> None:
        submit = lib.run_coroutine_threadsafe
        for _ in itertools.repeat(None, count):
            submit(nothing(), loop).result()
        loop.call_soon_threadsafe(done.set_result, None)

    done = loop.create_future()
    thread = threading.Thread(target=ask)
    thread.start()
    await done
    thread.join()


def both(title: str, body: Any, group: int = 1, *, limited: bool = False) -> Row:
    """Make a row that wakes from another thread."""
    return Row(title, body, group=group, threads=True, waits=True, primitive=True, limited=limited)


def one(
    title: str, body: Any, group: int = 1, *, full_only: bool = False, limited: bool = False
) -> Row:
    """Make a row in which the library's functions decide."""
    return Row(title, body, group=group, primitive=True, full_only=full_only, limited=limited)


ROWS = {
    "lock": one("Lock, uncontended", lock_free, limited=True),
    "lock-contended": one(f"Lock, {RIVALS} tasks", lock_contended, RIVALS),
    "semaphore": one(f"Semaphore({PERMITS}), {RIVALS} tasks", semaphore_contended, RIVALS),
    "event": one(f"Event, {RIVALS} waiters, each", event_waiters, RIVALS),
    "condition": one("Condition, two in turns", condition_turns, 2),
    "barrier": one(f"Barrier of {RIVALS}, each", barrier_parties, RIVALS),
    "queue-workers": one(f"Queue, {PERMITS} workers, join", queue_workers, full_only=True),
    "priority-queue": one(f"PriorityQueue({RIVALS}) put/get", priority_queue, limited=True),
    "cancel-storm": one(f"{BATCH} sleeping tasks cancelled, each", cancel_storm, BATCH),
    "wait": one(f"wait for {BATCH} tasks, each", wait_all, BATCH),
    "wait-first": one("wait, FIRST_COMPLETED", wait_first, full_only=True),
    "as-completed": one(f"as_completed of {BATCH}, each", as_completed, BATCH),
    "shield": one("shield", shield),
    "sleep": one(f"{BATCH} sleeps of 1 µs, each", sleep_short, BATCH, full_only=True),
    "await-chain": Row(f"resume through {DEPTH} awaits", await_chain, limited=True),
    "async-generator": one("async for, one sleep(0) each", async_generator, limited=True),
    "async-generator-new": Row(
        "async generator made and ended", async_generator_made, full_only=True, limited=True
    ),
    "executor": both(f"run_in_executor, {RIVALS} at once, each", executor, RIVALS),
    "threadsafe": both("call_soon_threadsafe from a thread", from_thread, limited=True),
    "coroutine-threadsafe": both("run_coroutine_threadsafe round trip", coroutine_from_thread),
}

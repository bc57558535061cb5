"""Runs what programs do with an event loop, so that the compiler sees which paths they take.

A build with a profile (``MATURIN_PGO=1``) compiles the extension twice: once with counters,
for this program to run on, and once for what they counted. Paths that nothing here takes are laid
out for size, so each part of the package has its turn, in about equal shares; nothing is timed.
Needs the standard library and loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import train_network

import aioxide

# No build waits longer than this for a part, in seconds; one takes a few on a slow machine.
PART_S_MAX = 300
# How often each part does what it does once.
ROUNDS = 200_000
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)


# --- tasks, futures and callbacks ----------------------------------------------------------------


async def nothing(value: int = 0) -> int:
    """Return at once."""
    return value


async def yields(times: int = 1) -> int:
    """Let others run a number of times."""
    for _ in range(times):
        await asyncio.sleep(0)
    return times


async def fails() -> None:
    """Yield once and raise."""
    await asyncio.sleep(0)
    raise LookupError("training")


async def deep(depth: int) -> int:
    """Sleep below a chain of coroutines."""
    return await deep(depth - 1) if depth else await yields()


async def counts(to: int) -> AsyncIterator[int]:
    """Generate numbers, with a yield to the loop before each."""
    for number in range(to):
        await asyncio.sleep(0)
        yield number


async def tasks() -> None:
    """Make tasks one at a time, many at once, in groups, in deep chains, and cancel some."""
    loop = asyncio.get_running_loop()
    for number in range(ROUNDS):
        await loop.create_task(nothing(number))
        await asyncio.create_task(yields())
    for _ in range(ROUNDS // 100):
        await asyncio.gather(*(yields() for _ in range(50)))
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(yields())
        await asyncio.gather(*(fails() for _ in range(5)), return_exceptions=True)
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(yields(5))
        waiting = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        for done in asyncio.as_completed([yields(n % 3) for n in range(20)]):
            await done
        await asyncio.shield(yields())
    for _ in range(ROUNDS // 50):
        await deep(30)
        async for _number in counts(20):
            pass
        async for _number in counts(3):
            break
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
        for number in range(ROUNDS // 10):
            await loop.create_task(nothing(number))
            await loop.create_task(yields())
        loop.set_task_factory(None)


async def futures() -> None:
    """Complete futures with a waiter, with callbacks, with errors; await some that are done."""
    loop = asyncio.get_running_loop()
    for number in range(ROUNDS):
        future: asyncio.Future[int] = loop.create_future()
        loop.call_soon(future.set_result, number)
        await future
        await future
    for _ in range(ROUNDS // 10):
        future = loop.create_future()
        future.add_done_callback(lambda done: done.exception())
        future.set_exception(LookupError("training"))
        await asyncio.sleep(0)
        with contextlib.suppress(LookupError):
            await future


async def callbacks() -> None:
    """Call soon, singly and in batches, with arguments and contexts; cancel some."""
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    context = contextvars.copy_context()

    def again(left: int) -> None:
        VARIABLE.set(left)
        if left:
            loop.call_soon(again, left - 1)
        else:
            finished.set_result(None)

    def ignore(*_values: Any) -> None:
        pass

    loop.call_soon(again, 3 * ROUNDS)
    await finished
    for _ in range(ROUNDS // 50):
        for number in range(100):
            loop.call_soon(ignore)
            loop.call_soon(ignore, number, context=context)
        loop.call_soon(ignore).cancel()
        await asyncio.sleep(0)


# --- time ----------------------------------------------------------------------------------------


async def timers() -> None:
    """Let timers fire, cancel more of them, sleep, and run into deadlines."""
    loop = asyncio.get_running_loop()

    def ignore() -> None:
        pass

    for _ in range(ROUNDS // 100):
        for number in range(100):
            loop.call_later(60, ignore).cancel()
            loop.call_later(1e-6 * (number * 37 % 100), ignore)
        await asyncio.sleep(1e-4)
    for _ in range(ROUNDS):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        await asyncio.wait_for(nothing(), 60)
        await asyncio.wait_for(yields(), 60)
    for _ in range(ROUNDS // 100):
        await asyncio.gather(*(asyncio.sleep(1e-5) for _ in range(20)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 1e-6)
        await asyncio.wait([asyncio.create_task(yields()) for _ in range(5)], timeout=60)


# --- primitives ----------------------------------------------------------------------------------


async def locks() -> None:
    """Take locks and semaphores that are free and that others hold; events and conditions."""
    lock, semaphore, event = asyncio.Lock(), asyncio.Semaphore(3), asyncio.Event()
    condition, barrier = asyncio.Condition(), asyncio.Barrier(4)
    for _ in range(2 * ROUNDS):
        async with lock:
            pass
        async with semaphore:
            pass

    async def worker() -> None:
        for _ in range(ROUNDS // 100):
            async with lock:
                await asyncio.sleep(0)
            async with semaphore:
                await asyncio.sleep(0)
            async with condition:
                condition.notify_all()
                await asyncio.wait_for(condition.wait(), 60)
            await barrier.wait()

    async def pulse(running: asyncio.Future[Any]) -> None:
        while not running.done():
            event.set()
            async with condition:
                condition.notify_all()
            await asyncio.sleep(0)
            event.clear()

    running = asyncio.gather(*(worker() for _ in range(8)))
    await pulse(running)
    await running
    waiters = [asyncio.create_task(event.wait()) for _ in range(1000)]
    await asyncio.sleep(0)
    event.set()
    await asyncio.gather(*waiters)


async def queues() -> None:
    """Hand items over: without waiting, one by one, and to many workers."""
    for kind in (asyncio.Queue, asyncio.PriorityQueue, asyncio.LifoQueue):
        queue: asyncio.Queue[int] = kind()
        for number in range(ROUNDS):
            queue.put_nowait(number)
            await queue.put(number)
            await queue.get()
            queue.get_nowait()
    bounded: asyncio.Queue[int] = asyncio.Queue(maxsize=10)

    async def work(queue: asyncio.Queue[int]) -> None:
        while await queue.get() >= 0:
            queue.task_done()
        queue.task_done()

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(work(bounded))
        for number in range(2 * ROUNDS):
            await bounded.put(number)
        for _ in range(10):
            await bounded.put(-1)
    there: asyncio.Queue[int] = asyncio.Queue()
    back: asyncio.Queue[int] = asyncio.Queue()

    async def pong() -> None:
        while (number := await there.get()) >= 0:
            back.put_nowait(number)

    answering = asyncio.create_task(pong())
    for number in range(ROUNDS):
        there.put_nowait(number)
        await back.get()
    there.put_nowait(-1)
    await answering


# --- threads and processes -----------------------------------------------------------------------


async def threads() -> None:
    """Give threads work, and be called from them."""
    loop = asyncio.get_running_loop()
    for number in range(ROUNDS // 200):
        await asyncio.to_thread(abs, number)
        await loop.run_in_executor(None, abs, number)
    finished = loop.create_future()

    def outside() -> None:
        for _ in range(2 * ROUNDS):
            loop.call_soon_threadsafe(int)
        for number in range(ROUNDS // 200):
            asyncio.run_coroutine_threadsafe(yields(number % 3), loop).result()
        loop.call_soon_threadsafe(finished.set_result, None)

    thread = threading.Thread(target=outside)
    thread.start()
    await finished
    thread.join()


async def processes() -> None:
    """Start programs and talk to one."""
    for _ in range(30):
        done = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-E", "--version", stdout=-3
        )
        await done.wait()
    cat = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert cat.stdin is not None
    assert cat.stdout is not None
    for _ in range(ROUNDS // 50):
        cat.stdin.write(b"a line\n")
        await cat.stdin.drain()
        await cat.stdout.readline()
    cat.stdin.close()
    await cat.wait()


PARTS = (
    tasks,
    futures,
    callbacks,
    timers,
    locks,
    queues,
    threads,
    processes,
    *train_network.PARTS,
)


def main() -> None:
    """Run every part on a loop of its own."""
    aioxide.install()
    for part in PARTS:
        aioxide.run(asyncio.wait_for(part(), PART_S_MAX))
        gc.collect()


if __name__ == "__main__":
    main()

"""Threads and loops call each other at random moments: nobody waits for ever.

A caller lets go, looks for a moment or sleeps before the other one is there, for as long as the
other one needs to fall asleep, more or less. No loop has a timer, which would hide that nobody woke
it; whoever is not answered says so after a while.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

SECONDS = 2.5
# Far above what a busy machine needs.
ANSWER_SECONDS_MAX = 60.0
# Around the time that waits awake and falling asleep take.
PAUSE_SECONDS = (1e-6, 2e-5, 5e-5, 1e-4, 3e-4, 2e-3)
CALLERS_MAX = 4


def pause(rng: random.Random) -> None:
    """Let some time pass, or none: asleep, awake, or by giving others a turn."""
    way = rng.random()
    if way < 0.4:
        return
    if way < 0.6:
        time.sleep(0)
    elif way < 0.8:
        end = time.perf_counter() + rng.random() * 1e-4
        while time.perf_counter() < end:
            pass
    else:
        time.sleep(rng.choice(PAUSE_SECONDS))


@contextmanager
def running(lib: Any) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = lib.new_loop()

    def run() -> None:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(ANSWER_SECONDS_MAX)
    assert not thread.is_alive(), "the loop was not stopped"


def from_threads(caller: Callable[[random.Random], None]) -> None:
    """Have one to some threads call, again and again, until the time is over."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    end = time.monotonic() + SECONDS

    def call(rng: random.Random) -> None:
        for _ in range(rng.choice([1, 20, 100])):
            caller(rng)

    with ThreadPoolExecutor(CALLERS_MAX) as pool:
        while time.monotonic() < end:
            callers = rng.randint(1, CALLERS_MAX)
            calls = [pool.submit(call, random.Random(rng.random())) for _ in range(callers)]
            for done in calls:
                done.result()


def test_callbacks(lib: Any) -> None:
    """`call_soon_threadsafe`."""
    with running(lib) as loop:

        def caller(rng: random.Random) -> None:
            answer = threading.Event()
            loop.call_soon_threadsafe(answer.set)
            pause(rng)
            assert answer.wait(ANSWER_SECONDS_MAX), "a call was lost"

        from_threads(caller)


def test_coroutines(lib: Any) -> None:
    """`run_coroutine_threadsafe`, of coroutines that are done at once, later, or by a thread."""

    async def coroutine(kind: int, rng: random.Random) -> int:
        if kind == 1:
            await asyncio.sleep(0)
        elif kind == 2:
            await asyncio.to_thread(pause, rng)
        elif kind == 3:
            await asyncio.gather(*(asyncio.to_thread(pause, rng) for _ in range(3)))
        return kind

    with running(lib) as loop:

        def caller(rng: random.Random) -> None:
            kind = rng.randrange(4)
            answer: Future[int] = lib.module.run_coroutine_threadsafe(coroutine(kind, rng), loop)
            pause(rng)
            assert answer.result(ANSWER_SECONDS_MAX) == kind

        from_threads(caller)


def test_jobs(lib: Any) -> None:
    """`run_in_executor`, of loops in several threads, each with a pool of its own."""

    async def jobs(rng: random.Random) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(rng.choice([1, 3, 30])):
            count = rng.choice([1, 1, 2, 5, 40])
            done = [loop.run_in_executor(None, pause, rng) for _ in range(count)]
            if rng.random() < 0.2:
                done.pop().cancel()
            await asyncio.gather(*done)

    def run(rng: random.Random) -> None:
        with asyncio.Runner(loop_factory=lib.new_loop) as runner:
            runner.run(jobs(rng))

    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        threads = [
            threading.Thread(target=run, args=(random.Random(rng.random()),), daemon=True)
            for _ in range(rng.randint(1, 3))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(ANSWER_SECONDS_MAX)
            assert not thread.is_alive(), "a job's outcome was lost"

"""What tests of executors share: pools whose threads are held, or all needed at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any


async def busy_pool(lib: Any, workers: int) -> tuple[Any, threading.Event, list[Any]]:
    """Give an executor like the default one with all its threads held by a job each."""
    executor_type = type(lib.loop._default_executor or await first_executor(lib))
    executor = executor_type(max_workers=workers, thread_name_prefix="held")
    lib.loop.set_default_executor(executor)
    started, release = threading.Semaphore(0), threading.Event()

    def hold() -> str:
        started.release()
        release.wait(30)
        return "released"

    held = [lib.loop.run_in_executor(None, hold) for _ in range(workers)]
    for _ in held:
        await asyncio.wrap_future(_in_thread(started.acquire))
    return executor, release, held


async def first_executor(lib: Any) -> Any:
    """Have the loop make its default executor; end it."""
    await lib.loop.run_in_executor(None, int)
    executor = lib.loop._default_executor
    executor.shutdown(wait=True)
    return executor


def _in_thread(call: Any) -> concurrent.futures.Future[Any]:
    """Call in a thread of its own."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    threading.Thread(target=lambda: future.set_result(call())).start()
    return future


async def all_at_once(loop: Any, executor: Any, count: int) -> None:
    """Run jobs that wait for each other, so each needs a thread of its own."""
    barrier = threading.Barrier(count)
    jobs = [
        asyncio.wrap_future(executor.submit(barrier.wait, 30))
        if number % 2
        else loop.run_in_executor(None, barrier.wait, 30)
        for number in range(count)
    ]
    await asyncio.gather(*jobs)

"""`ProcessPoolExecutor` behind `run_in_executor`, by each of multiprocessing's ways to start.

The pool tells of results from threads of its own; forked children inherit the loop's descriptors.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from typing import Any

import pytest

# Python's own helper processes keep pipes to this one until the interpreter ends.
pytestmark = [
    pytest.mark.leaves_fds("the resource tracker and the fork server stay"),
    # Children are forked here on purpose while the servers' logs are read by threads.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def context(request: pytest.FixtureRequest) -> Any:
    """Start processes in one of the ways, with the helpers running already."""
    resource_tracker.ensure_running()
    if request.param == "forkserver":
        forkserver.ensure_running()
    return multiprocessing.get_context(request.param)


def test_first_page(run: Run, context: Any) -> None:
    """Many calls at once, large arguments and results, exceptions with their text."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            calls = [loop.run_in_executor(pool, pow, number, 2) for number in range(100)]
            assert await asyncio.gather(*calls) == [number**2 for number in range(100)]
            assert os.getpid() not in await asyncio.gather(
                *(loop.run_in_executor(pool, os.getpid) for _ in range(4))
            )
            large = b"x" * 5_000_000
            assert await loop.run_in_executor(pool, bytes.upper, large) == b"X" * 5_000_000
            with pytest.raises(ZeroDivisionError, match="by zero"):
                await loop.run_in_executor(pool, divmod, 1, 0)
            with pytest.raises(Exception, match="(?i)pickle|local object"):
                await loop.run_in_executor(pool, lambda: 1)
            assert await loop.run_in_executor(pool, len, "still here") == 10

    run(main)


def test_worker_that_dies(run: Run, context: Any) -> None:
    """Every call that waits for a broken pool is told so, and later ones too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            calls = [loop.run_in_executor(pool, os._exit, 1)]
            calls += [loop.run_in_executor(pool, time.sleep, 60) for _ in range(5)]
            for call in calls:
                with pytest.raises(BrokenProcessPool):
                    await call
            with pytest.raises(BrokenProcessPool):
                await loop.run_in_executor(pool, pow, 2, 2)

    run(main)


def test_cancelled_and_late_calls(run: Run, context: Any) -> None:
    """A call that has not begun is taken back; one that has begun is only no longer waited for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert await loop.run_in_executor(pool, pow, 1, 1) == 1
            begun = loop.run_in_executor(pool, time.sleep, 0.6)
            queued = [loop.run_in_executor(pool, time.sleep, 0.01) for _ in range(50)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await begun
            for call in queued:  # the first one or two are with the process already
                call.cancel()
            await asyncio.wait(queued)
            assert all(call.cancelled() for call in queued)
            assert await loop.run_in_executor(pool, pow, 2, 5) == 32

    run(main)

"""What a Dask user does with a cluster: `python dask_client.py SCHEDULER LOOP [die]`.

It is a program of its own because Dask keeps threads until its process ends. LOOP is the module of
the loop that the scheduler, the workers and this client must run on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import dask
import pytest
from dask import delayed
from distributed import Client, KilledWorker, as_completed, wait


async def which_loop() -> str:
    """Name the module of the running loop's class."""
    return type(asyncio.get_running_loop()).__module__


def fail(number: int) -> None:
    """Raise what a task raises."""
    raise ValueError(f"number {number}")


def die() -> None:
    """End the worker's process."""
    os._exit(1)


async def use(address: str, loop: str) -> None:
    """Futures, graphs, large arguments, results as they come, tasks that fail or are cancelled."""
    assert await which_loop() == loop
    async with Client(address, asynchronous=True) as client:
        await client.wait_for_workers(2)
        assert {*(await client.run(which_loop)).values()} == {loop}
        assert await client.run_on_scheduler(which_loop) == loop

        futures = client.map(lambda number: number**2, range(200))
        assert await client.gather(futures) == [number**2 for number in range(200)]
        assert await client.submit(sum, futures) == sum(n**2 for n in range(200))
        done = [await future async for future in as_completed(futures[:20])]
        assert sorted(done) == [number**2 for number in range(20)]

        (large,) = await client.scatter([b"x" * 20_000_000], broadcast=True)
        sizes = client.map(lambda _, data: len(data), range(4), data=large)
        assert await client.gather(sizes) == [20_000_000] * 4
        assert len(await large) == 20_000_000

        with pytest.raises(ValueError, match="number 7"):
            await client.submit(fail, 7)
        late = client.submit(time.sleep, 0.2, pure=False)
        with pytest.raises(TimeoutError):
            await wait(late, timeout=0.05)
        await client.cancel(late)
        assert late.cancelled()


def use_from_a_thread(address: str, loop: str) -> None:
    """The documentation's first page: a client that blocks, with its loop in a thread."""
    with Client(address) as client:
        assert client.sync(which_loop) == loop
        assert threading.current_thread() is threading.main_thread()
        total = delayed(sum)([delayed(pow)(number, 3) for number in range(50)])
        assert total.compute() == sum(number**3 for number in range(50))
        with pytest.raises(ValueError, match="number 8"):
            client.submit(fail, 8).result()


async def lose_a_worker(address: str) -> None:
    """A task that kills its worker fails; the nanny starts another worker, which works."""
    async with Client(address, asynchronous=True) as client:
        await client.wait_for_workers(2)
        before = await client.run(os.getpid)
        with pytest.raises(KilledWorker):
            await client.submit(die)
        while len(after := await client.run(os.getpid)) < 2:
            pass
        assert {*after.values()} != {*before.values()}
        assert await client.submit(pow, 2, 10) == 1024


async def miss() -> None:
    """A client that finds no scheduler says so in time."""
    with dask.config.set({"distributed.comm.timeouts.connect": "200ms"}):
        with pytest.raises(OSError, match="Timed out"):
            await Client("tcp://127.0.0.1:1", asynchronous=True, timeout="300ms")


if __name__ == "__main__":
    scheduler, expected, *what = sys.argv[1:]
    if what == ["die"]:
        asyncio.run(lose_a_worker(scheduler))
    else:
        asyncio.run(use(scheduler, expected))
        use_from_a_thread(scheduler, expected)
        asyncio.run(miss())
    print("the client is done")

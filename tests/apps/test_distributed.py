"""A Dask cluster: scheduler, workers and client as separate processes, on asyncio, then on aioxide.

Dask talks by tornado streams, starts workers by multiprocessing under a nanny, which starts another
when one dies, and hands results between threads and loops.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Program

HERE = Path(__file__).parent
WAYS = {"asyncio": (), "aioxide": ("-m", "aioxide")}
LOOPS = {"asyncio": "asyncio.unix_events", "aioxide": "aioxide.loop"}
SCHEDULER = ("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
WORKER = ("-m", "distributed.cli.dask_worker", "--host", "127.0.0.1", "--nthreads", "2")
COMMON = ("--dashboard-address", "127.0.0.1:0")
ENV = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}


@contextlib.contextmanager
def cluster(kind: str, folder: Path, *options: str) -> Iterator[str]:
    """Start a scheduler and two workers, and give the scheduler's address."""
    way = WAYS[kind]
    with contextlib.ExitStack() as stack:
        scheduler = stack.enter_context(Program(*way, *SCHEDULER, *COMMON, env=ENV))
        address = scheduler.wait_line(r"Scheduler at:\s+(tcp://\S+)")[1]
        command = (*way, *WORKER, *COMMON, *options, "--local-directory", str(folder), address)
        workers = [stack.enter_context(Program(*command, env=ENV)) for _ in range(2)]
        for worker in workers:
            worker.wait_line("Registered to")
        yield address
        for program in (*workers, scheduler):
            assert program.stop(signal.SIGTERM) == 0, program.said()


@pytest.mark.parametrize("kind", WAYS)
def test_cluster(kind: str, tmp_path: Path) -> None:
    with cluster(kind, tmp_path, "--no-nanny") as address:
        arguments = ("dask_client.py", address, LOOPS[kind])
        with Program(*WAYS[kind], *arguments, cwd=HERE, env=ENV) as client:
            assert client.end() == 0, client.said()
            assert client.stdout == ["the client is done\n"], client.said()


@pytest.mark.parametrize("kind", WAYS)
def test_worker_that_dies(kind: str, tmp_path: Path) -> None:
    with cluster(kind, tmp_path) as address:
        arguments = ("dask_client.py", address, LOOPS[kind], "die")
        with Program(*WAYS[kind], *arguments, cwd=HERE, env=ENV) as client:
            assert client.end() == 0, client.said()
            assert client.stdout == ["the client is done\n"], client.said()

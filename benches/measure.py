"""One measurement in a process of its own: a row on a loop, pinned, as JSON on standard output.

`python measure.py LOOP ROW --seconds S --samples N --cpus 0,1`: warms up, finds the count that
takes about S, runs it N times, prints nanoseconds per operation of each, by the wall clock and in
CPU time of the process, and how often the kernel took the core away meanwhile. With `--count N` it
runs N operations once and prints nothing; that is what `instructions.py` counts, several times and
with `--stepwise`: it says "ready" before each time and at the end, and waits for a line.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence

import loops
import rows

# The count is found from a run of at least this length.
CALIBRATION_S = 0.01
# Where rows are: each module has a dictionary `ROWS`.
MODULES = ("rows", "primitive_rows", "application_rows")


def find(name: str) -> rows.Row:
    """Return the row of a name."""
    for module in MODULES:
        found: dict[str, rows.Row] = importlib.import_module(module).ROWS
        if name in found:
            return found[name]
    raise SystemExit(f"there is no row {name!r}")


async def timed(
    body: rows.Body,
    loop: asyncio.AbstractEventLoop,
    lib: object,
    count: int,
    prepare: Callable[[], int],
) -> tuple[float, float]:
    """Run a body once and return its seconds: by the wall clock, of CPU time."""
    prepare()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    await body(loop, lib, count)
    return time.perf_counter() - begin, time.process_time() - begin_cpu


async def sample(
    row: rows.Row,
    loop: asyncio.AbstractEventLoop,
    lib: object,
    seconds: float,
    samples: int,
    prepare: Callable[[], int] = gc.collect,
) -> dict[str, list[float]]:
    """Return nanoseconds per operation of each sample, and the preemptions of all."""
    # By CPU time where the process never waits: one preemption would be mistaken for a slow row.
    clock = 0 if row.waits else 1
    async with row.open(loop, lib) as body:
        count = row.group
        while (took := (await timed(body, loop, lib, count, prepare))[clock]) < CALIBRATION_S:
            count *= 2
        groups = max(1, round(count * seconds / took / row.group))
        count = groups * row.group
        preemptions = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        took_each = [await timed(body, loop, lib, count, prepare) for _ in range(samples)]
        preemptions = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - preemptions
    return {
        "wall": [wall / count * 1e9 for wall, _ in took_each],
        "cpu": [cpu / count * 1e9 for _, cpu in took_each],
        "preemptions": [preemptions],
    }


async def counted(
    row: rows.Row,
    loop: asyncio.AbstractEventLoop,
    lib: object,
    counts: Sequence[int],
    stepwise: bool,
) -> None:
    """Run a row some times without looking at a clock, and without garbage collections."""
    gc.disable()

    def wait() -> None:
        if stepwise:
            print("ready", flush=True)
            sys.stdin.readline()

    async with row.open(loop, lib) as body:
        for count in counts:
            wait()
            await body(loop, lib, -(-count // row.group) * row.group)
        wait()


def pin(cpus: str) -> None:
    """Keep this process to some cores, as `--cpus 0,1` says."""
    if cpus:
        os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=(*loops.LOOPS, loops.FASTNET, loops.LIMIT))
    parser.add_argument("row")
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--cpus", default="")
    parser.add_argument("--count", type=int, nargs="+")
    parser.add_argument("--stepwise", action="store_true")
    options = parser.parse_args()
    pin(options.cpus)
    loops.prepare(options.loop)
    row = find(options.row)
    lib = loops.library(options.loop)
    loop = loops.new_event_loop(options.loop)
    try:
        if options.count is not None:
            run = counted(row, loop, lib, options.count, options.stepwise)
            loop.run_until_complete(run)
            return
        found = loop.run_until_complete(sample(row, loop, lib, options.seconds, options.samples))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

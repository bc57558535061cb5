"""The rows once more while many tasks are pending, each with a timer: does the cost grow?

`python pending.py LOOP --sizes 1000,1000000 --rows sleep0,task` is the measured process: it tops
up the tasks, which sleep for an hour, to each size in turn and measures every row there. That
both costs come from one process makes their ratio steadier than either.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import cases
import collect
import inside
import lines
import loops
import measure
import rows

SIZES = (1, 100, 1_000, 10_000, 1_000_000)
# Between these the cost per operation must not grow by more than the factor.
FROM, TO, GROWTH_MAX = 1_000, 1_000_000, 1.3
SHORT_ROWS = ("sleep0", "cancel", "timers", "task", "timeout")
# asyncio needs about ten seconds to make a million tasks with timers.
MEASURE_S_MAX = 900.0


def key(row: str, size: int) -> str:
    """Return the metric's key."""
    return f"{row}@{size}"


def growth_key(row: str) -> str:
    """Return the key of the metric that says how the cost grows."""
    return f"{row} grows"


def find_costs(
    names: Sequence[str], sizes: Sequence[int], loop: str, effort: cases.Effort
) -> cases.Samples:
    """Measure all rows at all sizes on one loop, and how each grows."""
    _, core = cases.cores()
    command = [__file__, loop, "--sizes", ",".join(map(str, sizes)), "--rows", ",".join(names)]
    command += ["--seconds", str(effort.seconds), "--samples", str(effort.samples)]
    command += ["--cpus", str(core)]
    found: cases.Samples = json.loads(inside.run(*command, seconds_max=MEASURE_S_MAX))
    for row in names:
        few, many = (statistics.median(found[key(row, size)]) for size in (FROM, TO))
        found[growth_key(row)] = [many / few]
    return found


def make(name: str, names: Sequence[str], sizes: Sequence[int], short: bool) -> cases.Case:
    """Make the case of some rows at some sizes."""
    metrics = []
    for row in names:
        title = rows.ROWS[row].title
        metrics += [
            cases.Metric(key(row, size), f"{title}, {size:,} pending", "ns") for size in sizes
        ]
        metrics.append(
            cases.Metric(growth_key(row), f"{title}, {TO:,} to {FROM:,}", "times", contested=False)
        )
    return cases.Case(
        name,
        "pending tasks with timers",
        tuple(metrics),
        partial(find_costs, names, sizes),
        short=short,
        primitives_full=True,
        short_rounds=1,
        compared=tuple(metric for metric in metrics if metric.key.endswith(f"@{TO}")),
    )


CASES = [
    make("pending", SHORT_ROWS, (FROM, TO), short=True),
    make("pending-all", list(rows.ROWS), SIZES, short=False),
]


def remarks(cells: collect.Cells) -> str:
    """Say which of our rows grow beyond what they may."""
    said = []
    for case in CASES:
        if (case.name, loops.SUBJECT) not in cells:
            continue
        grown = []
        for metric in case.metrics:
            if not metric.key.endswith(" grows"):
                continue
            ratio = lines.make(case, metric, cells).median(loops.SUBJECT)
            if ratio is None or ratio > GROWTH_MAX:
                grown.append(
                    f"{metric.title} ({'no number' if ratio is None else f'{ratio:.2f}x'})"
                )
        text = ", ".join(grown) or "none"
        said.append(
            f"{loops.SUBJECT}, rows that cost more than {GROWTH_MAX}x with {TO:,} than with "
            f"{FROM:,} pending: {text}."
        )
    return "\n\n".join(said)


# --- the measured process -------------------------------------------------------------------------


async def top_up(lib: Any, pending: list[Any], size: int) -> None:
    """Have `size` tasks that sleep."""
    create_task = asyncio.get_running_loop().create_task
    pending += [create_task(lib.sleep(rows.FAR_S)) for _ in range(size - len(pending))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()


async def measure_all(loop: Any, lib: Any, options: argparse.Namespace) -> cases.Samples:
    """Measure every row at every size."""
    found: cases.Samples = {}
    pending: list[Any] = []
    for size in map(int, options.sizes.split(",")):
        await top_up(lib, pending, size)
        for name in options.rows.split(","):
            # A collection of everything before each sample would take longer than the samples.
            samples = await measure.sample(
                rows.ROWS[name], loop, lib, options.seconds, options.samples, lambda: 0
            )
            found[key(name, size)] = samples["wall"]
    return found


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("--sizes", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--cpus", default="")
    options = parser.parse_args()
    measure.pin(options.cpus)
    loops.prepare(options.loop)
    loop = loops.new_event_loop(options.loop)
    found = loop.run_until_complete(measure_all(loop, loops.library(options.loop), options))
    print(json.dumps(found), flush=True)
    # Without a million cancellations.
    os._exit(0)


if __name__ == "__main__":
    main()

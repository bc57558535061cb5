"""The rows once more while many tasks with timers, or timers, are pending: does the cost grow?

`python pending.py LOOP --sizes 1000,1000000 --rows sleep0,task` is the measured process: it tops
up the tasks, which sleep for an hour, to each size in turn and measures every row there. That
both costs come from one process makes their ratio steadier than either. `--kind timers` has
callbacks that are due in an hour instead.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
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
# What the tables call what is pending.
KINDS = {"tasks": "pending", "timers": "pending timers"}
CLOCKS = ("wall", "cpu")
# Of about half a minute for each loop.
FULL_ROUNDS = 2
# What making a million takes about: asyncio's tasks with timers more than ten seconds.
SET_UP_S = {"tasks": 10.0, "timers": 2.0}
MEASURE_S_MAX = 280.0


def key(row: str, size: int, clock: str = "wall") -> str:
    """Return the metric's key."""
    return f"{row}@{size}{' cpu' if clock == 'cpu' else ''}"


def growth_key(row: str, clock: str = "wall") -> str:
    """Return the key of the metric that says how the cost grows."""
    return f"{row}{' cpu' if clock == 'cpu' else ''} grows"


def find_costs(
    kind: str, names: Sequence[str], sizes: Sequence[int], loop: str, effort: cases.Effort
) -> cases.Samples:
    """Measure all rows at all sizes on one loop, and how each grows."""
    counterpart, core = cases.cores()
    command = [__file__, loop, "--sizes", ",".join(map(str, sizes)), "--rows", ",".join(names)]
    command += ["--seconds", str(effort.seconds), "--samples", str(effort.samples)]
    command += ["--cpus", str(core), "--cpus-threads", f"{counterpart},{core}", "--kind", kind]
    found: cases.Samples = json.loads(inside.run(*command, seconds_max=MEASURE_S_MAX))
    for row, clock in itertools.product(names, CLOCKS):
        few, many = (statistics.median(found[key(row, size, clock)]) for size in (FROM, TO))
        found[growth_key(row, clock)] = [many / few]
    return found


def takes(kind: str, samples: int, effort: cases.Effort) -> float:
    """Return about how long one loop takes for rows at sizes."""
    return SET_UP_S[kind] + samples * (1.5 * effort.samples * effort.seconds + 0.1)


def make(
    name: str, kind: str, names: Sequence[str], sizes: Sequence[int], **forms: bool
) -> cases.Case:
    """Make the case of some rows at some sizes."""
    what = KINDS[kind]
    metrics, compared = [], []
    for row, clock in itertools.product(names, CLOCKS):
        title = rows.ROWS[row].title
        of_sizes = {
            size: cases.Metric(
                key(row, size, clock), f"{title}, {size:,} {what}", "ns", clock=clock
            )
            for size in sizes
        }
        growth = f"{title}, {TO:,} to {FROM:,} {what}"
        grows = cases.Metric(growth_key(row, clock), growth, "times", contested=False, clock=clock)
        metrics += [*of_sizes.values(), grows]
        compared.append(of_sizes[TO])
    return cases.Case(
        name,
        f"{kind} pending",
        tuple(metrics),
        partial(find_costs, kind, names, sizes),
        short_rounds=1,
        full_rounds=FULL_ROUNDS,
        takes=partial(takes, kind, len(names) * len(sizes)),
        compared=tuple(compared),
        **forms,
    )


CASES = [
    make("pending", "tasks", SHORT_ROWS, (FROM, TO), full=False),
    make("pending-all", "tasks", list(rows.ROWS), SIZES, short=False),
    make("pending-timers", "timers", SHORT_ROWS, SIZES, short=False),
]


def remarks(cells: collect.Cells, clock: str = "wall") -> str:
    """Say which of our rows grow beyond what they may."""
    said = []
    for case in CASES:
        if (case.name, loops.SUBJECT) not in cells:
            continue
        grown = []
        for metric in case.metrics:
            if metric.key not in {growth_key(row, clock) for row in rows.ROWS}:
                continue
            ratio = lines.make(case, metric, cells).median(loops.SUBJECT)
            if ratio is None or ratio > GROWTH_MAX:
                grown.append(
                    f"{metric.title} ({'no number' if ratio is None else f'{ratio:.2f}x'})"
                )
        text = ", ".join(grown) or "none"
        said.append(
            f"{loops.SUBJECT}, rows that cost more than {GROWTH_MAX}x with {TO:,} than with "
            f"{FROM:,} {case.title}: {text}."
        )
    return "\n\n".join(said)


# --- the measured process -------------------------------------------------------------------------


async def top_up(loop: Any, lib: Any, kind: str, pending: list[Any], size: int) -> None:
    """Have `size` tasks that sleep, or so many timers."""
    wanted = range(size - len(pending))
    if kind == "tasks":
        pending += [loop.create_task(lib.sleep(rows.FAR_S)) for _ in wanted]
    else:
        pending += [loop.call_later(rows.FAR_S, rows.nothing_called) for _ in wanted]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()


async def measure_all(loop: Any, lib: Any, options: argparse.Namespace) -> cases.Samples:
    """Measure every row at every size."""
    found: cases.Samples = {}
    pending: list[Any] = []
    for size in map(int, options.sizes.split(",")):
        await top_up(loop, lib, options.kind, pending, size)
        for name in options.rows.split(","):
            row = rows.ROWS[name]
            measure.pin(options.cpus_threads if row.threads else options.cpus)
            # A collection of everything before each sample would take longer than the samples.
            samples = await measure.sample(
                row, loop, lib, options.seconds, options.samples, lambda: 0
            )
            found |= {key(name, size, clock): samples[clock] for clock in CLOCKS}
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
    parser.add_argument("--cpus-threads", default="", help="of rows that hand work to a thread")
    parser.add_argument("--kind", choices=tuple(KINDS), default="tasks")
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

"""Cases that run inside one process: the rows of `rows.py` and `primitive_rows.py`, as cases."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import cases
import loops
import primitive_rows
import rows
import services

HERE = Path(__file__).parent
# A measuring process that takes longer than this is stuck.
MEASURE_S_MAX = 120.0
# Starting a process, and what it runs before it measures.
START_S = 0.15
WALL = cases.Metric("wall", "time per operation", "ns", clock="wall")
CPU = cases.Metric("cpu", "CPU time per operation", "ns", clock="cpu")
# Of applications, in µs; the samples are divided.
MICROSECONDS = (
    cases.Metric("wall_us", "time per operation", "µs"),
    cases.Metric("cpu_us", "own CPU time per operation", "µs"),
)


def run(*command: str, seconds_max: float = MEASURE_S_MAX) -> str:
    """Run a Python program of ours and return what it printed."""
    try:
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise cases.Failure(f"no result within {seconds_max:.0f} s") from None
    if done.returncode != 0 or not done.stdout:
        raise cases.Failure(cases.last_line(done.stderr) or f"exit status {done.returncode}")
    return done.stdout


def measure(row: rows.Row, name: str, loop: str, effort: cases.Effort) -> cases.Samples:
    """Run one row once in a process of its own."""
    if row.service:
        services.need(row.service)
    counterpart, own = cases.cores()
    cpus = f"{counterpart},{own}" if row.threads else str(own)
    command = (str(HERE / "measure.py"), loop, name, "--cpus", cpus)
    length = ("--seconds", str(effort.seconds), "--samples", str(effort.samples))
    printed = run(*command, *length)
    samples: cases.Samples = json.loads(printed.splitlines()[-1])
    micro = {f"{key}_us": [ns / 1000 for ns in samples[key]] for key in ("wall", "cpu")}
    return samples | micro


def make(
    all_rows: Mapping[str, rows.Row],
    metrics: tuple[cases.Metric, ...] = (WALL, CPU),
    often: bool = True,
) -> list[cases.Case]:
    """Make a case of each row; with our loop alone in the short form too, if `often`."""
    return [
        cases.Case(
            name,
            row.title,
            metrics,
            partial(measure, row, name),
            beside=(loops.LIMIT,) if row.limited else (),
            short=not row.full_only,
            primitives=row.primitive and often,
            primitives_full=row.primitive,
            takes=lambda effort: effort.samples * effort.seconds + START_S,
        )
        for name, row in all_rows.items()
    ]


SCHEDULING = make(rows.ROWS)
PRIMITIVES = make(primitive_rows.ROWS)

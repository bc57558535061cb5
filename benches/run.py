"""The benchmark: every loop in turn in one run, rounds interleaved, one pinned process each.

`python benches/run.py` prints the table and leaves JSON and Markdown in `benches/results/`.
The parent only starts processes; nothing is measured in it. Order within a round rotates, so
that no loop always follows the same one. A loop that is not installed is named as missing; one
that fails is shown as failed, with its reason.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Also where Python was told to leave the script's folder out (`-P`).
sys.path.insert(0, str(Path(__file__).parent))

import echo
import environment
import loops
import report
import rows

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ECHO_TITLES = {
    "protocol": "echo, protocol",
    "streams": "echo, streams",
    "sock": "echo, sock_*",
}
# A measuring process that takes longer than this is stuck.
MEASURE_S_MAX = 60.0


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, seconds per sample, milliseconds of echo."""

    rounds: int
    seconds: float
    echo_ms: int


EFFORTS = {
    "quick": Effort(1, 0.05, 500),
    "short": Effort(3, 0.1, 1000),
    "full": Effort(9, 0.5, 3000),
}


@dataclass
class Cell:
    """What was collected for one loop in one row: one dictionary per round, or a failure."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    failure: str = ""


def row_cpus(row: rows.Row) -> str:
    """Return the cores of a row's process."""
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores if row.threads else cores[-1:]))


def measure_row(loop: str, name: str, effort: Effort) -> dict[str, float]:
    """Run one row once in a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, str(HERE / "measure.py"), loop, name),
            *("--seconds", str(effort.seconds), "--cpus", row_cpus(rows.ROWS[name])),
        ],
        capture_output=True,
        text=True,
        timeout=MEASURE_S_MAX,
        check=False,
    )
    if done.returncode != 0 or not done.stdout:
        raise echo.EchoError(echo.last_line(done.stderr) or f"exit status {done.returncode}")
    samples = json.loads(done.stdout.splitlines()[-1])
    return {
        "wall": statistics.median(samples["wall"]),
        "cpu": statistics.median(samples["cpu"]),
        "preemptions": samples["preemptions"],
    }


def measure(loop: str, name: str, effort: Effort) -> dict[str, float]:
    """Measure one cell once."""
    if name in rows.ROWS:
        return measure_row(loop, name, effort)
    return echo.measure(loop, name, echo.Load(measure_ms=effort.echo_ms))


def schedule(
    names: Sequence[str], here: Sequence[str], rounds: int
) -> Iterator[tuple[int, str, str]]:
    """Yield (round, row, loop) in the order of measuring: rows in turn, loops rotated."""
    for turn in range(rounds):
        for name in names:
            entrants = list(here) if name in rows.ROWS else [*here, echo.LIMIT]
            first = turn % len(entrants)
            for loop in entrants[first:] + entrants[:first]:
                yield turn, name, loop


def collect(
    names: Sequence[str], here: Sequence[str], effort: Effort
) -> dict[tuple[str, str], Cell]:
    """Run everything; a cell that fails once is not tried again."""
    cells: dict[tuple[str, str], Cell] = {}
    for turn, name, loop in schedule(names, here, effort.rounds):
        cell = cells.setdefault((name, loop), Cell())
        if cell.failure:
            continue
        if sys.stderr.isatty():
            print(f"\r{turn + 1}/{effort.rounds} {name:10} {loop:10}", end="", file=sys.stderr)
        try:
            cell.rounds.append(measure(loop, name, effort))
        except echo.EchoError as error:
            cell.failure = str(error)
        except subprocess.TimeoutExpired:
            cell.failure = f"no result within {MEASURE_S_MAX:.0f} s"
    return cells


def line(
    name: str, here: Sequence[str], cells: dict[tuple[str, str], Cell], clock: str
) -> report.Line:
    """Make one line of the table out of a row's cells."""
    is_row = name in rows.ROWS
    key = clock if is_row else ("rate" if clock == "wall" else "server_cpu_us")
    values = {loop: [each[key] for each in cells[name, loop].rounds] for loop in here}
    limit = [] if is_row else [each[key] for each in cells[name, echo.LIMIT].rounds]
    return report.Line(
        title=rows.ROWS[name].title if is_row else ECHO_TITLES[name],
        unit={"rate": "requests/s", "server_cpu_us": "µs of server CPU"}.get(key, "ns"),
        higher_is_better=key == "rate",
        samples=values,
        failures={loop: cells[name, loop].failure for loop in here if cells[name, loop].failure},
        limit=limit,
    )


def text(
    options: argparse.Namespace,
    here: Sequence[str],
    cells: dict[tuple[str, str], Cell],
    record: dict[str, object],
) -> str:
    """Return the whole report as Markdown."""
    lines = [line(name, here, cells, options.clock) for name in options.rows]
    parts = [f"# Benchmark, {options.effort} form", report.environment(record)]
    inside = [each for name, each in zip(options.rows, lines, strict=True) if name in rows.ROWS]
    echoes = [each for name, each in zip(options.rows, lines, strict=True) if name in ECHO_TITLES]
    what = "wall clock" if options.clock == "wall" else "CPU time"
    rounds = EFFORTS[options.effort].rounds
    spread = f"medians of {rounds} rounds, with their range" if rounds > 1 else "one round"
    if inside:
        parts += [f"Nanoseconds per operation ({what}), lower is better; {spread}."]
        parts += [report.table(inside, here)]
    if echoes:
        load = echo.Load()
        kind = "Requests per second" if options.clock == "wall" else "Server CPU per request"
        shape = f"{load.connections} connections, {load.message_bytes} bytes"
        parts += [f"{kind}, {shape}, one message in flight on each; {spread}."]
        parts += [report.table(echoes, here)]
    if loops.SUBJECT in here:
        parts += [f"{loops.SUBJECT} against the best peer of each row:\n{report.summary(lines)}"]
    if failed := report.failures(lines):
        parts += [f"No number:\n{failed}"]
    return "\n\n".join(parts) + "\n"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    effort = parser.add_mutually_exclusive_group()
    for name in ("quick", "full"):
        effort.add_argument(f"--{name}", dest="effort", action="store_const", const=name)
    everything = [*rows.ROWS, *ECHO_TITLES]
    parser.add_argument("--loops", nargs="+", choices=loops.LOOPS, default=list(loops.LOOPS))
    parser.add_argument("--rows", nargs="+", choices=everything, default=everything)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time per operation, for a machine that is not quiet",
    )
    parser.add_argument("--again", type=Path, metavar="JSON", help="print a saved run once more")
    parser.set_defaults(effort="short")
    return parser.parse_args()


def again(options: argparse.Namespace) -> None:
    """Print the table of a saved run, by the clock that is asked for now."""
    saved = json.loads(options.again.read_text())
    cells = {
        (cell["row"], cell["loop"]): Cell(cell["rounds"], cell["failure"])
        for cell in saved["cells"]
    }
    options.effort = saved["effort"]
    options.rows = list(dict.fromkeys(row for row, _ in cells))
    here = list(dict.fromkeys(loop for _, loop in cells if loop != echo.LIMIT))
    print(
        text(options, [name for name in loops.LOOPS if name in here], cells, saved["environment"])
    )


def main() -> None:
    """Measure, print, save."""
    options = parse()
    if options.again:
        again(options)
        return
    here = [name for name in options.loops if loops.version(name) is not None]
    record = environment.record(options.loops)
    if set(options.rows) & set(ECHO_TITLES):
        echo.build()
    begin = time.monotonic()
    cells = collect(options.rows, here, EFFORTS[options.effort])
    record["seconds"] = round(time.monotonic() - begin)
    record["preemptions"] = sum(
        int(each.get("preemptions", 0)) for cell in cells.values() for each in cell.rounds
    )
    written = text(options, here, cells, record)
    print(written)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    RESULTS.mkdir(exist_ok=True)
    raw = [
        {"row": name, "loop": loop, "rounds": cell.rounds, "failure": cell.failure}
        for (name, loop), cell in cells.items()
    ]
    saved = {"environment": record, "effort": options.effort, "cells": raw}
    (RESULTS / f"{stamp}.json").write_text(json.dumps(saved, indent=1) + "\n")
    (RESULTS / f"{stamp}.md").write_text(written)
    print(f"saved: {RESULTS / stamp}.json, .md ({record['seconds']} s)", file=sys.stderr)


if __name__ == "__main__":
    main()

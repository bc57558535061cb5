"""The benchmark: every loop in turn in one run, rounds interleaved, pinned processes.

`python benches/run.py` prints the report and leaves JSON, Markdown, SVG and PNG in
`benches/results/`. `--only` takes names of cases or families, with `*` where wanted; `--list`
shows them. A loop that is not installed is named as missing; one that fails a case is shown as
failed, with its reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fnmatch
import json
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

# Also where Python was told to leave the script's folder out (`-P`).
sys.path.insert(0, str(Path(__file__).parent))

import cases
import chart
import collect
import environment
import families
import lines
import loops
import services
import tables

RESULTS = Path(__file__).parent / "results"


def choose(patterns: Sequence[str], form: str) -> list[cases.Case]:
    """Return the cases that are asked for; without patterns those of the form."""
    if not patterns:
        return [case for case in families.CASES if case.short or form == "full"]
    chosen = []
    for pattern in patterns:
        found = [
            case
            for family in families.FAMILIES
            for case in family.cases
            if fnmatch.fnmatch(case.name, pattern)
            or (pattern == family.name and (case.short or form == "full"))
        ]
        if not found:
            raise SystemExit(f"no case or family is named {pattern!r}; --list shows them")
        chosen += found
    return list(dict.fromkeys(chosen))


def chapter(family: families.Family, chosen: Iterable[cases.Case], cells: collect.Cells) -> str:
    """Return a family's part of the report."""
    own = [case for case in family.cases if case in chosen]
    parts = [f"## {family.title}", family.about]
    # Cases that compare several metrics have a table of their own, one metric a line.
    for case in own:
        if case.compared:
            made = [lines.make(case, metric, cells, metric.title) for metric in case.metrics]
            parts.append(tables.table(made))
    own = [case for case in own if not case.compared]
    metrics = list(dict.fromkeys(metric for case in own for metric in case.metrics))
    for metric in metrics:
        made = [lines.make(case, metric, cells) for case in own if metric in case.metrics]
        if len(metrics) > 1:
            direction = "higher" if metric.higher_is_better else "lower"
            parts.append(f"{metric.title.capitalize()} ({direction} is better):")
        parts.append(tables.table(made))
    if remarks := family.remarks(cells):
        parts.append(remarks)
    return "\n\n".join(parts)


def text(
    options: argparse.Namespace,
    chosen: Sequence[cases.Case],
    cells: collect.Cells,
    record: dict[str, object],
) -> str:
    """Return the whole report as Markdown."""
    spread = "the least and the greatest round" if options.rounds > 1 else "the least and greatest"
    parts = [
        f"# Benchmark, {options.form} form",
        tables.environment(record),
        f"Medians of {options.rounds} interleaved rounds; small: {spread}. Bold: we lose.",
    ]
    with_cpu = [shown(case, options.clock) for case in chosen]
    for family in families.FAMILIES:
        if any(case in family.cases for case in chosen):
            own = dataclasses.replace(
                family, cases=[shown(case, options.clock) for case in family.cases]
            )
            parts.append(chapter(own, with_cpu, cells))
    compared = lines.compared(with_cpu, cells)
    parts += ["## In short", f"{loops.SUBJECT} against the best peer of each case:"]
    parts += [tables.summary(compared)]
    if failed := tables.failures(compared):
        parts += [f"No number:\n\n{failed}"]
    return "\n\n".join(parts) + "\n"


def shown(case: cases.Case, clock: str) -> cases.Case:
    """Return the case with the metrics that the clock asked for wants."""
    if {metric.key for metric in case.metrics} != {"wall", "cpu"}:
        return case
    return dataclasses.replace(
        case, metrics=tuple(metric for metric in case.metrics if metric.key == clock)
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    form = parser.add_mutually_exclusive_group()
    for name in ("quick", "full"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name)
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE", help="cases, families")
    parser.add_argument("--loops", nargs="+", default=list(loops.LOOPS), metavar="LOOP")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each sample of a row")
    parser.add_argument("--load-ms", type=int, help="of each load on a server")
    parser.add_argument("--list", action="store_true", help="show the cases")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time per operation, for a machine that is not quiet",
    )
    parser.add_argument("--save", metavar="NAME", help="of the files in results/; a date if none")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", type=Path, metavar="JSON", help="print a saved run once more")
    parser.set_defaults(form="short")
    options = parser.parse_args()
    options.loops = [name for each in options.loops for name in each.split(",")]
    options.only = [name for each in options.only for name in each.split(",")]
    if unknown := set(options.loops) - set(loops.LOOPS):
        parser.error(f"unknown loops: {', '.join(sorted(unknown))}")
    return options


def effort(options: argparse.Namespace) -> cases.Effort:
    """Return how long to measure, as the command line changes it."""
    given = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load_ms": options.load_ms,
    }
    return dataclasses.replace(
        cases.EFFORTS[options.form], **{key: value for key, value in given.items() if value}
    )


def again(options: argparse.Namespace) -> None:
    """Print and draw a saved run once more, by the clock that is asked for now."""
    saved = json.loads(options.again.read_text())
    cells = {
        (cell["case"], cell["entrant"]): collect.Cell(cell["rounds"], cell["failure"])
        for cell in saved["cells"]
    }
    options.form, options.rounds = saved["effort"]["form"], saved["effort"]["rounds"]
    names = {name for name, _ in cells}
    chosen = [case for case in families.CASES if case.name in names]
    show(options, chosen, cells, saved["environment"], options.again.with_suffix(""))


def show(
    options: argparse.Namespace,
    chosen: Sequence[cases.Case],
    cells: collect.Cells,
    record: dict[str, object],
    path: Path,
) -> None:
    """Print the report, and write it and the picture beside the samples."""
    written = text(options, chosen, cells, record)
    print(written)
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.md").write_text(written)
    compared = lines.compared([shown(case, options.clock) for case in chosen], cells)
    title = f"CPython {str(record['python']).partition(' ')[0]}, {record['cpu']}"
    drawn = chart.draw(compared, f"{title}, {record['kernel']}; {options.form} form", path)
    endings = [".json", ".md", *(each.suffix for each in drawn)]
    print(f"saved: {path} {' '.join(endings)} ({record['seconds']} s)", file=sys.stderr)
    if not drawn:
        print("no picture: matplotlib is not installed", file=sys.stderr)


def save(
    path: Path, measured: cases.Effort, cells: collect.Cells, record: dict[str, object]
) -> None:
    """Write all samples, `path` being without an extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [
        {
            "case": case,
            "entrant": entrant,
            "rounds": cell.rounds,
            "failure": cell.failure,
            "seconds": round(cell.seconds, 2),
        }
        for (case, entrant), cell in cells.items()
    ]
    saved = {"environment": record, "effort": dataclasses.asdict(measured), "cells": raw}
    # A line for each cell, so that two runs can be compared.
    lines_of_cells = ",\n".join(json.dumps(cell) for cell in raw)
    head = json.dumps({key: saved[key] for key in ("environment", "effort")}, indent=1)
    Path(f"{path}.json").write_text(f'{head[:-2]},\n "cells": [\n{lines_of_cells}\n ]\n}}\n')


def main() -> None:
    """Measure, save, show."""
    options = parse()
    if options.again:
        again(options)
        return
    chosen = choose(options.only, options.form)
    if options.list:
        for family in families.FAMILIES:
            for case in family.cases:
                form = "" if case.short else "full form only"
                print(f"{family.name:14} {case.name:28} {case.title:44} {form}".rstrip())
        return
    here = [name for name in options.loops if loops.version(name) is not None]
    measured = effort(options)
    options.rounds = measured.rounds
    record = environment.record([*options.loops, loops.FASTNET])
    begin = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignored in the background otherwise.
        signal.signal(number, signal.default_int_handler)
    environment.clean()
    cells: collect.Cells = {}
    try:
        collect.collect(chosen, here, measured, collect.progress, cells)
    except KeyboardInterrupt:
        # Of a run of hours, what was measured is shown and kept.
        print("\nstopped", file=sys.stderr)
        chosen = [case for case in chosen if any(name == case.name for name, _ in cells)]
    finally:
        services.close()
    collect.progress("")
    environment.finish(record, time.monotonic() - begin, cells)
    name = options.save or datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    save(options.results / name, measured, cells, record)
    show(options, chosen, cells, record, options.results / name)


if __name__ == "__main__":
    main()

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
import further
import lines
import loops
import services
import store
import tables

RESULTS = Path(__file__).parent / "results"
BY_NAME = {case.name: case for case in families.CASES}


def choose(patterns: Sequence[str], form: str) -> list[cases.Case]:
    """Return the cases that are asked for; without patterns those of the form."""
    if not patterns:
        return [case for case in families.CASES if case.belongs(form)]
    chosen = []
    for pattern in patterns:
        found = [
            case
            for family in families.FAMILIES
            for case in family.cases
            if fnmatch.fnmatch(case.name, pattern)
            or (pattern == family.name and case.belongs(form))
        ]
        if not found:
            raise SystemExit(f"no case or family is named {pattern!r}; --list shows them")
        chosen += found
    return list(dict.fromkeys(chosen))


def chapter(
    family: families.Family, chosen: Iterable[cases.Case], cells: collect.Cells, clock: str
) -> str:
    """Return a family's part of the report, by one of the clocks."""
    own = [shown(case, clock) for case in family.cases if case in chosen]
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
    if remarks := family.remarks(cells, clock):
        parts.append(remarks)
    return "\n\n".join(parts)


def text(clock: str, chosen: Sequence[cases.Case], run: store.Run) -> str:
    """Return the whole report as Markdown."""
    rounds, cells = run.effort.rounds, run.cells
    spread = "the least and the greatest round" if rounds > 1 else "the least and greatest"
    how = f"Medians of {rounds} interleaved rounds; small: {spread}. Bold: we lose. {tables.OPEN}"
    parts = [
        f"# Benchmark, {run.effort.form} form",
        tables.environment(run.record),
        how + further.remark(chosen, run.effort, cells),
    ]
    for family in families.FAMILIES:
        if any(case in family.cases for case in chosen):
            parts.append(chapter(family, chosen, cells, clock))
    decided = [shown(case, clock) for case in chosen]
    compared = lines.compared(decided, cells)
    parts += ["## In short", f"{loops.SUBJECT} against the best peer of each case:"]
    parts += [tables.summary(compared)]
    if told := tables.others(lines.others(decided, cells)):
        parts += [f"By what else is measured:\n\n{told}"]
    if failed := tables.failures(compared):
        parts += [f"No number:\n\n{failed}"]
    return "\n\n".join(parts) + "\n"


def shown(case: cases.Case, clock: str) -> cases.Case:
    """Return the case with the metrics of the clock that is asked for."""
    metrics, compared = (
        tuple(metric for metric in every if metric.clock in ("", clock))
        for every in (case.metrics, case.compared)
    )
    return dataclasses.replace(case, metrics=metrics, compared=compared)


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
    parser.add_argument("--plan", action="store_true", help="show what would run, and how long")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time per operation, for a machine that is not quiet",
    )
    parser.add_argument("--save", metavar="NAME", help="of the files in results/; a date if none")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--again", type=Path, metavar="JSON", help="print a saved run once more")
    parser.add_argument("--resume", type=Path, metavar="JSON", help="go on with a stopped run")
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
    run = store.read(options.again)
    names = {name for name, _ in run.cells}
    show(options, run, [name for name in BY_NAME if name in names], options.again.with_suffix(""))


def start(options: argparse.Namespace) -> store.Run:
    """Return the run that is to be measured: a new one, or one that was stopped."""
    if options.resume is None:
        chosen = [case.name for case in choose(options.only, options.form)]
        record = environment.record([*options.loops, loops.FASTNET])
        here = [name for name in options.loops if loops.version(name) is not None]
        return store.Run(record, effort(options), {}, chosen, here)
    run = store.read(options.resume)
    if not run.chosen:
        raise SystemExit(f"{options.resume} does not say what was asked for")
    record = environment.record(list(run.record["versions"]))
    if differ := store.differences(run.record, record):
        raise SystemExit(f"not the environment of {options.resume}: {differ}")
    environment.go_on(run.record, record)
    return run


def show(options: argparse.Namespace, run: store.Run, names: Sequence[str], path: Path) -> None:
    """Print the report, and write it and the picture beside the samples."""
    chosen = [BY_NAME[name] for name in names]
    record = run.record
    written = text(options.clock, chosen, run)
    print(written)
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{path}.md").write_text(written)
    compared = lines.compared([shown(case, options.clock) for case in chosen], run.cells)
    title = f"CPython {str(record['python']).partition(' ')[0]}, {record['cpu']}"
    drawn = chart.draw(compared, f"{title}, {record['kernel']}; {run.effort.form} form", path)
    endings = [".json", ".md", *(each.suffix for each in drawn)]
    print(f"saved: {path} {' '.join(endings)} ({record['seconds']} s)", file=sys.stderr)
    if not drawn:
        print("no picture: matplotlib is not installed", file=sys.stderr)


def show_list() -> None:
    """Print the cases."""
    for family in families.FAMILIES:
        for case in family.cases:
            only = "" if case.short and case.full else "full" if case.full else "short"
            form = f"{only} form only" if only else ""
            print(f"{family.name:14} {case.name:28} {case.title:44} {form}".rstrip())


def show_plan(run: store.Run) -> None:
    """Print what a run would measure, family by family, and about how long that takes."""
    chosen = [BY_NAME[name] for name in run.chosen]
    planned = list(collect.schedule(chosen, run.here, run.effort))
    print("| family | cases | measurements | about |\n| --- | --: | --: | --: |")
    for family in (*families.FAMILIES, families.Family("all", "", "", families.CASES)):
        own = [each for each in planned if each[1] in family.cases]
        seconds = collect.expected_s(own, run.effort, run.cells)
        names = {case.name for _, case, _ in own}
        print(f"| {family.name} | {len(names)} | {len(own)} | {seconds / 60:.1f} min |")


def measure(run: store.Run, path: Path) -> Sequence[str]:
    """Measure what a run lacks, and return the names of the cases that have been begun.

    It is written now and then; Ctrl-C ends it, and what was measured is kept.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignored in the background otherwise.
        signal.signal(number, signal.default_int_handler)
    environment.clean()
    keeper = store.Keeper(path, run)
    progress = collect.Progress()
    chosen = [BY_NAME[name] for name in run.chosen]
    names = run.chosen
    begin = time.monotonic()
    try:
        collect.collect(chosen, run.here, run.effort, progress, run.cells, keeper.keep)
        # By the wall clock: it is the one that decides unless another is asked for.
        wall = [shown(case, "wall") for case in chosen]
        further.collect_further(wall, run.effort, run.cells, progress, keeper.keep)
    except KeyboardInterrupt:
        print(f"\nstopped; --resume {path}.json goes on", file=sys.stderr)
        names = [name for name in names if any(name == case for case, _ in run.cells)]
    finally:
        services.close()
        environment.finish(run.record, time.monotonic() - begin, run.cells)
        store.write(path, run)
    progress("")
    return names


def main() -> None:
    """Measure, save, show."""
    options = parse()
    if options.again:
        again(options)
    elif options.plan:
        show_plan(start(options))
    elif options.list:
        show_list()
    else:
        run = start(options)
        name = options.save or datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        path = options.resume.with_suffix("") if options.resume else options.results / name
        show(options, run, measure(run, path), path)


if __name__ == "__main__":
    main()

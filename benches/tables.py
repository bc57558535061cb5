"""Turns lines into Markdown: medians, spread, ratios, losses as plainly as wins."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import loops
from lines import DRAW, Line

# The order of columns; who is not here comes after.
COLUMNS = (*loops.LOOPS, loops.FASTNET)
OPEN = (
    "Open: the medians differ, but not all rounds agree on who is better (of nine: all but one); "
    "the ratios of the rounds are in brackets."
)
# What is said of a line, in the order of the report.
SIDES = ("ahead", "level", "open", "behind")
# Of the options that Python was compiled with: what makes it faster or slower.
FLAGS = re.compile(r"-O\d|-O[fgs]|-flto|-fprofile|--enable-optimizations|--with-lto|.*jit|.*debug")


def number(value: float) -> str:
    """Return three significant digits or whole numbers, as a reader wants them."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(line: Line, entrant: str) -> str:
    """Return one cell: the median and the range of the rounds."""
    values = line.samples.get(entrant)
    failed = entrant in line.failures
    if not values:
        return "**failed**" if failed else ""
    text = number(statistics.median(values))
    if len(values) > 1:
        text += f" <sub>{number(min(values))}..{number(max(values))}</sub>"
    return f"{text} **(failed later)**" if failed else text


def verdict(line: Line) -> str:
    """Return our ratio to the best competitor; losses are bold, those that are not sure, too."""
    best = line.best_peer()
    ratio = line.advantage(loops.SUBJECT, best) if best else None
    if best is None or ratio is None:
        return ""
    text, side = f"{ratio:.2f}x {best}", line.side()
    if side == "open":
        rounds = line.ratios(loops.SUBJECT, best)
        text += f", open ({min(rounds):.2f}..{max(rounds):.2f})"
    return f"**{text}**" if side == "behind" or ratio < 1 / DRAW else text


def columns(lines: Iterable[Line]) -> list[str]:
    """Return the entrants that took part in some line, in order."""
    there = dict.fromkeys(name for line in lines for name in (*line.samples, *line.failures))
    return sorted(there, key=lambda name: COLUMNS.index(name) if name in COLUMNS else len(COLUMNS))


def table(lines: Sequence[Line]) -> str:
    """Return the table of some lines with one column per entrant."""
    names = columns(lines)
    limited = any(line.limit() for line in lines)
    heads = ["", *names, *(["of limit"] if limited else [])]
    heads += [f"to {loops.CONTROL}", "to best peer"]
    rows = [heads, ["---", *["--:"] * (len(heads) - 1)]]
    for line in lines:
        row = [f"{line.title} ({line.metric.unit})", *(cell(line, name) for name in names)]
        if limited:
            limit = line.limit()
            share = line.advantage(loops.SUBJECT, limit) if limit else None
            row += [f"{share:.2f}" if share else ""]
        ratio = line.advantage(loops.SUBJECT, loops.CONTROL)
        row += [f"{ratio:.2f}x" if ratio else "", verdict(line)]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(lines: Sequence[Line]) -> str:
    """Return wins, draws and losses against the best competitor, each by name."""
    sides: dict[str, list[str]] = {name: [] for name in (*SIDES, "no number")}
    for line in lines:
        if side := line.side():
            sides[side].append(f"{line.title} ({verdict(line).replace('**', '')})")
        elif loops.SUBJECT in line.failures:
            sides["no number"].append(line.title)
    return "\n".join(
        f"- {side}: {len(items)}{': ' + ', '.join(items) if items else ''}"
        for side, items in sides.items()
    )


def others(lines: Sequence[Line]) -> str:
    """Return how often we are ahead by the metrics that do not decide; each loss by name, sure or
    not.
    """
    told = []
    for title in dict.fromkeys(line.metric.title for line in lines):
        own = [line for line in lines if line.metric.title == title]
        sides = [line.side() for line in own]
        if not any(sides):
            continue
        behind = ", ".join(
            f"{line.title} ({verdict(line)})" for line in own if verdict(line).startswith("**")
        )
        counts = ", ".join(f"{side} {sides.count(side)}" for side in SIDES)
        told.append(f"- {title}: {counts}{f': {behind}' if behind else ''}")
    return "\n".join(told)


def failures(lines: Sequence[Line]) -> str:
    """Return every measurement that gave no number, with its reason."""
    return "\n".join(
        f"- {entrant}, {line.title}: {reason}"
        for line in lines
        for entrant, reason in line.failures.items()
    )


def versions(found: Mapping[str, object]) -> str:
    """Return what is there, with versions, and what is not."""
    there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    missing = ", ".join(name for name, version in found.items() if version is None)
    return f"{there}.{f' Not installed: {missing}.' if missing else ''}"


def flags(record: Mapping[str, object]) -> str:
    """Return how Python was compiled, as far as its speed depends on that."""
    words = f"{record.get('python_compiled', '')} {record['python_flags']}".replace("'", "").split()
    named = dict.fromkeys(word for word in words if FLAGS.match(word))
    return f" ({' '.join(named)})" if named else ""


def built(record: Mapping[str, object]) -> str:
    """Return how aioxide was compiled; older runs did not record it."""
    return f" ({record['build']})" if "build" in record else ""


def environment(record: Mapping[str, Any]) -> str:
    """Return the head of the report."""
    text = (
        f"{record['cpu']}, {record['cores']} cores, {record['kernel']}, governor "
        f"{record['governor']}; Python {record['python']}{flags(record)}; {record['cc']}; "
        f"{record['openssl']}; commit {record['commit']}{built(record)}\n\n"
        f"Installed: {versions(record['versions'])}"
    )
    if "libraries" in record:
        servers = {**record["libraries"], **record["servers"], "Node.js": record["node"]}
        text += f"\n\nThe applications' libraries and servers: {versions(servers)}"
    sittings = record.get("sittings", 1)
    text += (
        f"\n\nLoad average {record['load_at_start']:.2f} at start, {record['load_at_end']:.2f} at "
        f"the end (a measured process and its counterpart alone make up to 2); the kernel took the "
        f"core from the rows {record['preemptions']} times; {record['seconds']} s in all"
        f"{f', in {sittings} sittings' if sittings > 1 else ''}."
    )
    if not record["quiet"]:
        text += "\n\n**The machine was not quiet when the run began.**"
    return text

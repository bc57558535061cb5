"""Turns lines into Markdown: medians, spread, ratios, losses as plainly as wins."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import loops
from lines import Line

# The order of columns; who is not here comes after.
COLUMNS = (*loops.LOOPS, loops.FASTNET)


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
    """Return our ratio to the best competitor; losses are bold."""
    best = line.best_peer()
    ratio = line.advantage(loops.SUBJECT, best) if best else None
    if ratio is None:
        return ""
    text = f"{ratio:.2f}x {best}"
    return f"**{text}**" if line.side() == "behind" else text


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
    sides: dict[str, list[str]] = {"ahead": [], "level": [], "behind": [], "no number": []}
    for line in lines:
        best = line.best_peer()
        ratio = line.advantage(loops.SUBJECT, best) if best else None
        if ratio is not None:
            sides[line.side()].append(f"{line.title} ({ratio:.2f}x {best})")
        elif loops.SUBJECT in line.failures:
            sides["no number"].append(line.title)
    return "\n".join(
        f"- {side}: {len(items)}{': ' + ', '.join(items) if items else ''}"
        for side, items in sides.items()
    )


def failures(lines: Sequence[Line]) -> str:
    """Return every measurement that gave no number, with its reason."""
    return "\n".join(
        f"- {entrant}, {line.title}: {reason}"
        for line in lines
        for entrant, reason in line.failures.items()
    )


def environment(record: Mapping[str, object]) -> str:
    """Return the head of the report."""
    versions = record["versions"]
    assert isinstance(versions, dict)
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = ", ".join(name for name, version in versions.items() if version is None)
    text = (
        f"{record['cpu']}, {record['cores']} cores, {record['kernel']}, governor "
        f"{record['governor']}; Python {record['python']}; {record['cc']}; {record['openssl']}; "
        f"commit {record['commit']}\n\nInstalled: {there}."
        f"{f' Not installed: {missing}.' if missing else ''}"
    )
    text += (
        f"\n\nLoad average {record['load_at_start']:.2f} at start, {record['load_at_end']:.2f} at "
        f"the end (a measured process and its counterpart alone make up to 2); the kernel took the "
        f"core from the rows {record['preemptions']} times; {record['seconds']} s in all."
    )
    if not record["quiet"]:
        text += "\n\n**The machine was not quiet when the run began.**"
    return text

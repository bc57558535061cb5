"""Turns the collected samples into Markdown: medians, spread, ratios, losses as plainly as wins."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import loops

# A difference below this is called a draw.
DRAW = 1.03


@dataclass
class Line:
    """The samples of one row of the table: per loop one number per round, or why there is none."""

    title: str
    unit: str
    higher_is_better: bool
    samples: Mapping[str, Sequence[float]]
    failures: Mapping[str, str]
    # Samples of what no loop can exceed, where there is such a thing.
    limit: Sequence[float] = ()

    def median(self, loop: str) -> float | None:
        """Return the median over the rounds."""
        values = self.samples.get(loop)
        return statistics.median(values) if values else None

    def advantage(self, loop: str, other: str) -> float | None:
        """Return how many times better the first loop is than the second."""
        mine, theirs = self.median(loop), self.median(other)
        if not mine or not theirs:
            return None
        return mine / theirs if self.higher_is_better else theirs / mine

    def best_peer(self) -> str | None:
        """Return the best loop that is not ours; asyncio counts too."""
        peers = [name for name in self.samples if name != loops.SUBJECT and self.samples[name]]
        if not peers:
            return None
        choose = max if self.higher_is_better else min
        return choose(peers, key=lambda name: statistics.median(self.samples[name]))


def of_limit(line: Line) -> float | None:
    """Return our share of the limit, 1 being as good."""
    mine = line.median(loops.SUBJECT)
    if not mine or not line.limit:
        return None
    limit = statistics.median(line.limit)
    return mine / limit if line.higher_is_better else limit / mine


def number(value: float) -> str:
    """Return three significant digits or whole numbers, as a reader wants them."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cell(line: Line, loop: str) -> str:
    """Return one cell: the median and the range of the rounds."""
    values = line.samples.get(loop)
    if not values:
        return "failed" if loop in line.failures else ""
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} <sub>{number(min(values))}..{number(max(values))}</sub>"


def verdict(line: Line) -> str:
    """Return our ratio to the best peer; losses are bold."""
    best = line.best_peer()
    ratio = line.advantage(loops.SUBJECT, best) if best else None
    if ratio is None:
        return ""
    text = f"{ratio:.2f}x {best}"
    return f"**{text}**" if ratio < 1 / DRAW else text


def table(lines: Sequence[Line], names: Sequence[str]) -> str:
    """Return the table of some rows with one column per loop."""
    with_limit = any(line.limit for line in lines)
    heads = ["", *names, *(["C limit", "of limit"] if with_limit else [])]
    heads += [f"to {loops.CONTROL}", "to best peer"]
    rows = [heads, ["---", *["--:"] * (len(heads) - 1)]]
    for line in lines:
        row = [f"{line.title} ({line.unit})", *(cell(line, name) for name in names)]
        if with_limit:
            share = of_limit(line)
            row += [number(statistics.median(line.limit)) if line.limit else ""]
            row += [f"{share:.2f}" if share else ""]
        ratio = line.advantage(loops.SUBJECT, loops.CONTROL)
        row += [f"{ratio:.2f}x" if ratio else "", verdict(line)]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(lines: Sequence[Line]) -> str:
    """Return wins, draws and losses against the best peer, each by name."""
    sides: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    for line in lines:
        best = line.best_peer()
        ratio = line.advantage(loops.SUBJECT, best) if best else None
        if ratio is None:
            continue
        side = "ahead" if ratio > DRAW else "behind" if ratio < 1 / DRAW else "level"
        sides[side].append(f"{line.title} ({ratio:.2f}x {best})")
    return "\n".join(
        f"- {side}: {len(items)}{': ' + ', '.join(items) if items else ''}"
        for side, items in sides.items()
    )


def failures(lines: Sequence[Line]) -> str:
    """Return every measurement that gave no number, with its reason."""
    return "\n".join(
        f"- {loop}, {line.title}: {reason}"
        for line in lines
        for loop, reason in line.failures.items()
    )


def environment(record: Mapping[str, object]) -> str:
    """Return the head of the report."""
    versions = record["versions"]
    assert isinstance(versions, dict)
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = ", ".join(name for name, version in versions.items() if version is None)
    text = (
        f"{record['cpu']}, {record['cores']} cores, {record['kernel']}, governor "
        f"{record['governor']}; Python {record['python']}\n\nLoops: {there}."
        f"{f' Not installed: {missing}.' if missing else ''}"
    )
    if not record["quiet"]:
        text += (
            f"\n\n**The machine was not quiet**: load {record['load_at_start']:.1f} at start; the "
            f"kernel took the core from the rows {record['preemptions']} times."
        )
    return text

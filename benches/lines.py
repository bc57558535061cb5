"""Statistics: what became of one case in all entrants, by one of its metrics.

The number of a round is the median of its samples; the number of an entrant is the median of its
rounds, and its spread is the least and the greatest round (of one round: of its samples).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cases
import collect
import loops

# A difference below this is called a draw.
DRAW = 1.03


@dataclass
class Line:
    """The numbers of one case by one metric: per entrant one per round, or why there is none."""

    case: str
    title: str
    metric: cases.Metric
    samples: Mapping[str, Sequence[float]]
    failures: Mapping[str, str]
    # Entrants that do not compete.
    beside: Sequence[str] = ()

    def median(self, entrant: str) -> float | None:
        """Return the median over the rounds."""
        values = self.samples.get(entrant)
        return statistics.median(values) if values else None

    def advantage(self, entrant: str, other: str) -> float | None:
        """Return how many times better the first entrant is than the second."""
        mine, theirs = self.median(entrant), self.median(other)
        if not mine or not theirs or not self.metric.contested:
            return None
        return mine / theirs if self.metric.higher_is_better else theirs / mine

    def peers(self) -> list[str]:
        """Return the competitors that have a number; asyncio counts too."""
        aside = {*loops.OURS, *self.beside}
        return [name for name, values in self.samples.items() if values and name not in aside]

    def best_peer(self) -> str | None:
        """Return the best competitor."""
        choose = max if self.metric.higher_is_better else min
        return choose(self.peers(), key=lambda name: self.median(name) or 0.0, default=None)

    def limit(self) -> str | None:
        """Return what nobody is expected to exceed: the first that does not compete."""
        return self.beside[0] if self.beside else None

    def side(self) -> str:
        """Return where we are to the best competitor: ahead, level, behind, or nothing."""
        best = self.best_peer()
        ratio = self.advantage(loops.SUBJECT, best) if best else None
        if ratio is None:
            return ""
        return "ahead" if ratio > DRAW else "behind" if ratio < 1 / DRAW else "level"


def numbers(cell: collect.Cell, key: str) -> list[float]:
    """Return one number per round; where there was one round, all its samples."""
    rounds = [each[key] for each in cell.rounds if each.get(key)]
    if len(rounds) == 1:
        return rounds[0]
    return [statistics.median(samples) for samples in rounds]


def make(case: cases.Case, metric: cases.Metric, cells: collect.Cells, title: str = "") -> Line:
    """Make the line of one case by one metric."""
    found = {entrant: cell for (name, entrant), cell in cells.items() if name == case.name}
    return Line(
        case.name,
        title or case.title,
        metric,
        {entrant: numbers(cell, metric.key) for entrant, cell in found.items()},
        {entrant: cell.failure for entrant, cell in found.items() if cell.failure},
        case.beside,
    )


def compared(chosen: Iterable[cases.Case], cells: collect.Cells) -> list[Line]:
    """Make the lines that decide: each case by its first metric, or by those that it names."""
    return [
        make(case, metric, cells, title=metric.title if case.compared else "")
        for case in chosen
        for metric in case.compared or case.metrics[:1]
    ]


def others(chosen: Iterable[cases.Case], cells: collect.Cells) -> list[Line]:
    """Make the lines that decide nothing: by the other metrics of cases that one metric decides."""
    return [
        make(case, metric, cells)
        for case in chosen
        if not case.compared
        for metric in case.metrics[1:]
    ]

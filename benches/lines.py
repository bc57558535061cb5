"""Statistics: what became of one case in all entrants, by one of its metrics.

The number of a round is the median of its samples; the number of an entrant is the median of its
rounds, and its spread is the least and the greatest round (of one round: of its samples).

A machine that is faster in one round than in the next makes the rounds of both entrants differ, and
not their ratio in one round. So who is ahead is said only where the rounds agree on it, one by one;
where they do not, the line is open, whichever way its median points. A peer that is surely ahead
makes a loss, also where another has the better median.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cases
import collect
import loops

# A difference below this is called a draw.
DRAW = 1.03
# Rounds agree if so many of two equal entrants would do so in at most one case of twenty. As few as
# five cannot say that; of them all have to agree.
CHANCE_MAX = 0.05


def dissenters_max(rounds: int) -> int:
    """Return how many rounds may say otherwise where the others agree: none of 8, 1 of 9.

    The sign test, of both sides.
    """
    allowed, chance = 0, 2 / 2**rounds
    while (chance := chance + 2 * math.comb(rounds, allowed + 1) / 2**rounds) <= CHANCE_MAX:
        allowed += 1
    return allowed


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

    def both(self, entrant: str, other: str) -> list[tuple[float, float]]:
        """Return the numbers of two entrants, one pair for each round that both have.

        Who may be best can have further rounds.
        """
        mine, theirs = (self.samples.get(name, ()) for name in (entrant, other))
        return list(zip(mine, theirs, strict=False))

    def advantage(self, entrant: str, other: str) -> float | None:
        """Return how many times better the first entrant is than the second, by the medians."""
        both = self.both(entrant, other)
        if not both or not self.metric.contested:
            return None
        mine, theirs = (statistics.median(each) for each in zip(*both, strict=True))
        return self.better(mine, theirs) if mine and theirs else None

    def better(self, mine: float, theirs: float) -> float:
        """Return how many times better one number is than another."""
        return mine / theirs if self.metric.higher_is_better else theirs / mine

    def ratios(self, entrant: str, other: str) -> list[float]:
        """Return how many times better the first was than the second, round by round."""
        both = self.both(entrant, other)
        return [self.better(mine, theirs) for mine, theirs in both if mine and theirs]

    def against(self, peer: str) -> str:
        """Return where we are to one competitor: ahead, level, behind, open, or nothing.

        Open: the medians differ, but the rounds do not agree.
        """
        ratio = self.advantage(loops.SUBJECT, peer)
        if ratio is None:
            return ""
        if 1 / DRAW <= ratio <= DRAW:
            return "level"
        rounds = self.ratios(loops.SUBJECT, peer)
        better, worse = sum(each > 1 for each in rounds), sum(each < 1 for each in rounds)
        others = worse if ratio > 1 else better
        if others > dissenters_max(better + worse):
            return "open"
        return "ahead" if ratio > 1 else "behind"

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
        """Return where we are to all competitors: ahead, level, behind, open, or nothing.

        Ahead is who is ahead of each of them.
        """
        sides = {peer: self.against(peer) for peer in self.peers()}
        best = self.best_peer()
        if best is None or not sides[best]:
            return ""
        if "behind" in sides.values():
            return "behind"
        return "open" if sides[best] == "ahead" and "open" in sides.values() else sides[best]


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

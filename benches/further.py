"""Further rounds for what is open: where the planned rounds do not agree on who is ahead.

What is open is as often a win that is not sure as a loss, and both get further rounds alike. Who
takes part, and in how many, is settled before the first of them is measured, by the planned rounds
alone: no case is measured until it pleases. Those that take part are all measured in each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import cases
import collect
import lines
import loops

# With the planned ones: enough for one of them to say otherwise (`lines.dissenters_max`).
ROUNDS_MAX = 9
# A case, who takes part, and how many rounds it has until then.
Open: TypeAlias = tuple[cases.Case, list[str], int]


def contenders(
    case: cases.Case, metrics: Sequence[cases.Metric], cells: collect.Cells, rounds: int
) -> list[str]:
    """Return who is to be measured further: we, and whoever may be better in one of the metrics.

    Nobody where none is open after these rounds.
    """
    names = {name for one, name in cells if one == case.name}
    first = {
        (case.name, name): collect.Cell(cells[case.name, name].rounds[:rounds]) for name in names
    }
    found: dict[str, None] = {}
    for metric in metrics:
        line = lines.make(case, metric, first)
        if line.side() == "open":
            asked = [peer for peer in line.peers() if line.against(peer) != "ahead"]
            found |= dict.fromkeys([loops.SUBJECT, *asked])
    able = [name for name in found if not cells[case.name, name].failure]
    return able if len(able) > 1 else []


def open_cases(
    chosen: Sequence[cases.Case], effort: cases.Effort, cells: collect.Cells
) -> tuple[list[Open], list[Open]]:
    """Return the cases where what decides is open, and those where something else aimed at is."""
    deciding, others = [], []
    for case in chosen:
        rounds = case.rounds(effort)
        # One round says nothing of rounds, and is one because the case needs no more.
        if rounds < 2:
            continue
        decides = case.compared or case.metrics[:1]
        aims = [*decides, *(metric for metric in case.metrics if metric.aim)]
        if contenders(case, decides, cells, rounds):
            deciding.append((case, contenders(case, aims, cells, rounds), rounds))
        elif names := contenders(case, aims, cells, rounds):
            others.append((case, names, rounds))
    return deciding, others


def schedule(
    chosen: Sequence[cases.Case], effort: cases.Effort, cells: collect.Cells
) -> Iterator[tuple[int, cases.Case, str]]:
    """Yield (round, case, entrant) in the order of measuring, as much as there is time for.

    First what decides; each has one more round before one has its second.
    """
    left_s = effort.further_s
    for each in open_cases(chosen, effort, cells):
        turns = 0
        while each and turns < ROUNDS_MAX:
            planned = list(one_more(each, turns))
            # By what a round of each took, measured or not, so that a run that goes on has the
            # same plan.
            left_s -= sum(
                cells[case.name, name].seconds / len(cells[case.name, name].rounds)
                for _, case, name in planned
            )
            if left_s < 0:
                return
            yield from planned
            turns += 1


def one_more(each: Sequence[Open], turns: int) -> Iterator[tuple[int, cases.Case, str]]:
    """Yield a further round of each case that may have one, after so many further ones."""
    for case, names, rounds in each:
        if rounds + turns < ROUNDS_MAX:
            yield from collect.rotated(rounds + turns, case, names)


def collect_further(
    chosen: Sequence[cases.Case],
    effort: cases.Effort,
    cells: collect.Cells,
    say: Callable[[str], None] = lambda _: None,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Measure the further rounds into `cells`."""
    collect.carry_out(list(schedule(chosen, effort, cells)), effort, cells, say, keep)


def remark(chosen: Sequence[cases.Case], effort: cases.Effort, cells: collect.Cells) -> str:
    """Return what the report says of further rounds, nothing where there were none."""
    more = sum(
        len(cells.get((case.name, loops.SUBJECT), collect.Cell()).rounds) > case.rounds(effort)
        for case in chosen
    )
    if not more:
        return ""
    return (
        f" Of {more} cases that were open after their rounds those who may be best have more, up "
        f"to {ROUNDS_MAX}."
    )

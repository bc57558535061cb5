"""Runs the cases: rounds interleaved, entrants in rotated order, everything kept, nothing retried.

A cell that fails, or gives nothing for too long, costs its own numbers and no other's.

The parent only starts processes; nothing is measured in it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import cases
import loops

# The longest, asyncio with a million tasks, takes a minute on a quiet machine. Who takes longer
# than this is stuck.
CELL_S_MAX = 300.0


@dataclass
class Cell:
    """What was collected for one entrant in one case: the samples of each round, or a failure."""

    rounds: list[cases.Samples] = field(default_factory=list)
    failure: str = ""
    # What measuring it took, starting and stopping included.
    seconds: float = 0.0


Cells: TypeAlias = dict[tuple[str, str], Cell]


def entrants(case: cases.Case, here: Sequence[str], form: str = "") -> list[str]:
    """Return who takes part in a case, given the loops that are here."""
    also = [name for name in case.also if loops.version(name) is not None]
    twice = case.primitives or (case.primitives_full and form == "full")
    racing = [name for name in here if name != loops.SUBJECT_LOOP or twice]
    return [*racing, *also, *case.beside]


def schedule(
    chosen: Sequence[cases.Case], here: Sequence[str], effort: cases.Effort
) -> Iterator[tuple[int, cases.Case, str]]:
    """Yield (round, case, entrant) in the order of measuring.

    Every case has its turn before one has its second.
    """
    for turn in range(effort.rounds):
        for case in chosen:
            if turn < case.rounds(effort):
                names = entrants(case, here, effort.form)
                yield from rotated(turn, case, [n for n in names if not turn or n not in case.once])


def rotated(
    turn: int, case: cases.Case, names: Sequence[str]
) -> Iterator[tuple[int, cases.Case, str]]:
    """Yield a case's part of a round; its order rotates, so that nobody always follows the same."""
    first = turn % len(names)
    for name in [*names[first:], *names[:first]]:
        yield turn, case, name


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise a failure in what runs inside for longer. In the main thread only."""

    def stuck(*_: Any) -> None:
        raise cases.Failure(f"no result within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stuck)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def collect(
    chosen: Sequence[cases.Case],
    here: Sequence[str],
    effort: cases.Effort,
    say: Callable[[str], None] = lambda _: None,
    cells: Cells | None = None,
    keep: Callable[[], None] = lambda: None,
) -> Cells:
    """Run everything, into `cells` if given, where what is there already is not run again.

    A cell that fails once is not tried again. `keep` is called after each measurement.
    """
    cells = {} if cells is None else cells
    carry_out(list(schedule(chosen, here, effort)), effort, cells, say, keep)
    return cells


def carry_out(
    planned: Sequence[tuple[int, cases.Case, str]],
    effort: cases.Effort,
    cells: Cells,
    say: Callable[[str], None] = lambda _: None,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Measure what is planned and not there, in its order."""
    for number, (turn, case, name) in enumerate(planned):
        cell = cells.setdefault((case.name, name), Cell())
        if cell.failure or len(cell.rounds) > turn:
            continue
        rest = expected_s(planned[number:], effort, cells) / 60
        where = f"{turn + 1}/{max(turn + 1, effort.rounds)} {case.name} {name}"
        say(f"{where} ({number + 1} of {len(planned)}, about {rest:.0f} min left)")
        begin = time.monotonic()
        try:
            with limited(CELL_S_MAX):
                cell.rounds.append(case.measure(name, effort))
        except cases.Failure as error:
            cell.failure = str(error)
        except Exception as error:
            # Ours is the mistake then; hours of other measurements are not to be lost by it.
            cell.failure = f"the benchmark itself: {type(error).__name__}: {error}"
        cell.seconds += time.monotonic() - begin
        keep()


def expected_s(
    planned: Iterable[tuple[int, cases.Case, str]], effort: cases.Effort, cells: Cells
) -> float:
    """Return the seconds that what is planned takes about, what is there already not counted.

    By what was measured of the same case and entrant, else by what the case says.
    """
    seconds = 0.0
    for turn, case, name in planned:
        cell = cells.get((case.name, name), Cell())
        if cell.failure or len(cell.rounds) > turn:
            continue
        seconds += cell.seconds / len(cell.rounds) if cell.rounds else case.takes(effort)
    return seconds


class Progress:
    """Shows where the run is: on one line of a terminal, or a line for each case in a file."""

    def __init__(self) -> None:
        self.case = ""

    def __call__(self, text: str) -> None:
        """Show a line, or take the last one away."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            return
        case = " ".join(text.split()[:2])
        if case and case != self.case:
            print(text, file=sys.stderr, flush=True)
        self.case = case

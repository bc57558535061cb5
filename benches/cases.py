"""What a benchmark consists of: cases, the numbers they give, and how long they may take.

A family is a module with a list `CASES`. A case is the same for every entrant: `measure` gets the
entrant's name and the effort, and returns the samples of one round; a `Failure` says why there
are none. Entrants are the event loops of `loops.py`, and what a case names beside them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

# How lines of valgrind begin.
VALGRIND = re.compile(r"(==|--)\d+\1")
# The samples of one round, by the metric's key.
Samples: TypeAlias = dict[str, list[float]]


class Failure(Exception):
    """The measurement gave no number; the text says why."""


@dataclass(frozen=True)
class Metric:
    """A number that a case gives."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = False
    # Whether being better in it than another is an advantage.
    contested: bool = True
    # The clock it is by, where the same is measured by both: "wall" or "cpu".
    clock: str = ""
    # Worth further rounds where it is open, beside what decides its case.
    aim: bool = False


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, samples of a row and their seconds, milliseconds of load.

    `further_s` is how many seconds of further rounds there may be for what is open after these.
    """

    form: str
    rounds: int
    seconds: float
    load_ms: int
    samples: int = 3
    further_s: float = 0.0


EFFORTS = {
    "quick": Effort("quick", 1, 0.02, 200),
    "short": Effort("short", 3, 0.02, 200, further_s=60.0),
    "full": Effort("full", 3, 0.05, 300, further_s=330.0),
}


@dataclass(frozen=True)
class Case:
    """One thing that is measured of every entrant."""

    name: str
    title: str
    # The first metric is the one that is compared and drawn.
    metrics: tuple[Metric, ...]
    measure: Callable[[str, Effort], Samples]
    # Entrants that are no event loop of Python: what cannot be beaten, or what one may know.
    beside: tuple[str, ...] = ()
    # Those of them that one round is enough for: nothing is compared with them.
    once: tuple[str, ...] = ()
    # Entrants that only this case has and that compete: extensions of a loop.
    also: tuple[str, ...] = ()
    # In the short form too.
    short: bool = True
    # In the full form too, where no other case tells the same and more.
    full: bool = True
    # Measured on our loop with asyncio's own primitives as well, because that may differ.
    primitives: bool = False
    # The same, where it is left to the full form.
    primitives_full: bool = False
    # Where one round is long: at most so many in the short form, and in the full form.
    short_rounds: int | None = None
    full_rounds: int | None = None
    # Where rounds do not differ: at most so many in any form.
    rounds_max: int | None = None
    # The metrics that decide who is ahead; the first if not said.
    compared: tuple[Metric, ...] = ()
    # Seconds that one round of one entrant takes about, on a machine as that of the kept results.
    takes: Callable[[Effort], float] = lambda _: 0.4

    def belongs(self, form: str) -> bool:
        """Return whether a form has the case."""
        return self.full if form == "full" else self.short

    def rounds(self, effort: Effort) -> int:
        """Return how many rounds the case is worth."""
        of_form = self.full_rounds if effort.form == "full" else self.short_rounds
        limits = [self.rounds_max, of_form]
        return min([effort.rounds, *(limit for limit in limits if limit is not None)])


def cores() -> tuple[int, int]:
    """Return the core of what is measured and the core of its counterpart.

    One and the same where there is only one, which `environment.py` records.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this process, and those that it starts meanwhile, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [core])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def last_line(text: str) -> str:
    """Return the last line of an error output that is not valgrind's: where Python says what
    happened.
    """
    lines = [line for line in text.strip().splitlines() if not VALGRIND.match(line)]
    return lines[-1].strip() if lines else ""

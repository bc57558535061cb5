"""What users of event loops complained about: each complaint is a program that runs on any loop.

A program passes where the loop does right and raises where it has the bug. `lesson()` registers
it with where it was reported and what is to be seen on each peer: `Has(...)` with a pattern that
the outcome must match, so that no unrelated failure is taken for the bug; `FIXED` where a release
since the report does right; nothing for a peer that does right and never was named; `Skips(...)`
where running it tells nothing, with the reason. `test_asked.py` holds each claim against the
installed peers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUBJECT = "aioxide"
CONTROL = "asyncio"
#: The peers, and the releases of them that the claims are about.
PEERS = {"uvloop": "0.23.0", "rloop": "0.5.0", "rsloop": "0.1.66", "zuvloop": "0.0.17"}
LOOPS = (SUBJECT, CONTROL, *PEERS)
#: Where `make` installs them, each in a folder of its own.
PEERS_FOLDER = Path(sys.prefix) / "peers"
#: The modules of programs, in the order of the page.
MODULES = (
    "descriptors",
    "writing",
    "protocols",
    "encryption",
    "datagrams",
    "processes",
    "interrupts",
    "timing",
    "features",
    "debugging",
)


def installed(loop: str) -> bool:
    """Tell whether a loop can be run here."""
    return loop in (SUBJECT, CONTROL) or (PEERS_FOLDER / loop / loop).is_dir()


@dataclass(frozen=True)
class Has:
    """The loop has the bug: the outcome of the program matches `pattern`."""

    pattern: str
    #: The first Python on which it is gone.
    until: tuple[int, int] | None = None
    #: Why it is so; for aioxide.
    reason: str = ""

    @property
    def now(self) -> bool:
        """Whether it is so on the running Python."""
        return self.until is None or sys.version_info[:2] < self.until


@dataclass(frozen=True)
class Either(Has):
    """Some bugfix releases have the bug, or only some of their runs show it."""


@dataclass(frozen=True)
class Skips:
    """The program is not run on that loop, or tells nothing there."""

    reason: str


@dataclass(frozen=True)
class Fixed:
    """The loop had the bug when it was reported and does right today."""


FIXED = Fixed()
Claim = Has | Skips | Fixed


@dataclass(frozen=True)
class Lesson:
    """One complaint."""

    name: str
    module: str
    complaint: str
    reference: str
    claims: dict[str, Claim]
    program: Callable[..., Any]


LESSONS: dict[str, Lesson] = {}


def lesson(reference: str, **claims: Claim) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a program; its docstring's first line is the complaint.

    A coroutine function runs on the loop; a plain function gets the function that makes loops.
    """
    unknown = claims.keys() - set(LOOPS)
    assert not unknown, unknown

    def register(program: Callable[..., Any]) -> Callable[..., Any]:
        name = program.__name__
        assert name not in LESSONS, name
        module = program.__module__.rpartition(".")[2]
        complaint = (program.__doc__ or "").partition("\n")[0].rstrip(".")
        LESSONS[name] = Lesson(name, module, complaint, reference, claims, program)
        return program

    return register

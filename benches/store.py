"""A run as a file: what it was asked, where it ran, and every sample, so that it can go on later.

A run of hours is written again and again while it goes on; what stops it costs the last moments.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cases
import collect

# A run that goes on writes itself no more often than this: the disk is not to be heard in it.
WRITE_S_MIN = 20.0
# What two sittings of one run have in common, or their numbers are not comparable.
SAME = (
    *("cpu", "cores", "kernel", "python", "openssl", "node", "commit", "build"),
    *("versions", "libraries"),
)


@dataclass
class Run:
    """Everything that is known of a run."""

    record: dict[str, Any]
    effort: cases.Effort
    cells: collect.Cells
    # Names of the cases and loops that were asked for.
    chosen: Sequence[str] = ()
    here: Sequence[str] = ()


def write(path: Path, run: Run) -> None:
    """Write a run as JSON, `path` being without an extension; nobody sees half of it."""
    raw = [
        {
            "case": case,
            "entrant": entrant,
            "rounds": cell.rounds,
            "failure": cell.failure,
            "seconds": round(cell.seconds, 2),
        }
        for (case, entrant), cell in run.cells.items()
    ]
    head = {
        "environment": run.record,
        "effort": dataclasses.asdict(run.effort),
        "asked": {"cases": list(run.chosen), "loops": list(run.here)},
    }
    # A line for each cell, so that two runs can be compared.
    lines_of_cells = ",\n".join(json.dumps(cell) for cell in raw)
    text = f'{json.dumps(head, indent=1)[:-2]},\n "cells": [\n{lines_of_cells}\n ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(f"{path}.json.part")
    unfinished.write_text(text)
    os.replace(unfinished, f"{path}.json")


def read(path: Path) -> Run:
    """Read what `write` has written."""
    saved = json.loads(path.read_text())
    cells = {
        (cell["case"], cell["entrant"]): collect.Cell(
            cell["rounds"], cell["failure"], cell.get("seconds", 0.0)
        )
        for cell in saved["cells"]
    }
    asked = saved.get("asked", {})
    return Run(
        saved["environment"],
        cases.Effort(**saved["effort"]),
        cells,
        asked.get("cases", ()),
        asked.get("loops", ()),
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how the environments of two sittings differ in what numbers depend on."""
    return "; ".join(
        f"{name}: {before.get(name)} then, {now.get(name)} now"
        for name in SAME
        if before.get(name) != now.get(name)
    )


class Keeper:
    """Writes a run now and then while it goes on."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self.run = run
        self.written_at = time.monotonic()

    def keep(self) -> None:
        """Write the run if that has not been done for a while."""
        if time.monotonic() - self.written_at >= WRITE_S_MIN:
            write(self.path, self.run)
            self.written_at = time.monotonic()

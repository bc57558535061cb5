"""The soak, for a few seconds; and that it fails for everything that it is there to see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
# It rests before each inspection: a busy machine needs long for the last operations.
SECONDS_MAX = 240


def soak(*arguments: str) -> tuple[int, str]:
    """Run it; give its status and what it printed."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "soak", *arguments],
        env=env | {"PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    return ran.returncode, ran.stdout


def test_short() -> None:
    """A few seconds of everything."""
    status, said = soak("--seconds", "4", "--seed", "11")
    assert (status, "violations: 0" in said) == (0, True), said


@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        ("fd", r"fd: \d+ more of /dev/null"),
        ("memory", r"memory: resident_kib grew"),
        ("memory", r"memory: objects grew"),
        ("byte", r"bytes: (tcp|unix): \d+ for \d+ bytes, different from"),
        ("task", r"task: \d+ more of"),
        ("error", r"error: Exception in callback .*ZeroDivisionError"),
    ],
)
def test_sees(broken: str, seen: str) -> None:
    """What is broken is found, named, and the status."""
    status, said = soak(
        "--seconds", "3", "--seed", "1", "--only", "tcp,unix,timers", "--break", broken
    )
    assert status == 1, said
    assert re.search(f"^  {seen}", said, re.MULTILINE), said

"""Runs the programs of `lessons`: all wanted loops of one complaint at a time, each a process.

Peers live in folders of their own beside the environment (`make` installs them there), on the path
of their own processes only: a server that finds uvloop takes it unasked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from lessons import CONTROL, PEERS_FOLDER, SUBJECT, Has, Lesson, installed

HERE = Path(__file__).parent
# Far more than any program needs on a busy machine; whatever takes longer hangs.
SECONDS_MAX = 60.0
# Where the claim is that it hangs, nobody waits that long.
SECONDS_HANGING = 6.0
# Processes at the same time: more than this distorts each other's timing.
AT_ONCE = 3


def _seconds(lesson: Lesson, loop: str) -> float:
    claim = lesson.claims.get(loop)
    hangs = isinstance(claim, Has) and claim.pattern == "hung"
    return SECONDS_HANGING if hangs else SECONDS_MAX


def _run(lesson: Lesson, loop: str, certificates: Path) -> str:
    """Give the outcome of a program: `passed`, `failed: ...`, `died: SIGNAL` or `hung`."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    path = [str(HERE)]
    if loop not in (SUBJECT, CONTROL):
        path.append(str(PEERS_FOLDER / loop))
    env |= {"PYTHONPATH": os.pathsep.join(path), "ASKED_CERTIFICATES": str(certificates)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lessons", lesson.module, lesson.name, loop],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=_seconds(lesson, loop))
    except subprocess.TimeoutExpired:
        return "hung"
    finally:
        # The program and whatever it started: they share its process group.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        # One that left the group may keep the streams open.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=SECONDS_HANGING)
    if process.returncode < 0:
        return f"died: {signal.Signals(-process.returncode).name}"
    said = out.strip().splitlines() or [f"status {process.returncode}", err]
    return said[-1]


Outcomes = Callable[..., str]


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """A function that gives the outcome of a program on a loop, run once unless `again`."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        marked = item.get_closest_marker("asks")
        if marked is not None:
            name, loop = marked.args
            wanted.setdefault(name, []).append(loop)
    known: dict[tuple[str, str], str] = {}

    def outcome(lesson: Lesson, loop: str, again: bool = False) -> str:
        if again:
            known[lesson.name, loop] = _run(lesson, loop, folder)
        elif (lesson.name, loop) not in known:
            loops = [name for name in wanted.get(lesson.name, [loop]) if installed(name)]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                runs = {name: pool.submit(_run, lesson, name, folder) for name in loops}
            known.update({(lesson.name, name): run.result() for name, run in runs.items()})
        return known[lesson.name, loop]

    return outcome

"""Runs CPython's test modules in worker processes and judges the outcome.

A *suite* says which types stand in the place of asyncio's C ones. Every module first runs with
the stock types (the control); a test counts when stock passes it. May start processes, touches
nothing else. Invariant: each counted test gets exactly one verdict, also when a worker dies.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.toml"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# Whole modules take up to 15 s on an idle machine.
WORKER_SECONDS_MAX = 250
# A worker that dies is started again behind the test that killed it, but not after this time:
# hung tests must not add up to pytest's own limit of 300 s.
RESTART_SECONDS_MAX = 180.0
# Stands for the tests that were given up.
REST = "(rest)"


@dataclass(frozen=True)
class Suite:
    """Types under test, as `module:name`; None leaves asyncio's own."""

    name: str
    task: str | None = None
    future: str | None = None
    loop: str | None = None


STOCK = Suite("stock")
NATIVE = Suite("native", "aioxide:Task", "aioxide:Future", "aioxide:Loop")
FOREIGN_LOOP = Suite("foreign-loop", "aioxide:Task", "aioxide:Future")
NATIVE_TASK = Suite("native-task", task="aioxide:Task")
NATIVE_FUTURE = Suite("native-future", future="aioxide:Future")

# Modules about Task and Future, run with every pairing of native and stock types.
TYPE_MODULES = ("test_tasks", "test_futures", "test_futures2", "test_eager_task_factory")
# Modules that make loops and run on whatever they get.
LOOP_MODULES = (
    "test_buffered_proto",
    "test_context",
    "test_events",
    "test_free_threading",
    "test_graph",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_runners",
    "test_sendfile",
    "test_server",
    "test_server_context",
    "test_sock_lowlevel",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_threads",
    "test_timeouts",
    "test_waitfor",
)


@dataclass
class Outcome:
    """What one module did under one suite: test id to status (`passed`, `failed`, `skipped`)."""

    status: dict[str, str] = field(default_factory=dict)
    detail: dict[str, str] = field(default_factory=dict)

    def with_status(self, status: str) -> set[str]:
        """Return the ids that ended so."""
        return {test for test, outcome in self.status.items() if outcome == status}


@dataclass(frozen=True)
class Difference:
    """One entry of `expected.toml`: tests that are to fail, and why."""

    test: str
    reason: str
    suites: tuple[str, ...] = ("*",)
    pythons: tuple[str, ...] = ("*",)

    def applies(self, suite: str, python: str) -> bool:
        """Whether the entry speaks of this suite on this Python."""
        return matches(suite, self.suites) and matches(python, self.pythons)


@dataclass(frozen=True)
class Verdict:
    """How a suite compares with stock on one module."""

    counted: int
    passed: int
    expected: int
    failures: Mapping[str, str]
    passes: Mapping[str, str]

    @property
    def good(self) -> bool:
        """Whether nothing unexpected happened."""
        return not self.failures and not self.passes

    def report(self) -> str:
        """Return what went wrong, test by test."""
        parts = [f"--- {test}: failed\n{text}" for test, text in sorted(self.failures.items())]
        parts += [
            f"--- {test}: passed, but expected.toml says it fails: {reason}"
            for test, reason in sorted(self.passes.items())
        ]
        return "\n".join(parts)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of the shell patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def module_exists(module: str) -> bool:
    """Whether the running interpreter has this test module."""
    if importlib.util.find_spec("test") is None:
        return False
    return importlib.util.find_spec(f"test.test_asyncio.{module}") is not None


def cases() -> list[tuple[Suite, str]]:
    """Return every suite and module to run on this Python."""
    pairs = [
        (suite, module)
        for module in TYPE_MODULES
        for suite in (NATIVE, FOREIGN_LOOP, NATIVE_TASK, NATIVE_FUTURE)
    ]
    pairs += [(NATIVE, module) for module in LOOP_MODULES]
    return [(suite, module) for suite, module in pairs if module_exists(module)]


def load_expected(path: Path = EXPECTED) -> list[Difference]:
    """Read the expected differences."""
    with path.open("rb") as file:
        entries = tomllib.load(file).get("difference", [])
    return [
        Difference(
            entry["test"],
            entry["reason"],
            tuple(entry.get("suites", ("*",))),
            tuple(entry.get("pythons", ("*",))),
        )
        for entry in entries
    ]


def run(suite: Suite, module: str, path: Iterable[str] = ()) -> Outcome:
    """Run one module under one suite; a worker that dies fails its test and is started again."""
    outcome = Outcome()
    begin = time.monotonic()
    while True:
        ended, running, log = run_worker(suite, module, outcome, path)
        if ended:
            return outcome
        test = running or f"{module} (import)"
        outcome.status[test] = "failed"
        outcome.detail[test] = f"the process died or hung\n{log}"
        if running is None:
            return outcome
        if time.monotonic() - begin > RESTART_SECONDS_MAX:
            outcome.status[REST] = "failed"
            outcome.detail[REST] = "too many tests died or hung; what is not named was not run"
            return outcome


def run_worker(
    suite: Suite, module: str, outcome: Outcome, path: Iterable[str]
) -> tuple[bool, str | None, str]:
    """Start one worker and take its lines; return (reached the end, test running then, log)."""
    request = {
        "module": module,
        "task": suite.task,
        "future": suite.future,
        "loop": suite.loop,
        "skip": sorted(outcome.status),
    }
    source, sink = os.pipe()
    environment = dict(os.environ, AIOXIDE_RESULT_FD=str(sink))
    environment.pop("PYTHONASYNCIODEBUG", None)
    environment["PYTHONPATH"] = os.pathsep.join(path)
    with tempfile.TemporaryFile("w+") as log, open(source) as lines:
        process = subprocess.Popen(
            [sys.executable, "-u", str(HERE / "worker.py"), json.dumps(request)],
            env=environment,
            pass_fds=(sink,),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        os.close(sink)
        try:
            ended, running = take(lines, outcome)
            process.wait(WORKER_SECONDS_MAX)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        return ended, running, f"exit status {process.returncode}\n{log.read()[-6000:]}"


def take(lines: Iterable[str], outcome: Outcome) -> tuple[bool, str | None]:
    """Record a worker's lines; return (reached the end, the test that was running)."""
    running: str | None = None
    for line in lines:
        event = json.loads(line)
        if event["event"] == "start":
            running = event["id"]
        elif event["event"] == "done":
            outcome.status[event["id"]] = event["status"]
            outcome.detail[event["id"]] = event["detail"]
            running = None
        else:
            return True, None
    return False, running


def judge(
    suite: Suite,
    control: Outcome,
    subject: Outcome,
    expected: Iterable[Difference],
    python: str = PYTHON,
) -> Verdict:
    """Compare a suite with stock: stock's passes must pass unless listed, the listed must not."""
    counted = control.with_status("passed")
    listed = {
        test: entry.reason
        for entry in expected
        if entry.applies(suite.name, python)
        for test in counted
        if fnmatch.fnmatchcase(test, entry.test)
    }
    passed = counted & subject.with_status("passed")
    failed = (counted - passed) | (subject.with_status("failed") - set(control.status))
    return Verdict(
        counted=len(counted),
        passed=len(passed),
        expected=len(set(listed) - passed),
        failures={
            test: subject.detail.get(test, "did not run")
            or f"was {subject.status[test]}, on stock it passes"
            for test in failed
            if test not in listed and not (REST in subject.status and test not in subject.status)
        },
        passes={test: reason for test, reason in listed.items() if test in passed},
    )

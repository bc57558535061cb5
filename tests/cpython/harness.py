"""Runs CPython's test modules in worker processes and judges the outcome.

A *suite* says which types stand in the place of asyncio's C ones, and whether the native primitives
stand in the place of asyncio's. Every module first runs with
the stock types (the control); a test counts when stock passes it. May start processes, touches
nothing else. Invariant: each counted test gets exactly one verdict, also when a worker dies.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import pkgutil
import select
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.toml"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# How long a worker may take to end after its last test: threads that are left must finish.
EXIT_SECONDS_MAX = 60
# A worker that dies is started again behind the test that killed it, but not more often: hung
# tests must not add up to the limit of the whole run. A count: time tells how busy a machine is.
RESTARTS_MAX = 3
# A test that is run once more, because the machine may have been busy, is given so much longer.
AGAIN_SECONDS_MAX = 60
# The worker ends its process long before, when a test hangs.
LINE_SECONDS_MAX = 90.0
# Two runs of a module, each with its restarts, and those that are under way before them.
VERDICT_SECONDS_MAX = 900.0
# More failures than this are not the machine's.
AGAIN_MAX = 10
DIED = "the process died or hung"
# Stands for the tests that were given up.
REST = "(rest)"
# Stands for the end of the process.
EXIT = "(exit)"


@dataclass(frozen=True)
class Suite:
    """Types under test, as `module:name`; None leaves asyncio's own."""

    name: str
    task: str | None = None
    future: str | None = None
    loop: str | None = None
    #: The native primitives stand in asyncio's modules, as after `aioxide.install()`.
    primitives: bool = False


STOCK = Suite("stock")
NATIVE = Suite("native", "aioxide:Task", "aioxide:Future", "aioxide:Loop")
FOREIGN_LOOP = Suite("foreign-loop", "aioxide:Task", "aioxide:Future")
NATIVE_TASK = Suite("native-task", task="aioxide:Task")
NATIVE_FUTURE = Suite("native-future", future="aioxide:Future")
# All that `aioxide.install()` gives, and the native primitives alone, on asyncio's loop and types.
INSTALLED = Suite("installed", "aioxide:Task", "aioxide:Future", "aioxide:Loop", primitives=True)
PRIMITIVES = Suite("primitives", primitives=True)

PACKAGE = "test.test_asyncio"
# Modules about Task and Future, run with every pairing of native and stock types.
TYPE_MODULES = ("test_tasks", "test_futures", "test_futures2", "test_eager_task_factory")
# Modules about primitives, and about what looks into them or is built on them.
PRIMITIVE_MODULES = (
    *TYPE_MODULES,
    "test_graph",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_runners",
    "test_server",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_threads",
    "test_timeouts",
    "test_tools",
    "test_unittest.test_async_case",
    "test_unittest.testmock.testasync",
    "test_waitfor",
)
# Modules of CPython's tests outside of that package that run coroutines on loops.
OTHER_MODULES = (
    "test_asyncgen",
    "test_unittest.test_async_case",
    "test_unittest.testmock.testasync",
)


@dataclass
class Outcome:
    """What one module did under one suite: test id to status (`passed`, `failed`, `skipped`)."""

    status: dict[str, str] = field(default_factory=dict)
    detail: dict[str, str] = field(default_factory=dict)
    #: How many loops under test each test made.
    loops: dict[str, int] = field(default_factory=dict)
    #: Tests that failed, and passed when run once more.
    again: set[str] = field(default_factory=set)

    def with_status(self, status: str) -> set[str]:
        """Return the ids that ended so."""
        return {test for test, outcome in self.status.items() if outcome == status}


@dataclass(frozen=True)
class Entry:
    """One entry of `expected.toml`: which tests it speaks of, and why.

    `private`: they look inside a stock loop and are not counted. Otherwise they are counted, and
    are to fail.
    """

    test: str
    reason: str
    suites: tuple[str, ...] = ("*",)
    pythons: tuple[str, ...] = ("*",)
    private: bool = False
    #: Would wait for a mock of the stock loop's selector forever: not even run.
    hangs: bool = False

    def applies(self, suite: str, python: str, module: str) -> bool:
        """Whether the entry speaks of this module under this suite on this Python."""
        return (
            self.test.startswith(f"{module}.")
            and matches(suite, self.suites)
            and matches(python, self.pythons)
        )


@dataclass(frozen=True)
class Verdict:
    """How a suite compares with stock on one module.

    `exercised`: passed tests that made a loop under test. `private`: stock's passes that look
    inside stock's loop and so are not counted. `again`: those that passed when run once more.
    `wrong`: entries that are not true any more.
    """

    counted: int
    passed: int
    expected: int
    exercised: int
    private: int
    again: int
    failures: Mapping[str, str]
    wrong: Mapping[str, str]

    @property
    def good(self) -> bool:
        """Whether nothing unexpected happened."""
        return not self.failures and not self.wrong

    def report(self) -> str:
        """Return what went wrong, test by test."""
        parts = [f"--- {test}: failed\n{text}" for test, text in sorted(self.failures.items())]
        parts += [f"--- {test}: {text}" for test, text in sorted(self.wrong.items())]
        return "\n".join(parts)


@dataclass
class Totals:
    """Sums of verdicts."""

    counted: int = 0
    passed: int = 0
    expected: int = 0
    exercised: int = 0
    private: int = 0
    again: int = 0

    def add(self, verdict: Verdict | Totals) -> None:
        """Add one more."""
        self.counted += verdict.counted
        self.passed += verdict.passed
        self.expected += verdict.expected
        self.exercised += verdict.exercised
        self.private += verdict.private
        self.again += verdict.again

    def __str__(self) -> str:
        return (
            f"{self.passed}/{self.counted} of what stock passes "
            f"({self.passed / max(self.counted, 1):.2%}), {self.expected} expected differences; "
            f"{self.exercised} made a loop under test; {self.private} private to stock's loop, "
            f"not counted; {self.again} passed only when run once more"
        )


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of the shell patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def full_name(module: str) -> str:
    """Return the name to import a module by: `test_tasks`, `test_unittest.test_async_case`."""
    return f"test.{module}" if module in OTHER_MODULES else f"{PACKAGE}.{module}"


def module_exists(module: str) -> bool:
    """Whether the running interpreter has this test module."""
    try:
        return importlib.util.find_spec(full_name(module)) is not None
    except ModuleNotFoundError:
        return False


def modules() -> list[str]:
    """Return the test modules to run on this Python; those about Windows are not among them."""
    spec = importlib.util.find_spec(PACKAGE) if importlib.util.find_spec("test") else None
    if spec is None:
        return []
    names = {found.name for found in pkgutil.iter_modules(spec.submodule_search_locations)}
    here = sorted(name for name in names if name.startswith("test_"))
    return [name for name in here if not name.startswith("test_windows_")] + [
        module for module in OTHER_MODULES if module_exists(module)
    ]


def cases() -> list[tuple[Suite, str]]:
    """Return every suite and module to run on this Python."""
    return [
        (suite, module)
        for module in modules()
        for suite in (NATIVE, FOREIGN_LOOP, NATIVE_TASK, NATIVE_FUTURE, INSTALLED, PRIMITIVES)
        if suite is NATIVE or module in (PRIMITIVE_MODULES if suite.primitives else TYPE_MODULES)
    ]


def load_expected(path: Path = EXPECTED) -> list[Entry]:
    """Read the list of expected differences and private tests."""
    with path.open("rb") as file:
        tables = tomllib.load(file)
    return [
        Entry(
            entry["test"],
            entry["reason"],
            tuple(entry.get("suites", ("*",))),
            tuple(entry.get("pythons", ("*",))),
            private=kind == "private",
            hangs=entry.get("hangs", False),
        )
        for kind in ("difference", "private")
        for entry in tables.get(kind, [])
    ]


def run(
    suite: Suite, module: str, path: Iterable[str] = (), expected: Iterable[Entry] = ()
) -> Outcome:
    """Run one module under one suite. Tests that are listed as hanging are left out."""
    request: dict[str, object] = {
        "module": full_name(module),
        "task": suite.task,
        "future": suite.future,
        "loop": suite.loop,
        "primitives": suite.primitives,
        "leave_out": [entry.test for entry in expected if entry.hangs and suite is not STOCK],
    }
    return run_request(HERE / "worker.py", request, path)


def run_request(script: Path, request: dict[str, object], path: Iterable[str]) -> Outcome:
    """Have workers do what is requested; one that dies fails its test and is started again.

    Tests that fail or hang are run once more: many look at the wall clock, and the machine may be
    busy. `Outcome.again` tells of those that pass then.
    """
    outcome = run_to_the_end(script, request, path)
    failed = outcome.with_status("failed")
    if 0 < len(failed) <= AGAIN_MAX:
        once_more = {**request, "only": sorted(failed), "test_seconds_max": AGAIN_SECONDS_MAX}
        outcome.again = run_to_the_end(script, once_more, path).with_status("passed") & failed
        outcome.status.update(dict.fromkeys(outcome.again, "passed"))
    return outcome


def run_to_the_end(script: Path, request: dict[str, object], path: Iterable[str]) -> Outcome:
    """Start workers until each test has been run."""
    outcome = Outcome()
    for _ in range(1 + RESTARTS_MAX):
        request["skip"] = sorted(outcome.status)
        ended, running, log = run_worker(script, request, outcome, path)
        if ended:
            return outcome
        test = running or f"{request['module']} (import)"
        outcome.status[test] = "failed"
        outcome.detail[test] = f"{DIED}\n{log}"
        if running is None:
            return outcome
    outcome.status[REST] = "failed"
    outcome.detail[REST] = "too many tests died or hung; what is not named was not run"
    return outcome


def run_worker(
    script: Path, request: dict[str, object], outcome: Outcome, path: Iterable[str]
) -> tuple[bool, str | None, str]:
    """Start one worker and take its lines; return (reached the end, test running then, log)."""
    source, sink = os.pipe()
    environment = dict(os.environ, AIOXIDE_RESULT_FD=str(sink))
    environment.pop("PYTHONASYNCIODEBUG", None)
    environment["PYTHONPATH"] = os.pathsep.join(path)
    with tempfile.TemporaryFile("w+") as log, open(source, "rb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-u", str(script), json.dumps(request)],
            env=environment,
            pass_fds=(sink,),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        os.close(sink)
        try:
            ended, running = take(lines_of(lines), outcome)
            process.wait(EXIT_SECONDS_MAX if ended else LINE_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            outcome.status[EXIT] = "failed"
            outcome.detail[EXIT] = "the process did not end after its last test"
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        return ended, running, f"exit status {process.returncode}\n{log.read()[-6000:]}"


def lines_of(source: IO[bytes]) -> Iterator[str]:
    """Give the lines that come, until the end or until nothing has come for too long.

    Without an end: a child of a worker that died has its pipe, perhaps.
    """
    rest = b""
    while select.select([source], [], [], LINE_SECONDS_MAX)[0]:
        got = os.read(source.fileno(), 1 << 16)
        if not got:
            return
        *lines, rest = (rest + got).split(b"\n")
        yield from (line.decode() for line in lines)


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
            outcome.loops[event["id"]] = event["loops"]
            running = None
        else:
            return True, None
    return False, running


def sort_out(
    entries: Iterable[Entry], counted: Iterable[str], wrong: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tests that are private and those that are to fail, with the reasons.

    An entry that speaks of no test that stock passes is noted in `wrong`.
    """
    private: dict[str, str] = {}
    listed: dict[str, str] = {}
    for entry in entries:
        found = fnmatch.filter(counted, entry.test)
        (private if entry.private else listed).update(dict.fromkeys(found, entry.reason))
        if not found:
            wrong[entry.test] = "is in expected.toml, but no test that stock passes is named so"
    return private, listed


def judge(
    suite: Suite,
    module: str,
    control: Outcome,
    subject: Outcome,
    expected: Iterable[Entry],
    python: str = PYTHON,
) -> Verdict:
    """Compare a suite with stock: stock's passes must pass unless listed, the listed must not.

    A private test may pass where it never makes a loop under test.
    """
    wrong: dict[str, str] = {}
    applying = [entry for entry in expected if entry.applies(suite.name, python, module)]
    private, listed = sort_out(applying, control.with_status("passed"), wrong)
    counted = control.with_status("passed") - set(private)
    passes = subject.with_status("passed")
    passed = counted & passes
    failed = (counted - passed) | (subject.with_status("failed") - set(control.status))
    unexpected = set(listed) & passed
    unexpected |= {test for test in set(private) & passes if subject.loops.get(test)}
    if REST in control.status:
        wrong[REST] = f"on stock {control.detail[REST]}"
    for test in unexpected:
        reason = listed.get(test, private.get(test))
        wrong[test] = f"passed, but expected.toml says it cannot: {reason}"
    return Verdict(
        counted=len(counted),
        passed=len(passed),
        expected=len(set(listed) - passed),
        exercised=sum(1 for test in passed if subject.loops.get(test)),
        private=len(private),
        again=len(passed & subject.again),
        failures={
            test: subject.detail.get(test, "did not run")
            or f"was {subject.status[test]}, on stock it passes"
            for test in failed
            if test not in listed and not (REST in subject.status and test not in subject.status)
        },
        wrong=wrong,
    )

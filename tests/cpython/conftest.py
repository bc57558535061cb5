"""Fixtures of the CPython tests: runs shared between suites, and the closing counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from . import harness

# A worker mostly sleeps inside CPython's tests, so that these fit on two cores.
WORKERS = 3
_TOTALS = pytest.StashKey[dict[str, tuple[int, int, int]]]()


class Bench:
    """Runs each (suite, module) once: all selected suites of a module side by side."""

    def __init__(self, suites: dict[str, set[harness.Suite]]) -> None:
        self._suites = suites
        self._outcomes: dict[tuple[harness.Suite, str], harness.Outcome] = {}
        self._expected = harness.load_expected()
        self.totals: dict[str, tuple[int, int, int]] = {}

    def _run_module(self, module: str) -> None:
        suites = [harness.STOCK, *self._suites[module]]
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="cpython") as pool:
            outcomes = pool.map(lambda suite: harness.run(suite, module), suites)
            self._outcomes.update(
                ((suite, module), outcome) for suite, outcome in zip(suites, outcomes, strict=True)
            )

    def verdict(self, suite: harness.Suite, module: str) -> harness.Verdict:
        """Judge a module under a suite against stock."""
        if (suite, module) not in self._outcomes:
            self._run_module(module)
        control = self._outcomes[harness.STOCK, module]
        subject = self._outcomes[suite, module]
        verdict = harness.judge(suite, control, subject, self._expected)
        passed, counted, expected = self.totals.get(suite.name, (0, 0, 0))
        self.totals[suite.name] = (
            passed + verdict.passed,
            counted + verdict.counted,
            expected + verdict.expected,
        )
        return verdict


@pytest.fixture(scope="session")
def cpython_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Know which suites this session selected for each module, to run them together."""
    suites: dict[str, set[harness.Suite]] = defaultdict(set)
    for item in request.session.items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if {"suite", "module"} <= set(parameters):
            suites[parameters["module"]].add(parameters["suite"])
    bench = Bench(suites)
    yield bench
    request.config.stash[_TOTALS] = bench.totals


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print passed / passed on stock for each suite."""
    for suite, (passed, counted, expected) in config.stash.get(_TOTALS, {}).items():
        terminalreporter.write_line(
            f"CPython {harness.PYTHON} test_asyncio, {suite}: {passed}/{counted} of what stock "
            f"passes ({passed / max(counted, 1):.2%}), {expected} expected differences"
        )

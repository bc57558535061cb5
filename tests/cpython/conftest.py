"""Fixtures of the CPython tests: runs shared between suites, and the closing counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import hangs

from . import harness

# A worker mostly sleeps inside CPython's tests, so that these fit on two cores.
WORKERS = 3
_TOTALS = pytest.StashKey[dict[str, harness.Totals]]()


class Bench:
    """Runs each selected (suite, module) once, several side by side, and judges them."""

    def __init__(self, pool: ThreadPoolExecutor, selected: list[tuple[harness.Suite, str]]) -> None:
        self._expected = harness.load_expected()
        self._outcomes: dict[tuple[harness.Suite, str], Future[harness.Outcome]] = {}
        self.totals: dict[str, harness.Totals] = defaultdict(harness.Totals)
        for suite, module in selected:
            for wanted in (harness.STOCK, suite):
                if (wanted, module) not in self._outcomes:
                    self._outcomes[wanted, module] = pool.submit(
                        harness.run, wanted, module, (), self._expected
                    )

    def verdict(self, suite: harness.Suite, module: str) -> harness.Verdict:
        """Judge a module under a suite against stock, as soon as both have run."""
        control = self._outcomes[harness.STOCK, module].result()
        subject = self._outcomes[suite, module].result()
        verdict = harness.judge(suite, module, control, subject, self._expected)
        self.totals[suite.name].add(verdict)
        return verdict


@pytest.fixture(autouse=True)
def _no_child_left() -> None:
    """Replaces the rule: workers run across tests; the run that started one waits for its end."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Gives the workers time: each ends by itself, also when its tests hang."""
    hangs.begin_call(pyfuncitem, harness.VERDICT_SECONDS_MAX)
    return (yield)


@pytest.fixture(scope="session")
def cpython_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Start, in the order of the tests, what this session selected."""
    selected = [
        (item.callspec.params["suite"], item.callspec.params["module"])
        for item in request.session.items
        if {"suite", "module"} <= set(getattr(getattr(item, "callspec", None), "params", ()))
    ]
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="cpython")
    bench = Bench(pool, selected)
    yield bench
    pool.shutdown(cancel_futures=True)
    request.config.stash[_TOTALS] = bench.totals


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print passed / passed on stock for each suite."""
    for suite, totals in config.stash.get(_TOTALS, {}).items():
        terminalreporter.write_line(f"CPython {harness.PYTHON} test_asyncio, {suite}: {totals}")

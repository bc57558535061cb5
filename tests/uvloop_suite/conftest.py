"""Fixtures of uvloop's tests: runs shared between tests, and the closing counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

import hangs
from cpython import harness

from . import suite

_TOTALS = pytest.StashKey[dict[str, harness.Totals]]()


@pytest.fixture(autouse=True)
def _no_child_left() -> None:
    """Replaces the rule: workers run across tests; the run that started one waits for its end."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Gives the workers time: each ends by itself, also when its tests hang."""
    hangs.begin_call(pyfuncitem, harness.VERDICT_SECONDS_MAX)
    return (yield)


@pytest.fixture(scope="session")
def uvloop_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[suite.Runs]:
    """Unpack the tests and start, in their order, those that this session selected."""
    source = suite.archive()
    assert source is not None
    tree = tmp_path_factory.mktemp("uvloop")
    suite.unpack(source, tree)
    request.config.stash[_TOTALS] = defaultdict(harness.Totals)
    selected = [
        (item.callspec.params["kind"], item.callspec.params["uvloop_module"])
        for item in request.session.items
        if "uvloop_module" in getattr(getattr(item, "callspec", None), "params", ())
    ]
    with suite.Runs(tree, selected) as runs:
        yield runs


@pytest.fixture
def uvloop_totals(pytestconfig: pytest.Config) -> dict[str, harness.Totals]:
    """Where verdicts are added up for the closing counts."""
    return pytestconfig.stash[_TOTALS]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print passed / passed on asyncio for each kind of classes."""
    for name, totals in config.stash.get(_TOTALS, {}).items():
        terminalreporter.write_line(f"uvloop's tests, {name}: {totals}")

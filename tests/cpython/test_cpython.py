"""CPython's test_asyncio against aioxide: one pytest test per suite and module.

The details of each CPython test are in the failure text; the counts are printed at the end of
the run (`conftest.py`).
"""

from __future__ import annotations

import pytest

from . import harness
from .conftest import Bench


@pytest.mark.parametrize(
    ("suite", "module"),
    [pytest.param(suite, module, id=f"{module}-{suite.name}") for suite, module in harness.cases()],
)
def test_as_stock(cpython_bench: Bench, suite: harness.Suite, module: str) -> None:
    verdict = cpython_bench.verdict(suite, module)
    assert verdict.counted + verdict.private > 0
    if not verdict.good:
        pytest.fail(verdict.report(), pytrace=False)


def test_something_ran() -> None:
    if not harness.module_exists("test_tasks"):
        pytest.skip("this Python was installed without its test package")
    assert len(harness.cases()) > len(harness.TYPE_MODULES)

"""uvloop's own tests against aioxide: one pytest test per kind of classes and module.

The details of each of its tests are in the failure text; the counts are printed at the end.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from cpython import harness

from . import suite

_SOURCE = suite.archive()
pytestmark = pytest.mark.skipif(
    _SOURCE is None,
    reason="uvloop's source distribution is not in this environment: `make test` puts it there",
)


def modules() -> list[str]:
    """Return the modules in the distribution."""
    if _SOURCE is None:
        return ["test_base"]
    with tarfile.open(_SOURCE) as tar:
        return suite.chosen(tar.getnames())


@pytest.mark.parametrize("uvloop_module", modules())
@pytest.mark.parametrize("kind", suite.CONTROLS, ids=lambda kind: kind.name.partition("'")[0])
def test_as_asyncio(
    uvloop_runs: suite.Runs,
    uvloop_totals: dict[str, harness.Totals],
    kind: harness.Suite,
    uvloop_module: str,
) -> None:
    verdict = uvloop_runs.verdict(kind, uvloop_module)
    uvloop_totals[kind.name].add(verdict)
    if not verdict.good:
        pytest.fail(verdict.report(), pytrace=False)


def test_the_distribution_has_what_was_expected(tmp_path: Path) -> None:
    assert _SOURCE is not None
    suite.unpack(_SOURCE, tmp_path)
    assert len(suite.modules(tmp_path)) > 10
    assert set(suite.LEFT_OUT) < {path.stem for path in (tmp_path / "tests").glob("test_*.py")}

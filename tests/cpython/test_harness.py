"""The harness itself: stock types pass everything, a broken type is caught, crashes are seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import harness

pytestmark = pytest.mark.skipif(
    not harness.module_exists("test_futures"), reason="no test package in this Python"
)

BROKEN = '''
"""Types with one fault each."""
import _asyncio, os

class Sloppy(_asyncio.Future):
    def exception(self):
        return None

class Deadly(_asyncio.Future):
    def __class_getitem__(cls, item):
        os.abort()
'''


def judged(suite: harness.Suite, tmp_path: Path) -> harness.Verdict:
    (tmp_path / "broken_types.py").write_text(BROKEN)
    path = [str(tmp_path)]
    control = harness.run(harness.STOCK, "test_futures")
    return harness.judge(suite, control, harness.run(suite, "test_futures", path), [])


def test_stock_types_pass_through_the_same_door(tmp_path: Path) -> None:
    suite = harness.Suite("c", "_asyncio:Task", "_asyncio:Future", "asyncio:SelectorEventLoop")
    verdict = judged(suite, tmp_path)
    assert verdict.good, verdict.report()
    assert verdict.counted == verdict.passed > 100


def test_a_broken_future_is_caught(tmp_path: Path) -> None:
    verdict = judged(harness.Suite("broken", future="broken_types:Sloppy"), tmp_path)
    assert "test_futures.CFutureTests.test_exception" in verdict.failures
    assert "test_futures.PyFutureTests.test_exception" not in verdict.failures
    assert 0 < verdict.passed < verdict.counted


def test_a_dying_process_fails_only_its_test(tmp_path: Path) -> None:
    verdict = judged(harness.Suite("deadly", future="broken_types:Deadly"), tmp_path)
    assert set(verdict.failures) == {
        "test_futures.CFutureTests.test_generic_alias",
        "test_futures.CSubFutureTests.test_generic_alias",
    }
    assert all("died" in text for text in verdict.failures.values()), verdict.report()


def outcome(**status: str) -> harness.Outcome:
    return harness.Outcome(dict(status), dict.fromkeys(status, "detail"))


def test_judgement_of_listed_and_unlisted() -> None:
    control = outcome(a="passed", b="passed", c="failed", d="passed")
    subject = outcome(a="passed", b="failed", c="failed", d="skipped")
    bare = harness.judge(harness.NATIVE, control, subject, [])
    assert set(bare.failures) == {"b", "d"}
    listed = [harness.Difference("[bd]", "known")]
    assert harness.judge(harness.NATIVE, control, subject, listed).good
    stale = [*listed, harness.Difference("a", "was broken once")]
    assert set(harness.judge(harness.NATIVE, control, subject, stale).passes) == {"a"}
    elsewhere = [harness.Difference("[bd]", "known", pythons=("3.0",))]
    assert not harness.judge(harness.NATIVE, control, subject, elsewhere).good


def test_every_expected_difference_has_a_reason() -> None:
    entries = harness.load_expected()
    assert all(entry.reason.strip() for entry in entries)

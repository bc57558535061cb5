"""The harness itself: stock types pass everything, a broken type is caught, crashes are seen."""

from __future__ import annotations

import os
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
    return harness.judge(
        suite, "test_futures", control, harness.run(suite, "test_futures", path), []
    )


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


FLAKY = '''
"""Types that fail, or die, in the first process that asks them."""
import _asyncio, os

def is_first():
    try:
        os.mkdir(__file__ + ".asked")
    except FileExistsError:
        return False
    return True

class Flaky(_asyncio.Future):
    def exception(self):
        return None if is_first() else super().exception()

class Dying(_asyncio.Future):
    def exception(self):
        return os.abort() if is_first() else super().exception()
'''


@pytest.mark.parametrize("future", ["Flaky", "Dying"])
def test_a_failure_that_does_not_repeat_is_told_of(tmp_path: Path, future: str) -> None:
    (tmp_path / "flaky_types.py").write_text(FLAKY)
    suite = harness.Suite("flaky", future=f"flaky_types:{future}")
    control = harness.run(harness.STOCK, "test_futures")
    subject = harness.run(suite, "test_futures", [str(tmp_path)])
    verdict = harness.judge(suite, "test_futures", control, subject, [])
    assert verdict.good, verdict.report()
    assert (verdict.passed, verdict.again) == (verdict.counted, 1)


def test_deaths_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is left after too many is not run; what died is run once more, with more time."""
    requests = []

    def dies(script: Path, request: dict[str, object], *rest: object) -> tuple[bool, str, str]:
        requests.append(dict(request))
        return False, f"m.{len(requests)}", "log"

    monkeypatch.setattr(harness, "run_worker", dies)
    found = harness.run_request(tmp_path, {"module": "m"}, [])
    times = 1 + harness.RESTARTS_MAX
    assert len(requests) == 2 * times
    assert set(found.with_status("failed")) == {
        harness.REST,
        *(f"m.{n}" for n in range(1, 1 + times)),
    }
    assert [len(request["skip"]) for request in requests] == [*range(times)] * 2  # type: ignore
    assert ["test_seconds_max" in request for request in requests] == [False] * times + (
        [True] * times
    )
    assert set(requests[-1]["only"]) == set(found.status)  # type: ignore
    verdict = harness.judge(harness.NATIVE, "m", found, found, [])
    assert set(verdict.wrong) == {harness.REST}


def outcome(**status: str) -> harness.Outcome:
    named = {f"m.{test}": text for test, text in status.items()}
    return harness.Outcome(named, dict.fromkeys(named, "detail"))


def test_judgement_of_listed_and_unlisted() -> None:
    control = outcome(a="passed", b="passed", c="failed", d="passed")
    subject = outcome(a="passed", b="failed", c="failed", d="skipped")

    def judge(*entries: harness.Entry) -> harness.Verdict:
        return harness.judge(harness.NATIVE, "m", control, subject, entries)

    assert set(judge().failures) == {"m.b", "m.d"}
    known = harness.Entry("m.[bd]", "known")
    assert judge(known).good
    assert (judge(known).passed, judge(known).counted, judge(known).expected) == (1, 3, 2)
    assert set(judge(known, harness.Entry("m.a", "was broken once")).wrong) == {"m.a"}
    assert set(judge(known, harness.Entry("m.x*", "has no such test")).wrong) == {"m.x*"}
    assert judge(known, harness.Entry("other.x", "of another module")).good
    assert not judge(harness.Entry("m.[bd]", "known", pythons=("3.0",))).good


def test_judgement_of_private_tests() -> None:
    control = outcome(a="passed", b="passed", c="passed")
    subject = outcome(a="passed", b="passed", c="failed")
    subject.loops = {"m.b": 1}

    def judge(test: str) -> harness.Verdict:
        return harness.judge(
            harness.NATIVE, "m", control, subject, [harness.Entry(test, "private", private=True)]
        )

    assert judge("m.[ac]").good
    assert (judge("m.[ac]").passed, judge("m.[ac]").counted, judge("m.[ac]").private) == (1, 1, 2)
    # It passes on a loop under test, so it is not about the inside of another.
    assert set(judge("m.[bc]").wrong) == {"m.b"}


def test_every_entry_names_its_module_and_has_a_reason() -> None:
    known = {*harness.modules(), *harness.OTHER_MODULES}
    for entry in harness.load_expected():
        assert entry.reason.strip()
        assert entry.test.split(".")[0] in known or entry.pythons != ("*",), entry.test


def test_a_child_that_keeps_the_pipe_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a forked child of a worker that died does."""
    monkeypatch.setattr(harness, "LINE_SECONDS_MAX", 0.1)
    source, sink = os.pipe()
    with open(source, "rb") as lines, open(sink, "wb") as kept:
        kept.write(b'{"event": "start", "id": "it"}\n{"cut')
        kept.flush()
        outcome = harness.Outcome()
        assert harness.take(harness.lines_of(lines), outcome) == (False, "it")

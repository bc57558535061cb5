"""Each complaint of other loops' users: aioxide does right, and the others do what we say they do.

The claims are in `lessons`. A peer that is not installed for this Python is skipped and says so;
aioxide and asyncio always run.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable

import page
import pytest
from lessons import (
    CONTROL,
    LESSONS,
    LOOPS,
    MODULES,
    PEERS,
    PEERS_FOLDER,
    Claim,
    Either,
    Has,
    Skips,
    installed,
)

for _module in MODULES:
    importlib.import_module(f"lessons.{_module}")

PEER_TRIES = 3

CASES = [
    pytest.param(name, loop, marks=pytest.mark.asks(name, loop), id=f"{name}-{loop}")
    for name in LESSONS
    for loop in LOOPS
]


@pytest.mark.parametrize(("name", "loop"), CASES)
def test_claim(name: str, loop: str, outcomes: Callable[..., str]) -> None:
    lesson = LESSONS[name]
    claim = lesson.claims.get(loop)
    if isinstance(claim, Skips):
        pytest.skip(f"not claimed: {claim.reason}")
    if not installed(loop):
        pytest.skip(f"{loop} is not installed in {PEERS_FOLDER}: no wheel for this Python")
    wrong = disagrees(claim, outcomes(lesson, loop))
    # A busy machine can make a peer miss a time limit; ours must not.
    tries = PEER_TRIES if loop in PEERS else 1
    while wrong and (tries := tries - 1):
        wrong = disagrees(claim, outcomes(lesson, loop, again=True))
    assert not wrong, f"{lesson.complaint} ({lesson.reference}): {wrong}"


def disagrees(claim: Claim | None, outcome: str) -> str:
    """Say what speaks against a claim, if anything."""
    if not (isinstance(claim, Has) and claim.now):
        return "" if outcome == "passed" else outcome
    if outcome == "passed":
        return "" if isinstance(claim, Either) else "does right now: that it has the bug is old"
    return "" if re.search(claim.pattern, outcome) else f"{outcome} instead of {claim.pattern}"


@pytest.mark.parametrize("peer", PEERS)
def test_version(peer: str) -> None:
    """What the claims are about is what is installed."""
    if not installed(peer):
        pytest.skip(f"{peer} is not installed in {PEERS_FOLDER}: no wheel for this Python")
    found = importlib.metadata.distributions(name=peer, path=[str(PEERS_FOLDER / peer)])
    assert [one.version for one in found] == [PEERS[peer]]


def test_peers_cannot_be_found_here() -> None:
    """No test of anything else meets a peer by accident."""
    assert CONTROL not in PEERS
    assert [peer for peer in PEERS if importlib.util.find_spec(peer)] == []


def test_page_says_the_same() -> None:
    assert page.PAGE.read_text() == page.render(), "run tests/asked/page.py"

"""Renders `docs/lessons.md` from the registered programs; run as a program it writes the page."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

from lessons import CONTROL, LESSONS, MODULES, PEERS, SUBJECT, Either, Fixed, Has, Lesson, Skips

PAGE = Path(__file__).parent.parent.parent / "docs" / "lessons.md"

HEAD = """\
# Lessons

What users of Python's event loops complained about, each as a program in `tests/asked/lessons/`.
The ordinary tests run every program on aioxide, on the running Python's asyncio, and on every peer
that can be installed for that Python, and hold each claim of this page against what they see: a
peer that is fixed, or breaks, fails them. This page is written by `tests/asked/page.py`.

Peers: {peers}. "Still there" names those in
which the program fails in these releases, with what the failure must match; one in brackets had it
when it was reported and is fixed. A peer that is not named does right. "asyncio < 3.15" is the
standard library before that version.
"""

OPEN = """\
## Open on aioxide

Complaints that aioxide does not answer yet:

{lines}
"""

#: Complaints that no program here can show, with the reason.
UNSHOWN = {
    "uvloop#706": "a crash in production without a known cause; the program above only tries",
    "uvloop#566, dstack#2874, cpython#133112, #122881": "speed: `make bench` measures it",
    "uvicorn-worker#34, skypilot#10016, uvicorn#2472, granian#849": (
        "uneven workers: the kernel's order of waking them"
    ),
    "cpython#21446": "a faster stream reader: `make bench` measures it",
    "uvloop#547, #622, #692": "support for a new Python comes late: the test matrix answers",
    "uvloop#14, #652": "Windows: not supported",
    "uvloop#467": "SCTP: this kernel has none to test with",
    "uvloop#499, #554": "asynchronous files: no loop here has them",
    "uvicorn#777, hypercorn#174": "the PROXY protocol is the server's; TLS after it is above",
    "free lists under free threading": "aioxide turns the GIL on in such builds",
    "zuvloop#156": "the report could not be found",
}

TAIL = """\
## Not shown

| reference | why no program shows it |
|---|---|
{lines}
"""


def _still(lesson: Lesson) -> str:
    there, fixed = [], []
    for loop, claim in lesson.claims.items():
        if loop == SUBJECT:
            continue
        if isinstance(claim, Has):
            before = f" < {claim.until[0]}.{claim.until[1]}" if claim.until else ""
            some = ", some releases" if isinstance(claim, Either) else ""
            there.append(f"{loop}{before}{some}: `{claim.pattern}`")
        elif isinstance(claim, Fixed):
            fixed.append(f"({loop})")
        elif isinstance(claim, Skips):
            there.append(f"{loop}: {claim.reason}")
    return ", ".join(there + fixed)


def render() -> str:
    """Give the page's text."""
    for module in MODULES:
        importlib.import_module(f"lessons.{module}")
    order = sorted(LESSONS.values(), key=lambda lesson: MODULES.index(lesson.module))
    peers = ", ".join(f"{peer} {version}" for peer, version in PEERS.items())
    parts = [HEAD.format(peers=peers)]
    for module, members in itertools.groupby(order, key=lambda lesson: lesson.module):
        rows = [
            f"| {one.complaint} | {one.reference} | `{one.name}` | {_still(one)} |"
            for one in members
        ]
        table = "\n".join(
            ["| complaint | reference | program | still there |", "|---|---|---|---|", *rows]
        )
        parts.append(f"## {module.capitalize()}\n\n{table}\n")
    unanswered = [
        f"- {one.complaint} (`{one.name}`"
        + (f", before {claim.until[0]}.{claim.until[1]})" if claim.until else ")")
        + (f": {claim.reason}" if claim.reason else "")
        for one in order
        if isinstance(claim := one.claims.get(SUBJECT), Has)
    ]
    if unanswered:
        parts.append(OPEN.format(lines="\n".join(unanswered)))
    parts.append(TAIL.format(lines="\n".join(f"| {k} | {v} |" for k, v in UNSHOWN.items())))
    return "\n".join(parts)


if __name__ == "__main__":
    assert CONTROL not in PEERS
    PAGE.write_text(render())

"""The families of cases, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import applications
import cases
import collect
import echo
import inside
import instructions
import memory
import pending
import start
import transfer


def nothing_more(_cells: collect.Cells, _clock: str) -> str:
    """Say nothing beyond the tables."""
    return ""


@dataclass(frozen=True)
class Family:
    """Cases that share a chapter of the report."""

    name: str
    title: str
    about: str
    cases: Sequence[cases.Case]
    # What the report says beyond the tables, by one of the clocks.
    remarks: Callable[[collect.Cells, str], str] = nothing_more


FAMILIES = (
    Family(
        "scheduling",
        "Scheduling and tasks",
        "Time per operation, lower is better. One process, one core (hand-offs to threads: two).",
        inside.SCHEDULING,
    ),
    Family(
        "primitives",
        "Primitives",
        "As above: locks and their kin, waiting, cancellation, generators, wakes from threads.",
        inside.PRIMITIVES,
    ),
    Family(
        "pending",
        "With many pending",
        "The rows again while so many tasks sleep, each with a timer: time per operation, and "
        "how many times more it is with a million than with a thousand; lower is better.",
        pending.CASES,
        pending.remarks,
    ),
    Family(
        "echo",
        "Echo",
        "One message in flight on each connection; the server has one core, the clients (C) the "
        "other. The C server is the limit, not a competitor.",
        echo.CASES,
    ),
    Family(
        "transfer",
        "Bulk, connections, handshakes",
        "Bulk: one connection, 10^9 bytes per second. Connections: 16 at a time, one 64-byte "
        "request on each. Handshakes: TLS 1.3, no session resumed; with ECDSA the client has more "
        "to do than the server, with RSA the server.",
        transfer.CASES,
    ),
    Family(
        "applications",
        "Applications",
        "Servers under a C client that keeps its connections; clients in one process, their "
        "counterpart (C, PostgreSQL, Redis) on the other core.",
        applications.CASES,
    ),
    Family(
        "instructions",
        "Instructions of applications",
        "Per request or operation, counted by callgrind: what the same application needs in "
        "user space on each loop, and how much of that is in the loop's own library (asyncio's "
        "is mostly Python, and not told apart). Lower is better.",
        instructions.CASES,
    ),
    Family(
        "memory",
        "Memory",
        "Growth of the resident set, divided by the number; lower is better. For TLS the C "
        "server shows what OpenSSL itself needs.",
        memory.CASES,
    ),
    Family(
        "start",
        "Start",
        "Whole processes, and runs in a running one; lower is better.",
        start.CASES,
    ),
)
CASES = [case for family in FAMILIES for case in family.cases]

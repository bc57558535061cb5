"""Idle TLS connections hold little memory of aioxide's own; `benches/memory.py` measures it."""

from __future__ import annotations

import pytest

import cases
import loops
import memory

CONNECTIONS = 400
#: With OpenSSL's share, about 30 KiB. asyncio holds 290; what is measured here is below 50.
BYTES_MAX = 96 * 1024


def test_idle_connections_hold_little() -> None:
    """What a server's resident set grows by for each idle connection."""
    try:
        memory.allow(CONNECTIONS)
    except cases.Failure as lack:
        pytest.skip(str(lack))
    found = memory.idle_bytes("tls", "protocol", loops.SUBJECT, CONNECTIONS)
    assert found < BYTES_MAX

"""Applications: servers under load from C clients, and clients in a process of their own."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import application_rows
import cases
import echo
import inside
import load

CONNECTIONS = 50
SERVERS = {
    "uvicorn": ("uvicorn, bare ASGI", "http:/"),
    "fastapi": ("uvicorn, FastAPI", "http:/"),
    "aiohttp": ("aiohttp server", "http:/"),
    "websockets": ("websockets echo, 1 KiB", "websocket"),
}
SCRIPT = str(Path(__file__).parent / "application_servers.py")


def server_command(application: str, loop: str) -> list[str]:
    """Return how to start an application."""
    core, _ = cases.cores()
    return [sys.executable, SCRIPT, loop, application, "--cpus", str(core)]


def serve(application: str, kind: str, loop: str, effort: cases.Effort) -> cases.Samples:
    """Put load on an application."""
    what = load.Load(kind, CONNECTIONS, 1024, effort.load_ms)
    with load.running(server_command(application, loop)) as (server, port):
        return echo.samples(load.apply(f"tcp:{port}", what, server), what)


CASES = [
    cases.Case(
        name,
        f"{title}, {CONNECTIONS} conn.",
        echo.METRICS,
        partial(serve, name, kind),
        primitives_full=True,
        takes=lambda effort: load.takes_s(effort) + 0.1,
    )
    for name, (title, kind) in SERVERS.items()
] + inside.make(application_rows.ROWS, inside.MICROSECONDS, often=False)

"""What the applications talk to, started once for a run and kept to the counterpart's core.

PostgreSQL and Redis as the tests start them (`tests/apps/servers.py`), over loopback TCP, and the C
server for HTTP clients. Measured processes learn of them by environment variables.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import load

VARIABLE = "AIOXIDE_BENCH_{}"
APPS = Path(__file__).parent.parent / "tests" / "apps"
_running = contextlib.ExitStack()
_failed: dict[str, str] = {}


def close() -> None:
    """Stop what runs."""
    _running.close()


def where(name: str) -> Any:
    """Return what a measured process has to know of a service."""
    return json.loads(os.environ[VARIABLE.format(name.upper())])


def servers() -> Any:
    """Return the module that starts servers for the tests."""
    if str(APPS) not in sys.path:
        sys.path.append(str(APPS))
    import servers

    return servers


def version(name: str) -> str | None:
    """Return a server's version as its program says it, or None where there is no such program."""
    import pytest

    try:
        command = (servers().find(name), "--version")
    except pytest.skip.Exception:
        return None
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    number = re.search(r"\d+(\.\d+)+", said)
    return number[0] if number else "unknown"


def start_http() -> dict[str, Any]:
    """Start the C server that answers every GET."""
    command = load.server_command(load.LIMIT, "tcp", "http", "")
    _, port = _running.enter_context(load.running(command))
    return {"port": int(port)}


def start_postgres() -> dict[str, Any]:
    """Start PostgreSQL; clients need no TLS, whose cost is measured elsewhere."""
    import asyncpg

    server = _running.enter_context(servers().start_postgres())
    rules = Path(server.socket_folder) / "data" / "pg_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    options = {"database": server.database, "ssl": False}

    async def reload() -> None:
        connection = await asyncpg.connect(**options, **server.options())
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()

    asyncio.run(reload())
    return {**options, **server.options("127.0.0.1")}


def start_redis() -> dict[str, Any]:
    """Start Redis, which keeps nothing."""
    tools = servers()
    (port,) = tools.free_ports(1)
    base = _running.enter_context(tools.folder())
    command = (tools.find("redis-server"), "--port", str(port), "--bind", "127.0.0.1")
    command += ("--save", "", "--dir", str(base))
    process = _running.enter_context(tools.Process(*tools.guarded(*command), cwd=base))
    process.wait_line("eady to accept connections")
    return {"host": "127.0.0.1", "port": port}


STARTERS: dict[str, Callable[[], dict[str, Any]]] = {
    "http": start_http,
    "postgres": start_postgres,
    "redis": start_redis,
}


def need(name: str) -> None:
    """Have a service running, or fail with the reason why it does not."""
    variable = VARIABLE.format(name.upper())
    if variable in os.environ:
        return
    if name not in _failed:
        counterpart, _ = cases.cores()
        try:
            with cases.on_core(counterpart):
                os.environ[variable] = json.dumps(STARTERS[name]())
            return
        # Also what skips a test: the server is not installed.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            _failed[name] = f"no {name}: {cases.last_line(str(error)) or type(error).__name__}"
    raise cases.Failure(_failed[name])

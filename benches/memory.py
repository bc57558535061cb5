"""Memory: of an idle connection, plain and over TLS, in the server; of a task that waits.

What the resident set of the measured process grows by, divided by the number. Connections come
from the C client, which says a word on each, hears it back and holds it. The server has served
others before, so that imports and first allocations are not counted, and collects garbage before
each look (Node.js and C: as they are).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import subprocess
import threading
from functools import partial
from pathlib import Path
from typing import Any

import cases
import inside
import load
import loops
import measure

CONNECTIONS = 10_000
# In the short form, where a TLS handshake of about a millisecond matters.
CONNECTIONS_SHORT = {"tcp": CONNECTIONS, "tls": 1_000}
WARM_UP = 20
WORD_BYTES = 64
SPARE_DESCRIPTORS = 200
TASKS = 100_000
# Ten thousand handshakes take four seconds on a quiet machine; rsloop never ends them.
HOLD_S_MAX = 60.0
PAGE_BYTES = resource.getpagesize()
CONNECTION = cases.Metric("kib", "resident memory per idle connection", "KiB")
TASK = cases.Metric("kib_task", "resident memory per waiting task", "KiB")


def allow(descriptors: int) -> None:
    """Raise the limit of descriptors, for our children too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = descriptors + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise cases.Failure(f"needs {wanted} descriptors, {hard} are allowed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def settle(server: Any, entrant: str) -> int:
    """Let a Python server collect its garbage, and return its resident set."""
    if entrant not in (load.LIMIT, load.NODE):
        server.stdin.write("\n")
        server.stdin.flush()
        if not server.stdout.readline():
            raise cases.Failure(load.complaint(server) or "the server ended")
    return resident_bytes(server.pid)


def held(server: Any, target: str, connections: int) -> Any:
    """Start a client, and return it when it holds all connections."""
    what = load.Load("hold", connections, WORD_BYTES)
    client = subprocess.Popen(
        load.client_command(target, what),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    is_late = threading.Timer(HOLD_S_MAX, client.kill)
    is_late.start()
    try:
        if client.stdout.readline() == "ready\n" and client.stdout.readline() == "held\n":
            return client
        _, errors = client.communicate()
    finally:
        is_late.cancel()
    raise cases.Failure(
        load.complaint(server)
        or cases.last_line(errors)
        or f"the connections could not be made within {HOLD_S_MAX:g} s"
    )


def idle_bytes(transport: str, style: str, entrant: str, count: int) -> float:
    """Return what one of `count` idle connections costs the server."""
    allow(count)
    command = load.server_command(entrant, transport, "echo", style)
    if entrant not in (load.LIMIT, load.NODE):
        command.append("--collect")
    with load.running(command) as (server, line):
        target = load.address(transport, line)
        held(server, target, WARM_UP).communicate()
        before = settle(server, entrant)
        client = held(server, target, count)
        after = settle(server, entrant)
        client.communicate()
    return (after - before) / count


def connection(transport: str, style: str, entrant: str, effort: cases.Effort) -> cases.Samples:
    """Measure idle connections, as many as the form wants."""
    count = CONNECTIONS if effort.form == "full" else CONNECTIONS_SHORT[transport]
    kib = idle_bytes(transport, style, entrant, count) / 1024
    return {"kib": [kib], "connections": [count]}


def task(loop: str, effort: cases.Effort) -> cases.Samples:
    """Return what one task costs that waits for a future of its own."""
    found: cases.Samples = json.loads(inside.run(__file__, loop))
    return found


def takes(transport: str, effort: cases.Effort) -> float:
    """Return about how long one entrant takes."""
    return 5.0 if transport == "tls" and effort.form == "full" else 0.6


CASES = [
    cases.Case(
        name,
        title,
        (CONNECTION,),
        partial(connection, transport, style),
        beside=(load.LIMIT, load.NODE),
        also=(loops.FASTNET,) if transport == "tls" else (),
        short=style == "protocol",
        primitives=style == "streams",
        # It hardly varies, and ten thousand handshakes take long.
        rounds_max=1,
        takes=partial(takes, transport),
    )
    for name, title, transport, style in (
        ("memory-plain", "memory: plain, Protocol", "tcp", "protocol"),
        ("memory-plain-streams", "memory: plain, streams", "tcp", "streams"),
        ("memory-tls", "memory: TLS, Protocol", "tls", "protocol"),
        ("memory-tls-streams", "memory: TLS, streams", "tls", "streams"),
    )
] + [cases.Case("memory-task", f"memory: {TASKS:,} tasks", (TASK,), task)]


# --- the measured process -------------------------------------------------------------------------


async def wait_for_ever(future: asyncio.Future[None]) -> None:
    """Be the task."""
    await future


async def per_task(loop: asyncio.AbstractEventLoop) -> float:
    """Return the bytes of one task with its coroutine and the future that it waits for."""

    async def make(count: int) -> list[Any]:
        futures = [loop.create_future() for _ in range(count)]
        tasks = [loop.create_task(wait_for_ever(future)) for future in futures]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [futures, tasks]

    kept = [await make(WARM_UP)]
    gc.collect()
    before = resident_bytes()
    kept.append(await make(TASKS))
    gc.collect()
    return (resident_bytes() - before) / TASKS


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=loops.LOOPS)
    options = parser.parse_args()
    measure.pin(str(cases.cores()[1]))
    loops.prepare(options.loop)
    loop = loops.new_event_loop(options.loop)
    found = loop.run_until_complete(per_task(loop))
    print(json.dumps({"kib_task": [found / 1024]}), flush=True)
    # The tasks are not worth ending.
    os._exit(0)


if __name__ == "__main__":
    main()

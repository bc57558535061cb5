"""One echo measurement: a server and the C load generator, each pinned to a core of its own.

Compiles the two C programs with `cc` into the build folder; starts and ends both processes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cases

HERE = Path(__file__).parent
BUILD = HERE.parent / "target" / "benches"
LIMIT = "c-epoll"
SERVER_CPU = 0
CLIENT_CPU = 1
WARMUP_MS = 200
# Start of the slowest server, with room for a busy machine.
START_S_MAX = 20.0


@dataclass(frozen=True)
class Load:
    """What the clients do."""

    connections: int = 50
    message_bytes: int = 1024
    measure_ms: int = 1000


def build() -> None:
    """Compile the C programs if they are older than their sources."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("echo_client", "echo_server"):
        source, target = HERE / f"{name}.c", BUILD / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-Wall", "-o", target, source], check=True)


def command(loop: str, mode: str) -> list[str]:
    """Return how to start the server."""
    if loop == LIMIT:
        return ["taskset", "-c", str(SERVER_CPU), str(BUILD / "echo_server")]
    serve = str(HERE / "serve.py")
    return [sys.executable, serve, loop, mode, "--cpus", str(SERVER_CPU)]


@contextlib.contextmanager
def server(loop: str, mode: str) -> Iterator[tuple[int, int]]:
    """Run a server; gives its process id and port."""
    process = subprocess.Popen(
        command(loop, mode), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            _, errors = process.communicate(timeout=START_S_MAX)
            raise cases.Failure(cases.last_line(errors) or "the server ended at once")
        yield process.pid, int(line)
    finally:
        process.kill()
        process.communicate()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def measure(loop: str, mode: str, load: Load) -> dict[str, float]:
    """Return requests per second, percentiles and the server's CPU time per request."""
    with server(loop, mode) as (pid, port):
        client = subprocess.Popen(
            [
                *("taskset", "-c", str(CLIENT_CPU), str(BUILD / "echo_client"), str(port)),
                *(str(load.connections), str(load.message_bytes)),
                *(str(WARMUP_MS), str(load.measure_ms)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        before = cpu_seconds(pid)
        try:
            output, errors = client.communicate(timeout=load.measure_ms / 1000 + START_S_MAX)
        except subprocess.TimeoutExpired:
            client.kill()
            client.communicate()
            raise cases.Failure("the clients did not end") from None
        if client.returncode != 0:
            stalled = "no answers" if client.returncode == 2 else "the client failed"
            raise cases.Failure(cases.last_line(errors) or stalled)
        used = cpu_seconds(pid) - before
    counts = json.loads(output)
    if not counts["requests"]:
        raise cases.Failure("no request was answered in the measured time")
    return {
        "rate": counts["requests"] / counts["seconds"],
        "p50_us": counts["p50_us"],
        "p99_us": counts["p99_us"],
        "p999_us": counts["p999_us"],
        "server_cpu_us": used / counts["all_requests"] * 1e6,
        "server_busy": used / (counts["seconds"] + WARMUP_MS / 1000),
    }


MODES = {"protocol": "protocol", "streams": "streams", "sock": "sock_*"}
METRICS = (
    cases.Metric("rate", "throughput", "requests/s", higher_is_better=True),
    cases.Metric("p50_us", "p50", "µs"),
    cases.Metric("p99_us", "p99", "µs"),
    cases.Metric("p999_us", "p99.9", "µs"),
    cases.Metric("server_cpu_us", "server CPU per request", "µs"),
)


def measure_case(mode: str, load: Load, entrant: str, effort: cases.Effort) -> cases.Samples:
    """Measure one entrant once."""
    build()
    found = measure(entrant, mode, Load(load.connections, load.message_bytes, effort.load_ms))
    return {key: [value] for key, value in found.items()}


CASES = [
    cases.Case(
        f"echo-{mode}",
        f"echo, {title}",
        METRICS,
        partial(measure_case, mode, Load()),
        beside=(LIMIT,),
        primitives=mode == "streams",
    )
    for mode, title in MODES.items()
]

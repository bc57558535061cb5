"""A server and the C load generator, each pinned to a core of its own.

Compiles the C programs with `cc` into the build folder; starts and ends both processes. Where
OpenSSL's headers are, the C programs speak TLS, by the very library that this Python's `ssl` uses.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import select
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cases

HERE = Path(__file__).parent
BUILD = HERE.parent / "target" / "benches"
LIMIT = "c-epoll"
NODE = "node"
WARMUP_MS = 60
# Start of the slowest server, with room for a busy machine.
START_S_MAX = 30.0
# Starting and ending a server and a client.
AROUND_S = 0.1
# Kinds of certificates. Signing with RSA costs about 30 times what verifying does, with ECDSA less
# than that: only with RSA a handshake is the server's work.
ECDSA, RSA = "ECDSA", "RSA"
# The kernel's CPUCLOCK_SCHED, nanoseconds of the scheduler.
SCHEDULER_CLOCK = 2


@dataclass(frozen=True)
class Load:
    """What the clients do; with `requests` they stop after so many."""

    kind: str = "echo"
    connections: int = 50
    message_bytes: int = 1024
    measure_ms: int = 300
    warmup_ms: int = WARMUP_MS
    requests: int = 0


def takes_s(effort: cases.Effort) -> float:
    """Return about how long a load takes with all that is around it."""
    return (effort.load_ms + WARMUP_MS) / 1000 + AROUND_S


def compiled(name: str) -> Path:
    """Return a C program, compiled anew if it is older than its source."""
    source, target = HERE / f"{name}.c", BUILD / name
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    plain = ["cc", "-O2", "-Wall", "-o", str(target), str(source)]
    tls = [*plain, "-DWITH_TLS", "-lssl", "-lcrypto"]
    for command in (tls, plain):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return target
    raise cases.Failure(f"cc cannot compile {source.name}")


@functools.cache
def loader() -> tuple[str, ...]:
    """Return how to start a C program with the OpenSSL that this process has loaded."""
    assert ssl.OPENSSL_VERSION
    maps = Path("/proc/self/maps").read_text()
    dynamic = re.search(r"/\S*/ld-linux\S*", maps)
    folders = re.findall(r"(/\S*)/lib(?:ssl|crypto|c)[.\-]\S*", maps)
    if dynamic is None or not folders:
        return ()
    return (dynamic[0], "--library-path", ":".join(dict.fromkeys(folders)))


def c_program(name: str, core: int) -> list[str]:
    """Return how to start one of the C programs on a core."""
    return ["taskset", "-c", str(core), *loader(), str(compiled(name))]


@functools.cache
def folder() -> Path:
    """Return a folder for this process's sockets and certificate."""
    made = tempfile.mkdtemp(prefix="aioxide-bench-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@functools.cache
def certificate(key: str) -> str:
    """Return the path of a file with a key (ECDSA P-256, RSA 2048) and its certificate."""
    import trustme

    kind = trustme.KeyType[key]
    issued = trustme.CA(key_type=kind).issue_cert("localhost", key_type=kind)
    path = folder() / f"{key}.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


def target_of(transport: str) -> str:
    """Return the server's command-line word for a transport: a Unix one has its path."""
    if transport != "unix":
        return transport
    path = folder() / "server.sock"
    path.unlink(missing_ok=True)
    return f"unix:{path}"


def server_command(entrant: str, target: str, mode: str, style: str, key: str = ECDSA) -> list[str]:
    """Return how to start an entrant's server."""
    core, _ = cases.cores()
    pem = certificate(key) if target == "tls" else ""
    if entrant == LIMIT:
        return [*c_program("limit_server", core), target, mode, pem]
    if entrant == NODE:
        if (node := shutil.which("node")) is None:
            raise cases.Failure("not installed")
        return ["taskset", "-c", str(core), node, str(HERE / "server.js"), target, mode, pem]
    script = [sys.executable, str(HERE / "serve.py"), entrant, target, mode]
    return [*script, "--style", style, "--cpus", str(core), "--pem", pem]


@contextlib.contextmanager
def running(command: Sequence[str]) -> Iterator[tuple[Any, str]]:
    """Run a server; gives its process and the first line that it prints."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], START_S_MAX)
        if not ready:
            raise cases.Failure(f"the server did not start within {START_S_MAX:.0f} s")
        line = process.stdout.readline().strip()
        if not line:
            _, errors = process.communicate(timeout=START_S_MAX)
            raise cases.Failure(cases.last_line(errors) or "the server ended at once")
        yield process, line
    finally:
        process.kill()
        process.communicate()


def client_command(target: str, load: Load) -> list[str]:
    """Return how to start the clients."""
    _, core = cases.cores()
    numbers = (load.connections, load.message_bytes, load.warmup_ms, load.measure_ms)
    return [
        *c_program("load_client", core),
        *(target, load.kind, *map(str, numbers), str(load.requests)),
    ]


def address(target: str, line: str) -> str:
    """Return where the clients connect, from what the server printed."""
    return target if target.startswith("unix:") else f"{target}:{line}"


def cpu_seconds(server: Any) -> float:
    """Return the CPU time of a process, threads that have ended included.

    Source: clock_getcpuclockid(3), which in Linux's C libraries is this arithmetic.
    """
    try:
        return time.clock_gettime((~server.pid << 3) | SCHEDULER_CLOCK)
    except OSError:
        raise cases.Failure(complaint(server) or "the server ended") from None


def apply(target: str, load: Load, server: Any) -> dict[str, float]:
    """Put the load on a running server; return what the clients counted, and the server's CPU."""
    # Unbuffered: what a buffer holds after its first line, `communicate` would not see.
    client = subprocess.Popen(
        client_command(target, load), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert client.stdout is not None
    try:
        # Connections are there; their setting up is not the requests' cost.
        first = client.stdout.readline()
        before = cpu_seconds(server)
        limit = None if load.requests else load.measure_ms / 1000 + START_S_MAX
        output, errors = client.communicate(timeout=limit)
        after = cpu_seconds(server)
    except subprocess.TimeoutExpired:
        raise cases.Failure("the clients did not end") from None
    finally:
        client.kill()
        client.communicate()
    if client.returncode != 0:
        stalled = "no answer for too long" if client.returncode == 2 else "the client failed"
        raise cases.Failure(complaint(server) or cases.last_line(errors.decode()) or stalled)
    if first != b"ready\n":
        # The time was over before anybody had an answer.
        output = first + output
    counts: dict[str, float] = json.loads(output)
    if not (counts["requests"] or counts["bytes"] or load.requests):
        raise cases.Failure("no request was answered in the measured time")
    return {**counts, "server_cpu": after - before}


def complaint(server: Any) -> str:
    """Return the last line that a server has written to its standard error, if it has."""
    os.set_blocking(server.stderr.fileno(), False)
    try:
        return cases.last_line(server.stderr.read() or "")
    except (OSError, TypeError):
        return ""


def measure(
    entrant: str,
    transport: str,
    mode: str,
    load: Load,
    style: str = "protocol",
    key: str = ECDSA,
) -> dict[str, float]:
    """Start a server, put the load on it, end it."""
    target = target_of(transport)
    with running(server_command(entrant, target, mode, style, key)) as (server, line):
        return apply(address(target, line), load, server)

"""What the numbers depend on, recorded beside them: machine, kernel, Python, versions, load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import collect
import loops
import services

HERE = Path(__file__).parent
# Above this load average per core the machine was not ours alone.
QUIET_LOAD_MAX = 0.5
# What the applications are made of, beside the loops.
LIBRARIES = (
    "aiohttp",
    "aiosqlite",
    "anyio",
    "asyncpg",
    "fastapi",
    "httptools",
    "httpx",
    "redis",
    "uvicorn",
    "websockets",
)
SERVERS = ("postgres", "redis-server")
# Without bytecode a start compiles; the others slow down what they watch.
UNSET = (
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONASYNCIODEBUG",
    "PYTHONDEVMODE",
    "PYTHONMALLOC",
    "PYTHONTRACEMALLOC",
    "PYTHONFAULTHANDLER",
    "PYTHONOPTIMIZE",
)


def cpu_model() -> str:
    """Return the processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Hardware", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def governor() -> str:
    """Return the frequency governor of the first core, where the kernel has one."""
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text().strip() if path.exists() else "none visible"


def first_line(*command: str) -> str:
    """Return the first line that a command prints, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.partition("\n")[0]


def commit() -> str:
    """Return which commit is measured, and whether more than kept results differs from it."""
    name = first_line("git", "describe", "--always")
    others = (":/", ":(top,exclude)benches/results")
    changed = first_line("git", "status", "--porcelain", "--untracked-files=no", "--", *others)
    known = not changed.startswith("unknown")
    return f"{name}-dirty" if changed and known else name


def clean() -> None:
    """Unset the variables that would make the measured processes other than their users'."""
    for name in UNSET:
        os.environ.pop(name, None)


def finish(record: dict[str, Any], seconds: float, cells: collect.Cells) -> None:
    """Add what is known at the end of a sitting."""
    record["seconds"] = record.get("seconds", 0) + round(seconds)
    record["load_at_end"] = os.getloadavg()[0]
    record["preemptions"] = sum(
        int(count)
        for cell in cells.values()
        for samples in cell.rounds
        for count in samples.get("preemptions", [])
    )


def go_on(record: dict[str, Any], now: dict[str, Any]) -> None:
    """Add another sitting to a run's record: what disturbed one is told of all."""
    record["sittings"] = record.get("sittings", 1) + 1
    record["load_at_start"] = max(record["load_at_start"], now["load_at_start"])
    record["quiet"] = record["quiet"] and now["quiet"]


def installed(name: str) -> str | None:
    """Return a library's version, or None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def build() -> str:
    """Return how the extension was compiled: cargo's profile, and whether with a measured one."""
    from aioxide import _aioxide

    return _aioxide._build


def record(names: list[str]) -> dict[str, Any]:
    """Return the environment of this run."""
    load = os.getloadavg()[0]
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "governor": governor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": sys.version.replace("\n", " "),
        "python_flags": sysconfig.get_config_var("CONFIG_ARGS") or "",
        "python_compiled": sysconfig.get_config_var("PY_CFLAGS") or "",
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "cc": first_line("cc", "--version"),
        "openssl": ssl.OPENSSL_VERSION,
        "node": first_line("node", "--version"),
        "commit": commit(),
        "build": build(),
        "load_at_start": load,
        "quiet": load <= QUIET_LOAD_MAX * (os.cpu_count() or 1),
        "versions": {name: loops.version(name) for name in names},
        "libraries": {name: installed(name) for name in LIBRARIES},
        "servers": {name: services.version(name) for name in SERVERS},
        "valgrind": first_line("valgrind", "--version"),
    }

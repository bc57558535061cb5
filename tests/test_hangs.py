"""A test that does not end is named, whatever it hangs in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_BODIES = {
    "a lock": "lock.acquire()",
    # No signal ends it: the second time it waits for itself.
    "with the interpreter held": "[ctypes.PyDLL(None).pthread_mutex_lock(mutex) for _ in 'ab']",
    "a forked child": "(pid := os.fork()) or lock.acquire(); os.waitpid(pid, 0)",
    "another program": "subprocess.run(['sleep', '600'])",
}
_FILE = """
import ctypes, os, subprocess, threading
lock = threading.Lock()
lock.acquire()
mutex = ctypes.create_string_buffer(64)
def innermost_of_all():
    {body}
def test_short(): pass
def test_long(): innermost_of_all()
"""


def _run(folder: Path, body: str, limit: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(_FILE.format(body=body))
    plugins = ["-p", "hangs", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-o", f"hang_limit={limit}", "test_it.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES)
def test_names_who_hangs(tmp_path: Path, body: str) -> None:
    """The last line names the test, and the stacks before it begin with the innermost frame."""
    done = _run(tmp_path, body, "2")
    *_, named = done.stderr.splitlines()
    assert named == "=== HANGS, for 2 s: test_it.py::test_long (call)"
    stack = done.stderr.rpartition("innermost first:")[2]
    assert "in innermost_of_all" in stack, done.stderr
    assert done.returncode < 0


def test_shows_children(tmp_path: Path) -> None:
    """A forked child's stack is there, and what else was started is listed and ended."""
    forked = _run(tmp_path, _BODIES["a forked child"], "2").stderr
    if not os.path.isdir("/proc/self"):
        pytest.skip("this system does not list its processes in /proc")
    assert forked.count("in innermost_of_all") == 3, forked
    program = _run(tmp_path, _BODIES["another program"], "2").stderr
    left = [line for line in program.splitlines() if line.startswith("left: ")]
    assert [line.rpartition(": ")[2] for line in left] == ["sleep 600"]
    ended = int(left[0].split()[2])
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{ended}/exe") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{ended}/exe")


def test_lets_others_end(tmp_path: Path) -> None:
    """What ends in time is not disturbed, and nothing of the watcher stays."""
    done = _run(tmp_path, "pass", "100")
    assert (done.returncode, "===" in done.stderr) == (0, False), done.stderr

"""Runs a program as its user would: reads what it prints, presses Ctrl-C, looks for what it leaves.

The program gets a session of its own, so a signal to its process group reaches its workers too, as
Ctrl-C in a terminal does, and every process it started can be found by the session's number.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

WAIT_SECONDS_MAX = 90.0  # a busy two-core machine; a program that needs longer hangs


def session_processes(session: int) -> list[int]:
    """Give the ids of the living processes of a session, those without a parent too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # gone meanwhile
                continue
            state, _, _, process_session = stat.rpartition(")")[2].split()[:4]
            if int(process_session) == session and state != "Z":
                found.append(int(entry.name))
    return found


def wait_gone(processes: Sequence[int], seconds: float) -> list[int]:
    """Wait for processes to end; give back those that have not."""
    deadline = time.monotonic() + seconds
    left = []
    for process in processes:
        try:
            fd = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        try:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                left.append(process)
        finally:
            os.close(fd)
    return left


class Process:
    """A running command; leaving the `with` block kills what is left of it."""

    def __init__(
        self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=inherited | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.stdout)),
            threading.Thread(target=self._read, args=(self._process.stderr, self.stderr)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in session_processes(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        self._join_readers()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def said(self) -> str:
        """Give everything printed so far, for a failure's message."""
        return "".join(["--- stdout\n", *self.stdout, "--- stderr\n", *self.stderr])

    def wait_line(self, pattern: str) -> re.Match[str]:
        """Wait until either stream prints a line that matches, and give the match."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        ended = 0
        while ended < len(self._readers):
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {pattern!r} in time\n{self.said()}") from None
            if line is None:
                ended += 1
            elif match := re.search(pattern, line):
                return match
        raise AssertionError(f"ended without {pattern!r}\n{self.said()}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send SIGTERM to the program, or another signal to its workers too; see `end()`."""
        everyone = session_processes(self._process.pid)
        if number == signal.SIGTERM:
            os.kill(self._process.pid, number)
        else:
            os.killpg(self._process.pid, number)
        return self.end(everyone)

    def running(self) -> bool:
        """Tell whether the program has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the program, without a chance to tidy up."""
        self._process.kill()
        self._process.wait()

    def end(self, everyone: Sequence[int] = ()) -> int:
        """Give the program's status once it, its workers and their streams have ended."""
        try:
            status = self._process.wait(WAIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end\n{self.said()}") from None
        left = wait_gone([*everyone, *session_processes(self._process.pid)], 10.0)
        assert not left, f"processes left behind: {left}\n{self.said()}"
        self._join_readers()
        return status

    def _join_readers(self) -> None:
        """Wait until the streams have ended, which a process of another session may keep open."""
        for reader in self._readers:
            reader.join(WAIT_SECONDS_MAX)
            assert not reader.is_alive(), f"somebody keeps its output open\n{self.said()}"


class Program(Process):
    """A running `python ARGUMENTS`, which says what it never closes."""

    def __init__(
        self, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> None:
        quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "default::ResourceWarning"}
        super().__init__(sys.executable, *arguments, cwd=cwd, env=quiet | (env or {}))

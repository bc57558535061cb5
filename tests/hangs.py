"""A test that does not end is named, with every stack, and the run is over.

pytest's own time limit prints stacks and no name, needs a thread of the process that hangs, and
leaves the outermost frames as the last lines, which are often all that is kept of a run. Here a
process beside pytest's, nobody's child, reads from a pipe what begins. When a phase of a test takes
longer than the ini option ``hang_limit`` allows, it has all stacks written, those of child
processes too, and then, as the last lines, where the main thread stands and in which test; then it
kills them all. It works while the lock of the interpreter is held for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

# Nobody's: the kernel sends it for the use of a processor, where a limit is set.
_ASKS_FOR_STACKS = signal.SIGXCPU
# How long a process is given to write its stacks.
_WRITING_SECONDS = 1.0
_DEBUGGER_SECONDS = 30
_INNERMOST_FRAMES = 15


class _Process(NamedTuple):
    pid: int
    parent: int
    state: str
    command: str


class Watched:
    """pytest's side: it says what begins, and lets its stacks be asked for."""

    def __init__(self, limit_seconds: float) -> None:
        import faulthandler

        self._limit_seconds = limit_seconds
        self._stacks = tempfile.TemporaryFile("a+b")
        faulthandler.register(_ASKS_FOR_STACKS, file=self._stacks, all_threads=True, chain=False)
        asked, self._tell = os.pipe()
        arguments = [str(n) for n in (os.getpid(), asked, self._stacks.fileno())]
        # Returns when the watcher has left its parent, so that no test finds it among its children.
        subprocess.run(
            [sys.executable, "-I", "-S", __file__, *arguments],
            pass_fds=(asked, self._stacks.fileno()),
            start_new_session=True,
            check=True,
        )
        os.close(asked)

    def begins(self, what: str, limit_seconds: float | None) -> None:
        """From now on the time of ``what`` counts; nothing is watched when it is empty."""
        text = what.replace("\n", " ").encode(errors="replace")
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tell, b"%g\t%s\n" % (limit_seconds or self._limit_seconds, text))

    def ends(self) -> None:
        """The watcher goes."""
        import faulthandler

        faulthandler.unregister(_ASKS_FOR_STACKS)
        os.close(self._tell)
        self._stacks.close()


_watched: Watched | None = None


def _begins(what: str, limit_seconds: float | None = None) -> None:
    if _watched is not None:
        _watched.begins(what, limit_seconds)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the limit."""
    parser.addini("hang_limit", "seconds for each phase of a test", default="240")


def pytest_configure(config: pytest.Config) -> None:
    """Starts to watch; pytest does not capture the error stream at this time."""
    global _watched
    _watched = Watched(float(config.getini("hang_limit")))


def pytest_unconfigure() -> None:
    """Watches no more."""
    global _watched
    if _watched is not None:
        _watched.ends()
        _watched = None


def pytest_collection() -> None:
    """Modules are imported, which may hang, too."""
    _begins("the collection of the tests")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The fixtures' turn."""
    _begins(f"{item.nodeid} (setup)")


def pytest_runtest_call(item: pytest.Item) -> None:
    """The test's turn."""
    begin_call(item)


def begin_call(item: pytest.Item, limit_seconds: float | None = None) -> None:
    """The test's turn, with a limit of its own."""
    _begins(f"{item.nodeid} (call)", limit_seconds)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """The fixtures' turn again."""
    _begins(f"{item.nodeid} (teardown)")


def pytest_runtest_logfinish() -> None:
    """Between tests nothing can be named."""
    _begins("")


def pytest_enter_pdb() -> None:
    """A person thinks as long as it takes."""
    _begins("")


def _processes() -> Iterator[_Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")[:300]
            text = command.decode(errors="replace").replace("\n", " ").strip()
            yield _Process(int(folder.name), int(fields[1]), fields[0], text)


def _descendants(pid: int) -> list[_Process]:
    everyone = list(_processes())
    found: list[_Process] = []
    parents = {pid}
    while parents:
        children = [process for process in everyone if process.parent in parents]
        found += children
        parents = {child.pid for child in children}
    return found


def _ask_for_stacks(pid: int) -> None:
    """A process that began as another program may not know the signal, and would die of it."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (_ASKS_FOR_STACKS - 1) & 1:
            os.kill(pid, _ASKS_FOR_STACKS)
            time.sleep(_WRITING_SECONDS)


def _native_stacks(pid: int) -> str:
    """What a debugger sees, where there is one; the threads' places in the kernel."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        with contextlib.suppress(OSError):
            name, waits = (task / "comm").read_text().strip(), (task / "wchan").read_text()
            lines.append(f"  thread {task.name} {name}: {waits}")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        command = ["gdb", "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt 25"]
        got = subprocess.run(
            command, capture_output=True, timeout=_DEBUGGER_SECONDS, stdin=subprocess.DEVNULL
        )
        text = got.stdout.decode(errors="replace")
        lines += [line for line in text.splitlines() if line.startswith(("#", "Thread"))]
    return "\n".join(lines)


def _innermost(stacks: str) -> str:
    """The main thread's innermost frames: its stack comes last, and its innermost frame first."""
    begin = stacks.rfind("hread 0x")
    return "\n".join(stacks[max(begin - 1, 0) :].splitlines()[: _INNERMOST_FRAMES + 1])


def _report(pid: int, stacks_fd: int, what: str, seconds: float) -> None:
    def say(text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, text.encode(errors="replace") + b"\n")

    def stacks() -> str:
        size = os.fstat(stacks_fd).st_size
        return os.pread(stacks_fd, size, 0).decode(errors="replace")

    say(f"\n\n=== After {seconds:g} s there is no end of {what}. Every stack:")
    _ask_for_stacks(pid)
    own = stacks()
    say(f"{own}\n{_native_stacks(pid)}")
    children = _descendants(pid)
    for child in children:
        say(f"\n--- process {child.pid} of {child.parent} ({child.state}): {child.command}")
        before = len(stacks())
        _ask_for_stacks(child.pid)
        say(f"{stacks()[before:]}\n{_native_stacks(child.pid)}")
    for child in children:
        say(f"left: process {child.pid} of {child.parent} ({child.state}): {child.command}")
    say(f"\nThe main thread of pytest, innermost first:\n{_innermost(own)}")
    say(f"\n=== HANGS, for {seconds:g} s: {what}")
    for victim in [pid, *(child.pid for child in children)]:
        with contextlib.suppress(OSError):
            os.kill(victim, signal.SIGKILL)


def _watch(pid: int, tell: int, stacks_fd: int) -> None:
    """The watcher's life: until the pipe ends, or until something takes too long."""
    import select

    limit_seconds, what, rest = 0.0, "", b""
    while True:
        ready, _, _ = select.select([tell], [], [], limit_seconds if what else None)
        if not ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                _report(pid, stacks_fd, what, limit_seconds)
            return
        data = os.read(tell, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            limit, _, name = lines[-1].partition(b"\t")
            limit_seconds, what = float(limit), name.decode()


if __name__ == "__main__":
    if os.fork() == 0:
        _watch(*map(int, sys.argv[1:]))
    os._exit(0)

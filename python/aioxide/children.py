"""The ends of child processes: who waits for them, and how the loop hears of it.

Each child has a descriptor of its own (a pidfd, Linux 5.3) that becomes readable when it ends;
where the kernel or a sandbox refuses those, a thread waits. SIGCHLD is nobody's business here: a
program may handle or ignore it. A child is reaped by its number or descriptor alone, never by
"any child", in the loop's thread, so that no signal can be sent to a number given away already.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import subprocess
import sys
import threading
import warnings
from asyncio import events, unix_events
from collections.abc import Callable

from ._room import Room, logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What is told when a child has ended: its return code.
Exited = Callable[[int], object]

#: The return code of a child whose exit status somebody else has read.
_UNKNOWN_STATUS = 255

_numbers = itertools.count()
_unix: Any = unix_events


def can_use_pidfd() -> bool:
    """Return whether this process can have pidfds: sandboxes refuse them, too.

    asyncio's own answer counts, where it has one (from 3.12 on).
    """
    known = getattr(_unix, "can_use_pidfd", None)
    if known is not None:
        return bool(known())
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class Children(Room):
    """Waiting for child processes. *Source*: `asyncio.unix_events`."""

    @functools.cached_property
    def _children(self) -> dict[subprocess.Popen[bytes], tuple[int, Exited]]:
        """The children that have not been reaped yet, with what is told then."""
        #: The process whose children they are.
        self._children_of = os.getpid()
        return {}

    @functools.cached_property
    def _uses_pidfds(self) -> bool:
        """Whether children are watched by descriptor. Decided by the first one."""
        return can_use_pidfd()

    def _watch_child(self, process: subprocess.Popen[bytes], exited: Exited) -> None:
        """Have `exited(returncode)` called in a turn of this loop once `process` has ended."""
        pidfd = -1
        if self._uses_pidfds:
            try:
                pidfd = os.pidfd_open(process.pid)
            except OSError:
                pass  # out of descriptors, or SIGCHLD is ignored, the child gone: a thread can tell
        if pidfd < 0:
            _Waiting(self, process).start()
        else:
            try:
                self._add_reader(pidfd, self._child_ended, process)
            except BaseException:
                os.close(pidfd)
                raise
        self._children[process] = (pidfd, exited)

    def _child_ended(self, process: subprocess.Popen[bytes]) -> None:
        """Reap a child that has ended, and tell."""
        pidfd, exited = self._children.pop(process, (-1, None))
        if exited is None:
            return
        if pidfd >= 0:
            self._remove_reader(pidfd)
        returncode = _reap(process, pidfd)
        if pidfd < 0 and self._debug:
            logger.debug("process %s exited with returncode %s", process.pid, returncode)
        exited(returncode)

    def _close_children(self) -> None:
        """Let go of children that still run: a thread waits for each, so that none stays a zombie.

        Called where there were children, when the loop has closed: it is told nothing more. In a
        process that was forked off they are somebody else's, and only their descriptors go.
        """
        children, self._children = self._children, {}
        are_ours = os.getpid() == self._children_of
        for process, (pidfd, _) in children.items():
            if pidfd >= 0:
                os.close(pidfd)
            # One that has ended is reaped now. Threads that wait already will find the loop closed.
            if are_ours and process.poll() is None and pidfd >= 0:
                # At the interpreter's end there are no new threads, and nobody left to mind.
                with contextlib.suppress(RuntimeError):
                    _Waiting(self, process).start()


class _Waiting(threading.Thread):
    """A thread that waits for one child. *Source*: `asyncio.unix_events.ThreadedChildWatcher`."""

    def __init__(self, loop: Children, process: subprocess.Popen[bytes]) -> None:
        super().__init__(name=f"asyncio-waitpid-{next(_numbers)}", daemon=True)
        self._loop = loop
        self._process = process

    def run(self) -> None:
        """Wait without reaping, and leave that to the loop, or do it where the loop is closed."""
        loop, process = self._loop, self._process
        # Reaped already, or nobody's child: the loop finds out.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        try:
            loop.call_soon_threadsafe(loop._child_ended, process)
        except RuntimeError:
            if process.returncode is None and process.poll() is not None:
                logger.warning("Loop %r that handles pid %r is closed", loop, process.pid)


def _reap(process: subprocess.Popen[bytes], pidfd: int) -> int:
    """Return the return code of a child that has ended, and take its entry out of the kernel."""
    try:
        if pidfd >= 0:
            # Never another child that has the number by now.
            _check_unreaped(pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    except ChildProcessError:
        if process.returncode is not None:
            return process.returncode  # by `Popen.poll`
        logger.warning(
            "child process pid %d exit status already read:  will report returncode %d"
            if pidfd >= 0
            else "Unknown child process pid %d, will report returncode %d",
            process.pid,
            _UNKNOWN_STATUS,
        )
        return _UNKNOWN_STATUS
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _check_unreaped(pidfd: int) -> None:
    """Raise ChildProcessError if the child of this descriptor is not to be reaped any more."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        raise
    except OSError:
        pass  # Linux 5.3 has pidfds, but no waiting for them


def is_running(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a child has not ended yet, without reaping it. False for nobody's child."""
    if process.returncode is not None:
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except OSError:
        return False


if sys.version_info < (3, 14):
    _stock_policy: Any = _unix._UnixDefaultEventLoopPolicy
    #: What asyncio uses where the program has set nothing: ours do the same.
    _default_watchers: tuple[type, ...] = (_unix.ThreadedChildWatcher,)
    if sys.version_info >= (3, 12):
        _default_watchers += (_unix.PidfdChildWatcher,)

    def installed_watcher() -> Any:
        """Return the child watcher that the program has set, None if it leaves that to asyncio."""
        policy: Any = events.get_event_loop_policy()
        getter = getattr(type(policy), "get_child_watcher", None)
        if getter is _stock_policy.get_child_watcher:
            watcher = getattr(policy, "_watcher", None)
            return None if type(watcher) in _default_watchers else watcher
        if getter in (None, events.AbstractEventLoopPolicy.get_child_watcher):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return policy.get_child_watcher()

else:

    def installed_watcher() -> Any:
        """Return None: there are no child watchers any more."""
        return None

"""The end of the process while loops run in daemon threads, before Python 3.14.

Up to 3.13 Python ends a daemon thread that wants the GIL during finalization by unwinding its
stack, which no native code in between survives: the process would abort instead of exiting. So,
as the last of the exit handlers, such loops are taken out of native code, and their threads wait
in Python until the process is gone. From 3.14 on Python makes them wait itself.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time

#: How long the exit may be held up by callbacks that do not return, in seconds.
_WAIT_S_MAX = 0.2

#: Loops that run in other threads than the main one.
_in_threads: set[asyncio.AbstractEventLoop] = set()
_ending = threading.Event()
_parked = threading.Semaphore(0)


def enter(loop: asyncio.AbstractEventLoop) -> None:
    """Note that `loop` is about to run in this thread."""
    if threading.get_ident() != threading.main_thread().ident:
        _in_threads.add(loop)


def leave(loop: asyncio.AbstractEventLoop) -> None:
    """Note that `loop` has run; does not return once the process is ending."""
    if loop in _in_threads:
        if _ending.is_set():
            _parked.release()
            threading.Event().wait()
        _in_threads.discard(loop)


def _end() -> None:
    """Stop the loops of daemon threads (the others have been joined by now)."""
    _ending.set()
    deadline = time.monotonic() + _WAIT_S_MAX
    stopped = 0
    for loop in list(_in_threads):
        try:
            loop.call_soon_threadsafe(loop.stop)
        except RuntimeError:
            # Closed this very moment.
            continue
        stopped += 1
    for _ in range(stopped):
        _parked.acquire(timeout=max(0.0, deadline - time.monotonic()))


atexit.register(_end)
# Their threads do not exist in the child.
os.register_at_fork(after_in_child=_in_threads.clear)

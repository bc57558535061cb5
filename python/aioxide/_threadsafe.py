"""`run_coroutine_threadsafe`: a coroutine in a loop, its outcome in another thread.

What it returns is a `concurrent.futures.Future` whose `result()` and `exception()` first look out
for the outcome for a moment, as the loop does for the next call (`docs/design/hand-offs.md`):
to sleep and to be woken takes longer than a short coroutine. All else is asyncio's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from asyncio import coroutines, futures, tasks

from . import _aioxide

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    _T = TypeVar("_T")
    _Base = concurrent.futures.Future[Any]
else:
    _Base = concurrent.futures.Future


class Future(_Base):
    """A `concurrent.futures.Future` of which a native loop says when it is done."""

    def __init__(self, lookout: _aioxide.Lookout) -> None:
        super().__init__()
        self._lookout = lookout
        self.add_done_callback(lookout.call)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it, or raise what the coroutine raised.

        `timeout` is in seconds, None for ever; TimeoutError when it passes, CancelledError if the
        coroutine was cancelled.
        """
        try:
            return _Base.result(self, self._lookout.wait(timeout))
        finally:
            # The exception's traceback holds this frame, and the future the exception.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return what the coroutine raised, or None. Raises as `result`."""
        return _Base.exception(self, self._lookout.wait(timeout))


def run_coroutine_threadsafe(
    coro: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop
) -> concurrent.futures.Future[_T]:
    """Submit a coroutine to a loop that runs in another thread; return a future of that thread's.

    Raises TypeError for anything but a coroutine. Cancelling the future cancels the task.
    """
    if not coroutines.iscoroutine(coro):
        raise TypeError("A coroutine object is required")
    future: concurrent.futures.Future[_T]
    future = Future(loop._lookout()) if isinstance(loop, _aioxide.Loop) else _Base()

    def submit() -> None:
        chain: Any = futures
        try:
            chain._chain_future(tasks.ensure_future(coro, loop=loop), future)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
            raise

    loop.call_soon_threadsafe(submit)
    return future

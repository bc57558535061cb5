"""Functions that block, run in threads: `run_in_executor` and the default executor's life.

The default executor is a `ThreadPool` (`thread_pool.py`) with asyncio's thread names (`asyncio_0`,
...), made at the first use.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import warnings
from asyncio import coroutines
from collections.abc import Callable

from ._room import Room, is_coroutine_function
from .thread_pool import ThreadPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, TypeVarTuple

    _T = TypeVar("_T")
    _Ts = TypeVarTuple("_Ts")


def check_callback(callback: object, method: str) -> None:
    """Raise TypeError, in asyncio's words, unless `callback` is a plain callable.

    `method` is the name of the loop's method that was called. Debug mode only.
    """
    if coroutines.iscoroutine(callback) or is_coroutine_function(callback):
        raise TypeError(f"coroutines cannot be used with {method}()")
    if not callable(callback):
        raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")


def _resolve(future: asyncio.Future[None]) -> None:
    """Set the result of `future`, unless it was cancelled meanwhile."""
    if not future.cancelled():
        future.set_result(None)


class Executor(Room):
    """Executors of the loop. *Source*: `asyncio.base_events.BaseEventLoop`."""

    def _check_default_executor(self) -> None:
        if self._executor_shutdown_called:
            raise RuntimeError("Executor shutdown has been called")

    def _get_default_executor(self) -> concurrent.futures.ThreadPoolExecutor:
        """Return the default executor, made now if need be; RuntimeError if it was shut down."""
        self._check_default_executor()
        if self._default_executor is None:
            self._default_executor = ThreadPool(thread_name_prefix="asyncio")
        return self._default_executor

    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[[*_Ts], _T],
        *args: *_Ts,
    ) -> asyncio.Future[_T]:
        """Call `func(*args)` in `executor` (None: the default one); return a future of the loop.

        Raises RuntimeError if the loop is closed or its executor was shut down.
        """
        self._check_closed()
        if self._debug:
            check_callback(func, "run_in_executor")
        if executor is None:
            executor = self._get_default_executor()
        if type(executor) is ThreadPool:
            future = executor.run_job(self, func, *args)
            if future is not None:
                return future
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    def set_default_executor(  # type: ignore[override]
        self, executor: concurrent.futures.ThreadPoolExecutor
    ) -> None:
        """Use `executor` where None is given. Raises TypeError if it is no ThreadPoolExecutor."""
        if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._default_executor = executor

    async def _join_executor(
        self, executor: concurrent.futures.ThreadPoolExecutor, timeout: float | None
    ) -> None:
        """Wait until the threads have ended: `shutdown_default_executor` where there are any."""
        future = self.create_future()
        thread = threading.Thread(target=self._do_shutdown, args=(executor, future))
        thread.start()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            warnings.warn(
                f"The executor did not finishing joining its threads within {timeout} seconds.",
                RuntimeWarning,
                stacklevel=3,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()

    def _do_shutdown(
        self, executor: concurrent.futures.Executor, future: asyncio.Future[None]
    ) -> None:
        """Join the executor's threads; runs in a thread of its own."""
        try:
            executor.shutdown(wait=True)
            if not self.is_closed():
                self.call_soon_threadsafe(_resolve, future)
        except Exception as error:
            if not self.is_closed() and not future.cancelled():
                self.call_soon_threadsafe(future.set_exception, error)

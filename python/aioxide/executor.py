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

from ._room import Room
from .parts import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, TypeVarTuple

    from .thread_pool import ThreadPool

    _T = TypeVar("_T")
    _Ts = TypeVarTuple("_Ts")

#: `inspect.iscoroutinefunction` before 3.14 lived behind a public name that now warns.
_is_coroutine_function: Callable[[object], bool] = getattr(
    coroutines, "_iscoroutinefunction", coroutines.iscoroutinefunction
)


def check_callback(callback: object, method: str) -> None:
    """Raise TypeError, in asyncio's words, unless `callback` is a plain callable.

    `method` is the name of the loop's method that was called. Debug mode only.
    """
    if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
        raise TypeError(f"coroutines cannot be used with {method}()")
    if not callable(callback):
        raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")


def _resolve(future: asyncio.Future[None]) -> None:
    """Set the result of `future`, unless it was cancelled meanwhile."""
    if not future.cancelled():
        future.set_result(None)


class Executor(Room):
    """Executors of the loop. *Source*: `asyncio.base_events.BaseEventLoop`."""

    #: The class of default executors, once there has been one.
    _thread_pool: type[ThreadPool] | None = None

    def _init_executor(self) -> None:
        self._default_executor = None
        self._executor_shutdown_called = False

    def _check_default_executor(self) -> None:
        if self._executor_shutdown_called:
            raise RuntimeError("Executor shutdown has been called")

    def _get_default_executor(self) -> concurrent.futures.ThreadPoolExecutor:
        """Return the default executor, made now if need be; RuntimeError if it was shut down."""
        self._check_default_executor()
        if self._default_executor is None:
            # Read when it is wanted: not every program has jobs for threads.
            pool: type[ThreadPool] = read("thread_pool").ThreadPool
            Executor._thread_pool = pool
            self._default_executor = pool(thread_name_prefix="asyncio")
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
        if type(executor) is self._thread_pool:
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

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait until the default executor's threads have ended; refuse new jobs from now on.

        `timeout` is in seconds, None for ever. When it passes, a RuntimeWarning is given and the
        threads are left to themselves.
        """
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is None:
            return
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
                stacklevel=2,
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

"""Functions that block, run in threads: `run_in_executor` and the default executor's life.

The default executor is a real `ThreadPoolExecutor` with asyncio's thread names (`asyncio_0`, ...),
made at the first use. A loop's jobs take a shorter way through it: they and their outcomes cross
between the threads by native queues, without a `concurrent.futures.Future` and without a lock of
Python's (`docs/design/hand-offs.md`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import types
import warnings
import weakref
from asyncio import coroutines
from collections.abc import Callable
from concurrent.futures import thread as _thread
from typing import Any, TypeVar, TypeVarTuple

from . import _aioxide
from ._room import Room

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


#: What this file knows of the module's insides, it takes from here.
_pools: Any = _thread


def _stock_submit() -> Any:
    """Return `ThreadPoolExecutor.submit`, or None if a tool replaced it before we came."""
    submit = concurrent.futures.ThreadPoolExecutor.submit
    is_stock = isinstance(submit, types.FunctionType) and not hasattr(submit, "__wrapped__")
    return submit if is_stock and submit.__globals__ is vars(_thread) else None


#: Tools that trace threads put a function of their own in its place, and want to be called.
_submit: Any = _stock_submit()


def _work(
    executor_reference: weakref.ref[concurrent.futures.ThreadPoolExecutor],
    queue: _aioxide.JobQueue,
    context: tuple[Any, ...],
) -> None:
    """Run jobs, and what others submit, until the executor has no more use for this thread.

    `context` is what work items want to be given. *Source*: `concurrent.futures.thread._worker`.
    """
    queue.arrive()
    try:
        while True:
            item = queue.work()
            if item is not None:
                item.run(*context)
                del item
                continue
            executor: Any = executor_reference()
            if _pools._shutdown or executor is None or executor._shutdown:
                if executor is not None:
                    executor._shutdown = True
                # For the next of us.
                queue.put(None)
                return
            del executor
    except BaseException:
        _pools._base.LOGGER.critical("Exception in worker", exc_info=True)


class _Idle(threading.Semaphore):
    """The place where a `ThreadPoolExecutor` counts its idle threads, for those who look."""

    def __init__(self, queue: _aioxide.JobQueue) -> None:
        self._queue = queue
        super().__init__(0)

    @property
    def _value(self) -> int:
        return self._queue.idle_count()

    @_value.setter
    def _value(self, value: int) -> None:
        """Ignore it: the queue counts."""


class ThreadPool(concurrent.futures.ThreadPoolExecutor):
    """A `ThreadPoolExecutor` that also takes jobs whose outcome goes straight to a loop.

    With an initializer it is a plain one.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        pool: Any = self
        self._jobs: _aioxide.JobQueue | None = None
        self._context: tuple[Any, ...] = ()
        if len(args) > 2 or options.keys() - {"max_workers", "thread_name_prefix"}:
            return
        self._jobs = pool._work_queue = _aioxide.JobQueue()
        pool._idle_semaphore = _Idle(self._jobs)
        if hasattr(pool, "_create_worker_context"):
            self._context = (pool._create_worker_context(),)

    def run_job(
        self, loop: asyncio.AbstractEventLoop, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T] | None:
        """Call `func(*args)` in a thread; return a future of `loop`.

        None if `submit` must decide: the executor was shut down, or somebody watches `submit`.
        """
        pool: Any = self
        jobs = self._jobs
        if (
            jobs is None
            or pool._work_queue is not jobs
            or pool._broken
            or getattr(self.submit, "__func__", None) is not _submit
        ):
            return None
        future: asyncio.Future[_T] = loop.create_future()
        is_full = len(pool._threads) >= pool._max_workers
        queued = jobs.submit(is_full, loop, future, func, *args)
        if queued is None:
            # As in `submit`: nobody shuts anything down while a thread is started.
            with pool._shutdown_lock, _pools._global_shutdown_lock:
                queued = jobs.submit(True, loop, future, func, *args)
                if queued:
                    self._adjust_thread_count()
        return future if queued else None

    def _adjust_thread_count(self) -> None:
        """Start a thread if there is more to do than idle threads, and not yet too many."""
        pool: Any = self
        jobs = self._jobs
        if jobs is None or pool._work_queue is not jobs:
            if isinstance(pool._idle_semaphore, _Idle):
                pool._idle_semaphore = threading.Semaphore(0)
            super()._adjust_thread_count()
            return
        count = len(pool._threads)
        if count >= pool._max_workers or not jobs.needs_worker():
            return

        def forgotten(_: object, queue: _aioxide.JobQueue = jobs) -> None:
            queue.put(None)

        try:
            thread = threading.Thread(
                name=f"{pool._thread_name_prefix}_{count}",
                target=_work,
                args=(weakref.ref(self, forgotten), jobs, self._context),
            )
            thread.start()
        except BaseException:
            jobs.arrive()
            raise
        pool._threads.add(thread)
        _pools._threads_queues[thread] = jobs

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; with `cancel_futures` cancel those that wait. As the base class."""
        if self._jobs is not None:
            self._jobs.close(cancel_futures)
        super().shutdown(wait, cancel_futures=cancel_futures)


def _resolve(future: asyncio.Future[None]) -> None:
    """Set the result of `future`, unless it was cancelled meanwhile."""
    if not future.cancelled():
        future.set_result(None)


class Executor(Room):
    """Executors of the loop. *Source*: `asyncio.base_events.BaseEventLoop`."""

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

"""`ThreadPool`: what the default executor is.

A real `ThreadPoolExecutor` to whoever looks. A loop's jobs take a shorter way through it: they and
their outcomes cross between the threads by native queues, without a `concurrent.futures.Future` and
without a lock of Python's (`docs/design/hand-offs.md`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import types
import weakref
from collections.abc import Callable
from concurrent.futures import thread as _thread

from . import _aioxide

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, TypeVarTuple

    _T = TypeVar("_T")
    _Ts = TypeVarTuple("_Ts")

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

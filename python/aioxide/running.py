"""Running and closing a loop: `run_forever`, `run_until_complete`, `close`, debug mode, async
generators, and a wake-up for signals that arrive while the loop sleeps.

The native loop turns (`_run`); this mixin prepares the thread for it and tidies up afterwards:
running loop, thread identity, async generator hooks, coroutine origins, signal wake-up.

Python runs signal handlers between bytecodes of the main thread. A signal that comes right before
the loop begins to sleep would wait for the next event, were it not for a descriptor that the C
level handler writes to (`signal.set_wakeup_fd`). So a loop running in the main thread has its pipe
there, handlers or not; unless somebody else has theirs, which is left alone. What is read from the
pipe are signal numbers; those without a handler of `add_signal_handler` are ignored: Python's own
handlers (`signal.signal`, the Ctrl-C of `asyncio.Runner`) have already run by then.

Invariant: the pipe belongs to this mixin alone and lives from the first run until the loop closes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import warnings
from asyncio import constants, events
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

from ._aioxide import _want_origins
from ._room import Room, logger, signal_module, sys_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _T = TypeVar("_T")

#: Signal numbers taken from the pipe at once; one byte each.
_READ_SIZE = 4096


def _forget_wakeup_fd() -> None:
    """After a fork: signals of the child must not be told to the parent's loop."""
    try:
        signal_module.set_wakeup_fd(-1)
    except ValueError:
        # Forked by another thread than the main one of an embedding program: nothing was set.
        return


if sys.version_info < (3, 12):
    # From 3.12 on asyncio does this itself.
    os.register_at_fork(after_in_child=_forget_wakeup_fd)


def _stop_loop_of(future: asyncio.Future[Any]) -> None:
    """Done callback of `run_until_complete`: stop the loop, unless the exception does it.

    SystemExit and KeyboardInterrupt of a task leave `run_forever` by themselves; a stop request
    would then linger and end the next run.
    """
    if not future.cancelled() and isinstance(future.exception(), (SystemExit, KeyboardInterrupt)):
        return
    future.get_loop().stop()


class Running(Room):
    """Life cycle of the loop. *Source*: `asyncio.base_events.BaseEventLoop`."""

    #: Seconds; what asyncio's own tests, and timers of others, round with.
    _clock_resolution = time.get_clock_info("monotonic").resolution

    @property
    def _closed(self) -> bool:
        """Where asyncio keeps what `is_closed` tells."""
        return self.is_closed()

    def _init_running(self) -> None:
        self._old_agen_hooks: Any = None
        self._coroutine_origin_tracking_enabled = False
        self._coroutine_origin_tracking_saved_depth = 0
        self._exception_handler: Callable[[Any, dict[str, Any]], object] | None = None
        self._default_executor = None
        self._signal_handlers = {}
        self._wakeup_armed = False
        self._wakeup_pipe: tuple[int, int] | None = None
        #: The process-wide wake-up descriptor is (as far as this loop knows) its pipe.
        self._wakeup_taken = False
        # Last of all: `__del__` asks for it.
        self._executor_shutdown_called = False

    def __repr__(self) -> str:
        return (
            f"<{self.__class__.__name__} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if "_executor_shutdown_called" not in self.__dict__:
            # Construction failed: there is only the native half to close.
            self._close()
        elif not self.is_closed():
            _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
            if not self.is_running():
                self.close()

    def _check_running(self) -> None:
        """Raise RuntimeError if this loop, or another one in this thread, is running."""
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        if events._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")

    def _run_forever_setup(self) -> None:
        """Make this thread the loop's own. Undone by `_run_forever_cleanup`."""
        self._check_closed()
        self._check_running()
        # First, because it may need descriptors and fail for want of them.
        self._wakeup_armed = self._arm_wakeup_fd()
        self._set_coroutine_origin_tracking(self._debug)
        self._old_agen_hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook,
            finalizer=self._asyncgen_finalizer_hook,
        )
        events._set_running_loop(self)

    def _run_forever_cleanup(self) -> None:
        """Give the thread back as `_run_forever_setup` found it."""
        if self._wakeup_armed:
            self._wakeup_armed = False
            self._disarm_wakeup_fd()
        self._thread_id = None
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        if self._old_agen_hooks is not None:
            sys.set_asyncgen_hooks(*self._old_agen_hooks)
            self._old_agen_hooks = None

    def run_forever(self) -> None:
        """Run until `stop()` is called.

        Raises RuntimeError if the loop is closed or a loop is running in this thread; lets
        SystemExit and KeyboardInterrupt of callbacks out.
        """
        self._run_forever_setup()
        try:
            self._run()
        finally:
            self._run_forever_cleanup()

    def run_until_complete(self, future: Generator[Any, None, _T] | Awaitable[_T]) -> _T:
        """Run until `future` is done and return its result or raise its exception.

        A coroutine becomes a task first. Raises RuntimeError if the loop is stopped before.
        """
        self._check_closed()
        self._check_running()
        new_task = not asyncio.isfuture(future)
        task: Any = asyncio.ensure_future(future, loop=self)  # type: ignore[arg-type]
        if new_task:
            # The error below tells of an unfinished future: no "destroyed but pending" besides.
            task._log_destroy_pending = False
        task.add_done_callback(_stop_loop_of)
        try:
            self.run_forever()
        except BaseException:
            if new_task and task.done() and not task.cancelled():
                # The caller never sees the task: its exception must not be logged as unread.
                task.exception()
            raise
        finally:
            task.remove_done_callback(_stop_loop_of)
        if not task.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        result: _T = task.result()
        return result

    def close(self) -> None:
        """Drop all callbacks, give up signals and descriptors, let go of the executor.

        Does not wait for executor threads. Idempotent; raises RuntimeError while running.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        if self._debug:
            logger.debug("Close %r", self)
        self._close()
        if "_children" in self.__dict__:
            self._close_children()
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is not None:
            self._default_executor = None
            executor.shutdown(wait=False)
        self._close_signals()

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode; on a running loop coroutine origins follow in the next turn."""
        self._debug = enabled
        if self.is_running():
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
        """Record (or stop recording) where coroutines are created, in this thread."""
        if bool(enabled) == self._coroutine_origin_tracking_enabled:
            return
        if enabled:
            self._coroutine_origin_tracking_saved_depth = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        else:
            sys.set_coroutine_origin_tracking_depth(self._coroutine_origin_tracking_saved_depth)
        _want_origins(enabled)
        self._coroutine_origin_tracking_enabled = bool(enabled)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Collected unfinished: close it in a task, whatever thread the collector ran in."""
        self._forget_asyncgen(agen)
        if not self.is_closed():
            self.call_soon_threadsafe(self.create_task, agen.aclose())

    def _warn_of_late_asyncgen(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Iterated for the first time when nobody will close it any more."""
        warnings.warn(
            f"asynchronous generator {agen!r} was scheduled after loop.shutdown_asyncgens() call",
            ResourceWarning,
            source=self,
            stacklevel=1,
        )

    async def shutdown_asyncgens(self) -> None:
        """Close every async generator that was begun and not finished.

        Errors go to the exception handler, with the generator under 'asyncgen'.
        """
        self._asyncgens_shutdown_called = True
        closing = self._take_asyncgens()
        if not closing:
            return
        results = await asyncio.gather(*[agen.aclose() for agen in closing], return_exceptions=True)
        for result, agen in zip(results, closing, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": f"an error occurred during closing of "
                        f"asynchronous generator {agen!r}",
                        "exception": result,
                        "asyncgen": agen,
                    }
                )

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait until the default executor's threads have ended; refuse new jobs from now on.

        `timeout` is in seconds, None for ever. When it passes, a RuntimeWarning is given and the
        threads are left to themselves.
        """
        self._executor_shutdown_called = True
        if self._default_executor is not None:
            await self._join_executor(self._default_executor, timeout)

    def _wakeup_fd(self) -> int:
        """Return the write end of the pipe, made and watched at the first call."""
        if self._wakeup_pipe is None:
            reader, writer = os.pipe()
            try:
                os.set_blocking(reader, False)
                os.set_blocking(writer, False)
                self._add_reader(reader, self._read_signals)
            except BaseException:
                os.close(reader)
                os.close(writer)
                raise
            self._wakeup_pipe = reader, writer
        return self._wakeup_pipe[1]

    def _arm_wakeup_fd(self) -> bool:
        """Before running: take the wake-up descriptor if nobody has it.

        Returns True if `_disarm_wakeup_fd` is to be called after the run.
        """
        if threading.get_ident() != threading.main_thread().ident or self._signal_handlers:
            return False
        fd = self._wakeup_fd()
        try:
            previous = signal_module.set_wakeup_fd(fd)
        except (ValueError, OSError):
            # Not the main interpreter: it is not told of signals.
            return False
        if previous not in (-1, fd):
            try:
                signal_module.set_wakeup_fd(previous)
            except (ValueError, OSError):
                # Their descriptor is closed: nobody is listening there, so ours stays.
                self._wakeup_taken = True
                return True
            return False
        self._wakeup_taken = True
        return True

    def _disarm_wakeup_fd(self) -> None:
        """After the run: give the wake-up descriptor back, unless handlers still need it."""
        if not self._signal_handlers:
            self._restore_wakeup_fd()

    def _restore_wakeup_fd(self) -> None:
        """Leave no wake-up descriptor behind; one that somebody set over ours stays."""
        try:
            current = signal_module.set_wakeup_fd(-1)
            self._wakeup_taken = False
            if current != -1 and (self._wakeup_pipe is None or current != self._wakeup_pipe[1]):
                signal_module.set_wakeup_fd(current)
        except (ValueError, OSError) as error:
            logger.info("set_wakeup_fd(-1) failed: %s", error)

    def _read_signals(self) -> None:
        """Reader callback of the pipe: run the handlers of the signals that arrived."""
        if self._wakeup_pipe is None:
            return
        while True:
            try:
                numbers = os.read(self._wakeup_pipe[0], _READ_SIZE)
            except InterruptedError:
                continue
            except BlockingIOError:
                return
            if not numbers:
                return
            for signum in numbers:
                self._handle_signal(signum)

    def _close_signals(self) -> None:
        """Remove all handlers and the pipe. The native loop is closed already.

        A pipe that signals may still be written to (another thread than the main one closes the
        loop) is left open: its number must not become somebody else's file.
        """
        try:
            if not sys_module.is_finalizing():
                for sig in list(self._signal_handlers):
                    self.remove_signal_handler(sig)
            elif self._signal_handlers:
                warnings.warn(
                    f"Closing the loop {self!r} on interpreter shutdown stage, "
                    f"skipping signal handlers removal",
                    ResourceWarning,
                    source=self,
                    stacklevel=1,
                )
                self._signal_handlers.clear()
        finally:
            if self._wakeup_taken:
                self._restore_wakeup_fd()
            pipe = self._wakeup_pipe
            if pipe is not None and not self._wakeup_taken:
                self._wakeup_pipe = None
                os.close(pipe[0])
                os.close(pipe[1])

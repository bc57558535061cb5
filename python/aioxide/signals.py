"""Signals: `add_signal_handler`.

A signal writes its number into the loop's pipe, which wakes the loop if it sleeps (`running.py`);
the loop then runs the handler. The handler that Python itself runs, between bytecodes of the main
thread, has nothing to do.
"""

from __future__ import annotations

import asyncio
import errno
from asyncio import coroutines
from collections.abc import Callable
from types import FrameType

from ._room import Room, is_coroutine_function, logger, signal_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVarTuple

    _Ts = TypeVarTuple("_Ts")


def _ignore_signal(signum: int, frame: FrameType | None) -> None:
    """Python-level handler: it only has to exist, the pipe tells the loop."""


class Signals(Room):
    """Signal handlers. *Source*: `asyncio.unix_events._UnixSelectorEventLoop`."""

    def _handle_signal(self, signum: int) -> None:
        """Schedule the handler of `signum`, if there (still) is one."""
        handle = self._signal_handlers.get(signum)
        if handle is None:
            return
        if handle.cancelled():
            self.remove_signal_handler(signum)
        else:
            known: Any = handle
            fired: Any = self.call_soon(known._callback, *known._args, context=known._context)
            if known._source_traceback:
                # Debug mode tells where the handler was added, not where the signal was read.
                fired._source_traceback = known._source_traceback

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Call `callback(*args)` in the loop whenever signal `sig` arrives.

        Raises TypeError for a coroutine function, ValueError for an invalid signal number and
        RuntimeError if the signal cannot be caught or this is not the main thread.
        """
        if coroutines.iscoroutine(callback) or is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            # Fails outside the main thread, before anything has changed.
            signal_module.set_wakeup_fd(self._wakeup_fd())
        except (ValueError, OSError) as error:
            raise RuntimeError(str(error)) from error
        self._wakeup_taken = True
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)
        try:
            signal_module.signal(sig, _ignore_signal)
            # System calls of other threads and of C code go on after this signal.
            signal_module.siginterrupt(sig, False)
        except OSError as error:
            del self._signal_handlers[sig]
            self._release_wakeup_fd()
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Restore the default action of `sig`; return whether there was a handler here.

        Raises like `add_signal_handler`.
        """
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        default: Any = (
            signal_module.default_int_handler
            if sig == signal_module.SIGINT
            else signal_module.SIG_DFL
        )
        try:
            signal_module.signal(sig, default)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise
        self._release_wakeup_fd()
        return True

    def _release_wakeup_fd(self) -> None:
        """Give the wake-up descriptor back once no handler and no run needs it."""
        if self._signal_handlers or self._wakeup_armed:
            return
        try:
            signal_module.set_wakeup_fd(-1)
            self._wakeup_taken = False
        except (ValueError, OSError) as error:
            logger.info("set_wakeup_fd(-1) failed: %s", error)

    def _check_signal(self, sig: int) -> None:
        """Raise TypeError or ValueError unless `sig` is a signal number of this system."""
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal_module.valid_signals():
            raise ValueError(f"invalid signal number {sig}")

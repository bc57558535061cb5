"""Signals: `add_signal_handler`, and a wake-up for signals that arrive while the loop sleeps.

Python runs signal handlers between bytecodes of the main thread. A signal that comes right before
the loop begins to sleep would wait for the next event, were it not for a descriptor that the C
level handler writes to (`signal.set_wakeup_fd`). So a loop running in the main thread has its pipe
there, handlers or not; unless somebody else has theirs, which is left alone. What is read from the
pipe are signal numbers; those without a handler here are ignored: Python's own handlers
(`signal.signal`, the Ctrl-C of `asyncio.Runner`) have already run by then.

Invariant: the pipe belongs to this mixin alone and lives from the first run until the loop closes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import warnings
from asyncio import coroutines
from collections.abc import Callable
from types import FrameType

from ._room import Room, logger, signal_module, sys_module
from .executor import _is_coroutine_function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVarTuple

    _Ts = TypeVarTuple("_Ts")


#: Signal numbers taken from the pipe at once; one byte each.
_READ_SIZE = 4096


def _ignore_signal(signum: int, frame: FrameType | None) -> None:
    """Python-level handler: it only has to exist, the pipe tells the loop."""


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


class Signals(Room):
    """Signal handlers. *Source*: `asyncio.unix_events._UnixSelectorEventLoop`."""

    def _init_signals(self) -> None:
        self._signal_handlers = {}
        self._wakeup_pipe: tuple[int, int] | None = None
        #: The process-wide wake-up descriptor is (as far as this loop knows) its pipe.
        self._wakeup_taken = False

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
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
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

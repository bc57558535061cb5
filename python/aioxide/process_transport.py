"""The transport of a process, and the protocols of its pipes.

*Source*: `asyncio.base_subprocess`.
"""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import subprocess
import warnings
from collections.abc import Callable

from ._aioxide import ReadPipeTransport
from ._room import logger
from .children import is_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class SubprocessTransport(asyncio.SubprocessTransport):
    """A running process; as asyncio's of 3.14 on every version.

    The protocol hears, in this order: `connection_made`; `pipe_data_received` and
    `pipe_connection_lost` of each pipe, `process_exited`; and `connection_lost`, when the process
    has exited and all pipes are closed.
    """

    def __init__(
        self,
        loop: Any,
        protocol: asyncio.SubprocessProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(extra)
        self._closed = False
        self._protocol: Any = protocol
        self._loop: Any = loop
        self._proc: Any = None
        self._pid: int | None = None
        self._returncode: int | None = None
        self._exit_waiters: set[asyncio.Future[int]] | None = set()
        #: What the protocol is to hear once its connection was made.
        self._pending_calls: collections.deque[tuple[Any, tuple[Any, ...]]] | None
        self._pending_calls = collections.deque()
        self._pipes: dict[int, Any] = {}
        if stdin == subprocess.PIPE:
            self._pipes[0] = None
        if stdout == subprocess.PIPE:
            self._pipes[1] = None
        if stderr == subprocess.PIPE:
            self._pipes[2] = None
        self._finished = False
        try:
            process: Any = self._start(
                args=args,
                shell=shell,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                bufsize=bufsize,
                **kwargs,
            )
        except BaseException:
            self.close()
            raise
        self._pid = process.pid
        self._extra["subprocess"] = process  # type: ignore[attr-defined]
        if loop.get_debug():
            program = args if isinstance(args, (bytes, str)) else args[0]
            logger.debug("process %r created: pid %s", program, self._pid)
        loop.create_task(self._connect_pipes(waiter))

    def _start(self, **options: Any) -> subprocess.Popen[bytes]:
        self._proc = process = subprocess.Popen(universal_newlines=False, **options)
        return process

    async def _connect_pipes(self, waiter: asyncio.Future[None] | None) -> None:
        """Connect the pipes, then tell the protocol of its connection and all that came since."""
        loop = self._loop
        try:
            if self._pipes:
                await self._connect_each()
            pending, self._pending_calls = self._pending_calls, None
            assert pending is not None
            loop.call_soon(self._protocol.connection_made, self)
            for callback, data in pending:
                loop.call_soon(callback, *data)
            for fd, end in self._pipes.items():
                if fd and isinstance(end.pipe, ReadPipeTransport):
                    end.pipe._serve_process(self, fd)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._close_pipes()
            process = self._proc
            for file in (process.stdin, process.stdout, process.stderr):
                if file is not None:
                    file.close()
            if waiter is not None and not waiter.cancelled():
                waiter.set_exception(exc)
        else:
            if self._closed:
                self._close_pipes()  # given up meanwhile
            if waiter is not None and not waiter.cancelled():
                waiter.set_result(None)

    async def _connect_each(self) -> None:
        process, loop = self._proc, self._loop
        if process.stdin is not None:
            _, self._pipes[0] = await loop.connect_write_pipe(
                lambda: PipeEnd(self, 0), process.stdin
            )
        for fd, file in ((1, process.stdout), (2, process.stderr)):
            if file is not None:
                _, self._pipes[fd] = await loop.connect_read_pipe(
                    lambda fd=fd: ReadPipeEnd(self, fd), file
                )

    def _close_pipes(self) -> None:
        for end in self._pipes.values():
            if end is not None:
                end.pipe.close()

    # ---- what the protocol hears -----------------------------------------------------------------

    def _call(self, callback: Callable[..., object], *data: Any) -> None:
        if self._pending_calls is not None:
            self._pending_calls.append((callback, data))
        else:
            self._loop.call_soon(callback, *data)

    def _pipe_data_received(self, fd: int, data: bytes) -> None:
        self._call(self._protocol.pipe_data_received, fd, data)

    def _pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    def _process_exited(self, returncode: int) -> None:
        assert returncode is not None, returncode
        assert self._returncode is None, self._returncode
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, returncode)
        self._returncode = returncode
        if self._proc.returncode is None:
            # Or it would warn when it dies, and try to reap somebody else's child.
            self._proc.returncode = returncode
        self._call(self._protocol.process_exited)
        self._try_finish()
        waiters, self._exit_waiters = self._exit_waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(returncode)

    def _try_finish(self) -> None:
        assert not self._finished
        if self._returncode is None:
            return
        for end in self._pipes.values():
            if end is None or not end.disconnected:
                return
        self._finished = True
        self._call(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: Exception | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._loop = self._proc = self._protocol = None

    async def _wait(self) -> int:
        """Wait until the process has exited; return its return code."""
        if self._returncode is not None:
            return self._returncode
        waiter: asyncio.Future[int] = self._loop.create_future()
        assert self._exit_waiters is not None
        self._exit_waiters.add(waiter)
        try:
            return await waiter
        finally:
            if self._exit_waiters is not None:
                self._exit_waiters.discard(waiter)

    # ---- the public methods ----------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol; None once the connection is lost."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        """Return whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Close the pipes, and kill the process if it still runs."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._close_pipes()
        process = self._proc
        # The child watch reaps: asking must not.
        if process is None or self._returncode is not None or not is_running(process):
            return
        if self._loop is not None and self._loop.get_debug():
            logger.warning("Close running child process: kill %r", self)
        try:
            process.kill()
        except (ProcessLookupError, PermissionError):
            pass  # gone meanwhile, or it runs as somebody else

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not getattr(self, "_closed", True):
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.close()

    def get_pid(self) -> int | None:  # type: ignore[override]
        """Return the process's number."""
        return self._pid

    def get_returncode(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        return self._returncode

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        """Return the transport of the pipe that is the process's `fd`; None if there is none."""
        if fd not in self._pipes:
            return None
        # Raises while it is being connected, as asyncio's does.
        transport: asyncio.BaseTransport | None = self._pipes[fd].pipe
        return transport

    def _check_proc(self) -> None:
        if self._proc is None:
            raise ProcessLookupError()

    def send_signal(self, signal: int) -> None:
        """Send a signal, unless the process has exited. ProcessLookupError after the loss."""
        self._check_proc()
        if self._returncode is not None:
            return
        try:
            os.kill(self._proc.pid, signal)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        """Send SIGTERM; see `send_signal`."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL; see `send_signal`."""
        self.send_signal(signal.SIGKILL)

    def __repr__(self) -> str:
        words = [type(self).__name__]
        if self._closed:
            words.append("closed")
        if self._pid is None:
            words.append("not started")
        else:
            words.append(f"pid={self._pid}")
            is_known = self._returncode is not None
            words.append(f"returncode={self._returncode}" if is_known else "running")
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            if self._pipes.get(fd) is not None:
                words.append(f"{name}={self._pipes[fd].pipe}")
        return f"<{' '.join(words)}>"


class PipeEnd(asyncio.BaseProtocol):
    """The protocol of the pipe to a process's standard input."""

    def __init__(self, proc: SubprocessTransport, fd: int) -> None:
        self.proc: Any = proc
        self.fd = fd
        self.pipe: Any = None
        self.disconnected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the pipe's transport."""
        self.pipe = transport

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd} pipe={self.pipe!r}>"

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the process's transport, and let go of it."""
        self.disconnected = True
        self.proc._pipe_connection_lost(self.fd, exc)
        self.proc = None

    def pause_writing(self) -> None:
        """Tell the process's protocol."""
        self.proc._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell the process's protocol."""
        self.proc._protocol.resume_writing()


class ReadPipeEnd(PipeEnd, asyncio.Protocol):
    """The protocol of the pipe from a process's standard output or error."""

    def data_received(self, data: bytes) -> None:
        """Keep data until the process's protocol has its connection; then this is not called."""
        self.proc._pipe_data_received(self.fd, data)

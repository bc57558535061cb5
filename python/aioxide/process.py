"""Subprocesses: `subprocess.Popen` underneath, pipes of the loop for the standard streams.

What the user calls are asyncio's own functions; what they call of the loop is here.

*Source*: `asyncio.base_events`, `asyncio.unix_events`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from ._room import stock_loop
from .children import Children, installed_watcher
from .process_transport import SubprocessTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Processes(Children):
    """`subprocess_exec` and `subprocess_shell`, as the running version of asyncio has them."""

    if TYPE_CHECKING:
        subprocess_exec: Any
        subprocess_shell: Any
    else:
        # Checks, the lines of debug mode, and the frames by which tools that look for calls that
        # block know the start of a process.
        subprocess_exec = stock_loop.subprocess_exec
        subprocess_shell = stock_loop.subprocess_shell
        _log_subprocess = stock_loop._log_subprocess

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.SubprocessProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> asyncio.SubprocessTransport:
        """Start a process and connect its pipes; if that fails or is cancelled, kill it."""
        options = (protocol, args, shell, stdin, stdout, stderr, bufsize)
        watcher = installed_watcher()
        if watcher is None:
            return await self._start_process(self._watch_transport, options, extra, kwargs)
        with watcher as entered:
            watcher = entered if sys.version_info < (3, 12) else watcher
            # Asked first, so that no process is started that nobody would wait for.
            if not watcher.is_active():
                raise RuntimeError(
                    "asyncio.get_child_watcher() is not activated, "
                    "subprocess support is not installed."
                )

            def watch(transport: SubprocessTransport) -> None:
                pid, callback = transport.get_pid(), self._child_watcher_callback
                watcher.add_child_handler(pid, callback, transport)

            return await self._start_process(watch, options, extra, kwargs)

    async def _start_process(
        self,
        watch: Callable[[SubprocessTransport], None],
        options: tuple[Any, ...],
        extra: dict[str, Any] | None,
        kwargs: dict[str, Any],
    ) -> SubprocessTransport:
        make: Any = SubprocessTransport
        waiter = self.create_future()
        transport: SubprocessTransport = make(self, *options, waiter, extra, **kwargs)
        try:
            watch(transport)
        except BaseException:
            transport.close()
            transport._proc.wait()  # it was killed
            raise
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await asyncio.shield(transport._wait())
            raise
        return transport

    def _watch_transport(self, transport: SubprocessTransport) -> None:
        self._watch_child(transport._proc, transport._process_exited)

    def _child_watcher_callback(
        self, pid: int, returncode: int, transport: SubprocessTransport
    ) -> None:
        """Tell of an exit that a child watcher of the program has seen, in whatever thread."""
        self.call_soon_threadsafe(transport._process_exited, returncode)

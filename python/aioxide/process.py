"""Subprocesses: `subprocess.Popen` underneath, pipes of the loop for the standard streams.

*Source*: `asyncio.base_events`, `asyncio.unix_events`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ._room import logger
from .children import Children, installed_watcher
from .process_transport import SubprocessTransport

_Protocol = TypeVar("_Protocol", bound=asyncio.SubprocessProtocol)


class Processes(Children):
    """`subprocess_exec` and `subprocess_shell`."""

    async def subprocess_exec(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], _Protocol],
        program: Any,
        *args: Any,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = False,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _Protocol]:
        """Run a program with arguments; the keywords are those of `subprocess.Popen`.

        Raises ValueError for what would make its streams text, and what `Popen` raises.
        """
        _check_binary(universal_newlines)
        if shell:
            raise ValueError("shell must be False")
        _check_unbuffered(bufsize, encoding, errors, text)
        return await self._run_process(
            protocol_factory,
            f"execute program {program!r}",
            (program, *args),
            False,
            (stdin, stdout, stderr),
            kwargs,
        )

    async def subprocess_shell(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], _Protocol],
        cmd: bytes | str,
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = True,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _Protocol]:
        """Run a command line in the shell; for the rest as `subprocess_exec`."""
        if not isinstance(cmd, (bytes, str)):
            raise ValueError("cmd must be a string")
        _check_binary(universal_newlines)
        if not shell:
            raise ValueError("shell must be True")
        _check_unbuffered(bufsize, encoding, errors, text)
        return await self._run_process(
            protocol_factory,
            f"run shell command {cmd!r}",
            cmd,
            True,
            (stdin, stdout, stderr),
            kwargs,
        )

    async def _run_process(
        self,
        protocol_factory: Callable[[], _Protocol],
        what: str,
        args: Any,
        shell: bool,
        streams: tuple[Any, Any, Any],
        kwargs: dict[str, Any],
    ) -> tuple[asyncio.SubprocessTransport, _Protocol]:
        """Start a process, with the lines that debug mode has for it."""
        protocol = protocol_factory()
        debug = self._debug
        if debug:
            logger.debug(_describe_streams(what, *streams))
        transport = await self._make_subprocess_transport(
            protocol, args, shell, *streams, 0, **kwargs
        )
        if self._debug and debug:
            logger.info("%s: %r", what, transport)
        return transport, protocol

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
        options = (protocol, args, shell, stdin, stdout, stderr, bufsize, extra, kwargs)
        watcher = installed_watcher()
        if watcher is None:
            return await self._start_process(self._watch_transport, options)
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

            return await self._start_process(watch, options)

    async def _start_process(
        self, watch: Callable[[SubprocessTransport], None], options: tuple[Any, ...]
    ) -> SubprocessTransport:
        *given, extra, kwargs = options
        make: Any = SubprocessTransport
        waiter = self.create_future()
        transport: SubprocessTransport = make(self, *given, waiter, extra, **kwargs)
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


def _check_binary(universal_newlines: bool) -> None:
    if universal_newlines:
        raise ValueError("universal_newlines must be False")


def _check_unbuffered(
    bufsize: int, encoding: str | None, errors: str | None, text: bool | None
) -> None:
    if bufsize != 0:
        raise ValueError("bufsize must be 0")
    if text:
        raise ValueError("text must be False")
    if encoding is not None:
        raise ValueError("encoding must be None")
    if errors is not None:
        raise ValueError("errors must be None")


def _describe_streams(what: str, stdin: Any, stdout: Any, stderr: Any) -> str:
    """Return the line that debug mode logs before a start: no arguments, they may be secret."""
    words = [what]
    if stdin is not None:
        words.append(f"stdin={_stream(stdin)}")
    if stdout is not None and stderr == subprocess.STDOUT:
        words.append(f"stdout=stderr={_stream(stdout)}")
    else:
        if stdout is not None:
            words.append(f"stdout={_stream(stdout)}")
        if stderr is not None:
            words.append(f"stderr={_stream(stderr)}")
    return " ".join(words)


def _stream(stream: Any) -> str:
    return {subprocess.PIPE: "<pipe>", subprocess.STDOUT: "<stdout>"}.get(stream) or repr(stream)

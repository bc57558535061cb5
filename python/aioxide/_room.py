"""What every mixin of `aioxide.Loop` may rely on: the native loop and asyncio's abstract one.

At run time a mixin is a plain class (`Room` is `object`), so the native loop stays the only base
with a memory layout of its own. For the type checker `Room` is the loop that the mixin ends up in.
"""

from __future__ import annotations

import asyncio
import socket as _socket
from asyncio import base_events, coroutines, unix_events
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    import concurrent.futures
    import contextvars
    import socket
    import ssl
    from typing import Any

    from . import _aioxide

    class Room(_aioxide.Loop, asyncio.AbstractEventLoop):
        """The attributes and private methods that mixins use of one another."""

        _default_executor: concurrent.futures.ThreadPoolExecutor | None
        _executor_shutdown_called: bool
        _signal_handlers: dict[int, asyncio.Handle]
        _wakeup_armed: bool
        _wakeup_taken: bool

        def _check_default_executor(self) -> None: ...
        def _get_default_executor(self) -> concurrent.futures.ThreadPoolExecutor: ...
        def _ensure_fd_no_transport(self, fd: Any) -> None: ...
        async def _join_executor(
            self, executor: concurrent.futures.ThreadPoolExecutor, timeout: float | None
        ) -> None: ...
        def _handle_signal(self, signum: int) -> None: ...
        def _wakeup_fd(self) -> int: ...
        def _arm_wakeup_fd(self) -> bool: ...
        def _disarm_wakeup_fd(self) -> None: ...
        def _close_signals(self) -> None: ...
        def _close_children(self) -> None: ...
        async def _ensure_resolved(
            self,
            address: tuple[Any, ...],
            *,
            family: int = 0,
            type: int = ...,
            proto: int = 0,
            flags: int = 0,
            loop: asyncio.AbstractEventLoop,
        ) -> list[Any]: ...
        def _make_socket_transport(
            self,
            sock: socket.socket,
            protocol: asyncio.BaseProtocol,
            waiter: asyncio.Future[None] | None = None,
            *,
            extra: dict[str, Any] | None = None,
            server: asyncio.Server | None = None,
            context: contextvars.Context | None = None,
        ) -> asyncio.Transport: ...
        def _make_ssl_transport(
            self,
            rawsock: socket.socket,
            protocol: asyncio.BaseProtocol,
            sslcontext: ssl.SSLContext | None,
            waiter: asyncio.Future[None] | None = None,
            *,
            server_side: bool = False,
            server_hostname: str | None = None,
            extra: dict[str, Any] | None = None,
            server: asyncio.Server | None = None,
            ssl_handshake_timeout: float | None = None,
            ssl_shutdown_timeout: float | None = None,
            context: contextvars.Context | None = None,
        ) -> asyncio.Transport: ...
        async def _create_connection_transport(
            self,
            sock: socket.socket,
            protocol_factory: Any,
            ssl: bool | ssl.SSLContext | None,
            server_hostname: str | None,
            *,
            owned: bool,
            server_side: bool = False,
            ssl_handshake_timeout: float | None = None,
            ssl_shutdown_timeout: float | None = None,
        ) -> tuple[asyncio.Transport, Any]: ...

else:
    Room = object


class _Global:
    """A global of one of asyncio's modules, looked up at each use.

    Programs and tests put their own in its place, as `mock.patch("asyncio.base_events.socket")`.
    """

    def __init__(self, module: ModuleType, name: str) -> None:
        self._module = module
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._module, self._name), name)


#: asyncio's own logger: programs configure and tests capture it by the name "asyncio".
logger: Any = _Global(base_events, "logger")
#: The module `socket`, for making sockets.
socket_module: Any = _Global(base_events, "socket")
#: The same, for Unix sockets.
unix_socket_module: Any = _Global(unix_events, "socket")
#: What signal handlers are set with.
signal_module: Any = _Global(unix_events, "signal")
#: What tells that the interpreter ends.
sys_module: Any = _Global(unix_events, "sys")

#: `inspect.iscoroutinefunction` before 3.14 lived behind a public name that now warns.
is_coroutine_function: Any = getattr(
    coroutines, "_iscoroutinefunction", coroutines.iscoroutinefunction
)

#: asyncio's own loop, whatever programs put in its place before the parts that ask for it are read.
stock_loop: Any = unix_events.SelectorEventLoop

#: What these are unless somebody replaces them: a replaced one is asked in a thread, as asyncio
#: would ask it.
stock_getaddrinfo = _socket.getaddrinfo
stock_getnameinfo = _socket.getnameinfo

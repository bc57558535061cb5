"""`aioxide.Loop`: the native event loop with asyncio's full interface.

The native base turns, keeps time and watches descriptors; the mixins here do what is done once per
loop, connection or operation. No mixin has a memory layout or a constructor of its own: `__init__`
calls their `_init_*` in order.
"""

from __future__ import annotations

import asyncio
from asyncio import coroutines

from . import _aioxide
from .connect import Connect
from .datagram import Datagram
from .descriptors import Descriptors
from .dns import Dns
from .errors import Errors
from .executor import Executor
from .pipes import Pipes
from .process import Processes
from .running import Running
from .sendfile import Sendfile
from .serve import Serve
from .signals import Signals
from .tls import Tls


class Loop(
    Running,
    Errors,
    Executor,
    Dns,
    Signals,
    Sendfile,
    Connect,
    Datagram,
    Descriptors,
    Serve,
    Tls,
    Pipes,
    Processes,
    _aioxide.Loop,
    asyncio.AbstractEventLoop,
):
    """An event loop: `asyncio.AbstractEventLoop` in full, native at its core.

    With `hold_tasks` (the default) the loop keeps a strong reference to each of its tasks until
    that is done; with False only weak ones, as asyncio does.

    Only `call_soon_threadsafe` may be called by other threads than the one that runs the loop.

    *Source*: `asyncio.SelectorEventLoop`.
    """

    def __init__(self, *, hold_tasks: bool = True) -> None:
        super().__init__(hold_tasks=hold_tasks)
        self._init_running()
        self._init_errors()
        self._init_executor()
        self._init_dns()
        self._init_signals()
        self._init_serve()
        self._init_children()
        self._init_descriptors()
        self.set_debug(coroutines._is_debug_mode())  # type: ignore[attr-defined]


def new_event_loop() -> Loop:
    """Return a new aioxide loop. *Source*: `asyncio.new_event_loop`."""
    return Loop()

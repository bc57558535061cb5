"""`aioxide.Loop`: the native event loop with asyncio's full interface.

The native base turns, keeps time and watches descriptors; the mixins here do what is done once per
loop, connection or operation. No mixin has a memory layout or a constructor of its own: `Running`
sets what every loop has; the parts that are read at their first use (`parts.py`) make what they
keep when they need it.
"""

from __future__ import annotations

import asyncio
from asyncio import coroutines

from . import _aioxide
from .errors import Errors
from .parts import Parts
from .running import Running


class Loop(
    Running,
    Errors,
    Parts,
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
        self.set_debug(coroutines._is_debug_mode())  # type: ignore[attr-defined]


def new_event_loop() -> Loop:
    """Return a new aioxide loop. *Source*: `asyncio.new_event_loop`."""
    return Loop()

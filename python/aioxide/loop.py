"""`aioxide.Loop`, the native event loop with asyncio's full interface; `run` and `Runner`.

The native base turns, keeps time and watches descriptors; the mixins here do what is done once per
loop, connection or operation. No mixin has a memory layout or a constructor of its own: `Running`
sets what every loop has; the parts that are read at their first use (`parts.py`) make what they
keep when they need it.
"""

from __future__ import annotations

import asyncio
from asyncio import coroutines, events

from . import _aioxide
from .errors import Errors
from .parts import Parts
from .running import Running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    _T = TypeVar("_T")
    _LoopFactory = Callable[[], asyncio.AbstractEventLoop]


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


class Runner(asyncio.Runner):  # type: ignore[misc]
    """`asyncio.Runner` whose loop is aioxide's, unless a `loop_factory` says otherwise."""

    def __init__(
        self, *, debug: bool | None = None, loop_factory: _LoopFactory | None = None
    ) -> None:
        super().__init__(debug=debug, loop_factory=loop_factory or new_event_loop)
        #: Without a factory of the caller's the loop also becomes the thread's current one.
        self._is_default = loop_factory is None

    def _lazy_init(self) -> None:
        state: Any = self
        known = state._loop
        super()._lazy_init()  # type: ignore[misc]
        if self._is_default and known is None and not state._set_event_loop:
            asyncio.set_event_loop(state._loop)
            state._set_event_loop = True


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: _LoopFactory | None = None,
) -> _T:
    """Run the coroutine `main` on a new aioxide loop; return its result, close the loop.

    Raises RuntimeError in a thread whose loop is running. *Source*: `asyncio.run`.
    """
    if events._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    with Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)

"""`run` and `Runner`: a program that calls aioxide by name. `installing.py` is for the others."""

from __future__ import annotations

import asyncio
from asyncio import events

from .loop import new_event_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    _T = TypeVar("_T")
    _LoopFactory = Callable[[], asyncio.AbstractEventLoop]


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

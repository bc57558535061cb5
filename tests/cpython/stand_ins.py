"""Stand-ins: what CPython's tests construct in the place of asyncio's loops.

Imported by `worker.py` only, before the test module is. Each stand-in is the loop under test with
the few names that tests reach for because the class they meant to construct has them; none of them
changes what a loop does. `touched` counts the loops that were made, so that a test that never came
near the loop under test is known as such.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.selector_events
import asyncio.sslproto
import asyncio.unix_events
import importlib
from collections.abc import Callable, Generator
from typing import Any

#: Modules that construct the bare base class, with mocks for the selector that it lacks.
BASE_MODULES = ("test_base_events", "test_pep492", "test_runners")
#: Modules whose `TestLoop`, a loop on a clock of the test's own, is to be the loop under test, too.
CLOCK_MODULES = ("test_eager_task_factory", "test_futures", "test_futures2", "test_tasks")


class Touched:
    """How many loops under test were made so far."""

    loops = 0


def counting(base: Any) -> None:
    """Count the loops of class `base` and its subclasses."""
    initialize = base.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        Touched.loops += 1
        initialize(self, *args, **kwargs)

    base.__init__ = __init__


def selector_loop(base: Any) -> Any:
    """Return the class in the place of `SelectorEventLoop`."""

    class SelectorEventLoop(base):  # type: ignore[misc, valid-type]
        """Takes the selector that tests pass, which has no meaning here."""

        def __init__(self, selector: object = None) -> None:
            super().__init__()

    return SelectorEventLoop


def base_loop(base: Any) -> Any:
    """Return the class in the place of `BaseEventLoop` and `BaseSelectorEventLoop`."""

    class BaseEventLoop(base):  # type: ignore[misc, valid-type]
        """Lets tests set the mocks that the bare class of asyncio needs to turn at all."""

        _selector = None

        def __init__(self, selector: object = None) -> None:
            super().__init__()

    return BaseEventLoop


def clock_loop(base: Any) -> Any:
    """Return the class in the place of `TestLoop`: its clock is moved by a generator."""

    class ClockLoop(base):  # type: ignore[misc, valid-type]
        """Runs turn by turn; after each, the generator is sent the new timers' deadlines.

        It yields by how many seconds the clock is to move. Deadlines are absolute seconds.
        """

        def __init__(self, gen: Callable[[], Generator[Any, float, None]] | None = None) -> None:
            self._now = 0.0
            self._deadlines: list[float] = []
            self._stop_asked = False
            self._advances = None if gen is None else gen()
            if self._advances is not None:
                next(self._advances)
            super().__init__()

        def time(self) -> float:
            return self._now

        def advance_time(self, advance: float | None) -> None:
            self._now += advance or 0

        def call_at(
            self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
        ) -> asyncio.TimerHandle:
            self._deadlines.append(when)
            handle: asyncio.TimerHandle = super().call_at(when, callback, *args, context=context)
            return handle

        def call_later(
            self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
        ) -> asyncio.TimerHandle:
            return self.call_at(self.time() + delay, callback, *args, context=context)

        def stop(self) -> None:
            self._stop_asked = True
            super().stop()

        def _run_once(self) -> None:
            # A turn of a loop that stops does not wait: the clock would stand still meanwhile.
            self._stopping = True
            try:
                super()._run_once()
            finally:
                self._stopping, self._stop_asked = self._stop_asked, False
            deadlines, self._deadlines = self._deadlines, []
            for when in deadlines:
                if self._advances is not None:
                    self.advance_time(self._advances.send(when))

        def close(self) -> None:
            super().close()
            if self._advances is not None:
                rest = next(self._advances, None)
                assert rest is None, "the test's clock was not used up"

    return ClockLoop


def replace_loops(loop: str, module: str) -> None:
    """Make what makes loops give ones of class `loop` (`home:name`), for test module `module`."""
    home, _, name = loop.partition(":")
    base = getattr(importlib.import_module(home), name)
    counting(base)
    native = getattr(importlib.import_module(home), "_aioxide", None)
    if native is not None:
        # What `test_sslproto` constructs, and patches to see a connection begin.
        asyncio.sslproto.SSLProtocol = native.TlsProtocol  # type: ignore[misc]
    module = module.removeprefix("test.test_asyncio.")
    # First: it is a subclass of the class that is replaced below.
    utils: Any = importlib.import_module("test.test_asyncio.utils")
    selector = selector_loop(base)
    for place in (asyncio, asyncio.unix_events):
        for known in ("SelectorEventLoop", "EventLoop"):
            if hasattr(place, known):
                setattr(place, known, selector)
    if module in (*BASE_MODULES, *CLOCK_MODULES):
        bare = base_loop(base)
        asyncio.BaseEventLoop = bare  # type: ignore[misc]
        asyncio.base_events.BaseEventLoop = bare  # type: ignore[misc]
        asyncio.selector_events.BaseSelectorEventLoop = bare  # type: ignore[misc]
        if module in CLOCK_MODULES:
            utils.TestLoop = clock_loop(bare)
    policy: Any = asyncio.unix_events._UnixDefaultEventLoopPolicy  # type: ignore[attr-defined]
    policy._loop_factory = base

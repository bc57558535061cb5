"""The books: what was done, which faults were injected, and everything that nobody injected.

An error is accounted for if it is one of the faults that were given out here and are still open,
if it belongs to a connection that its client spoiled on purpose, or if it is an OSError while the
process was starved of descriptors. Everything else is a violation, and one violation fails the run.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

#: After descriptors are there again, an accept that failed is retried within this time.
STARVED_AFTERWARDS_SECONDS = 2.5
#: Different violations beyond this many are only counted.
TOLD_MAX = 40


class InjectedError(Exception):
    """A fault that the soak raised on purpose; its argument is its number in the books."""


class Ledger(logging.Handler):
    """The books of one run; also the loop's exception handler and a handler of error logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.done: Counter[str] = Counter()
        self.bytes_checked: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._open: dict[int, str] = {}
        self._spoiled: set[int] = set()
        self._starved_until = 0.0

    # --- faults ---------------------------------------------------------------------------------

    def inject(self, kind: str) -> InjectedError:
        """Give an exception to raise, which must be reported exactly once."""
        number = next(self._numbers)
        self.faults[kind] += 1
        self._open[number] = kind
        return InjectedError(number)

    def settle(self, error: BaseException | None) -> bool:
        """Tell whether an error that was reported is an open fault, and close it."""
        if isinstance(error, InjectedError):
            return self._open.pop(error.args[0], None) is not None
        return self.is_starvation(error)

    def unsettled(self) -> list[str]:
        """Give the kinds of the faults that nobody has reported."""
        return sorted(self._open.values())

    def new_connection(self) -> int:
        """Give a number to a connection."""
        return next(self._numbers)

    def spoil(self, connection: int) -> None:
        """Both ends of that connection may meet connection errors from now on."""
        self._spoiled.add(connection)

    def is_spoiled(self, connection: int) -> bool:
        """Tell whether its client gave up a connection, or the process was starved."""
        return connection in self._spoiled or self.is_starved

    def forget_connections(self) -> None:
        """Start anew while nothing is connected."""
        self._spoiled.clear()

    def starve(self, seconds: float) -> None:
        """From now on and for so long the process lacks descriptors."""
        self.faults["descriptors exhausted"] += 1
        self._starved_until = time.monotonic() + seconds + STARVED_AFTERWARDS_SECONDS

    @property
    def is_starved(self) -> bool:
        """Whether errors may come of a lack of descriptors."""
        return time.monotonic() < self._starved_until

    def is_starvation(self, error: BaseException | None) -> bool:
        """Tell whether an error may come of a lack of descriptors."""
        if isinstance(error, BaseExceptionGroup):
            return all(self.is_starvation(one) for one in error.exceptions)
        if not (isinstance(error, OSError) and self.is_starved):
            return False
        self.faults["errors while exhausted"] += 1
        return True

    # --- violations -----------------------------------------------------------------------------

    def violation(self, text: str) -> None:
        """Note something that must not be."""
        known = text in self.violations or len(self.violations) < TOLD_MAX
        self.violations[text if known else "and others"] += 1

    def check(self, what: str, got: Any, wanted: Any) -> None:
        """Compare bytes, and count them."""
        self.bytes_checked[what] += len(wanted)
        if got != wanted:
            at = next(
                (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), "the end"
            )
            self.violation(
                f"bytes: {what}: {len(got)} for {len(wanted)} bytes, different from {at} on"
            )

    def handle_exception(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """Take a report of the loop."""
        if not self.settle(context.get("exception")):
            self.violation(f"error: {context['message']}: {dict(context)!r}")

    def emit(self, record: logging.LogRecord) -> None:
        """Take an error that somebody logged."""
        error = record.exc_info[1] if record.exc_info else None
        if not self.settle(error):
            self.violation(f"error: log of {record.name}: {record.getMessage()}: {error!r}")

    def handle_unraisable(self, unraisable: Any) -> None:
        """Take an exception that could not be raised, a ResourceWarning among them."""
        self.violation(f"error: unraisable: {unraisable.exc_value!r} in {unraisable.object!r}")

    def handle_warning(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any
    ) -> None:
        """Take a warning that would have been printed."""
        if issubclass(category, ResourceWarning | RuntimeWarning):
            self.violation(f"error: {category.__name__}: {message} ({filename}:{lineno})")

    def open_books(self) -> None:
        """Listen to everything that reports errors."""
        import sys

        sys.unraisablehook = self.handle_unraisable
        warnings.simplefilter("always", ResourceWarning)
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = self.handle_warning  # type: ignore[assignment]
        logging.getLogger().addHandler(self)

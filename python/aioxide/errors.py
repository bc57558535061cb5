"""Exception handlers: what happens to an error that no caller can be told of.

Texts, context keys and the logger are asyncio's; log-scraping tools know them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from ._room import Room, logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: From 3.12 on a handler runs in the context of the task, future or handle that failed.
_HANDLER_IN_CONTEXT = sys.version_info >= (3, 12)

#: Context keys whose value is a stack summary, and the line that introduces it in the log.
_STACKS = {
    "source_traceback": "Object created at (most recent call last):\n",
    "handle_traceback": "Handle created at (most recent call last):\n",
}


def _context_of_failure(context: dict[str, Any]) -> Any:
    """Return the contextvars context of what failed, or None if nothing in `context` has one."""
    for key in ("task", "future", "handle"):
        culprit = context.get(key)
        if culprit is not None:
            break
    else:
        return None
    get_context = getattr(culprit, "get_context", None)
    found = get_context() if get_context is not None else None
    return found if hasattr(found, "run") else None


class Errors(Room):
    """The exception handler interface. *Source*: `asyncio.base_events.BaseEventLoop`."""

    def get_exception_handler(self) -> Callable[[Any, dict[str, Any]], object] | None:
        """Return the handler set by `set_exception_handler`, or None for the default one."""
        return self._exception_handler

    def set_exception_handler(
        self, handler: Callable[[Any, dict[str, Any]], object] | None
    ) -> None:
        """Set a handler called as `handler(loop, context)`; None restores the default.

        Raises TypeError if `handler` is neither callable nor None.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log `context` as an error of the logger 'asyncio', with the exception's traceback."""
        message = context.get("message") or "Unhandled exception in event loop"
        exception = context.get("exception")
        exc_info: Any = False
        if exception is not None:
            exc_info = (type(exception), exception, exception.__traceback__)

        handle = getattr(self, "_current_handle", None)
        if "source_traceback" not in context and handle is not None and handle._source_traceback:
            context["handle_traceback"] = handle._source_traceback

        lines = [message]
        for key in sorted(context):
            if key in ("message", "exception"):
                continue
            value = context[key]
            if key in _STACKS:
                text = _STACKS[key] + "".join(traceback.format_list(value)).rstrip()
            else:
                text = repr(value)
            lines.append(f"{key}: {text}")
        logger.error("\n".join(lines), exc_info=exc_info)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand `context` to the handler in charge; its own errors are logged, never raised.

        Keys: 'message', and where known 'exception', 'future', 'task', 'handle', 'protocol',
        'transport', 'socket', 'source_traceback', 'handle_traceback', 'asyncgen'.
        Only SystemExit and KeyboardInterrupt come out.
        """
        handler = self._exception_handler
        if handler is None:
            self._call_default_handler(context, "Exception in default exception handler")
            return
        try:
            run_in = _context_of_failure(context) if _HANDLER_IN_CONTEXT else None
            if run_in is None:
                handler(self, context)
            else:
                run_in.run(handler, self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._call_default_handler(
                {
                    "message": "Unhandled error in exception handler",
                    "exception": error,
                    "context": context,
                },
                "Exception in default exception handler "
                "while handling an unexpected error "
                "in custom exception handler",
            )

    def _call_default_handler(self, context: dict[str, Any], last_words: str) -> None:
        """Call `default_exception_handler`, which a subclass may have replaced and which may fail.

        `last_words` is logged in that case.
        """
        try:
            self.default_exception_handler(context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            logger.error(last_words, exc_info=True)

"""The metaclass that makes `isinstance(x, aioxide.Future)` mean what asyncio users expect.

The native Future and Task are subclasses of asyncio's, so a stock `asyncio.Future` (or what
`asyncio.gather` returns) is no instance of them by inheritance. Programs that write
`import aioxide as asyncio` ask exactly that question, hence the two native types answer for
asyncio's classes. Subclasses that users derive from them answer for themselves, as usual.

This file imports nothing of the extension module: `aioxide/__init__.py` hands the metaclass over
before anything else is created.
"""

from __future__ import annotations

from typing import Any

#: Native type -> the asyncio class it answers for; filled once by `bind`, at import.
_answers_for: dict[type, type] = {}


class _FutureMeta(type):
    """Type of the native Future and Task; instance and subclass checks ask asyncio's class.

    *Source*: `asyncio.Future`, `asyncio.Task`.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        return type.__instancecheck__(_answers_for.get(cls, cls), instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return type.__subclasscheck__(_answers_for.get(cls, cls), subclass)


def bind(native: type, stock: type) -> None:
    """Let the native type `native` answer instance checks for asyncio's class `stock`."""
    _answers_for[native] = stock

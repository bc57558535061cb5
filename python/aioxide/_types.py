"""The metaclass that makes `isinstance(x, aioxide.Future)` mean what asyncio users expect.

The native Future and Task are subclasses of asyncio's, so a stock `asyncio.Future` (or what
`asyncio.gather` returns) is no instance of them by inheritance. Programs that write
`import aioxide as asyncio` ask exactly that question, hence native types answer for asyncio's
classes. So do the native primitives: with those in asyncio's place, objects that were made before
are asked about, too. Subclasses that users derive from them answer for themselves, as usual.

This file imports nothing of the extension module: `aioxide/__init__.py` hands the metaclass over
before anything else is created.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

#: Native type -> the asyncio class it answers for; filled once by `bind`, at import.
_answers_for: dict[type, type] = {}


if TYPE_CHECKING:
    _Base = ABCMeta
else:
    # The metaclass of protocols, and through it of abstract classes: a user's class may have the
    # native types and any of those as bases, as it may with asyncio's.
    _Base = type(Protocol)


class NativeMeta(_Base):
    """Type of the native types: instance and subclass checks ask the asyncio class behind one."""

    def __instancecheck__(cls, instance: Any) -> bool:
        stock = _answers_for.get(cls)
        if stock is not None:
            return isinstance(instance, stock)
        return ABCMeta.__instancecheck__(cls, instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        stock = _answers_for.get(cls)
        if stock is not None:
            return issubclass(subclass, stock)
        return ABCMeta.__subclasscheck__(cls, subclass)

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        _tell_replaced(cls)

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        _tell_replaced(cls)


#: Called when an attribute of a native class is replaced: native parts that call each other
#: directly go by name from then on.
when_replaced: list[Callable[[], None]] = []


def _tell_replaced(cls: type) -> None:
    if cls in _answers_for:
        for tell in when_replaced:
            tell()


def bind(native: type, stock: type) -> None:
    """Let the native type `native` answer instance checks for asyncio's class `stock`."""
    _answers_for[native] = stock

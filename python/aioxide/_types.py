"""What makes `isinstance(x, aioxide.Future)` mean what asyncio users expect.

The native Future and Task are subclasses of asyncio's, so a stock `asyncio.Future` (or what
`asyncio.gather` returns) is no instance of them by inheritance. Programs that write
`import aioxide as asyncio` ask exactly that question, hence native types answer for asyncio's
classes. So do the native primitives: with those in asyncio's place, objects that were made before
are asked about, too. Subclasses that users derive from them answer for themselves, as usual.

Native types are abstract base classes for that, with a `__subclasshook__`: a user's class may have
them and other abstract classes or protocols as bases, as it may with asyncio's.
"""

from __future__ import annotations

from _abc import _abc_init  # type: ignore[import-not-found]
from abc import ABCMeta

from . import _aioxide

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Native type -> the asyncio class it answers for; filled by `bind`, at import.
_answers_for: dict[type, type] = {}


def _answer(cls: type, subclass: type) -> Any:
    """Be the `__subclasshook__` of native types, and of what is derived from them."""
    stock = _answers_for.get(cls)
    return NotImplemented if stock is None else issubclass(subclass, stock)


_HOOK: Any = classmethod(_answer)


def bind(native: Any, stock: type) -> None:
    """Let the native type `native` answer instance checks for asyncio's class `stock`."""
    _aioxide._set_metaclass(native, ABCMeta)
    # What the metaclass does for a class that it makes.
    _abc_init(native)
    native.__subclasshook__ = _HOOK
    _answers_for[native] = stock

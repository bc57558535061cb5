"""The native primitives, and the places where asyncio keeps what they replace.

`aioxide.sleep` and its sisters are native whoever asks. `install` and `python -m aioxide` also put
them into asyncio's own modules, so that libraries get them unchanged. One table says what goes
where. Only asyncio's own objects are replaced: what somebody else has put in a place stays there.

A native class is a subclass of the class that it replaces, and not the other way round: a stock
`asyncio.Future` (or what `asyncio.gather` returns) is no instance of the native one by inheritance.
Programs that write `import aioxide as asyncio` ask exactly that question, hence native types answer
for asyncio's classes, and objects of both may be in use side by side. Subclasses that users derive
from them answer for themselves, as usual. Native types are abstract base classes for that, with a
`__subclasshook__`: a user's class may have them and other abstract classes or protocols as bases,
as it may with asyncio's.

`Future` and `Task` take the place of asyncio's in the package alone, for libraries that make them
by calling the class. `asyncio.futures` and `asyncio.tasks` keep asyncio's: from there its own loops
take what they make.
"""

from __future__ import annotations

import _asyncio
import asyncio
import sys
from _abc import _abc_init  # type: ignore[import-not-found]
from abc import ABCMeta

from . import _aioxide
from .parts import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Name -> the submodules of asyncio that it is exchanged in: the one that defines it, then those
#: that imported it from there by name. The package `asyncio` itself holds every one of them.
TABLE: dict[str, tuple[str, ...]] = {
    "Barrier": ("locks",),
    "BoundedSemaphore": ("locks",),
    "Condition": ("locks",),
    "Event": ("locks",),
    "Future": (),
    "LifoQueue": ("queues",),
    "Lock": ("locks",),
    "PriorityQueue": ("queues",),
    "Queue": ("queues",),
    "Semaphore": ("locks",),
    "StreamReader": ("streams",),
    "StreamReaderProtocol": ("streams",),
    "StreamWriter": ("streams",),
    "Task": (),
    "TaskGroup": ("taskgroups",),
    "Timeout": ("timeouts",),
    "as_completed": ("tasks",),
    "gather": ("tasks",),
    "run_coroutine_threadsafe": ("tasks",),
    "shield": ("tasks",),
    "sleep": ("tasks", "streams"),
    "timeout": ("timeouts",),
    "timeout_at": ("timeouts",),
    "to_thread": ("threads",),
    "wait": ("tasks",),
    "wait_for": ("tasks",),
}

#: The one that is not native, because its cost is elsewhere, and its module.
_IN_PYTHON = ("run_coroutine_threadsafe", "_threadsafe")

#: Name -> our object, of those that are native.
COMPILED: dict[str, Any] = {
    name: getattr(_aioxide, name) for name in TABLE if name != _IN_PYTHON[0]
}

if TYPE_CHECKING:
    #: Name -> our object: all of them.
    NATIVE: dict[str, Any]


def __getattr__(name: str) -> Any:
    """Make `NATIVE` when somebody asks for it: that reads a module which few programs need."""
    if name != "NATIVE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    last, module = _IN_PYTHON
    found = {**COMPILED, last: getattr(read(module), last)}
    return globals().setdefault("NATIVE", found)


def _native() -> dict[str, Any]:
    """Return `NATIVE`."""
    found: dict[str, Any] = globals().get("NATIVE") or __getattr__("NATIVE")
    return found


def _module(home: str) -> Any:
    """Return asyncio's submodule `home`. *Source*: `import asyncio` has imported it."""
    return sys.modules[f"asyncio.{home}"]


def _modules(name: str) -> list[Any]:
    """Return the modules of asyncio that `name` is exchanged in."""
    return [asyncio, *(_module(home) for home in TABLE[name])]


def _stock(name: str) -> Any:
    """Return asyncio's own object, or None where somebody else's has taken its place."""
    if not TABLE[name]:
        return getattr(_asyncio, name)
    home = TABLE[name][0]
    found = getattr(_module(home), name, None)
    return found if getattr(found, "__module__", None) == f"asyncio.{home}" else None


#: Name -> asyncio's own object, as it was when aioxide was imported.
STOCK: dict[str, Any] = {name: _stock(name) for name in TABLE}


#: Native type -> the asyncio class it answers for; filled at import.
_answers_for: dict[type, type] = {}


def _answer(cls: type, subclass: type) -> Any:
    """Be the `__subclasshook__` of native types, and of what is derived from them."""
    stock = _answers_for.get(cls)
    return NotImplemented if stock is None else issubclass(subclass, stock)


_HOOK: Any = classmethod(_answer)


def answer_for(native: Any, stock: type) -> None:
    """Let the native type `native` answer instance checks for asyncio's class `stock`."""
    _aioxide._set_metaclass(native, ABCMeta)
    # What the metaclass does for a class that it makes.
    _abc_init(native)
    native.__subclasshook__ = _HOOK
    _answers_for[native] = stock


def bind() -> None:
    """Let native classes answer instance checks for asyncio's. Called once, at import.

    `Future` and `Task` answer for what the package `asyncio` has, whatever that is.
    """
    for name, native in COMPILED.items():
        stock = STOCK[name] if TABLE[name] else getattr(asyncio, name)
        if isinstance(native, type) and isinstance(stock, type):
            answer_for(native, stock)


def _exchange(name: str, old: Any, new: Any) -> None:
    """Put `new` wherever asyncio has `old` under `name`."""
    if old is None:
        return
    for module in _modules(name):
        if getattr(module, name, None) is old:
            setattr(module, name, new)


def accelerate() -> None:
    """Put the native primitives into asyncio's modules. May be called more than once.

    Whoever has imported one of asyncio's own by name keeps it, and it works as before.
    """
    for name, native in _native().items():
        _exchange(name, STOCK[name], native)


def decelerate() -> None:
    """Give asyncio's modules their own primitives back: undoes `accelerate`."""
    for name, native in _native().items():
        if STOCK[name] is not None:
            _exchange(name, native, STOCK[name])

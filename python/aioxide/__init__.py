"""aioxide: Python's asyncio with its event loop, tasks and transports rebuilt in Rust.

Use it in one of three ways:

- `aioxide.run(main())` instead of `asyncio.run(main())`;
- `aioxide.install()` once, before the loop is made;
- `python -m aioxide app.py` instead of `python app.py`, with no change at all.

Everything public in asyncio is here as well, so `import aioxide as asyncio` works. The layers, from
the bottom: `_aioxide` (native: loop, tasks, futures, handles, transports, primitives), `loop` and
its mixins (control plane: what happens once per loop or connection), `primitives` (which names are
native, and where asyncio keeps them), `installing` (how a program comes to its loop), and this
file (names only). What few programs need is read when they ask for it.
"""

from __future__ import annotations

from . import _support  # first of all: it says what is missing

# isort: split
import asyncio as _asyncio
import sys as _sys

from . import _aioxide, parts, primitives

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as _Any

primitives.bind()
_aioxide._note_made()
if _sys.version_info < (3, 14):
    from . import _tasks

    _tasks.chain()

if not TYPE_CHECKING:
    # Before our own names, which win.
    from asyncio import *

from asyncio import TaskGroup as TaskGroup  # noqa: E402 - 3.11 forgot it in __all__

from ._aioxide import Future as Future  # noqa: E402
from ._aioxide import Handle as Handle  # noqa: E402
from ._aioxide import Task as Task  # noqa: E402
from ._aioxide import TimerHandle as TimerHandle  # noqa: E402
from ._aioxide import __version__ as __version__  # noqa: E402
from .loop import Loop as Loop  # noqa: E402
from .loop import Runner as Runner  # noqa: E402
from .loop import new_event_loop as new_event_loop  # noqa: E402
from .loop import run as run  # noqa: E402

#: Name -> the module that has it, of what is read at its first use.
_LATER = {
    "EventLoopPolicy": "installing",
    "Server": "server",
    "install": "installing",
    "open_connection": "_streams",
    "open_unix_connection": "_streams",
    "run_coroutine_threadsafe": "_threadsafe",
    "start_server": "_streams",
    "start_unix_server": "_streams",
}

if TYPE_CHECKING:
    from .installing import install as install
    from .server import Server as Server

    if _sys.version_info < (3, 16):
        from .installing import EventLoopPolicy as EventLoopPolicy
else:
    # To a type checker they are what asyncio's are.
    globals().update(primitives.COMPILED)
    for _name in _LATER:
        # asyncio's own, which would be found first.
        globals().pop(_name, None)
    del _name

#: Where asyncio has this name (3.13 on) it means the best loop of the platform.
EventLoop = Loop

__all__ = ["EventLoopPolicy", "Loop", "__version__", "install"]
__all__ += _asyncio.__all__
if _sys.version_info < (3, 12):
    __all__ += ["TaskGroup"]

if TYPE_CHECKING:
    # A type checker keeps the first definition of a name.
    from asyncio import *  # type: ignore[assignment]
    from asyncio import base_events as base_events
    from asyncio import constants as constants
    from asyncio import coroutines as coroutines
    from asyncio import events as events
    from asyncio import exceptions as exceptions
    from asyncio import futures as futures
    from asyncio import locks as locks
    from asyncio import log as log
    from asyncio import protocols as protocols
    from asyncio import queues as queues
    from asyncio import runners as runners
    from asyncio import sslproto as sslproto
    from asyncio import staggered as staggered
    from asyncio import streams as streams
    from asyncio import subprocess as subprocess
    from asyncio import taskgroups as taskgroups
    from asyncio import tasks as tasks
    from asyncio import threads as threads
    from asyncio import timeouts as timeouts
    from asyncio import transports as transports
    from asyncio import trsock as trsock
else:

    def __getattr__(name: str) -> _Any:
        """Return what is read at its first use, and whatever else asyncio has under `name`: its
        submodules and its deprecated names.

        Raises AttributeError for private names: those are asyncio's own business.
        """
        if name in _LATER:
            return globals().setdefault(name, getattr(parts.read(_LATER[name]), name))
        if not name.startswith("_"):
            try:
                return getattr(_asyncio, name)
            except AttributeError:
                pass
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Names of this module and of asyncio."""
        return sorted({*globals(), *_LATER, *(name for name in dir(_asyncio) if name[0] != "_")})

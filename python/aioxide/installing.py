"""`install` and `EventLoopPolicy`: how aioxide takes asyncio's place in a process.

`install` changes asyncio's event loop policy, the default of `asyncio.Runner` (and so of
`asyncio.run`), and the primitives in asyncio's modules (`primitives.py`). That is all.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from asyncio import events, unix_events
from collections.abc import Callable
from types import FrameType

from . import primitives
from .loop import Loop, new_event_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_events: Any = events
_unix: Any = unix_events


if sys.version_info < (3, 16):
    # Their public names warn from 3.14 on; importing aioxide must not.
    _DefaultPolicy: Any = _unix._UnixDefaultEventLoopPolicy
    _set_policy: Callable[[Any], None] = (
        _events._set_event_loop_policy
        if sys.version_info >= (3, 14)
        else _events.set_event_loop_policy
    )

    class EventLoopPolicy(_DefaultPolicy):  # type: ignore[misc]
        """asyncio's default policy, but its loops are aioxide's. Child watchers are asyncio's."""

        _loop_factory = Loop


class _Installed:
    """What `install` and `python -m aioxide` have asked of `asyncio.Runner`, process-wide."""

    #: `asyncio.Runner` makes aioxide's loops where it is given no factory.
    by_default = False
    #: ... and also where it is given asyncio's or uvloop's: the user chose aioxide by hand.
    everywhere = False

    @classmethod
    def factory(cls, asked: _LoopFactory | None) -> _LoopFactory | None:
        """Return the loop factory to use where `asked` was asked for; None is the policy's."""
        if asked is None:
            return new_event_loop if cls.everywhere or not _has_other_policy() else None
        if cls.everywhere and (_is_stock(asked) or _is_uvloop(asked)):
            return new_event_loop
        return asked


def _has_other_policy() -> bool:
    """Whether somebody has set an event loop policy that is not aioxide's."""
    policy = getattr(_events, "_event_loop_policy", None)
    return policy is not None and not isinstance(policy, EventLoopPolicy)


def _is_stock(factory: _LoopFactory) -> bool:
    """Whether `factory` stands for asyncio's own loop, as uvicorn's `auto` does."""
    return factory in (
        asyncio.SelectorEventLoop,
        getattr(asyncio, "EventLoop", asyncio.SelectorEventLoop),
        asyncio.new_event_loop,
    )


def _is_uvloop(factory: _LoopFactory) -> bool:
    """Whether `factory` is uvloop's, which servers choose unasked if it can be imported.

    Not so within `uvloop.run`: that insists on a loop of its own.
    """
    if (getattr(factory, "__module__", None) or "").partition(".")[0] != "uvloop":
        return False
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller.f_globals.get("__name__") in (__name__, "asyncio.runners"):
        caller = caller.f_back
    return caller is None or caller.f_globals.get("__name__") != "uvloop"


def _patch_runner() -> None:
    """Let `asyncio.Runner` ask `_Installed` for its loop factory. Once per process."""
    if _Installed.by_default:
        return
    _Installed.by_default = True
    stock_init = asyncio.Runner.__init__

    @functools.wraps(stock_init)
    def init(
        self: Any, *, debug: bool | None = None, loop_factory: _LoopFactory | None = None
    ) -> None:
        factory = _Installed.factory(loop_factory)
        if loop_factory is None and factory is new_event_loop and _policy_is_ours():
            # Through the policy, so the loop also becomes the thread's current one.
            factory = None
        stock_init(self, debug=debug, loop_factory=factory)

    asyncio.Runner.__init__ = init  # type: ignore[method-assign]


def _policy_is_ours() -> bool:
    """Whether asyncio's policy makes aioxide's loops."""
    return isinstance(getattr(_events, "_event_loop_policy", None), EventLoopPolicy)


def install(*, accelerate: bool = True) -> None:
    """Make asyncio use aioxide: `asyncio.run`, `asyncio.Runner`, `asyncio.new_event_loop`.

    Sets the event loop policy, and makes aioxide's the default loop factory of `asyncio.Runner`.
    A factory that the program gives there still counts, and so does a policy set later. Loops and
    tasks that exist already stay what they are. May be called more than once.

    Also puts the native primitives into asyncio's modules, unless `accelerate` is false: then
    asyncio's own are there, also if an earlier call had replaced them.
    """
    if accelerate:
        primitives.accelerate()
    else:
        primitives.decelerate()
    if not _policy_is_ours():
        _set_policy(EventLoopPolicy())
    _patch_runner()


class _Adopted:
    """Makes a process started by `multiprocessing` take over `python -m aioxide`: by being
    unpickled there.
    """

    def __init__(self, accelerate: bool) -> None:
        self._accelerate = accelerate

    def __reduce__(self) -> tuple[Callable[[bool], None], tuple[bool]]:
        return adopt, (self._accelerate,)


def adopt(accelerate: bool = True) -> None:
    """Run this whole process on aioxide, for `python -m aioxide`: `install`, and more.

    asyncio's own and uvloop's loop factories then mean aioxide's, and processes that
    `multiprocessing` starts (uvicorn's workers, say) do likewise.
    """
    install(accelerate=accelerate)
    if _Installed.everywhere:
        return
    _Installed.everywhere = True
    from multiprocessing import spawn

    prepare = spawn.get_preparation_data

    @functools.wraps(prepare)
    def get_preparation_data(name: str) -> dict[str, Any]:
        data = prepare(name)
        data["aioxide"] = _Adopted(accelerate)
        return data

    spawn.get_preparation_data = get_preparation_data

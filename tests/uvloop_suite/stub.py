"""The module that uvloop's tests import as `uvloop`: aioxide under uvloop's names.

Copied by `suite.py` to where those tests find it; their own helpers, `uvloop._testbase`, lie beside
it. What stands for uvloop's insides (`uvloop.loop`) is not there. With UVLOOP_IS=asyncio in the
environment it is stock asyncio: the control.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aioxide

Loop: Any = asyncio.SelectorEventLoop if os.environ.get("UVLOOP_IS") == "asyncio" else aioxide.Loop


def new_event_loop() -> Any:
    """Return a new loop of the class under test."""
    return Loop()


def run(main: Any, *, loop_factory: Any = new_event_loop, debug: bool | None = None) -> Any:
    """`asyncio.run` with that loop."""
    with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
        return runner.run(main)


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """asyncio's policy, with that loop."""

    _loop_factory = staticmethod(new_event_loop)

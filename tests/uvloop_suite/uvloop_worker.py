"""One of uvloop's test modules in one process; a script that `suite.py` starts.

uvloop's suite has most of its classes twice: one expects what uvloop does, one what asyncio does.
Input and output are those of `../cpython/worker.py`, whose main part this uses; `classes` in the
request names which of the two (`uvloop`, `asyncio`), and `loop` on what: `asyncio:...` or aioxide.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "cpython"))

import stand_ins  # noqa: E402
import worker  # noqa: E402


def load(request: dict[str, Any]) -> Iterator[unittest.TestCase]:
    """Find the tests of the module's classes that were asked for."""
    is_stock = request["loop"] is None
    for_asyncio = request["classes"] == "asyncio"
    if is_stock:
        os.environ["UVLOOP_IS"] = "asyncio"
    else:
        stand_ins.counting(importlib.import_module("aioxide").Loop)
    base: Any = importlib.import_module("uvloop._testbase")
    if not is_stock:
        base.AIOTestCase.new_loop = base.UVTestCase.new_loop
        # What the suite asks before it expects what asyncio does.
        base.BaseTestCase.is_asyncio_loop = lambda self: True
    module = importlib.import_module(request["module"])
    for test in worker.flatten(unittest.defaultTestLoader.loadTestsFromModule(module)):
        if isinstance(test, base.AIOTestCase) == for_asyncio:
            if not is_stock and hasattr(test, "NEW_LOOP"):
                # Source of a program that makes its own loop.
                test.NEW_LOOP = "__import__('uvloop').new_event_loop()"
            yield test


if __name__ == "__main__":
    worker.serve(json.loads(sys.argv[1]), load)

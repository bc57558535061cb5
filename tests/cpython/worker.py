"""One CPython test module in one process, with chosen types in the place of asyncio's C ones.

Run as a script by `harness.py`; uvloop's suite imports it for `serve`. CPython's test modules name
the C types `asyncio.tasks._CTask` and `asyncio.futures._CFuture` and build every pairing and
subclass of them at import; whatever stands under those two names before the import is what they
test. The same holds for the names that make loops (`stand_ins.py`). Nothing of CPython's is copied:
the `test` package of the running interpreter is imported.

Input: one JSON object as the only argument (`module`, `task`, `future`, `loop`, `primitives`,
`skip`, `leave_out` as shell patterns, `only` if the others are to be left out, too, and
`test_seconds_max` if tests may take longer than usual).
Output: one JSON line per event on the descriptor `AIOXIDE_RESULT_FD`: `start` before a test,
`done` after it, `end` once. A process that dies leaves a `start` without its `done`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fnmatch
import importlib
import json
import os
import re
import resource
import sys
import unittest
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeAlias

import stand_ins

# A CPython test needs a few seconds at most; longer is a hang, shown by its stack.
TEST_SECONDS_MAX = 20
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
)


def resolve(spec: str) -> Any:
    """Return the object that `module:name` names."""
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


def replace_types(task: str | None, future: str | None) -> None:
    """Put the named types where CPython's tests look for the C ones."""
    if task is not None:
        asyncio.tasks._CTask = resolve(task)  # type: ignore[attr-defined]
    if future is not None:
        asyncio.futures._CFuture = resolve(future)  # type: ignore[attr-defined]


class Recorder(unittest.TestResult):
    """Writes what happens to each test as one line of JSON at once, so that a crash loses none."""

    def __init__(self, emit: Callable[[dict[str, object]], None], test_seconds_max: float) -> None:
        super().__init__()
        self._emit = emit
        self._test_seconds_max = test_seconds_max
        self._status = "passed"
        self._detail = ""
        self._loops = 0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._status, self._detail = "passed", ""
        self._loops = stand_ins.Touched.loops
        faulthandler.dump_traceback_later(self._test_seconds_max, exit=True)
        self._emit({"event": "start", "id": short_id(test)})

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self._emit(
            {
                "event": "done",
                "id": short_id(test),
                "status": self._status,
                "detail": self._detail,
                "loops": stand_ins.Touched.loops - self._loops,
            }
        )

    def _failed(self, test: unittest.TestCase, err: ExcInfo) -> None:
        text = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]
        if self.testsRun == 0 or not isinstance(test, unittest.TestCase):
            # An error of a class or module fixture belongs to no test.
            self._emit(
                {"event": "done", "id": str(test), "status": "failed", "detail": text, "loops": 0}
            )
            return
        self._status = "failed"
        self._detail = f"{self._detail}{text}"

    def addError(self, test: unittest.TestCase, err: ExcInfo) -> None:
        self._failed(test, err)

    def addFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        self._failed(test, err)

    def addSubTest(
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExcInfo | None
    ) -> None:
        if err is not None:
            self._failed(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._status, self._detail = "skipped", reason

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._status, self._detail = "failed", "unexpected success"


def short_id(test: unittest.TestCase) -> str:
    """Return `test_tasks.Class.test_name`: the id without the package."""
    return test.id().removeprefix("test.").removeprefix("test_asyncio.").removeprefix("tests.")


def about_python_types(test: unittest.TestCase) -> bool:
    """Whether the test's class is about the pure-Python types alone, as `PyTask_PyFuture_Tests`."""
    name = type(test).__name__
    return bool(re.search(r"Py(Task|Future|Eager|Free|Intro|Current)|Py$", name)) and not re.search(
        r"C(Task|Future)", name
    )


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite in order."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def serve(
    request: dict[str, Any], load: Callable[[dict[str, Any]], Iterable[unittest.TestCase]]
) -> None:
    """Run what `load` gives; see the head of this file."""
    # A crash is reported by its traceback; writing a core file takes seconds.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    descriptor = int(os.environ.pop("AIOXIDE_RESULT_FD"))
    os.set_inheritable(descriptor, False)
    with os.fdopen(descriptor, "w", buffering=1) as lines:

        def emit(event: dict[str, object]) -> None:
            print(json.dumps(event), file=lines)

        try:
            found = load(request)
        except unittest.SkipTest as reason:
            emit({"event": "end", "skipped": str(reason)})
            return
        skip = frozenset(request["skip"])
        only = request.get("only")
        tests = unittest.TestSuite(
            test
            for test in found
            if short_id(test) not in skip
            and (only is None or short_id(test) in only)
            and not any(fnmatch.fnmatchcase(short_id(test), name) for name in request["leave_out"])
        )
        tests.run(Recorder(emit, request.get("test_seconds_max", TEST_SECONDS_MAX)))
        emit({"event": "end"})


def load(request: dict[str, Any]) -> Iterator[unittest.TestCase]:
    """Put the types and loops under test into their places, then find the module's tests."""
    replace_types(request["task"], request["future"])
    if request["primitives"]:
        importlib.import_module("aioxide.primitives").accelerate()
    if request["loop"] is not None:
        stand_ins.replace_loops(request["loop"], request["module"])
    module = importlib.import_module(request["module"])
    found = flatten(unittest.defaultTestLoader.loadTestsFromModule(module))
    return (test for test in found if not about_python_types(test))


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), load)

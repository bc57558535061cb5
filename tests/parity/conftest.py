"""The parity harness: one test body, run on stock asyncio first and on aioxide then.

A test that takes the `lib` fixture is run once for every *kind* of event loop and types below. What
a body gives to `lib.note()` is its trace; the trace of every other kind must equal the trace of the
stock run, and a body that did not pass on stock asyncio counts as failed everywhere else.

After each body the harness closes what the body left open, and fails the test for any line of the
`asyncio` logger at WARNING or above, unraisable exception, ResourceWarning or RuntimeWarning, file
descriptor or thread that the body did not take or end itself.

Kinds; those with a star run with the native primitives in the place of asyncio's:
    asyncio   stock loop, stock types: the reference
    aioxide*  aioxide.Loop and its native types
    loose     aioxide.Loop(hold_tasks=False)
    foreign*  stock loop that makes aioxide.Task and aioxide.Future
    guest*    aioxide.Loop that makes asyncio.Task and asyncio.Future
    visiting* stock loop, stock types
    pure*     aioxide.Loop that makes the pure Python Task and Future of asyncio
"""

from __future__ import annotations

import asyncio
import asyncio.futures
import asyncio.tasks
import contextlib
import functools
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aioxide
import hangs
from aioxide import primitives

KINDS = ("asyncio", "aioxide")
ALL_KINDS = ("asyncio", "aioxide", "loose", "foreign", "guest", "visiting")
# Kinds that leave asyncio's own primitives in their place.
UNACCELERATED = ("asyncio", "loose")
# A body or program that takes longer hangs.
BODY_SECONDS_MAX = 60
# A program's failure is to be heard before its body's.
BODY_SECONDS_MORE = 15
# High enough that a busy machine never adds a slow-callback line to a test about something else.
QUIET_SLOW_CALLBACK_SECONDS = 1000.0

# Test modules name this module of fixtures in `pytest_plugins`.
pytest.register_assert_rewrite("sending")

_MISSING = object()
# Trace of each body that passed on stock asyncio; None for one that did not.
_stock_traces: dict[Any, list[Any] | None] = {}
# And whether the exceptions that its handler was told of, by type, were being handled.
_stock_handled: dict[Any, dict[str, set[bool]]] = {}


class ForeignLoop(asyncio.SelectorEventLoop):
    """A stock loop whose own factories make aioxide's types."""

    def create_future(self) -> Any:
        """Make a native future on this stock loop."""
        return aioxide.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> Any:
        """Make a native task on this stock loop."""
        self._check_closed()
        task = aioxide.Task(coro, loop=self, **options)
        if task._source_traceback:
            del task._source_traceback[-1]
        return task


@functools.cache
def _guest_loop(future_type: type, task_type: type) -> type:
    """Give the class of an aioxide loop whose factories make the given types."""

    class GuestLoop(aioxide.Loop):  # type: ignore[misc, name-defined]
        def create_future(self) -> Any:
            return future_type(loop=self)

        def create_task(self, coro: Any, **options: Any) -> Any:
            self._check_closed()
            task = task_type(coro, loop=self, **options)
            if task._source_traceback:
                del task._source_traceback[-1]
            return task

    return GuestLoop


def plain(text: str) -> str:
    """Drop from a text what may differ: addresses, the loop's class, task numbers."""
    text = re.sub(r"0x[0-9a-fA-F]+", "0x", text)
    text = re.sub(r"\b(?:aioxide|asyncio|_aioxide|_asyncio)(?:\.\w+)*\.(\w+)", r"\1", text)
    text = re.sub(r"\b(_UnixSelectorEventLoop|GuestLoop|ForeignLoop|Loop)\b", "LOOP", text)
    text = re.sub(r"\b_Py(Task|Future)\b", r"\1", text)
    text = re.sub(r"\b_ThreadSafeHandle\b", "Handle", text)
    text = re.sub(r"\bwhen=[0-9.e+-]+", "when=T", text)
    # A stock future made by create_future() shows that method's own line as its origin.
    text = re.sub(r" created at \S+?:\d+", " created at HERE", text)
    return re.sub(r"\bTask-\d+\b", "Task-N", text)


def normal(value: Any) -> Any:
    """Give a comparable picture of a value: no identity, no addresses, no loop class."""
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, BaseExceptionGroup):
        return (type(value).__name__, value.message, [normal(e) for e in value.exceptions])
    if isinstance(value, BaseException):
        return (type(value).__name__, normal(value.args))
    if isinstance(value, type):
        return plain(f"{value.__module__}.{value.__qualname__}")
    if isinstance(value, dict):
        return {normal(k): normal(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((normal(v) for v in value), key=repr)
    if isinstance(value, list | tuple):
        return [normal(v) for v in value]
    if isinstance(value, types.FrameType):
        return (value.f_code.co_name, value.f_lineno)
    return plain(repr(value))


class Lib:
    """What a body may use of one kind, and what it has been seen to do."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.native_loop = kind not in ("asyncio", "foreign", "visiting")
        self.native_types = kind in ("aioxide", "loose", "foreign")
        self.trace: list[Any] = []
        self.records: list[logging.LogRecord] = []
        self.unraisable: list[Any] = []
        self.warned: list[warnings.WarningMessage] = []
        self.handled: dict[str, set[bool]] = {}
        self.loops: list[Any] = []
        self._loop: Any = None
        if kind in ("asyncio", "guest", "visiting"):
            self.Task, self.Future = asyncio.Task, asyncio.Future
        elif kind == "pure":
            self.Task, self.Future = asyncio.tasks._PyTask, asyncio.futures._PyFuture
        else:
            self.Task, self.Future = aioxide.Task, aioxide.Future
        if kind in ("asyncio", "visiting"):
            self._make: Callable[..., Any] = asyncio.SelectorEventLoop
        elif kind == "foreign":
            self._make = ForeignLoop
        elif kind == "aioxide":
            self._make = aioxide.Loop
        elif kind == "loose":
            self._make = functools.partial(aioxide.Loop, hold_tasks=False)
        else:
            self._make = _guest_loop(self.Future, self.Task)

    @property
    def module(self) -> Any:
        """The module that a user of this kind imports."""
        return aioxide if self.native_loop else asyncio

    @property
    def loop_type(self) -> type:
        """The class of this kind's loops, for subclassing."""
        made = self._make
        return made.func if isinstance(made, functools.partial) else made  # type: ignore

    def new_loop(self) -> Any:
        """Make a loop that the harness closes after the body."""
        loop = self._make()
        loop.slow_callback_duration = QUIET_SLOW_CALLBACK_SECONDS
        self.loops.append(loop)
        return loop

    @property
    def loop(self) -> Any:
        """The running loop; otherwise one for the whole body, made at first use, not installed."""
        running = asyncio._get_running_loop()
        if running is not None and running in self.loops:
            return running
        if self._loop is None:
            self._loop = self.new_loop()
        return self._loop

    def run(self, main: Any, *, debug: bool | None = None) -> Any:
        """Run a coroutine (or a coroutine function without arguments) in a Runner of this kind."""
        with asyncio.Runner(debug=debug, loop_factory=self.new_loop) as runner:
            return runner.run(main() if callable(main) else main)

    def turns(self, count: int = 1, loop: Any = None) -> None:
        """Run the loop for a number of turns, without installing anything."""
        loop = loop or self.loop
        for _ in range(count):
            loop.call_soon(loop.stop)
            loop.run_forever()

    def note(self, *values: Any) -> None:
        """Add one observation to the trace."""
        self.trace.append(normal(values[0] if len(values) == 1 else values))

    def catch(self, call: Callable[..., Any], *args: Any, **options: Any) -> BaseException | None:
        """Call, note the exception's type and arguments (or the lack of one), give it back."""
        try:
            result = call(*args, **options)
        except BaseException as exc:
            self.note("raised", exc)
            return exc
        self.note("returned", result)
        return None

    def contexts(self, loop: Any = None) -> list[dict[str, Any]]:
        """Install an exception handler that keeps every context it is given.

        Where stock asyncio tells of exceptions while it handles them, so must all kinds.
        """
        seen: list[dict[str, Any]] = []

        def keep(_loop: Any, context: dict[str, Any]) -> None:
            told = context.get("exception")
            ways = self.handled.setdefault(type(told).__name__, set())
            ways.add(told is not None and sys.exc_info()[1] is told)
            seen.append(context)

        (loop or self.loop).set_exception_handler(keep)
        return seen

    def logged(self, level: int = logging.WARNING) -> list[str]:
        """Take what the asyncio logger said so far (level and above), tracebacks cut off."""
        taken = [r for r in self.records if r.levelno >= level]
        self.records.clear()
        return [plain(r.getMessage()) for r in taken]

    def warnings_taken(self) -> list[tuple[str, str]]:
        """Take the warnings so far, as (category, text)."""
        taken = [(w.category.__name__, plain(str(w.message))) for w in self.warned]
        self.warned.clear()
        return taken

    def unraisable_taken(self) -> list[Any]:
        """Take the exceptions that could not be raised so far."""
        taken = [normal(exc) for exc in self.unraisable]
        self.unraisable.clear()
        return taken

    def stock_defect(self, when: bool, reason: str) -> None:
        """Leave the stock run out where the running Python's own asyncio is broken."""
        if when and not self.native_loop:
            pytest.skip(reason)

    def close(self) -> None:
        """Close every loop that the body left open."""
        for loop in self.loops:
            if not loop.is_closed() and not loop.is_running():
                executor = getattr(loop, "_default_executor", None)
                loop.close()
                if executor is not None:
                    executor.shutdown(wait=True)
        self.loops.clear()
        self._loop = None

    def program(
        self, code: str, *args: str, stdin: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program text in a fresh interpreter; `LIB` in it is this kind's module."""
        text = f"import {self.module.__name__} as LIB\n{code}"
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", text, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=BODY_SECONDS_MAX,
            env={**os.environ, **(env or {})},
        )


class _Collector(logging.Handler):
    """Keep the records of the asyncio logger, with a copy of any traceback text."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record; hold no exception alive."""
        if record.exc_info and record.exc_info is not True and record.exc_info[1]:
            record.exc_text = "".join(traceback.format_exception(record.exc_info[1]))
            record.exc_info = None
        record.getMessage()
        record.msg, record.args = record.getMessage(), None
        self.records.append(record)


def _open_fds() -> dict[str, str]:
    """Give this process's descriptors and what they point to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


@contextlib.contextmanager
def _watched(lib: Lib) -> Iterator[None]:
    """Collect log lines, warnings and unraisable exceptions of one body."""
    logger = logging.getLogger("asyncio")
    handler = _Collector(lib.records)
    logger.addHandler(handler)
    old_hook = sys.unraisablehook

    def hook(report: Any) -> None:
        lib.unraisable.append(report.exc_value)

    sys.unraisablehook = hook
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            lib.warned = warned
            yield
    finally:
        sys.unraisablehook = old_hook
        logger.removeHandler(handler)


def _check_end(lib: Lib, fds: dict[str, str], threads: set[threading.Thread]) -> None:
    """Fail the test for anything that the body left behind."""
    lib.close()
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=5)
    left = [t.name for t in set(threading.enumerate()) - threads]
    assert not left, f"threads left: {left}"
    said = [(r.getMessage(), r.exc_text) for r in lib.records if r.levelno >= logging.WARNING]
    assert not said, f"unexpected lines of the asyncio logger: {said}"
    assert not lib.unraisable, f"unexpected unraisable exceptions: {lib.unraisable}"
    warned = [w for w in lib.warned if issubclass(w.category, ResourceWarning | RuntimeWarning)]
    assert not warned, f"unexpected warnings: {[str(w.message) for w in warned]}"
    now = _open_fds()
    leaked = {fd: what for fd, what in now.items() if fds.get(fd) != what}
    assert not leaked, f"descriptors left open: {leaked}"


def _compare(trace: list[Any], stock: list[Any] | None) -> None:
    """Fail, with the first difference in full, where a trace is not what stock asyncio gave."""
    for number, (seen, expected) in enumerate(zip(trace, stock or [], strict=False)):
        if seen != expected:
            pytest.fail(f"observation {number}:\n  stock {expected}\n  here  {seen}", pytrace=False)
    if len(trace) != len(stock or []):
        rest = trace[len(stock or []) :] or (stock or [])[len(trace) :]
        pytest.fail(f"{len(trace)} observations, stock {len(stock or [])}: {rest}", pytrace=False)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that chooses kinds."""
    config.addinivalue_line(
        "markers", "kinds(*names): kinds of loop and types to run a body on, or 'all'"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each body that takes `lib` on its kinds, the stock one first."""
    if "lib" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("kinds")
        kinds = mark.args if mark else KINDS
        kinds = ALL_KINDS if kinds == ("all",) else kinds
        assert kinds[0] == "asyncio", "the stock result comes first"
        metafunc.parametrize("lib", kinds, indirect=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Put everything imported so far out of the collector's reach: collections become cheap."""
    gc.collect()
    gc.freeze()


def _body_key(item: Any) -> Any:
    others = {k: repr(v) for k, v in item.callspec.params.items() if k != "lib"}
    return (item.parent.nodeid, item.originalname, tuple(sorted(others.items())))


@pytest.fixture
def lib(request: pytest.FixtureRequest) -> Iterator[Lib]:
    """Give the kind that this run of the body is about."""
    kind = request.param
    key = _body_key(request.node)
    if kind == "asyncio":
        _stock_traces[key] = None
    elif _stock_traces.get(key, _MISSING) is None:
        pytest.fail("stock asyncio did not pass this body")
    lib = Lib(kind)
    if kind not in UNACCELERATED:
        primitives.accelerate()
    with _watched(lib):
        try:
            yield lib
        finally:
            lib.close()
            primitives.decelerate()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Run one body under the clock; then compare and check what it left."""
    lib = pyfuncitem.funcargs.get("lib")
    if not isinstance(lib, Lib):
        return (yield)
    key = _body_key(pyfuncitem)
    # What earlier bodies left alive (reports, mostly) need not be searched again and again.
    gc.collect()
    gc.freeze()
    fds, threads = _open_fds(), set(threading.enumerate())
    hangs.begin_call(pyfuncitem, BODY_SECONDS_MAX + BODY_SECONDS_MORE)
    try:
        result = yield
        _check_end(lib, fds, threads)
    except pytest.skip.Exception:
        _stock_traces.pop(key, None)
        raise
    if lib.kind == "asyncio":
        _stock_traces[key] = lib.trace
        _stock_handled[key] = lib.handled
    elif key in _stock_traces:
        _compare(lib.trace, _stock_traces[key])
        for name, ways in _stock_handled[key].items():
            assert lib.handled.get(name, ways) == ways, f"{name}: told while handled? stock {ways}"
    return result

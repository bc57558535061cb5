"""What every test is held to, whatever it tests.

A test fails when an event loop reported an error that it did not expect (the default exception
handler logs to the ``asyncio`` logger at ERROR; a test that wants such a report takes the
``loop_errors`` fixture and reads it, or is marked ``loop_errors``). Unraisable exceptions and
exceptions of threads fail it too (pytest's own hooks; see ``filterwarnings`` in pyproject.toml).
After each test no child process, and after each module no file descriptor, may be left over.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Names a test that does not end.
pytest_plugins = ["hangs"]

# Fixtures whose owner watches the loop's reports itself, more closely than is done here.
_WATCHED_ELSEWHERE = {"lib"}
# Python's own helper processes, which live until the interpreter ends.
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
# A child that was told to end, or a thread that closes a descriptor, is given this long to do so.
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.01
# As many descriptors may be open at a time; 1024, which many machines begin with, are soon used up.
_DESCRIPTORS = 8192


class _Reports(logging.Handler):
    """Keeps the messages of the records that reach it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the text only: a record's traceback would keep objects of the test alive."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f"\n  {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        self.messages.append(text)


def pytest_configure() -> None:
    """Makes the process, and the programs that tests start, the same under every shell.

    A shell without job control starts what it puts into the background with SIGINT ignored, and
    that would be inherited; and so would its limit of descriptors.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Takes what is imported by now out of the collector's sight, so that collecting is cheap."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def loop_errors() -> Iterator[list[str]]:
    """The errors that event loops report during the test; reading them makes them expected."""
    with _reports() as messages:
        yield messages


@contextlib.contextmanager
def _reports() -> Iterator[list[str]]:
    handler = _Reports()
    loggers = [logging.getLogger(name) for name in ("asyncio", "aioxide")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_unexpected_report(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test for each error that a loop reported and that nobody asked for."""
    expected = request.node.get_closest_marker("loop_errors") is not None
    if expected or (_WATCHED_ELSEWHERE | {"loop_errors"}) & set(request.fixturenames):
        yield
        return
    with _reports() as messages:
        yield
        gc.collect()
    if messages:
        pytest.fail("an event loop reported:\n" + "\n".join(messages), pytrace=False)


def _wait_until_none(left: Callable[[], list[str]]) -> list[str]:
    """Asks until nothing is left or the time of grace is over; gives back what stayed."""
    end = time.monotonic() + _GRACE_SECONDS
    while (found := left()) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
    return found


def _children() -> dict[int, str]:
    """This process's children, with their command lines; empty where there is no /proc."""
    found = {}
    me = str(os.getpid())
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            # The name in parentheses may contain anything; what follows the last one is fixed.
            if (folder / "stat").read_text().rpartition(")")[2].split()[1] != me:
                continue
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            if not any(helper in command for helper in _HELPERS):
                found[int(folder.name)] = command.strip() or "(ended, not waited for)"
    return found


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    """Fails the test that leaves a child process behind, running or unreaped."""
    before = _children().keys()
    yield
    left = _wait_until_none(
        lambda: [f"{pid}: {what}" for pid, what in _children().items() if pid not in before]
    )
    if left:
        pytest.fail("child processes left behind:\n" + "\n".join(left), pytrace=False)


def _descriptors() -> dict[int, str]:
    """This process's descriptors and what each stands for; empty where there is no /proc."""
    found = {}
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture(autouse=True, scope="module")
def _no_descriptor_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the last test of a module that leaves file descriptors open."""
    before = _descriptors()
    yield
    if request.node.get_closest_marker("leaves_fds") is not None:
        return
    gc.collect()

    def left() -> list[str]:
        now = _descriptors().items()
        # Standard streams are pytest's to move about.
        return [f"{fd}: {what}" for fd, what in now if fd > 2 and before.get(fd) != what]

    if found := _wait_until_none(left):
        pytest.fail("descriptors left open:\n" + "\n".join(found), pytrace=False)

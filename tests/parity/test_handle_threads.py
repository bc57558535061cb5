"""Handles of call_soon_threadsafe that one thread runs while others cancel them or ask.

From 3.14 on such a handle lets one thread in at a time: cancel() waits for a callback that runs.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="handles have no lock before 3.14: there, nobody waits"
)

# What a callback lets the other threads do while they ought to wait.
CHANCES = 200


class Meeting:
    """A callback that runs until others are on their way into its handle."""

    def __init__(self, lib: Any, asks: int = 1) -> None:
        self.lib = lib
        self.running = threading.Event()
        self.asked = threading.Semaphore(0)
        self.asks = asks
        self.log: list[str] = []
        self.handle: Any = None

    def callback(self, last: Callable[[], None] = lambda: None) -> None:
        """Wait for those who ask, and let them come as far as they can."""
        self.running.set()
        for _ in range(self.asks):
            self.asked.acquire()
        for _ in range(CHANCES):
            time.sleep(0)
        self.log.append("ran")
        last()

    def ask(self, name: str) -> None:
        """Call a method of the handle as soon as its callback runs."""
        self.running.wait()
        self.asked.release()
        self.log.append(f"{name}: {getattr(self.handle, name)()}")

    def hold(self, *names: str, last: Callable[[], None] = lambda: None) -> list[Any]:
        """Have threads call these methods while the callback runs."""
        threads = [threading.Thread(target=self.ask, args=(name,)) for name in names]
        self.handle = self.lib.loop.call_soon_threadsafe(self.callback, last)
        self.lib.loop.call_soon(self.lib.loop.stop)
        for thread in threads:
            thread.start()
        try:
            self.lib.loop.run_forever()
        finally:
            for thread in threads:
                thread.join()
        return sorted(self.log[1:])


def test_a_cancellation_waits_for_the_callback(lib: Any) -> None:
    meeting = Meeting(lib)
    lib.note(meeting.hold("cancel"), meeting.log[0], meeting.handle.cancelled())


def test_a_question_waits_for_the_callback(lib: Any) -> None:
    meeting = Meeting(lib)
    lib.note(meeting.hold("cancelled"), meeting.log[0])


def test_many_wait_for_one(lib: Any) -> None:
    meeting = Meeting(lib, 6)
    names = ["cancelled", "cancel", "cancel", "cancelled", "_run", "cancelled"]
    found = meeting.hold(*names, last=lambda: meeting.handle.cancel())
    lib.note(found, meeting.log[0], meeting.handle.cancelled())


def test_those_who_wait_go_on_when_the_callback_raises(lib: Any) -> None:
    def leave() -> None:
        raise SystemExit("leaves")

    meeting = Meeting(lib, 2)
    lib.catch(meeting.hold, "cancelled", "cancelled", last=leave)
    lib.note(sorted(meeting.log), meeting.log[0])
    lib.turns()


def test_no_two_of_those_who_wait_are_inside_at_once(lib: Any) -> None:
    """One of them runs the callback once more; what the others ask is answered before or after."""
    for _ in range(5):
        meeting = Meeting(lib, 3)

        def callback(meeting: Meeting = meeting) -> None:
            meeting.log.append("begins")
            if meeting.log.count("begins") == 1:
                meeting.running.set()
                for _ in range(meeting.asks):
                    meeting.asked.acquire()
            for _ in range(CHANCES):
                time.sleep(0)
            meeting.log.append("ends")

        meeting.callback = lambda last: callback()  # type: ignore[method-assign]
        meeting.hold("_run", "cancelled", "cancelled")
        begun = [place for place, word in enumerate(meeting.log) if word == "begins"]
        lib.note([meeting.log[place + 1] for place in begun], len(meeting.log))


def test_a_handle_that_is_made_by_hand(lib: Any) -> None:
    """It lets one thread in at a time, as those that loops make."""
    meeting = Meeting(lib)
    made = lib.loop.call_soon_threadsafe(int)
    lib.turns()
    meeting.handle = type(made)(meeting.callback, (), lib.loop)
    runner = threading.Thread(target=meeting.handle._run)
    runner.start()
    meeting.ask("cancelled")
    runner.join()
    lib.note(meeting.log)


def test_a_look_at_the_flag_does_not_wait(lib: Any) -> None:
    """`_cancelled`, which asyncio's own loop looks at, is no question."""
    meeting = Meeting(lib, 0)
    seen = []

    def look() -> None:
        meeting.running.wait()
        seen.append(meeting.handle._cancelled)
        looked.set()

    looked = threading.Event()
    thread = threading.Thread(target=look)
    thread.start()
    meeting.hold(last=looked.wait)
    thread.join()
    lib.note(seen)


def test_a_callback_may_use_its_own_handle(lib: Any) -> None:
    calls: list[Any] = []

    def callback() -> None:
        calls.append(handle.cancelled())
        handle.cancel()
        calls.append(handle.cancelled())
        handle._run()

    handle = lib.loop.call_soon_threadsafe(callback)
    lib.turns()
    lib.note(calls, repr(handle))


def test_a_signal_ends_the_wait_of_the_main_thread(lib: Any) -> None:
    """An exception of a signal's handler comes out of cancel(), which then has not happened."""

    class Alarm(Exception):
        pass

    def handler(number: int, frame: Any) -> None:
        raise Alarm

    loop, meeting = lib.loop, Meeting(lib)
    alarmed = threading.Event()

    def last() -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        alarmed.wait()
        meeting.log.append("after the alarm")

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=loop.run_forever)
    try:
        meeting.handle = loop.call_soon_threadsafe(meeting.callback, last)
        thread.start()
        try:
            meeting.ask("cancel")
        except Alarm:
            meeting.log.append("alarm")
        alarmed.set()
        lib.note(meeting.handle.cancelled(), meeting.log)
    finally:
        alarmed.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        signal.signal(signal.SIGUSR1, before)

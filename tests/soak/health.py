"""The inspections: what is there while the stage rests, and what may have grown since warm-up."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .ledger import Ledger

#: What ends in the background (closing transports, reaped children) is given this long.
SETTLE_SECONDS = 5.0
#: Growth after warm-up, of a fitted line over all inspections. Memory: a page stays while anything
#: on it does, so the resident size wanders; a leak of one object for each operation is far more.
RESIDENT_KIB_MAX = 4 * 1024
#: Interpreter caches, counters of the books, freelists.
BLOCKS_MAX = 4_000
OBJECTS_MAX = 1_000


def children() -> list[int]:
    """Give the child processes, of every thread."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:  # the thread ended meanwhile
            continue
    return found


def descriptors() -> Counter[str]:
    """Count the open descriptors by kind."""
    kinds: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            kinds[os.readlink(f"/proc/self/fd/{name}").partition(":[")[0]] += 1
        except OSError:  # the listing's own
            continue
    return kinds


def own_threads() -> list[str]:
    """Give the threads that are not the default executor's."""
    return sorted(
        thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")
    )


def _trim() -> None:
    """Have the C library give back what it keeps free: what is left is what somebody holds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Numbers(NamedTuple):
    """What is compared over a run."""

    seconds: float
    resident_kib: int
    blocks: int
    objects: int


class Moment:
    """What is there at one moment of rest."""

    def __init__(self) -> None:
        gc.collect()
        _trim()
        self.seconds = time.monotonic()
        self.descriptors = descriptors()
        self.tasks = Counter(
            task.get_name().rpartition("-")[0] or task.get_name() for task in asyncio.all_tasks()
        )
        self.threads = own_threads()
        self.children = children()
        self.objects = len(gc.get_objects())
        self.blocks = sys.getallocatedblocks()
        with open("/proc/self/statm") as file:
            self.resident_kib = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024

    def numbers(self) -> Numbers:
        """Give what may not grow."""
        return Numbers(self.seconds, self.resident_kib, self.blocks, self.objects)

    def left(self, before: Moment) -> list[str]:
        """Say what is there now and was not there before."""
        found = []
        for kind, more in (self.descriptors - before.descriptors).items():
            found.append(f"fd: {more} more of {kind}")
        for name, more in (self.tasks - before.tasks).items():
            found.append(f"task: {more} more of {name}")
        for name in set(self.threads) - set(before.threads):
            found.append(f"thread: {name}")
        found += [f"child: {pid}" for pid in self.children]
        return found


class Health:
    """The inspections of one run."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.first: Moment | None = None
        self.moments: list[Numbers] = []

    async def inspect(self) -> None:
        """Compare with the first moment; what goes away in time is no violation."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            for _ in range(5):
                await asyncio.sleep(0)
            moment = Moment()
            left = moment.left(self.first) if self.first is not None else []
            if not left and not self.ledger.unsettled():
                break
            if time.monotonic() > end:
                for text in left:
                    self.ledger.violation(text)
                for kind in self.ledger.unsettled():
                    self.ledger.violation(f"error: never reported: {kind}")
                break
            await asyncio.sleep(0.05)
        self.ledger.forget_connections()
        if self.first is None:
            self.first = moment
        else:
            self.moments.append(moment.numbers())

    def growth(self) -> dict[str, float]:
        """Give how much each measure has grown from the end of warm-up to the end, by a line."""
        kept = self.moments[len(self.moments) // 3 :]
        found = {}
        for name in ("resident_kib", "blocks", "objects"):
            values = [float(getattr(moment, name)) for moment in kept]
            found[name] = _rise([moment.seconds for moment in kept], values)
        return found

    def judge(self) -> None:
        """Note a violation for each measure that grew beyond its bound."""
        limits = {"resident_kib": RESIDENT_KIB_MAX, "blocks": BLOCKS_MAX, "objects": OBJECTS_MAX}
        for name, rise in self.growth().items():
            if rise > limits[name]:
                self.ledger.violation(
                    f"memory: {name} grew by {rise:.0f}, more than {limits[name]}"
                )


def _rise(times: list[float], values: list[float]) -> float:
    """Fit a line and give its rise over the whole time."""
    if len(times) < 2:
        return 0.0
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    square = sum((x - middle) ** 2 for x in times)
    slope = sum((x - middle) * (y - mean) for x, y in zip(times, values, strict=True)) / square
    return slope * (times[-1] - times[0])

"""PriorityQueue: which item comes first, which comparisons are made, and what those may do."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.kinds("all")

STEPS = 60


class Noted:
    """Compares by its number and notes each comparison, with what the queue looks like then."""

    def __init__(self, number: int, notes: list[Any], queue: Any) -> None:
        self.number, self.notes, self.queue = number, notes, queue

    def __repr__(self) -> str:
        return f"<{self.number}>"

    def __lt__(self, other: Noted) -> Any:
        self.notes.append((self.number, other.number, [each.number for each in self.queue._queue]))
        # A truth that has to be asked.
        return [None] * (self.number < other.number)


class Reflected:
    """Leaves comparing to the other one."""

    def __init__(self, number: int, notes: list[Any]) -> None:
        self.number, self.notes = number, notes

    def __lt__(self, other: Any) -> Any:
        self.notes.append(("less", self.number, other.number))
        return NotImplemented

    def __gt__(self, other: Any) -> bool:
        self.notes.append(("greater", self.number, other.number))
        return bool(self.number > other.number)


class Backwards(int):
    """An int that is less where it is greater."""

    def __lt__(self, other: int) -> bool:
        return int(self) > int(other)


class Opposed(int):
    """An int that an int before it asks first, and that then says the opposite."""

    def __gt__(self, other: int) -> bool:
        return int(self) < int(other)


class Text(str):
    """A str that compares as usual."""


KINDS: dict[str, Callable[[random.Random], Any]] = {
    "int": lambda rng: rng.randrange(-9, 9),
    "digits": lambda rng: rng.choice((1, -1)) * (2 ** rng.choice((15, 30, 60)) - rng.randrange(2)),
    "large": lambda rng: rng.choice((1, -1)) * rng.randrange(2**70),
    "float": lambda rng: rng.choice((math.nan, math.inf, -math.inf, 0.5, -0.0, 0.0, 2.5)),
    "numbers": lambda rng: rng.choice((1, 1.5, True, False, -(2**70), math.nan)),
    "text": lambda rng: rng.choice(("a", "b", "", "aa", "ü", Text("ab"))),
    "bytes": lambda rng: rng.randbytes(2),
    "tuple": lambda rng: (rng.randrange(4), rng.randrange(4), "last"),
    "ragged": lambda rng: tuple(range(rng.randrange(4))),
    "nested": lambda rng: ((rng.randrange(2), (rng.randrange(3),)), [rng.randrange(3)]),
    "backwards": lambda rng: rng.choice((int, Backwards))(rng.randrange(9)),
    "opposed": lambda rng: rng.choice((int, Opposed))(rng.randrange(9)),
    "mixed": lambda rng: rng.choice((1, "a", None, (1, "a"), (1, 2), 2.5)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_random_items(lib: Any, kind: str, seed: int) -> None:
    async def main() -> None:
        rng = random.Random(f"{kind} {seed}")
        queue: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
        for _ in range(STEPS):
            if rng.random() < 0.6:
                lib.catch(queue.put_nowait, KINDS[kind](rng))
            else:
                lib.catch(queue.get_nowait)
            if seed % 2:
                lib.note(repr(queue._queue))
        lib.note(queue.qsize(), repr(queue._queue), queue._unfinished_tasks)

    lib.run(main)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_comparisons_in_the_same_order(lib: Any, seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        queue: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
        notes: list[Any] = []
        for _ in range(STEPS):
            if rng.random() < 0.6:
                queue.put_nowait(Noted(rng.randrange(20), notes, queue))
            elif not queue.empty():
                notes.append(queue.get_nowait().number)
        lib.note(notes)
        notes.clear()
        queue = asyncio.PriorityQueue()
        for number in rng.sample(range(9), 9):
            queue.put_nowait(Reflected(number, notes))
        while not queue.empty():
            notes.append(queue.get_nowait().number)
        lib.note(notes)

    lib.run(main)


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("deed", ["raise", "clear", "append", "pop", "replace", "assign"])
def test_comparisons_that_interfere(lib: Any, deed: str, place: int) -> None:
    async def main() -> None:
        queue: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
        left = place

        class Item(int):
            def __lt__(self, other: int) -> bool:
                nonlocal left
                left -= 1
                heap = queue._queue
                if left == 0 and deed == "raise":
                    raise LookupError(int(self), int(other))
                if left == 0 and deed == "clear":
                    heap.clear()
                if left == 0 and deed == "append":
                    heap.append(Item(50))
                if left == 0 and deed == "pop":
                    heap.pop()
                if left == 0 and deed == "replace":
                    heap[:] = [Item(70 + index) for index in range(len(heap))]
                if left == 0 and deed == "assign":
                    queue._queue = [Item(90)]
                return int(self) < int(other)

        for number in (5, 3, 4, 1, 2):
            lib.catch(queue.put_nowait, Item(number))
        left = place
        for _ in range(4):
            lib.catch(queue.get_nowait)
            lib.note([int(each) for each in queue._queue])
        lib.note(queue._unfinished_tasks, queue.qsize())

    lib.run(main)


def test_the_list_grows_and_shrinks(lib: Any) -> None:
    async def main() -> None:
        queue: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
        for number in range(300):
            await queue.put(-number)
        lib.note(sys.getsizeof(queue._queue))
        for _ in range(300):
            lib.note(await queue.get(), len(queue._queue), sys.getsizeof(queue._queue))
        queue.put_nowait(1)
        lib.note(queue._queue)

    lib.run(main)


def test_what_is_taken_out_is_let_go(lib: Any) -> None:
    async def main() -> None:
        queue: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
        watched = []
        for number in range(100):
            item = Reflected(-number, [])
            watched.append(weakref.ref(item))
            await queue.put(item)
        while not queue.empty():
            item = await queue.get()
        del item
        gc.collect()
        lib.note([watch() for watch in watched])

    lib.run(main)


def test_other_containers(lib: Any) -> None:
    class List(list[int]):
        """A list that is not exactly one."""

    async def main() -> None:
        queue: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
        for container in (List([4, 6, 8]), (1, 2), None, [], [9, 9]):
            queue._queue = container
            lib.catch(queue.put_nowait, 5)
            lib.catch(queue.get_nowait)
            lib.note(queue._queue)
            lib.catch(queue._get)
            lib.note(queue._queue)
        queue._queue = []
        lib.catch(queue._get)

    lib.run(main)

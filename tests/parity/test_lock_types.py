"""Locks and queues as types: arguments, attributes, subclasses, patches, copies, loops."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import gc
import inspect
import math
import pickle
import sys
import weakref
from typing import Any
from unittest import mock

import pytest
from observe import outcome

pytestmark = pytest.mark.kinds("all")

NAMES = (
    "Lock",
    "Event",
    "Condition",
    "Semaphore",
    "BoundedSemaphore",
    "Barrier",
    "Queue",
    "PriorityQueue",
    "LifoQueue",
)
ARGUMENTS = {"Barrier": (2,)}


def make(name: str, *args: Any) -> Any:
    """Make one, with what it needs at least."""
    return getattr(asyncio, name)(*(args or ARGUMENTS.get(name, ())))


def refused(call: Any, *args: Any, **options: Any) -> Any:
    """Give the exception of a call, if it raises one."""
    try:
        return call(*args, **options) and None
    except Exception as exc:
        return exc


@pytest.mark.parametrize("name", NAMES)
def test_arguments(lib: Any, name: str) -> None:
    kind = getattr(asyncio, name)
    for args, options in (
        ((), {}),
        ((), {"loop": None}),
        ((0,), {}),
        ((-1,), {}),
        ((1, 2), {}),
        ((2.5,), {}),
        ((math.inf,), {}),
        (("x",), {}),
        ((None,), {}),
        ((), {"value": 3}),
        ((1,), {"value": 3}),
        ((), {"maxsize": 3}),
        ((), {"parties": 1}),
        ((10**30,), {}),
        ((True,), {}),
    ):
        lib.catch(lambda args=args, options=options: repr(kind(*args, **options)))
    lib.note(str(inspect.signature(kind)), kind.__name__, kind.__doc__)
    methods: tuple[str, ...] = ("acquire", "release", "locked", "wait", "wait_for", "notify")
    methods += ("get", "put", "join", "put_nowait", "shutdown", "__aenter__", "__aexit__")
    methods += ("set", "clear", "is_set", "notify_all", "get_nowait", "qsize", "empty", "full")
    methods += ("task_done", "_get_loop", "_format", "_exit")
    for method in methods:
        if hasattr(kind, method) and not (name == "Condition" and method in methods[:3]):
            found = getattr(kind, method)
            parameters = inspect.signature(found).parameters
            lib.note(method, str(parameters), asyncio.iscoroutinefunction(found))
            for args, options in (((1, 2, 3, 4, 5), {}), ((), {"wrong": 1}), ((1,), {"wrong": 1})):
                lib.note(refused(found, make(name), *args, **options))
    lib.warnings_taken()


@pytest.mark.parametrize("name", NAMES)
def test_attributes(lib: Any, name: str) -> None:
    made = make(name)
    known = ("_waiters", "_locked", "_value", "_bound_value", "_loop", "_state", "_parties")
    known += ("_count", "_maxsize", "_getters", "_putters", "_queue", "_unfinished_tasks")
    known += ("maxsize", "parties", "n_waiting", "broken", "_is_shutdown")
    for attribute in known:
        lib.note(attribute, getattr(made, attribute, "absent"))
        if hasattr(made, attribute):
            lib.note(refused(setattr, made, attribute, getattr(made, attribute)))
    for attribute in ("maxsize", "parties", "n_waiting", "broken"):
        lib.note(refused(delattr, made, attribute) if hasattr(made, attribute) else "absent")
    lib.note(type(getattr(made, "_lock", None)).__name__, type(made.__dict__).__name__)
    made.mine = 5
    lib.note(made.mine, vars(made)["mine"])
    ref = weakref.ref(made)
    lib.note(ref() is made, made == make(name), hash(made) == hash(made))
    del made
    gc.collect()
    lib.note(ref())
    lib.catch(lambda: getattr(asyncio, name)[int])


@pytest.mark.parametrize("name", NAMES)
def test_copies(lib: Any, name: str) -> None:
    made = make(name)
    if name.endswith("Queue"):
        made.put_nowait(3)
    for again in (copy.copy(made), pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        lib.note(type(again).__name__, repr(again), again is made)
    if name != "Condition" and name != "Barrier":
        made.mine = [1]
        lib.note(copy.copy(made).mine, copy.copy(made).mine is made.mine)

    async def main() -> None:
        if name == "Lock":
            made._locked = True
            task = asyncio.create_task(made.acquire())
            await asyncio.sleep(0)
            error = lib.catch(lambda: pickle.dumps(made) and None)
            lib.note(error is not None)
            made.release()
            await task

    with contextlib.suppress(Exception):
        lib.run(main)
    lib.trace[:] = [seen for seen in lib.trace if "raised" not in str(seen)]


@pytest.mark.parametrize("name", ["Queue", "PriorityQueue", "LifoQueue"])
def test_overridden_order(lib: Any, name: str) -> None:
    class Unique(getattr(asyncio, name)):  # type: ignore[misc]
        def _init(self, maxsize: int) -> None:
            lib.note("init", maxsize)
            self._queue: list[Any] = []

        def _put(self, item: Any) -> None:
            if item not in self._queue:
                self._queue.append(item)

        def _get(self) -> Any:
            return self._queue.pop(len(self._queue) // 2)

    class Counted(getattr(asyncio, name)):  # type: ignore[misc]
        def _put(self, item: Any) -> None:
            lib.note("puts", item)
            super()._put(item)

        def full(self) -> bool:
            lib.note("full?")
            return bool(super().full())

        async def get(self) -> Any:
            item = await super().get()
            lib.note("gets", item)
            return item

    async def main() -> None:
        for kind in (Unique, Counted):
            queue = kind(2)

            async def produce(queue: Any = queue) -> None:
                for item in (3, 1, 1, 2, 5):
                    await queue.put(item)

            task = asyncio.create_task(produce())
            await asyncio.sleep(0)
            lib.note(repr(queue), queue.qsize(), queue.empty())
            got = []
            while not task.done() or not queue.empty():
                got.append(await queue.get())
                queue.task_done()
                await asyncio.sleep(0)
            lib.note(got, queue._unfinished_tasks)

    lib.run(main)


def test_overridden_methods(lib: Any) -> None:
    class Loud(asyncio.Lock):
        async def acquire(self) -> Any:
            lib.note("acquires")
            return await super().acquire()

        def release(self) -> None:
            lib.note("releases")
            super().release()

    class Permits(asyncio.Semaphore):
        def locked(self) -> bool:
            lib.note("locked?")
            return super().locked()

    class Told(asyncio.Condition):
        async def wait(self) -> Any:
            lib.note("waits")
            return await super().wait()

        def notify(self, n: int = 1) -> None:
            lib.note("notifies", n)
            super().notify(n)

        async def acquire(self) -> Any:
            raise AssertionError("the lock's own acquire() stands before this one")

    async def main() -> None:
        lock = Loud()
        async with lock:
            lib.note(lock.locked())
        async with asyncio.Condition(lock) as nothing:
            lib.note(nothing)
        async with Permits(1):
            pass
        condition = Told()

        async def waiter() -> Any:
            async with condition:
                return await condition.wait_for(lambda: condition.done)

        condition.done = ""  # type: ignore[attr-defined]
        task = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        async with condition:
            condition.done = "done"  # type: ignore[attr-defined]
            condition.notify_all()
        lib.note(await task)

    lib.run(main)


def test_patched(lib: Any) -> None:
    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        with mock.patch.object(queue, "put_nowait") as patched:
            await queue.put(1)
            lib.note(patched.call_args_list)
        with mock.patch.object(asyncio.Queue, "_put") as patched:
            await queue.put(2)
            lib.note(patched.call_args_list)
        await queue.put(3)
        lib.note(await queue.get(), queue._unfinished_tasks)
        lock = asyncio.Lock()
        with mock.patch.object(lock, "release") as patched:
            async with lock:
                pass
            lib.note(patched.call_count, lock.locked())
        event = asyncio.Event()
        event.__dict__["_get_loop"] = lambda: lib.note("asked") or asyncio.get_running_loop()
        task = asyncio.create_task(event.wait())
        await asyncio.sleep(0)
        event.set()
        lib.note(await task)
        spec = mock.create_autospec(asyncio.Queue, instance=True)
        spec.get.return_value = 5
        lib.note(await spec.get(), isinstance(spec, asyncio.Queue))

    lib.run(main)


def test_other_loops(lib: Any) -> None:
    async def bind(made: Any, waits: Any) -> Any:
        task = asyncio.create_task(outcome(waits()))
        await asyncio.sleep(0)
        task.cancel()
        await task
        return made._loop is asyncio.get_running_loop()

    lock, event, queue = asyncio.Lock(), asyncio.Event(), asyncio.Queue[int]()
    semaphore, condition = asyncio.Semaphore(0), asyncio.Condition()
    lock._locked = True  # type: ignore[attr-defined]
    condition._lock._locked = True  # type: ignore[attr-defined]
    all_of_them: list[tuple[Any, Any]] = [
        (lock, lock.acquire),
        (event, event.wait),
        (queue, queue.get),
        (semaphore, semaphore.acquire),
        (condition, condition.wait),
    ]
    for made, waits in all_of_them:
        lib.note(made._loop)
        lib.note(lib.run(bind(made, waits)))
        lib.note(lib.run(outcome(waits())))
    coroutine = asyncio.Event().wait()
    lib.catch(coroutine.send, None)


def test_shown_objects_count(lib: Any) -> None:
    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        for item in range(3):
            queue.put_nowait(item)
        items = queue._queue  # type: ignore[attr-defined]
        items.appendleft("first")
        lib.note(queue.qsize(), await queue.get(), list(items), repr(queue))
        items.clear()
        lib.note(queue.empty())
        future = lib.loop.create_future()
        queue._getters.append(future)  # type: ignore[attr-defined]
        await queue.put(5)
        lib.note(future.done(), len(queue._getters), isinstance(items, collections.deque))
        lock = asyncio.Lock()
        lib.note(lock._waiters)
        await lock.acquire()
        tasks = [asyncio.create_task(outcome(lock.acquire())) for _ in range(3)]
        await asyncio.sleep(0)
        waiters = lock._waiters
        lib.note(len(waiters), [w.done() for w in waiters], waiters is lock._waiters)
        tasks[0].cancel()
        await asyncio.sleep(0)
        lib.note(len(waiters), repr(lock))
        for task in tasks[1:]:
            lock.release()
            lib.note(await task)
        lib.note(len(waiters))
        event = asyncio.Event()
        event._waiters.append(mock.Mock())  # type: ignore[attr-defined]
        lib.note(repr(event))
        semaphore = asyncio.Semaphore(1)
        semaphore._value = math.inf  # type: ignore[assignment]
        async with semaphore:
            lib.note(semaphore._value, semaphore.locked())

    lib.run(main)


def test_collected_in_circles(lib: Any) -> None:
    class Holder:
        pass

    async def main() -> None:
        refs = []
        for name in NAMES:
            holder = Holder()
            made = holder.made = make(name)  # type: ignore[attr-defined]
            made.holder = holder
            if name.endswith("Queue"):
                made.put_nowait(holder) if name != "PriorityQueue" else None
            refs.append(weakref.ref(holder))
        del holder, made
        gc.collect()
        lib.note([ref() for ref in refs])

    lib.run(main)


def test_native_and_stock_are_one(lib: Any) -> None:
    stock = {
        name: getattr(asyncio.queues if "Queue" in name else asyncio.locks, name) for name in NAMES
    }
    for name, kind in stock.items():
        lib.note(name, isinstance(make(name), kind), issubclass(kind, getattr(asyncio, name)))
    lib.note(isinstance(asyncio.LifoQueue(), asyncio.Queue))
    lib.note(isinstance(asyncio.BoundedSemaphore(), asyncio.Semaphore))
    lib.note(isinstance(asyncio.Queue(), asyncio.LifoQueue))
    if sys.version_info >= (3, 13):
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        queue.put_nowait(1)
        lib.catch(queue.shutdown, immediate=True)
        lib.catch(queue.get_nowait)
        lib.catch(queue.put_nowait, 1)
        lib.note(repr(queue))

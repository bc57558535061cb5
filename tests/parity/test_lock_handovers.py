"""Who gets a lock, a unit or a notification, when somebody in the line gives up or comes late.

The coroutines are driven by hand where a turn more would hide the difference.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from observe import chain, outcome

pytestmark = pytest.mark.kinds("all")


def begin(lib: Any, coroutine: Any) -> Any:
    """Drive a coroutine to where it waits first; note whether it does."""
    try:
        future = coroutine.send(None)
    except StopIteration as end:
        lib.note("at once", end.value)
        return None
    except Exception as error:
        lib.note("raised", chain(error))
        return None
    future._asyncio_future_blocking = False
    lib.note("waits", len(getattr(future, "_callbacks", None) or ()))
    return future


async def started(*coroutines: Any) -> list[asyncio.Task[Any]]:
    """Make tasks and let each come to where it waits."""
    tasks = [asyncio.create_task(outcome(coroutine)) for coroutine in coroutines]
    await asyncio.sleep(0)
    return tasks


def test_a_lock_whose_line_is_cancelled(lib: Any) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        tasks = await started(lock.acquire(), lock.acquire())
        for task in tasks:
            task.cancel()
        lock.release()
        lib.note(lock.locked(), len(lock._waiters))
        begin(lib, lock.acquire())
        for task in tasks:
            lib.note(await task)
        lib.note(lock.locked(), len(lock._waiters))

    lib.run(main)


def test_a_lock_that_was_given_to_someone_who_gives_up(lib: Any) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        first, second = await started(lock.acquire(), lock.acquire())
        lock.release()
        first.cancel()
        waits = begin(lib, late := lock.acquire())
        lib.note(waits is None, await first, lock.locked())
        lib.note(await second, lock.locked())
        late.close()
        lib.note(repr(lock))

    lib.run(main)


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_a_unit_that_was_given_to_someone_who_gives_up(lib: Any, kind: str) -> None:
    async def main() -> None:
        semaphore = getattr(asyncio, kind)(1)
        await semaphore.acquire()
        first, second = await started(semaphore.acquire(), semaphore.acquire())
        semaphore.release()
        lib.note(semaphore._value, semaphore.locked())
        first.cancel()
        lib.note(await first, semaphore._value, len(semaphore._waiters))
        lib.note(await second, semaphore._value, semaphore.locked())
        semaphore.release()
        lib.note(repr(semaphore))

    lib.run(main)


def test_units_for_those_who_came_behind_the_woken(lib: Any) -> None:
    async def main() -> None:
        semaphore = asyncio.Semaphore(1)
        await semaphore.acquire()
        (first,) = await started(semaphore.acquire())
        semaphore.release()
        semaphore.release()
        # A unit is left, but somebody was there before.
        lib.note(semaphore._value, semaphore.locked())
        late = [semaphore.acquire() for _ in range(2)]
        futures = [begin(lib, coroutine) for coroutine in late]
        semaphore.release()
        lib.note([future.done() for future in futures], semaphore._value)
        lib.note(await first, [future.done() for future in futures], semaphore._value)
        for coroutine in late:
            begin(lib, coroutine)
        lib.note(repr(semaphore))

    lib.run(main)


def test_a_unit_with_a_cancelled_line(lib: Any) -> None:
    async def main() -> None:
        semaphore = asyncio.Semaphore(0)
        tasks = await started(semaphore.acquire(), semaphore.acquire())
        for task in tasks:
            task.cancel()
        semaphore.release()
        lib.note(semaphore._value, semaphore.locked())
        begin(lib, semaphore.acquire())
        for task in tasks:
            lib.note(await task)
        lib.note(repr(semaphore))

    lib.run(main)


def test_a_notification_that_was_given_to_someone_who_gives_up(lib: Any) -> None:
    async def main() -> None:
        condition = asyncio.Condition()

        async def wait() -> Any:
            async with condition:
                return await condition.wait()

        first, second = await started(wait(), wait())
        async with condition:
            condition.notify()
        first.cancel()
        lib.note(await first)
        for _ in range(3):
            await asyncio.sleep(0)
        lib.note(second.done())
        async with condition:
            condition.notify()
        lib.note(await second, condition.locked())

    lib.run(main)


@pytest.mark.parametrize("kind", ["Queue", "LifoQueue"])
def test_an_item_for_a_getter_who_gives_up(lib: Any, kind: str) -> None:
    async def main() -> None:
        queue = getattr(asyncio, kind)()
        first, second = await started(queue.get(), queue.get())
        queue.put_nowait("item")
        first.cancel()
        lib.note(await first, await second)
        queue = getattr(asyncio, kind)(1)
        queue.put_nowait("first")
        one, two = await started(queue.put("one"), queue.put("two"))
        lib.note(queue.get_nowait())
        one.cancel()
        lib.note(await one, await two, queue.get_nowait(), repr(queue))

    lib.run(main)


def test_a_getter_that_is_thrown_at(lib: Any) -> None:
    """Its future may be pending still: it is cancelled, and wakes nobody."""

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        getters = [queue.get() for _ in range(2)]
        futures = [begin(lib, getter) for getter in getters]
        lib.catch(getters[0].throw, LookupError("thrown"))
        lib.note([future.cancelled() for future in futures], len(queue._getters))
        queue.put_nowait(1)
        begin(lib, getters[1])

    lib.run(main)

"""What a coroutine stands on is replaced, or made anew, while it waits: nothing breaks."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import pytest
from observe import outcome

pytestmark = pytest.mark.kinds("all")


def test_a_future_is_made_anew(lib: Any) -> None:
    async def wait(future: Any) -> Any:
        return await future

    async def main() -> None:
        future, other = (lib.Future(loop=lib.loop) for _ in range(2))
        gathering = asyncio.gather(future, other)
        try:
            future.__init__(loop=lib.loop)
        except RuntimeError as error:
            # Later versions refuse.
            lib.note(error)
        task = asyncio.create_task(wait(future))
        await asyncio.sleep(0)
        future.set_result("once")
        lib.note(await task)
        other.set_result(None)
        await asyncio.sleep(0)
        lib.note(len(gathering._children))

    lib.run(main)


def test_a_read_fails_while_another_searches(lib: Any) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"some\r")
        waits = asyncio.create_task(outcome(reader.readuntil(b"\r\n")))
        await asyncio.sleep(0)
        lib.note(await outcome(reader.readline()))
        reader.feed_data(b"\n")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        lib.note(waits.done())
        reader.feed_data(b"end\r\n")
        lib.note(await waits)

    lib.run(main)


def test_a_drain_whose_writer_changes_its_protocol(lib: Any) -> None:
    class Transport(asyncio.Transport):
        closed = False

        def is_closing(self) -> bool:
            return self.closed

        def close(self) -> None:
            self.closed = True

    async def main() -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        writer = asyncio.StreamWriter(Transport(), protocol, reader, lib.loop)
        protocol.pause_writing()
        waits = asyncio.create_task(outcome(writer.drain()))
        await asyncio.sleep(0)
        writer._protocol = object()  # type: ignore[attr-defined]
        protocol.resume_writing()
        lib.note(await waits)
        writer.close()

    lib.run(main)


def test_a_condition_that_gets_another_lock(lib: Any) -> None:
    async def main() -> None:
        condition = asyncio.Condition()
        lock = condition._lock  # type: ignore[attr-defined]

        async def wait() -> Any:
            await lock.acquire()
            return await condition.wait()

        waits = asyncio.create_task(outcome(wait()))
        await asyncio.sleep(0)
        await lock.acquire()
        condition.notify()
        await asyncio.sleep(0)
        condition._lock = "no lock"  # type: ignore[attr-defined]
        lock.release()
        lib.note(await waits, lock.locked())

    lib.run(main)


def test_a_barrier_that_gets_another_condition(lib: Any) -> None:
    async def main() -> None:
        barrier = asyncio.Barrier(2)
        barrier._cond = object()  # type: ignore[attr-defined]
        lib.catch(barrier._exit)  # type: ignore[attr-defined]
        barrier = asyncio.Barrier(2)
        waits = asyncio.create_task(outcome(barrier.wait()))
        await asyncio.sleep(0)
        barrier._cond = object()  # type: ignore[attr-defined]
        waits.cancel()
        lib.note((await waits)[:2], barrier._count)  # type: ignore[attr-defined]

    lib.run(main)


def test_a_condition_that_gets_another_lock_before_it_waits(lib: Any) -> None:
    """It keeps the methods that it took from the first one."""

    async def main() -> None:
        condition: Any = asyncio.Condition()
        first, second = condition._lock, asyncio.Lock()
        await condition.acquire()
        coroutine = condition.wait()
        condition._lock = second
        waits = asyncio.create_task(outcome(coroutine))
        await asyncio.sleep(0)
        lib.note(first.locked(), second.locked(), condition.locked())
        async with condition:
            lib.note(first.locked(), second.locked(), condition._lock is second)
            condition.notify()
        lib.note(await waits, first.locked(), second.locked())
        condition.release()
        lib.note(repr(condition).rpartition(" ")[2])

    lib.run(main)


@pytest.mark.parametrize("what", ["condition", "subclass", "object", "lock", "method", "two"])
def test_a_barrier_that_is_changed_before_it_waits(lib: Any, what: str) -> None:
    """What counts is what the first step finds."""

    class Noting(asyncio.Condition):
        async def wait(self) -> Any:
            lib.note("waits")
            return await super().wait()

    async def main() -> None:
        barrier: Any = asyncio.Barrier(2)
        first = barrier._cond
        coroutines = [barrier.wait() for _ in range(2)]
        if what == "condition":
            barrier._cond = asyncio.Condition()
        elif what == "subclass":
            barrier._cond = Noting()
        elif what == "object":
            barrier._cond = object()
        elif what == "lock":
            first._lock = asyncio.Lock()
        elif what == "method":
            barrier._release = lambda: lib.note("released") or type(barrier)._release(barrier)
        elif what == "two":
            barrier._parties = 3
        waiting = [asyncio.create_task(outcome(each)) for each in coroutines]
        await asyncio.sleep(0)
        lib.note(first.locked(), len(first._waiters), barrier.n_waiting)
        if what == "two":
            lib.note(await barrier.wait())
        for each in waiting:
            lib.note((await each)[:1] if what == "object" else await each)
        lib.note(barrier.n_waiting, first.locked(), repr(barrier).rpartition(" ")[2])

    lib.run(main)


def test_callbacks_that_come_and_go_while_they_are_compared(lib: Any) -> None:
    async def main() -> None:
        future = lib.loop.create_future()

        def wanted(_future: Any) -> None:
            lib.note("wanted")

        def unwanted(_future: Any) -> None:
            lib.note("unwanted")

        class Busy:
            __hash__ = None  # type: ignore[assignment]

            def __eq__(self, other: object) -> bool:
                if other is print and future.remove_done_callback(unwanted):
                    future.add_done_callback(wanted)
                return False

            def __call__(self, _future: Any) -> None:
                lib.note("compared")

        for callback in (wanted, Busy(), print, unwanted, print):
            future.add_done_callback(callback)
        lib.note(future.remove_done_callback(print))
        future.set_result(None)
        await asyncio.sleep(0)

    lib.run(main)


def test_a_method_in_the_place_of_another_attribute(lib: Any) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        lock.mine = 1  # type: ignore[attr-defined]
        async with lock:
            pass
        del lock.mine  # type: ignore[attr-defined]
        lock.release = lambda: lib.note("released")  # type: ignore[method-assign]
        async with lock:
            pass
        lib.note(lock.locked(), sorted(set(vars(lock)) & {"mine", "release"}))

    lib.run(main)


def test_stop_iteration_into_a_fresh_coroutine(lib: Any) -> None:
    for thrown in (StopIteration(1), StopIteration, KeyError):
        coroutine = asyncio.Event().wait()
        lib.catch(coroutine.throw, thrown)
        lib.catch(coroutine.send, None)


def test_weak_references_to_functions(lib: Any) -> None:
    for function in (asyncio.sleep, asyncio.wait, asyncio.Lock.acquire, asyncio.Queue.get):
        lib.note(weakref.ref(function)() is function)


@pytest.mark.kinds("asyncio", "aioxide")
def test_a_task_is_made_anew_on_another_loop(lib: Any) -> None:
    lib.stock_defect(True, "asyncio holds no tasks")
    one, two = lib.new_loop(), lib.new_loop()

    async def wait() -> None:
        await lib.Future(loop=asyncio.get_running_loop())

    async def end() -> str:
        return "end"

    task = one.create_task(wait())
    held = [weakref.ref(two.create_task(wait())) for _ in range(2)]
    lib.turns(1, one)
    lib.turns(1, two)
    try:
        task.__init__(end(), loop=two)
    except RuntimeError:
        pytest.skip("this version refuses")
    lib.note(two.run_until_complete(task))
    ref = weakref.ref(task)
    del task
    assert ref() is None
    for other in held:
        task = other()
        assert task is not None
        task.cancel()
    lib.turns(1, two)

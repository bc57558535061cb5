"""`sleep` and the coroutine object that it returns."""

import asyncio
import collections.abc
import gc
import inspect
import math
import sys
import weakref
from fractions import Fraction

import pytest
from observe import Turns, chain, outcome

pytestmark = pytest.mark.kinds("all")

REFUSES_NAN = "isnan" in asyncio.sleep.__code__.co_names


def test_results_and_delays(lib):
    async def main():
        lib.note(await asyncio.sleep(0), await asyncio.sleep(0, "zero"), await asyncio.sleep(-1, 2))
        lib.note(await asyncio.sleep(delay=0.0001, result=[1]))
        for delay in (True, False, Fraction(1, 10000), -math.inf, 1e-9):
            if delay is not True:
                lib.note(await outcome(asyncio.sleep(delay, str(delay))))
        for wrong in (None, "1", [], 1j):
            lib.note(await outcome(asyncio.sleep(wrong)))
        if REFUSES_NAN:
            lib.note(await outcome(asyncio.sleep(math.nan)))

    lib.run(main)


def test_arguments(lib):
    for args, options in (((), {}), ((1, 2, 3), {}), ((1,), {"delay": 1}), ((1,), {"loop": None})):
        with pytest.raises(TypeError, match=r"sleep\(\)"):
            asyncio.sleep(*args, **options)


def test_turns(lib):
    async def main():
        turns = Turns(lib)

        async def sleeps(name, delays):
            for delay in delays:
                await asyncio.sleep(delay)
                turns.note(name, delay)

        tasks = [lib.loop.create_task(sleeps(name, [0, -1, 0.0, 0])) for name in "ab"]
        await asyncio.gather(*tasks)
        turns.stop()

    lib.run(main)


def test_timers_wake_in_order(lib):
    async def main():
        order = []

        async def sleeps(name, delay):
            await asyncio.sleep(delay)
            order.append(name)

        delays = {"c": 0.006, "a": 0.002, "b": 0.004, "z": 0}
        await asyncio.gather(*(sleeps(name, delay) for name, delay in delays.items()))
        lib.note(order)

    lib.run(main)


def test_cancellation(lib):
    async def main():
        for delay in (0, 100):
            task = lib.loop.create_task(asyncio.sleep(delay))
            await asyncio.sleep(0)
            lib.note(task.cancel("stop"), await outcome(task), task.cancelled())
        task = lib.loop.create_task(asyncio.sleep(0))
        task.cancel("before it began")
        lib.note(await outcome(task))
        if lib.native_loop:
            assert not lib.loop._scheduled or all(h.cancelled() for h in lib.loop._scheduled)

    lib.run(main)


def test_outside_of_a_loop(lib):
    coro = asyncio.sleep(1)
    lib.catch(coro.send, None)
    coro = asyncio.sleep(0, "result")
    lib.note(coro.send(None))
    error = lib.catch(coro.send, None)
    assert error.value == "result"
    lib.catch(coro.send, None)
    lib.catch(coro.throw, ValueError("late"))
    lib.note(coro.close())


def test_protocol_of_the_coroutine(lib):
    coro = asyncio.sleep(0, "result")
    assert isinstance(coro, collections.abc.Coroutine)
    assert isinstance(coro, collections.abc.Awaitable)
    assert asyncio.iscoroutine(coro)
    assert inspect.isawaitable(coro)
    lib.note(coro.__name__, coro.__qualname__)
    assert repr(coro).startswith("<coroutine object sleep at 0x")
    assert weakref.ref(coro)() is coro
    lib.catch(coro.send, "not None")
    waiting = coro.__await__()
    assert iter(waiting) is waiting
    lib.note(next(waiting))
    lib.catch(waiting.send, None)
    for error in (ValueError("thrown"), KeyboardInterrupt):
        coro = asyncio.sleep(0)
        coro.send(None)
        lib.catch(coro.throw, error)
        lib.catch(coro.send, None)
    lib.note(list(asyncio.sleep(0).__await__()))
    waiting = asyncio.sleep(0).__await__()
    lib.note(waiting.send(None))
    lib.catch(waiting.throw, ValueError("thrown"))
    lib.note(asyncio.sleep(0).__await__().close())
    coro = asyncio.sleep(0)
    lib.catch(coro.throw, LookupError("before it began"))
    coro = asyncio.sleep(0)
    lib.note(coro.close())
    lib.catch(coro.send, None)


def test_never_awaited(lib):
    asyncio.sleep(0)
    gc.collect()
    lib.note(lib.warnings_taken())


def test_await_twice(lib):
    async def main():
        coro = asyncio.sleep(0)
        await coro
        lib.note(await outcome(coro))
        coro = asyncio.sleep(0.01)
        task = lib.loop.create_task(coro)
        await asyncio.sleep(0)
        lib.note(await outcome(coro))
        await task

    lib.run(main)


def test_as_a_task(lib):
    async def main():
        task = lib.loop.create_task(asyncio.sleep(0.001, "slept"), name="sleeper")
        assert task.get_coro().__name__ == "sleep"
        lib.note(await task)
        lib.note(await asyncio.wait_for(asyncio.sleep(0, 1), 10))
        lib.note(await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0.001, 2)))
        lib.note(await asyncio.shield(asyncio.sleep(0, 3)))
        done, _ = await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0, 4))])
        lib.note([t.result() for t in done])
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(0, 5))
        lib.note(task.result())

    lib.run(main)


def test_implicit_context(lib):
    """What is raised inside while the caller handles an error carries that error."""

    async def main():
        try:
            raise LookupError("handled meanwhile")
        except LookupError:
            try:
                await asyncio.sleep("wrong")
            except TypeError as error:
                lib.note(chain(error))
        try:
            raise LookupError("handled meanwhile")
        except LookupError:
            task = asyncio.current_task()
            lib.loop.call_soon(task.cancel)
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError as error:
                lib.note(chain(error))
                task.uncancel()

    lib.run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12 brought eager tasks")
def test_eager(lib):
    async def main():
        lib.loop.set_task_factory(asyncio.eager_task_factory)
        task = lib.loop.create_task(asyncio.sleep(0, "eager"))
        lib.note(task.done(), await task)

    if lib.kind != "foreign":
        lib.run(main)
    else:
        pytest.skip("the loop of this kind overrides create_task")

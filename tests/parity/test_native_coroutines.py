"""The protocol of native coroutines, told by `sleep`: send, throw, close, await, the end."""

import asyncio
import collections.abc
import contextlib
import gc
import inspect
import sys
import types
import unittest.mock
import warnings
import weakref

import pytest

from aioxide import _aioxide


@pytest.fixture
def sleep(lib):
    return asyncio.sleep if lib.kind == "asyncio" else _aioxide.sleep


def test_awaited_in_every_way(lib, sleep):
    async def main():
        lib.note(await sleep(0), await sleep(0, "at once"), await sleep(0.001, "later"))
        lib.note(await sleep(delay=-1, result="by name"))
        lib.note(await asyncio.create_task(sleep(0.001, "task")))
        lib.note(await asyncio.ensure_future(sleep(0, "ensured")))
        lib.note(await asyncio.gather(sleep(0, 1), sleep(0.001, 2)))
        lib.note(await asyncio.wait_for(sleep(0, "in time"), 10))
        task = lib.loop.create_task(sleep(0.001, "loop"))
        lib.note(await asyncio.shield(task))

    lib.run(main)


class Name(str):
    """A name that refers to something."""


def test_what_the_collector_knows(lib, sleep):
    """All but what sleeps for no time, as long as that refers to nothing."""
    coroutines = [sleep(0), sleep(0.0), sleep(1), sleep(0, []), sleep(delay=0)]
    is_known = [gc.is_tracked(coroutine) for coroutine in coroutines]
    lib.note(is_known[1:], is_known[0] is (lib.kind == "asyncio"))
    first = coroutines[0]
    first.__name__ = Name("own")
    first.__name__.coroutine = first
    lib.note(gc.is_tracked(first))
    del first.__name__.coroutine
    for coroutine in coroutines:
        coroutine.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sleep(0)
    # One that was forgotten, and that the warning brought back.
    coroutine = caught.pop().source
    lib.note(gc.is_tracked(coroutine), coroutine.send(None))
    lib.catch(coroutine.send, None)


def test_what_it_is(lib, sleep):
    coroutine = sleep(0)
    lib.note(asyncio.iscoroutine(coroutine), isinstance(coroutine, collections.abc.Coroutine))
    lib.note(inspect.isawaitable(coroutine), coroutine.__name__, coroutine.__qualname__)
    lib.note(repr(coroutine).split(" at ")[0], coroutine.cr_running)
    lib.note(isinstance(coroutine, collections.abc.Iterator), coroutine.close())
    lib.note(str(inspect.signature(sleep)), sleep.__name__, sleep.__qualname__)
    if sys.version_info >= (3, 12):
        lib.note(inspect.iscoroutinefunction(sleep))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lib.note(asyncio.iscoroutinefunction(sleep))
        holder = types.SimpleNamespace(sleep=sleep)
        mocked = unittest.mock.create_autospec(holder)
        lib.note(asyncio.iscoroutinefunction(mocked.sleep))


def test_driven_by_hand(lib, sleep):
    coroutine = sleep(0, "value")
    lib.catch(coroutine.send, 1)
    lib.note(coroutine.send(None))
    lib.catch(coroutine.send, None)
    lib.catch(coroutine.send, None)
    lib.catch(coroutine.throw, ValueError)
    lib.note(coroutine.close(), coroutine.close())


def test_throw_and_close(lib, sleep):
    lib.catch(sleep(0).throw, LookupError("not begun"))
    coroutine = sleep(0)
    coroutine.send(None)
    lib.catch(coroutine.throw, LookupError("begun"))
    lib.catch(coroutine.send, None)
    coroutine = sleep(0)
    lib.catch(coroutine.throw)
    lib.catch(coroutine.throw, 5)
    coroutine.close()
    lib.catch(coroutine.send, None)
    coroutine = sleep(0)
    coroutine.send(None)
    lib.note(coroutine.close())
    lib.catch(coroutine.send, None)


def test_awaited_twice(lib, sleep):
    async def main():
        coroutine = sleep(0.001)
        task = lib.loop.create_task(coroutine)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError) as caught:
            await coroutine
        lib.note(str(caught.value))
        await task
        with pytest.raises(RuntimeError) as caught:
            await coroutine
        lib.note(str(caught.value))

    lib.run(main)


def test_cancelled_while_it_waits(lib, sleep):
    async def main():
        task = lib.loop.create_task(sleep(100))
        await asyncio.sleep(0)
        lib.note(task.cancel("reason"))
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        lib.note(caught.value.args, task.cancelled())

    lib.run(main)


def test_mistakes(lib, sleep):
    lib.catch(sleep)
    lib.catch(sleep, 1, 2, 3)
    lib.catch(sleep, 1, delay=2)
    lib.catch(lambda: sleep(1, other=2))

    async def main():
        for delay in ("text", None, *([float("nan")] if sys.version_info >= (3, 13) else [])):
            try:
                await sleep(delay)
            except (TypeError, ValueError) as error:
                lib.note(type(error), str(error))

    lib.run(main)


def test_never_awaited(lib, sleep):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sleep(0)
        gc.collect()
    lib.note([(w.category, str(w.message)) for w in caught])


def test_forgotten_while_it_waits(lib, sleep):
    coroutine = sleep(0)
    coroutine.send(None)
    watch = weakref.ref(coroutine)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del coroutine
        gc.collect()
    lib.note(watch(), caught)


def test_a_circle_through_a_coroutine_is_collected(lib, sleep):
    class Result:
        pass

    result = Result()
    coroutine = sleep(0, result)
    coroutine.send(None)
    result.coroutine = coroutine
    watch = weakref.ref(result)
    del result, coroutine
    gc.collect()
    lib.note(watch())


def test_method_of_a_class(lib, sleep):
    class Zero:
        nap = sleep

        def __le__(self, other):
            return True

    async def main():
        lib.note(await Zero().nap(), await Zero().nap("result"), Zero.nap is sleep)

    lib.run(main)


def test_exceptions_of_what_is_compared(lib, sleep):
    class Delay:
        def __le__(self, other):
            raise StopIteration(5)

    async def main():
        try:
            await sleep(Delay())
        except RuntimeError as error:
            lib.note(str(error), repr(error.__cause__), repr(error.__context__))

    lib.run(main)


def test_entered_again_from_within(lib, sleep):
    class Delay:
        def __le__(self, other):
            lib.note(coroutine.cr_running)
            lib.catch(coroutine.send, None)
            lib.catch(coroutine.close)
            return True

    coroutine = sleep(Delay())
    lib.note(coroutine.send(None))
    coroutine.close()


def test_generators_under_types_coroutine(lib, sleep):
    @types.coroutine
    def delegate(awaitable):
        return (yield from awaitable)

    def plain(awaitable):
        yield from awaitable

    async def delegated(awaitable):
        return await delegate(awaitable)

    async def main():
        lib.note(await delegate(sleep(0, "slept")))
        event = asyncio.Event()
        task = lib.loop.create_task(delegated(event.wait()))
        await sleep(0)
        event.set()
        lib.note(await task)
        coroutine = sleep(0)
        with contextlib.suppress(TypeError):
            next(plain(coroutine))
            lib.note("not refused")
        coroutine.close()

    lib.run(main)
    coroutine = sleep(0)
    lib.note(hasattr(coroutine, "__iter__"), isinstance(coroutine, collections.abc.Iterable))
    lib.catch(iter, coroutine)
    coroutine.close()
    lib.warnings_taken()


def test_woken_too_early(lib, sleep):
    async def main():
        event = asyncio.Event()
        coroutine = event.wait()
        future = coroutine.send(None)
        lib.catch(coroutine.send, None)
        lib.note(len(event._waiters))
        coroutine = event.wait()
        future = coroutine.send(None)
        for _ in range(3):
            future._asyncio_future_blocking = False
            lib.note(coroutine.send(None) is future, future._asyncio_future_blocking)
        event.set()
        lib.catch(coroutine.send, None)

    lib.run(main)


def test_stop_iteration_thrown_at_a_future(lib, sleep):
    async def main():
        coroutine = asyncio.Queue().get()
        coroutine.send(None)
        lib.note(coroutine.throw(StopIteration("ignored"))._asyncio_future_blocking)
        coroutine.close()
        coroutine = asyncio.StreamReader().read(5)
        coroutine.send(None)
        lib.catch(coroutine.throw, StopIteration)
        coroutine = sleep(0)
        coroutine.send(None)
        error = lib.catch(coroutine.throw, StopIteration("thrown"))
        lib.note(repr(error.__cause__), repr(error.__context__))

    lib.run(main)


def test_forgotten_in_a_line(lib, sleep):
    """It is closed, and so leaves the line in which it stands."""

    async def main():
        lock, queue = asyncio.Lock(), asyncio.Queue()
        await lock.acquire()
        for coroutine in (lock.acquire(), queue.get()):
            coroutine.send(None)
        lib.note(len(lock._waiters), len(queue._getters))
        del coroutine
        gc.collect()
        lib.note(len(lock._waiters), len(queue._getters))

    lib.run(main)


class Unordered:
    """An item that cannot be compared."""

    def __lt__(self, other):
        raise LookupError("no order")


def ended_at_once(lib):
    """Coroutines that ended with their first step, and weak references to what they were of."""
    lock, event, semaphore = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)
    queue, item = asyncio.PriorityQueue(2), Unordered()
    event.set()
    steps = [
        lock.acquire,
        lambda: lock.__aexit__(None, None, None),
        lambda: lock.__aexit__(None, None, None),
        lock.__aenter__,
        event.wait,
        semaphore.acquire,
        semaphore.__aenter__,
        lambda: semaphore.__aexit__(None, None, None),
        lambda: queue.put(item),
        lambda: queue.put(Unordered()),
        queue.get,
        queue.get,
    ]
    ended = []
    for step in steps:
        coroutine = step()
        lib.catch(coroutine.send, None)
        lib.catch(coroutine.send, None)
        lib.note(coroutine.cr_running, coroutine.close())
        ended.append(coroutine)
    lib.note(lock.locked(), semaphore._value, queue.qsize(), queue._unfinished_tasks)
    return ended, [weakref.ref(each) for each in (lock, event, semaphore, queue, item)]


def test_what_need_not_wait(lib, sleep):
    """It holds nothing from its first step on."""

    async def main():
        ended, watched = ended_at_once(lib)
        gc.collect()
        lib.note(len(ended), [watch() for watch in watched])

    lib.run(main)


def test_what_has_to_wait(lib, sleep):
    """It waits from its first step on, and goes on behind it."""

    async def main():
        lock, event, semaphore = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(0)
        full, empty = asyncio.Queue(1), asyncio.Queue()
        full.put_nowait(0)
        await lock.acquire()
        goes_on = {
            lock.acquire: lock.release,
            event.wait: event.set,
            semaphore.acquire: semaphore.release,
            empty.get: lambda: empty.put_nowait(1),
            (lambda: full.put(2)): full.get_nowait,
        }
        for begin, wake in goes_on.items():
            coroutine, other = begin(), begin()
            future = coroutine.send(None)
            other.send(None)
            lib.note(future.done(), future._asyncio_future_blocking, wake(), future.done())
            lib.catch(coroutine.send, None)
            lib.catch(other.throw, LookupError("enough"))
            lib.catch(other.send, None)
        lib.note(lock.locked(), semaphore._value, full.qsize(), empty.qsize())

    lib.run(main)

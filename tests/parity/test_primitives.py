"""What asyncio builds on loops, tasks and futures: gather, wait, timeouts, locks, queues."""

import asyncio
import gc
import sys

import pytest

pytestmark = pytest.mark.kinds("all")


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fail(turns=1, error=None):
    """Take a number of turns, then raise."""
    await idle(turns)
    raise error or LookupError("failed")


def settled(coro):
    """Wrap a coroutine so that it gives its exception back."""

    async def wrapped():
        try:
            return await coro
        except BaseException as exc:
            return exc

    return wrapped()


def test_gather(lib):
    async def main():
        lib.note(await asyncio.gather(idle(3, 1), idle(1, 2), idle(0, 3)))
        lib.note(await asyncio.gather())
        lib.note(await asyncio.gather(idle(1, 1), fail(), return_exceptions=True))
        lib.note(await settled(asyncio.gather(idle(5), fail(2), fail(1))))
        future = lib.loop.create_future()
        task = lib.loop.create_task(idle(1, "task"))
        gathered = asyncio.gather(future, task, future, task)
        lib.note(type(gathered).__name__, gathered.done(), repr(gathered))
        future.set_result("future")
        lib.note(await gathered)
        shared = idle(1, "same")
        lib.note(await asyncio.gather(shared, shared))

    lib.run(main)


def test_gather_cancelled(lib):
    async def main():
        children = [lib.loop.create_task(idle(50, n)) for n in range(3)]
        outer = asyncio.gather(*children)
        waiter = lib.loop.create_task(settled(outer))
        await idle(2)
        lib.note(outer.cancel("msg"))
        lib.note(await waiter, [c.cancelled() for c in children], outer.cancelled())
        nested = asyncio.gather(asyncio.gather(idle(50), idle(50)), idle(50))
        await idle()
        nested.cancel()
        lib.note(await settled(nested))

    lib.run(main)


def test_wait(lib):
    async def main():
        def tasks(*coros):
            return [lib.loop.create_task(c, name=f"t{n}") for n, c in enumerate(coros)]

        def names(found):
            return [sorted(t.get_name() for t in some) for some in found]

        lib.note(names(await asyncio.wait(tasks(idle(1), idle(3)))))
        made = tasks(idle(1), idle(9))
        lib.note(names(await asyncio.wait(made, return_when=asyncio.FIRST_COMPLETED)))
        lib.note(names(await asyncio.wait(made)))
        made = tasks(idle(9), fail(1), idle(2))
        found = await asyncio.wait(made, return_when=asyncio.FIRST_EXCEPTION)
        lib.note(names(found), made[1].exception())
        await asyncio.wait(made)
        made = tasks(idle(1), asyncio.sleep(100))
        found = await asyncio.wait(made, timeout=0.002)
        lib.note(names(found))
        made[1].cancel()
        await asyncio.wait(made)
        for bad in ((), [5], idle):
            lib.note(type(await settled(asyncio.wait(bad))).__name__)
        lone = idle()
        lib.note(await settled(asyncio.wait(lone)))
        lib.note(await settled(asyncio.wait([lone])))
        lib.note(await settled(asyncio.wait(tasks(idle()), return_when="sometime")))
        lone.close()

    lib.run(main)
    lib.warnings_taken()


def test_wait_for(lib):
    async def main():
        lib.note(await asyncio.wait_for(idle(1, "in time"), 100))
        lib.note(await asyncio.wait_for(idle(1, "no limit"), None))
        lib.note(await settled(asyncio.wait_for(asyncio.sleep(100), 0.001)))
        lib.note(await settled(asyncio.wait_for(asyncio.sleep(100), 0)))
        lib.note(await settled(asyncio.wait_for(fail(), 100)))
        done = lib.loop.create_future()
        done.set_result("done")
        lib.note(await asyncio.wait_for(done, 0))
        inner = lib.loop.create_task(asyncio.sleep(100))
        waiter = lib.loop.create_task(settled(asyncio.wait_for(inner, 100)))
        await idle(2)
        waiter.cancel("outer")
        lib.note(await waiter, inner.cancelled())

    lib.run(main)


def test_timeout(lib):
    async def main():
        try:
            async with asyncio.timeout(0.001) as limit:
                await asyncio.sleep(100)
        except TimeoutError as exc:
            lib.note(exc, exc.__cause__, limit.expired())
        async with asyncio.timeout(None) as limit:
            lib.note(limit.when(), limit.expired())
            limit.reschedule(lib.loop.time() + 100)
            await idle()
        lib.note(limit.expired(), asyncio.current_task().cancelling())
        try:
            async with asyncio.timeout_at(lib.loop.time() - 1):
                await idle()
                await idle()
                await asyncio.sleep(1)
        except TimeoutError:
            lib.note("in the past", asyncio.current_task().cancelling())
        async with asyncio.timeout(100):
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(100)
            except TimeoutError:
                lib.note("inner only")
        try:
            async with asyncio.timeout(0.001):
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    raise LookupError("other")
        except LookupError as exc:
            lib.note(exc, exc.__context__)

    lib.run(main)


def test_shield(lib):
    async def main():
        lib.note(await asyncio.shield(idle(1, "shielded")))
        lib.note(await settled(asyncio.shield(fail())))
        inner = lib.loop.create_task(idle(4, "inner"))
        outer = asyncio.shield(inner)
        waiter = lib.loop.create_task(settled(outer))
        await idle()
        waiter.cancel()
        lib.note(await waiter, inner.cancelled(), outer.cancelled())
        lib.note(await inner)
        inner = lib.loop.create_task(idle(4))
        outer = asyncio.shield(inner)
        await idle()
        inner.cancel("inner msg")
        lib.note(await settled(outer))
        done = lib.loop.create_future()
        done.set_result(1)
        assert asyncio.shield(done) is done

    lib.run(main)


def test_shield_loses_an_error(lib):
    async def main():
        seen = lib.contexts()
        inner = lib.loop.create_task(fail(3))
        outer = asyncio.shield(inner)
        waiter = lib.loop.create_task(settled(outer))
        await idle()
        waiter.cancel()
        lib.note(await waiter)
        await idle(5)
        lib.note([(sorted(c), c["message"], c["exception"]) for c in seen])
        inner._log_traceback = False
        seen.clear()

    lib.run(main)


def test_as_completed(lib):
    async def main():
        lib.note(
            [await f for f in asyncio.as_completed([idle(3, "c"), idle(1, "a"), idle(2, "b")])]
        )
        results = []
        for future in asyncio.as_completed([idle(1, "in time"), asyncio.sleep(100)], timeout=0.1):
            results.append(await settled(future))
        lib.note(results)
        if sys.version_info >= (3, 13):
            tasks = {lib.loop.create_task(idle(n)) for n in (2, 1)}
            async for task in asyncio.as_completed(tasks):
                assert task in tasks
                lib.note(await task)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await idle(2)

    lib.run(main)


def test_ensure_future(lib):
    class Awaitable:
        def __await__(self):
            yield
            return "awaited"

    async def main():
        task = asyncio.ensure_future(idle(1, "coro"))
        lib.note(isinstance(task, lib.Task) or lib.kind == "asyncio", await task)
        assert asyncio.ensure_future(task) is task
        future = lib.loop.create_future()
        assert asyncio.ensure_future(future) is future
        lib.note(await asyncio.ensure_future(Awaitable()))
        lib.catch(asyncio.ensure_future, 5)
        other = lib.new_loop()
        lib.catch(asyncio.ensure_future, future, loop=other)
        future.cancel()

    lib.run(main)


def test_task_group(lib):
    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(idle(n, n), name=f"t{n}") for n in range(4)]
            lib.note([t.get_name() for t in tasks], "tasks=" in repr(group))
        lib.note([t.result() for t in tasks])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(c) for c in (idle(50), fail(1), fail(1, KeyError(2)))]
                await asyncio.sleep(100)
        except* LookupError as caught:
            lib.note(sorted(str(e) for e in caught.exceptions))
        lib.note([t.cancelled() for t in tasks], asyncio.current_task().cancelling())
        try:
            async with asyncio.TaskGroup() as group:
                child = group.create_task(idle(50))
                await idle()
                raise ValueError("the body's own")
        except* ValueError as caught:
            lib.note(caught, child.cancelled())
        late = idle()
        try:
            group.create_task(late)
        except RuntimeError as exc:
            lib.note(str(exc).split("<")[0])
        late.close()

        async def grouped():
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(100))
                group.create_task(asyncio.sleep(100))

        outer = lib.loop.create_task(grouped())
        await idle(2)
        outer.cancel("from outside")
        lib.note(await settled(outer))
        nested = settled(_nested())
        lib.note(await nested)

    async def _nested():
        async with asyncio.TaskGroup() as outer:
            outer.create_task(idle(2))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail(1))
                inner.create_task(asyncio.sleep(100))

    lib.run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_task_group_and_exits(lib, error):
    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(1, error("leaves")))
            group.create_task(asyncio.sleep(100))

    lib.catch(lib.run, main)
    gc.collect()
    lib.note([line.split("\n")[0] for line in lib.logged()])


def test_locks(lib):
    async def main():
        lock, order = asyncio.Lock(), []

        async def worker(name, turns):
            async with lock:
                order.append(f"{name} in")
                await idle(turns)
                order.append(f"{name} out")

        await asyncio.gather(*(worker(n, 3 - i) for i, n in enumerate("abc")))
        lib.note(order, repr(lock))
        await lock.acquire()
        waiters = [lib.loop.create_task(lock.acquire()) for _ in range(3)]
        await idle()
        waiters[0].cancel()
        lock.release()
        await idle(2)
        lib.note([w.done() for w in waiters], lock.locked())
        lock.release()
        await idle(2)
        lib.note([w.done() for w in waiters])
        lock.release()
        lib.catch(lock.release)

    lib.run(main)


def test_events_conditions_semaphores_barriers(lib):
    async def main():
        event = asyncio.Event()
        waiters = [lib.loop.create_task(event.wait()) for _ in range(3)]
        await idle()
        event.set()
        lib.note(await asyncio.gather(*waiters), repr(event))

        condition, woken = asyncio.Condition(), []

        async def waits(name):
            async with condition:
                await condition.wait()
                woken.append(name)

        tasks = [lib.loop.create_task(waits(n)) for n in "abc"]
        await idle(2)
        async with condition:
            condition.notify(2)
        await idle(6)
        lib.note(woken)
        async with condition:
            condition.notify_all()
        await asyncio.gather(*tasks)
        lib.note(woken)

        semaphore, inside, most = asyncio.Semaphore(2), [], []

        async def limited():
            async with semaphore:
                inside.append(1)
                most.append(len(inside))
                await idle(2)
                inside.pop()

        await asyncio.gather(*(limited() for _ in range(7)))
        lib.note(max(most), repr(semaphore))
        bounded = asyncio.BoundedSemaphore(1)
        lib.catch(bounded.release)
        barrier = asyncio.Barrier(3)
        lib.note(sorted(await asyncio.gather(*(barrier.wait() for _ in range(3)))))

    lib.run(main)


def test_queues(lib):
    async def main():
        for queue in (asyncio.Queue(2), asyncio.LifoQueue(2), asyncio.PriorityQueue(2)):
            got = []

            async def produce():
                for number in (3, 1, 2, 5, 4):
                    await queue.put(number)

            async def consume():
                for _ in range(5):
                    got.append(await queue.get())
                    queue.task_done()

            await asyncio.gather(produce(), consume())
            await queue.join()
            lib.note(type(queue).__name__, got)
        queue = asyncio.Queue(1)
        queue.put_nowait(1)
        lib.catch(queue.put_nowait, 2)
        getters = [lib.loop.create_task(queue.get()) for _ in range(3)]
        await idle()
        getters[1].cancel()
        await queue.put("x")
        await idle(2)
        lib.note([g.done() for g in getters], getters[2].result())
        lib.catch(queue.get_nowait)
        if hasattr(queue, "shutdown"):
            waiter = lib.loop.create_task(settled(queue.get()))
            await idle()
            queue.shutdown()
            lib.note(await waiter)

    lib.run(main)


def test_producer_and_consumers_keep_every_item(lib):
    async def main():
        queue, done = asyncio.Queue(3), []

        async def consume():
            while (item := await queue.get()) is not None:
                done.append(item)
                await idle(item % 3)

        consumers = [lib.loop.create_task(consume()) for _ in range(4)]
        for number in range(200):
            await queue.put(number)
        for _ in consumers:
            await queue.put(None)
        await asyncio.gather(*consumers)
        lib.note(sorted(done) == list(range(200)), done)

    lib.run(main)

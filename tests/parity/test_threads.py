"""Loops and tasks in many threads: run_coroutine_threadsafe, all_tasks, one loop per thread."""

import asyncio
import concurrent.futures
import gc
import queue
import sys
import threading

import pytest

pytestmark = pytest.mark.kinds("all")


class Background:
    """A loop of the given kind that runs in a thread of its own."""

    def __init__(self, lib):
        self.loop = lib.new_loop()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        """Run the loop until it is stopped."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            asyncio.set_event_loop(None)

    def __enter__(self):
        self.thread.start()
        return self.loop

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fail():
    """Take one turn, then raise."""
    await asyncio.sleep(0)
    raise LookupError("failed")


def test_run_coroutine_threadsafe(lib):
    with Background(lib) as loop:
        future = asyncio.run_coroutine_threadsafe(idle(2, "result"), loop)
        assert isinstance(future, concurrent.futures.Future)
        lib.note(future.result(timeout=10))
        lib.catch(asyncio.run_coroutine_threadsafe(fail(), loop).result, timeout=10)
        many = [asyncio.run_coroutine_threadsafe(idle(1, n), loop) for n in range(100)]
        lib.note([f.result(timeout=10) for f in many])
        lib.catch(asyncio.run_coroutine_threadsafe, "no coroutine", loop)


def test_run_coroutine_threadsafe_cancel(lib):
    started, ended = threading.Event(), queue.SimpleQueue()

    async def waits():
        started.set()
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            ended.put("cancelled")
            raise

    with Background(lib) as loop:
        future = asyncio.run_coroutine_threadsafe(waits(), loop)
        started.wait(10)
        lib.note(future.cancel(), ended.get(timeout=10), future.cancelled())


def test_run_coroutine_threadsafe_whose_task_is_cancelled(lib):
    async def itself():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    with Background(lib) as loop:
        future = asyncio.run_coroutine_threadsafe(itself(), loop)
        lib.catch(future.result, timeout=10)


def test_timeout_of_the_waiting_thread(lib):
    go = threading.Event()

    async def waits():
        await asyncio.get_running_loop().run_in_executor(None, go.wait)
        return "late"

    with Background(lib) as loop:
        future = asyncio.run_coroutine_threadsafe(waits(), loop)
        try:
            future.result(timeout=0.001)
        except TimeoutError:
            lib.note("timeout")
        go.set()
        lib.note(future.result(timeout=10))


def test_all_tasks_of_another_thread(lib):
    ready = threading.Event()

    async def waits():
        ready.set()
        await asyncio.get_running_loop().create_future()

    with Background(lib) as loop:
        names = ["a", "b", "c"]

        async def start():
            return [loop.create_task(waits(), name=n) for n in names]

        tasks = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        ready.wait(10)
        # Other tasks of that loop may still be ending.
        lib.note(sorted(t.get_name() for t in asyncio.all_tasks(loop) if t.get_name() in names))
        lib.note(asyncio.current_task(loop) is None or True)

        async def stop():
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return len(asyncio.all_tasks()) - 1

        lib.note(asyncio.run_coroutine_threadsafe(stop(), loop).result(10))


def test_all_tasks_when_its_thread_is_gone(lib):
    loop = lib.new_loop()

    async def waits():
        await loop.create_future()

    kept = []

    def work():
        kept.append(loop.create_task(waits(), name="orphan"))
        lib.turns(2, loop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    lib.note([t.get_name() for t in asyncio.all_tasks(loop)])
    kept[0].cancel()
    lib.turns(2, loop)
    lib.note(asyncio.all_tasks(loop), kept[0].cancelled())


def test_a_loop_that_moves_between_threads(lib):
    loop = lib.loop
    seen = []

    async def counts():
        for _ in range(6):
            seen.append(threading.get_ident())
            await asyncio.sleep(0)

    task = loop.create_task(counts())
    for _ in range(3):
        thread = threading.Thread(target=lib.turns, args=(2, loop))
        thread.start()
        thread.join()
    lib.turns(1, loop)
    lib.note(task.done(), len(seen))


def test_current_tasks_of_threads_are_apart(lib):
    barrier = threading.Barrier(4)

    def work(number):
        async def main():
            task = asyncio.current_task()
            for _ in range(10):
                await asyncio.sleep(0)
                barrier.wait(10)
                assert asyncio.current_task() is task
                assert task.get_name() == f"main {number}"
            return number

        loop = lib.new_loop()
        return loop.run_until_complete(loop.create_task(main(), name=f"main {number}"))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        lib.note(list(pool.map(work, range(4))))


def test_loops_of_threads_talk_to_each_other(lib):
    with Background(lib) as first, Background(lib) as second:

        async def ask(loop, depth):
            if not depth:
                return "bottom"
            other = second if loop is first else first
            future = asyncio.run_coroutine_threadsafe(ask(other, depth - 1), other)
            return await asyncio.wrap_future(future)

        lib.note(asyncio.run_coroutine_threadsafe(ask(first, 20), first).result(20))


def test_futures_across_threads(lib):
    """A producer thread feeds a queue of the loop, thousands of times."""
    count = 2000

    async def main():
        items = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def produce(base):
            for number in range(base, base + count):
                loop.call_soon_threadsafe(items.put_nowait, number)

        threads = [threading.Thread(target=produce, args=(b,)) for b in (0, count)]
        for thread in threads:
            thread.start()
        got = [await items.get() for _ in range(2 * count)]
        for thread in threads:
            thread.join()
        return sorted(got) == list(range(2 * count))

    lib.note(lib.run(main))


def test_stop_from_another_thread(lib):
    loop = lib.loop
    started = threading.Event()
    loop.call_soon(started.set)
    thread = threading.Thread(target=lambda: (started.wait(), loop.call_soon_threadsafe(loop.stop)))
    thread.start()
    loop.run_forever()
    thread.join()
    lib.note(loop.is_running())


def test_collections_in_other_threads(lib):
    """The collector may run in any thread, while tasks live in this one."""
    done = threading.Event()

    def collects():
        while not done.is_set():
            gc.collect()

    async def body(number):
        for _ in range(5):
            future = lib.loop.create_future()
            lib.loop.call_soon(future.set_result, number)
            await future
        return number

    async def main():
        lib.note(sum(await asyncio.gather(*(body(n) for n in range(100)))))

    thread = threading.Thread(target=collects)
    thread.start()
    try:
        lib.run(main)
    finally:
        done.set()
        thread.join()


def test_last_reference_dropped_in_another_thread(lib):
    async def body():
        await asyncio.sleep(0)

    def drop(box):
        box.clear()
        gc.collect()

    for _ in range(6):
        box = [lib.loop.create_future(), lib.loop.call_later(1000, print)]
        box[1].cancel()
        box.append(lib.loop.create_task(body()))
        lib.turns(2)
        thread = threading.Thread(target=drop, args=(box,))
        thread.start()
        thread.join()


def test_runner_in_a_thread(lib):
    result = []

    def work():
        result.append(lib.run(idle(1, "threaded")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    lib.note(result)


def test_a_thread_that_calls_without_a_pause_lets_the_loop_run(lib):
    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        arrived, sent = [], []

        def send():
            call = loop.call_soon_threadsafe
            # Nobody takes the GIL from this thread; it has to give it away.
            while not arrived and len(sent) < 1_000_000:
                sent.append(len(sent))
                call(arrived.append, sent[-1])
            lib.note(bool(arrived))
            call(done.set_result, None)

        thread = threading.Thread(target=send)
        thread.start()
        await done
        thread.join()
        lib.note(arrived == sent)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        lib.run(main)
    finally:
        sys.setswitchinterval(interval)


def test_who_calls_its_own_loop_goes_on(lib):
    async def main():
        loop, arrived = asyncio.get_running_loop(), []
        done = loop.create_future()
        for number in range(20_000):
            loop.call_soon_threadsafe(arrived.append, number)
        loop.call_soon_threadsafe(done.set_result, None)
        lib.note(arrived)
        await done
        lib.note(arrived == list(range(20_000)))

    lib.run(main)

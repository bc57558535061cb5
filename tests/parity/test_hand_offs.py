"""Jobs of a loop's executor: shutdown, cancellation, mixed use, and tools that watch."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import weakref
from typing import Any

import pytest
from pools import busy_pool, first_executor


def test_waiting_jobs_are_cancelled_with_the_executor(lib: Any) -> None:
    async def main() -> None:
        executor, release, held = await busy_pool(lib, 2)
        ran: list[int] = []
        waiting = [lib.loop.run_in_executor(None, ran.append, n) for n in range(5)]
        mine = executor.submit(ran.append, 99)
        executor.shutdown(wait=False, cancel_futures=True)
        done, _ = await asyncio.wait(waiting, timeout=30)
        lib.note(len(done), [future.cancelled() for future in waiting], mine.cancelled())
        release.set()
        lib.note(await asyncio.gather(*held), ran)
        with pytest.raises(RuntimeError) as caught:
            lib.loop.run_in_executor(None, int)
        lib.note(caught.value)
        executor.shutdown(wait=True)

    lib.run(main)


def test_waiting_jobs_run_before_the_executor_ends(lib: Any) -> None:
    async def main() -> None:
        executor, release, held = await busy_pool(lib, 1)
        waiting = [lib.loop.run_in_executor(None, str, n) for n in range(5)]
        executor.shutdown(wait=False)
        release.set()
        lib.note(await asyncio.gather(*held, *waiting))
        executor.shutdown(wait=True)

    lib.run(main)


def test_cancelled_before_it_began(lib: Any) -> None:
    async def main() -> None:
        executor, release, held = await busy_pool(lib, 1)
        ran: list[int] = []
        futures = [lib.loop.run_in_executor(None, ran.append, n) for n in range(4)]
        lib.note(futures[1].cancel(), futures[1].cancel())
        futures[2].cancel("with a message")
        await asyncio.sleep(0)
        release.set()
        results = await asyncio.gather(*held, *futures, return_exceptions=True)
        lib.note(results, ran)
        executor.shutdown(wait=True)

    lib.run(main)


def test_cancelled_while_it_runs(lib: Any) -> None:
    async def main() -> None:
        executor, release, held = await busy_pool(lib, 1)
        lib.note(held[0].cancel())
        release.set()
        lib.note(await lib.loop.run_in_executor(None, str, "next"), held[0].cancelled())
        executor.shutdown(wait=True)

    lib.run(main)


def test_jobs_keep_their_order(lib: Any) -> None:
    """One thread: in the order of the calls, others' jobs among them."""

    async def main() -> None:
        executor, release, held = await busy_pool(lib, 1)
        order: list[Any] = []
        futures: list[Any] = []
        for number in range(6):
            if number % 2:
                futures.append(asyncio.wrap_future(executor.submit(order.append, number)))
            else:
                futures.append(lib.loop.run_in_executor(None, order.append, number))
        lib.note(executor._work_queue.qsize())
        release.set()
        await asyncio.gather(*held, *futures)
        lib.note(order, executor._work_queue.qsize(), len(executor._threads))
        executor.shutdown(wait=True)

    lib.run(main)


def test_exceptions_of_every_kind(lib: Any) -> None:
    class Own(BaseException):
        pass

    def fail(error: BaseException) -> None:
        raise error

    async def main() -> None:
        for error in (
            ValueError("plain"),
            Own("own"),
            SystemExit(3),
            KeyboardInterrupt("in a thread"),
            asyncio.CancelledError("asyncio's"),
            concurrent.futures.CancelledError("the other one"),
            concurrent.futures.InvalidStateError("state"),
            TimeoutError("time"),
            StopAsyncIteration("no"),
            GeneratorExit("no"),
        ):
            try:
                await lib.loop.run_in_executor(None, fail, error)
            except BaseException as caught:
                lib.note(type(caught), caught.args, caught is error)

    lib.run(main)


def test_tools_that_replace_submit_are_asked(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracers put a function of their own in the place of ThreadPoolExecutor.submit."""
    seen = []
    original = concurrent.futures.ThreadPoolExecutor.submit

    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        seen.append(fn)
        return original(self, fn, *args, **kwargs)

    async def main() -> None:
        lib.note(await lib.loop.run_in_executor(None, str, 1))
        monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", submit)
        lib.note(await lib.loop.run_in_executor(None, str, 2), seen)
        monkeypatch.undo()
        lib.note(await lib.loop.run_in_executor(None, str, 3), seen)

    lib.run(main)


def test_loops_that_replace_the_way_back(lib: Any) -> None:
    """A subclass with a call_soon_threadsafe of its own is called."""
    calls = []

    class Watched(lib.loop_type):  # type: ignore[misc, name-defined]
        def call_soon_threadsafe(self, callback: Any, *args: Any, **options: Any) -> Any:
            calls.append(threading.current_thread().name)
            return super().call_soon_threadsafe(callback, *args, **options)

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        begin = threading.Event()
        future = loop.run_in_executor(None, begin.wait, 30)
        begin.set()
        return await future

    with asyncio.Runner(loop_factory=Watched) as runner:
        lib.note(runner.run(main()), calls[0])


def test_many_jobs_from_many_loops(lib: Any) -> None:
    """Each loop gets its own outcomes, in whatever order the threads end."""
    results: list[Any] = []

    def own_loop(base: int) -> None:
        async def main() -> list[int]:
            loop = asyncio.get_running_loop()
            jobs = [loop.run_in_executor(None, lambda n=n: base + n) for n in range(300)]
            return list(await asyncio.gather(*jobs))

        with asyncio.Runner(loop_factory=lib.loop_type) as runner:
            results.append(runner.run(main()))

    threads = [threading.Thread(target=own_loop, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lib.note(sorted(results) == [[1000 * k + n for n in range(300)] for k in range(4)])


def test_one_executor_for_two_loops(lib: Any) -> None:
    async def main(executor: Any) -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        return list(await asyncio.gather(*(loop.run_in_executor(None, str, n) for n in range(50))))

    async def own() -> Any:
        await lib.loop.run_in_executor(None, int)
        return type(lib.loop._default_executor)(max_workers=3)

    executor = lib.run(own)
    for _ in range(2):
        # Runner would shut the executor down.
        loop = lib.new_loop()
        lib.note(loop.run_until_complete(main(executor)) == [str(n) for n in range(50)])
        loop._default_executor = None
    executor.shutdown()


def test_idle_threads_are_used_again(lib: Any) -> None:
    async def main() -> None:
        executor = type(lib.loop._default_executor or await first_executor(lib))(max_workers=50)
        lib.loop.set_default_executor(executor)
        for number in range(60):
            await lib.loop.run_in_executor(None, str, number)
        lib.note(len(executor._threads) < 25)
        executor.shutdown()

    lib.run(main)


def test_nothing_is_kept_alive(lib: Any) -> None:
    """Function, arguments and result go when the job is done."""

    class Thing:
        pass

    async def main() -> None:
        loop = lib.loop
        thing = Thing()
        seen = weakref.ref(thing)
        result = await loop.run_in_executor(None, lambda t: t, thing)
        lib.note(result is thing)
        del thing, result
        # The thread lets go of a job before it waits for the next.
        await loop.run_in_executor(None, int)
        gc.collect()
        lib.note(seen() is None)

    lib.run(main)


def test_a_forgotten_executor_ends_its_threads(lib: Any) -> None:
    async def main() -> None:
        await lib.loop.run_in_executor(None, int)
        executor = lib.loop._default_executor
        threads = list(executor._threads)
        lib.loop._default_executor = None
        del executor
        gc.collect()
        for thread in threads:
            thread.join(30)
        lib.note([thread.is_alive() for thread in threads])

    lib.run(main)


def test_a_loop_that_is_closed_meanwhile(lib: Any) -> None:
    """The outcome has nowhere to go; nothing breaks."""
    lib.stock_defect(sys.version_info < (3, 12), "3.11 logs an error of its own")
    release = threading.Event()
    loop = lib.new_loop()
    loop.run_in_executor(None, release.wait, 30)
    executor = loop._default_executor
    loop.close()
    release.set()
    executor.shutdown(wait=True)
    lib.note("ended")

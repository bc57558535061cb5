"""run_in_executor, to_thread, the default executor and its shutdown."""

import asyncio
import concurrent.futures
import contextvars
import os
import sys
import threading
import time

import pytest


def test_results_and_errors(lib):
    def fail():
        raise LookupError("in a thread")

    async def main():
        loop = lib.loop
        lib.note(await loop.run_in_executor(None, lambda: "result"))
        lib.note(await loop.run_in_executor(None, "{} {}".format, 1, 2))
        try:
            await loop.run_in_executor(None, fail)
        except LookupError as exc:
            lib.note(exc, exc.__traceback__ is not None)
        lib.note(await asyncio.to_thread("{} {k}".format, 1, k=2))
        future = loop.run_in_executor(None, time.time)
        lib.note(asyncio.isfuture(future), isinstance(future, asyncio.Future))
        assert future.get_loop() is loop
        await future

    lib.run(main)


def test_threads_and_their_names(lib):
    async def main():
        names = {await lib.loop.run_in_executor(None, lambda: threading.current_thread().name)}
        lib.note(names)
        alive = [t for t in threading.enumerate() if t.name in names]
        lib.note(len(alive), [t.daemon for t in alive])
        executor = lib.loop._default_executor
        lib.note(isinstance(executor, concurrent.futures.ThreadPoolExecutor))
        lib.note(executor._max_workers == min(32, (_cpus() or 1) + 4), executor._thread_name_prefix)

    lib.run(main)


def _cpus():
    return getattr(os, "process_cpu_count", os.cpu_count)()


def test_jobs_run_side_by_side(lib):
    async def main():
        barrier = threading.Barrier(4)
        await asyncio.gather(*(asyncio.to_thread(barrier.wait, 10) for _ in range(4)))
        lib.note("together")

    lib.run(main)


def test_given_executor(lib):
    async def main():
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
            name = await lib.loop.run_in_executor(pool, lambda: threading.current_thread().name)
            lib.note(name)
            lib.note(lib.loop._default_executor)

    lib.run(main)


def test_set_default_executor(lib):
    async def main():
        pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine")
        lib.note(lib.loop.set_default_executor(pool))
        lib.note(await lib.loop.run_in_executor(None, lambda: threading.current_thread().name))
        assert lib.loop._default_executor is pool
        for bad in (None, 5, object(), concurrent.futures.Executor()):
            lib.catch(lib.loop.set_default_executor, bad)

    lib.run(main)


def test_odd_executors(lib):
    class Direct(concurrent.futures.Executor):
        def submit(self, function, *args):
            future = concurrent.futures.Future()
            try:
                future.set_result(function(*args))
            except BaseException as exc:
                future.set_exception(exc)
            return future

    class Broken(concurrent.futures.Executor):
        def submit(self, function, *args):
            raise LookupError("submit")

    async def main():
        lib.note(await lib.loop.run_in_executor(Direct(), "{}".format, 1))
        try:
            await lib.loop.run_in_executor(Direct(), lambda: 1 / 0)
        except ZeroDivisionError as exc:
            lib.note(exc)
        lib.catch(lib.loop.run_in_executor, Broken(), print)

    lib.run(main)


def test_cancel_before_it_runs(lib):
    async def main():
        go = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = lib.loop.run_in_executor(pool, go.wait)
            second = lib.loop.run_in_executor(pool, lib.note, "never")
            lib.note(second.cancel())
            try:
                await second
            except asyncio.CancelledError as exc:
                lib.note(exc)
            # The pool's own future is cancelled by a callback.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            go.set()
            lib.note(await first)

    lib.run(main)
    assert "never" not in lib.trace


def test_cancel_while_it_runs(lib):
    async def main():
        go, started, ended = threading.Event(), threading.Event(), threading.Event()

        def job():
            started.set()
            go.wait()
            ended.set()

        future = lib.loop.run_in_executor(None, job)
        await lib.loop.run_in_executor(None, started.wait)
        lib.note(future.cancel())
        try:
            await future
        except asyncio.CancelledError:
            lib.note("cancelled", ended.is_set())
        go.set()

    lib.run(main)


def test_exit_errors_in_a_job(lib):
    async def main():
        for error in (SystemExit, KeyboardInterrupt, GeneratorExit):

            def job(error=error):
                raise error("job")

            try:
                await lib.loop.run_in_executor(None, job)
            except BaseException as exc:
                lib.note(exc)

    lib.run(main)


def test_stop_iteration_in_a_job(lib):
    def job():
        raise StopIteration("job")

    async def main():
        try:
            await asyncio.wait_for(lib.loop.run_in_executor(None, job), 5)
        except TimeoutError:
            lib.note("hangs, as asyncio's does")
        except BaseException as exc:
            lib.note(exc)

    lib.stock_defect(sys.version_info < (3, 12), "3.11 never wakes the waiter")
    lib.run(main)
    lib.records.clear()


def test_context_goes_along_with_to_thread_only(lib):
    var = contextvars.ContextVar("var", default="unset")

    async def main():
        var.set("set")
        lib.note(await asyncio.to_thread(var.get), await lib.loop.run_in_executor(None, var.get))

        def change():
            var.set("changed")

        await asyncio.to_thread(change)
        lib.note(var.get())

    lib.run(main)


def test_shutdown(lib):
    async def main():
        loop = lib.loop
        await loop.run_in_executor(None, time.time)
        executor = loop._default_executor
        lib.note(await loop.shutdown_default_executor())
        lib.note(executor._shutdown, loop._default_executor is None)
        lib.catch(loop.run_in_executor, None, time.time)
        lib.note(await loop.shutdown_default_executor())
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            lib.note(await loop.run_in_executor(pool, lambda: "own pool still works"))

    lib.run(main)


def test_shutdown_without_an_executor(lib):
    async def main():
        lib.note(await lib.loop.shutdown_default_executor())
        lib.catch(lib.loop.run_in_executor, None, time.time)

    lib.run(main)


def test_shutdown_waits_for_jobs(lib):
    async def main():
        go, ended = threading.Event(), []
        lib.loop.run_in_executor(None, lambda: (go.wait(), ended.append(1)))
        lib.loop.call_later(0.001, go.set)
        await lib.loop.shutdown_default_executor()
        lib.note(ended)

    lib.run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12 brought the timeout")
def test_shutdown_with_a_timeout(lib):
    go = threading.Event()

    async def main():
        lib.loop.run_in_executor(None, go.wait)
        lib.note(await lib.loop.shutdown_default_executor(0.001))
        go.set()

    lib.stock_defect(sys.version_info < (3, 12, 3), "early 3.12 waits for ever")
    lib.run(main)
    lib.note([w for w in lib.warnings_taken() if w[0] == "RuntimeWarning"])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12 brought the timeout")
def test_shutdown_with_a_generous_timeout(lib):
    async def main():
        lib.loop.run_in_executor(None, time.time)
        lib.note(await lib.loop.shutdown_default_executor(timeout=60))

    lib.run(main)


def test_close_does_not_wait(lib):
    loop, go = lib.new_loop(), threading.Event()

    async def main():
        asyncio.get_running_loop().run_in_executor(None, go.wait)

    loop.run_until_complete(main())
    executor = loop._default_executor
    loop.close()
    lib.note(loop._default_executor, executor._shutdown)
    go.set()
    executor.shutdown(wait=True)
    lib.warnings_taken()


def test_result_after_the_loop_has_closed(lib):
    loop, go = lib.new_loop(), threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = []

    async def main():
        future.append(asyncio.get_running_loop().run_in_executor(pool, go.wait))

    loop.run_until_complete(main())
    loop.close()
    go.set()
    pool.shutdown(wait=True)
    lib.note(future[0].done())


def test_many_jobs(lib):
    async def main():
        jobs = [lib.loop.run_in_executor(None, int, n) for n in range(500)]
        lib.note(sum(await asyncio.gather(*jobs)))

    lib.run(main)


def test_jobs_from_jobs(lib):
    async def main():
        loop = lib.loop

        def outer():
            return asyncio.run_coroutine_threadsafe(inner(), loop).result(10)

        async def inner():
            return await loop.run_in_executor(None, lambda: "inner")

        lib.note(await loop.run_in_executor(None, outer))

    lib.run(main)


def test_process_pool(lib):
    import multiprocessing.resource_tracker

    async def main():
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            lib.note(await lib.loop.run_in_executor(pool, divmod, 7, 3))
            try:
                await lib.loop.run_in_executor(pool, divmod, 1, 0)
            except ZeroDivisionError as exc:
                lib.note(exc)

    try:
        lib.run(main)
    finally:
        multiprocessing.resource_tracker._resource_tracker._stop()


def test_executor_threads_end_with_the_program(lib):
    done = lib.program(
        "import threading, time\n"
        "loop = LIB.new_event_loop()\n"
        "async def main():\n"
        "    loop.run_in_executor(None, time.sleep, 0.01)\n"
        "loop.run_until_complete(main())\n"
        "loop.close()\n"
        "print('end', len(threading.enumerate()) >= 1)\n",
        env={"PYTHONWARNINGS": "ignore"},
    )
    lib.note(done.returncode, done.stdout, done.stderr)


def test_executor_with_an_initializer_that_fails(lib):
    def broken():
        raise LookupError("initializer")

    async def main():
        import logging

        logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
        with concurrent.futures.ThreadPoolExecutor(1, initializer=broken) as pool:
            try:
                await lib.loop.run_in_executor(pool, time.time)
            except concurrent.futures.BrokenExecutor as exc:
                lib.note(type(exc).__name__)

    lib.run(main)

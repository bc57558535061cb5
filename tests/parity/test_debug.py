"""Debug mode: slow callbacks, wrong threads, sources of handles, futures, tasks and coroutines."""

import asyncio
import gc
import sys
import threading
import time

import pytest


def here():
    """Give the caller's line number."""
    return sys._getframe(1).f_lineno


def last_source(thing):
    """Give the innermost line of a source traceback."""
    last = thing._source_traceback[-1]
    return (last.filename == __file__, last.name, last.lineno)


def slow_lines(lib):
    """Give the log lines about the slow function; a busy machine may make others slow too."""
    lines = [r.getMessage() for r in lib.records]
    return [line for line in lines if line.startswith("Executing") and "slow" in line]


def busy(seconds):
    """Spend time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def idle():
    """Take one turn."""
    await asyncio.sleep(0)


def test_debug_flag(lib):
    loop = lib.loop
    lib.note(loop.get_debug(), loop.set_debug(True), loop.get_debug())
    loop.set_debug(False)
    lib.note(loop.get_debug())

    async def main():
        lib.note(asyncio.get_running_loop().get_debug(), sys.get_coroutine_origin_tracking_depth())

    for debug in (None, False, True):
        lib.run(main, debug=debug)
    lib.note(sys.get_coroutine_origin_tracking_depth())


@pytest.mark.parametrize(
    ("value", "option"),
    [
        ("1", ()),
        ("", ()),
        ("0", ()),
        ("", ("-X", "dev")),
        ("1", ("-E",)),
        ("1", ("-X", "dev", "-E")),
    ],
)
def test_debug_by_environment(lib, value, option):
    code = "loop = LIB.new_event_loop(); print(loop.get_debug()); loop.close()"
    import os
    import subprocess

    done = subprocess.run(
        [
            sys.executable,
            *option,
            "-W",
            "ignore",
            "-c",
            f"import {lib.module.__name__} as LIB; {code}",
        ],
        env={**os.environ, "PYTHONASYNCIODEBUG": value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    lib.note(done.stdout, done.stderr)


def test_set_debug_while_running(lib):
    async def main():
        before = sys.get_coroutine_origin_tracking_depth()
        lib.loop.set_debug(True)
        during = sys.get_coroutine_origin_tracking_depth()
        await asyncio.sleep(0)
        later = sys.get_coroutine_origin_tracking_depth()
        lib.loop.set_debug(False)
        await asyncio.sleep(0)
        lib.note(before, during, later, sys.get_coroutine_origin_tracking_depth())

    lib.run(main, debug=False)


def test_set_debug_from_another_thread(lib):
    async def main():
        await lib.loop.run_in_executor(None, lib.loop.set_debug, True)
        await asyncio.sleep(0)
        lib.note(lib.loop.get_debug(), sys.get_coroutine_origin_tracking_depth())

    lib.run(main)


def test_slow_callback_is_logged(lib):
    lib.loop.set_debug(True)
    lib.loop.slow_callback_duration = 0.002

    def slow():
        busy(0.004)

    lib.loop.call_soon(slow)
    lib.turns()
    lines = slow_lines(lib)
    assert len(lines) == 1
    lib.records.clear()
    head, took = lines[0].split(" took ")
    lib.note(head)
    assert float(took.split()[0]) >= 0.004
    assert took.endswith(" seconds")


def test_slow_step_is_logged(lib):
    lib.loop.set_debug(True)

    async def slow():
        busy(0.004)

    task = lib.loop.create_task(slow(), name="slow")
    lib.loop.slow_callback_duration = 0.002
    lib.turns()
    lines = slow_lines(lib)
    lib.records.clear()
    lib.note([line.split(" took ")[0] for line in lines])
    assert task.done()


def test_slow_done_callback_is_logged(lib):
    lib.loop.set_debug(True)
    future = lib.loop.create_future()

    def slow(f):
        busy(0.004)

    future.add_done_callback(slow)
    future.set_result(None)
    lib.loop.slow_callback_duration = 0.002
    lib.turns()
    lines = slow_lines(lib)
    lib.records.clear()
    # Which line of its source a future shows is the loop's own affair.
    lib.note([line.split(" took ")[0].split("(")[0] for line in lines])


def test_fast_callbacks_and_no_debug_are_not_logged(lib):
    lib.loop.slow_callback_duration = 0.0001
    lib.loop.call_soon(busy, 0.002)
    lib.turns()
    lib.loop.set_debug(True)
    lib.loop.slow_callback_duration = 10
    lib.loop.call_soon(busy, 0.002)
    lib.turns()
    assert lib.logged() == []


def test_slow_and_failing_callback(lib):
    lib.loop.set_debug(True)
    lib.loop.slow_callback_duration = 0.002
    seen = lib.contexts()

    def slow():
        busy(0.004)
        raise LookupError("slow and failing")

    lib.loop.call_soon(slow)
    lib.turns()
    lib.note(len(seen), [line.split(" took ")[0] for line in slow_lines(lib)])
    lib.records.clear()


def test_calls_from_the_wrong_thread(lib):
    results = []

    def outside(loop):
        for call in (
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(0, print),
            lambda: loop.call_soon_threadsafe(results.append, "threadsafe").cancelled(),
        ):
            try:
                results.append(call())
            except RuntimeError as exc:
                results.append(exc)

    async def main():
        await lib.loop.run_in_executor(None, outside, lib.loop)
        await asyncio.sleep(0)

    lib.run(main, debug=True)
    # The loop may run the callback before its thread goes on.
    lib.note(sorted(results, key=repr))
    assert len(results) == 5


def test_future_calls_from_the_wrong_thread(lib):
    results = []

    async def main():
        loop = lib.loop
        future = lib.loop.create_future()
        future.add_done_callback(lambda f: None)

        def outside():
            try:
                future.set_result(1)
            except RuntimeError as exc:
                results.append(str(exc))

        await lib.loop.run_in_executor(None, outside)
        coro = idle()

        def make():
            try:
                loop.create_task(coro)
            except RuntimeError as exc:
                results.append(str(exc))
                coro.close()

        await lib.loop.run_in_executor(None, make)

    lib.run(main, debug=True)
    lib.note(results)
    gc.collect()
    lib.logged()
    lib.warnings_taken()


def test_a_loop_that_does_not_run_may_be_called_from_anywhere(lib):
    lib.loop.set_debug(True)
    thread = threading.Thread(target=lib.loop.call_soon, args=(lib.note, "from outside"))
    thread.start()
    thread.join()
    lib.turns()
    assert lib.trace == ["from outside"]


def test_sources_of_handles(lib):
    loop = lib.loop
    loop.set_debug(True)
    handles = [
        (loop.call_soon(print), here()),
        (loop.call_soon_threadsafe(print), here()),
        (loop.call_later(1000, print), here()),
        (loop.call_at(10, print), here()),
    ]
    for handle, line in handles:
        lib.note(repr(handle))
        assert last_source(handle) == (True, "test_sources_of_handles", line)
        handle.cancel()
        lib.note(repr(handle))
    loop.set_debug(False)
    handle = loop.call_soon(print)
    lib.note(handle._source_traceback, repr(handle))
    handle.cancel()


def test_cancelled_handles_keep_their_repr(lib):
    lib.loop.set_debug(True)
    handle = lib.loop.call_soon(print, "arguments", 5)
    handle.cancel()
    lib.note(repr(handle), handle._repr is not None)


@pytest.mark.kinds("asyncio", "aioxide", "guest")
def test_sources_of_tasks(lib):
    loop = lib.loop
    loop.set_debug(True)
    coro = idle()
    made = here() - 1
    task = loop.create_task(coro, name="sourced")
    line = here() - 1
    lib.note(repr(task))
    assert last_source(task) == (True, "test_sources_of_tasks", line)
    assert coro.cr_origin is None or coro.cr_origin[0][1] == made
    direct = lib.Task(idle(), loop=loop)
    assert last_source(direct) == (True, "test_sources_of_tasks", here() - 1)
    lib.turns(2)
    loop.set_debug(False)
    task = loop.create_task(idle())
    lib.note(task._source_traceback)
    lib.turns(2)


@pytest.mark.kinds("asyncio", "aioxide")
def test_sources_of_futures(lib):
    loop = lib.loop
    loop.set_debug(True)
    future = lib.Future(loop=loop)
    assert last_source(future) == (True, "test_sources_of_futures", here() - 1)
    made = loop.create_future()
    names = [(f.filename == __file__, f.lineno) for f in made._source_traceback]
    assert (True, here() - 2) in names[-2:]
    lib.note(repr(future))
    loop.set_debug(False)
    lib.note(loop.create_future()._source_traceback)
    future.cancel()
    made.cancel()


@pytest.mark.kinds("all")
def test_never_retrieved_with_its_source(lib):
    lib.loop.set_debug(True)
    seen = lib.contexts()

    async def fail():
        raise LookupError("never retrieved")

    lib.loop.create_task(fail(), name="fails")
    line = here() - 1
    lib.turns(2)
    gc.collect()
    lib.note([sorted(c) for c in seen])
    if lib.kind != "foreign":
        assert line in [f.lineno for f in seen[0]["source_traceback"][-2:]]
    lib.loop.default_exception_handler(seen[0])
    text = lib.records[0].getMessage()
    lib.records.clear()
    lib.note(text.splitlines()[0])
    assert "fail() done" in text
    assert f'File "{__file__}", line {line}' in text
    seen.clear()


@pytest.mark.kinds("all")
def test_destroyed_pending_with_its_source(lib):
    seen = lib.contexts()
    lib.loop.set_debug(True)

    async def waits(loop):
        await loop.create_future()

    lib.Task(waits(lib.loop), loop=lib.loop, name="destroyed")
    lib.turns()
    lib.loop.close()
    lib._loop = None
    lib.loops.clear()
    gc.collect()
    lib.note([(sorted(c), c["message"]) for c in seen])
    seen.clear()
    gc.collect()


def test_coroutine_origins(lib):
    async def main():
        idle()
        gc.collect()

    lib.run(main, debug=True)
    warned = [str(w.message) for w in lib.warned]
    lib.warned.clear()
    assert any("Coroutine created at" in w for w in warned)
    lib.run(main)
    assert not any("Coroutine created at" in str(w.message) for w in lib.warned)
    lib.warned.clear()


def test_executor_jobs_are_checked(lib):
    async def main():
        coro = idle()
        for bad in (idle, coro, None, 5):
            try:
                await lib.loop.run_in_executor(None, bad)
            except (TypeError, AttributeError) as exc:
                lib.note(exc)
        coro.close()

    lib.run(main, debug=True)


def test_repr_of_a_task_in_debug(lib):
    async def main():
        task = asyncio.create_task(idle(), name="task")
        lib.note(repr(task))
        await task
        lib.note(repr(task))
        future = lib.Future()
        lib.note(repr(future))
        future.cancel()

    lib.run(main, debug=True)


def test_slow_loop_is_not_blamed_on_the_wait(lib):
    """Only callbacks are timed, never the sleep of the loop itself."""
    lib.loop.set_debug(True)
    lib.loop.slow_callback_duration = 0.04
    lib.loop.call_later(0.05, lib.loop.stop)
    lib.loop.run_forever()
    assert [line for line in lib.logged() if "Executing" in line] == []


def test_debug_lines_of_the_loop(lib):
    """What the loop says at DEBUG and INFO level is no part of the promise; it must not fail."""
    import logging

    logger = logging.getLogger("asyncio")
    old = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        lib.run(idle, debug=True)
    finally:
        logger.setLevel(old)
    lib.records.clear()


@pytest.mark.kinds("all")
@pytest.mark.parametrize("install", [sys.settrace, sys.setprofile])
def test_tracers_see_the_programs_frames(lib, install):
    """Coverage tools and profilers: the calls, returns and errors of the program's own code."""
    events = []

    def ends_an_await(event, argument):
        # Only a coroutine that has a frame ends by one (docs/semantics.md).
        return event == "exception" and argument[0] is StopIteration

    def tracer(frame, event, argument):
        if frame.f_code.co_filename != __file__ or event.startswith("c_"):
            return tracer
        if not ends_an_await(event, argument):
            events.append((frame.f_code.co_name, event, frame.f_lineno))
        return tracer

    async def inner():
        await asyncio.sleep(0)
        raise LookupError("traced")

    def callback():
        pass

    async def main():
        lib.loop.call_soon(callback)
        task = lib.loop.create_task(inner())
        try:
            await task
        except LookupError:
            pass
        cancelled = lib.loop.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])

    old = sys.gettrace() if install is sys.settrace else sys.getprofile()
    install(tracer)
    try:
        lib.run(main)
    finally:
        install(old)
    lib.note(events)
    assert ("callback", "call", events[0][2]) != events[0]


@pytest.mark.parametrize("name", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_a_loop_that_is_closed_while_a_callback_is_looked_at(lib, name):
    """Whether it is open is asked once, at the beginning: another thread may close it meanwhile."""

    class Callback:
        def __getattr__(self, attribute):
            loop.close()
            raise AttributeError(attribute)

        def __call__(self):
            lib.note("called")

    loop = lib.new_loop()
    loop.set_debug(True)
    arguments = (1,) if name == "call_later" else ()
    handle = getattr(loop, name)(*arguments, Callback())
    lib.note(loop.is_closed(), handle.cancelled(), handle.cancel())
    lib.catch(getattr(loop, name), *arguments, Callback())

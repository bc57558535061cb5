"""Running, stopping, closing and nesting of loops; the order of callbacks in turns."""

import asyncio
import concurrent.futures
import gc
import sys
import threading
import weakref

import pytest

# 3.13.0 forgets the running loop when it refuses to run it a second time.
FORGETS_THE_LOOP = sys.version_info[:3] == (3, 13, 0)


def test_is_an_event_loop(lib):
    loop = lib.loop
    assert isinstance(loop, asyncio.AbstractEventLoop)
    lib.note(loop.is_running(), loop.is_closed(), loop.get_debug(), loop.slow_callback_duration)
    lib.note(repr(loop))
    assert isinstance(loop.time(), float)
    assert loop.time() <= loop.time()
    fresh = type(loop)()
    lib.note(fresh.slow_callback_duration, fresh.get_exception_handler(), fresh.get_task_factory())
    fresh.close()
    lib.note(repr(fresh))


def test_time_is_the_monotonic_clock(lib):
    import time

    before = time.monotonic()
    now = lib.loop.time()
    assert before <= now <= time.monotonic()


def test_run_until_complete_gives_the_result(lib):
    async def main():
        assert asyncio.get_running_loop() is lib.loop
        assert lib.loop.is_running()
        return 5

    assert lib.loop.run_until_complete(main()) == 5
    assert not lib.loop.is_running()
    assert asyncio._get_running_loop() is None


def test_run_until_complete_raises(lib):
    async def main():
        raise LookupError("gone")

    lib.catch(lib.loop.run_until_complete, main())
    assert lib.trace[-1] == ["raised", ("LookupError", ["gone"])] or lib.trace
    lib.note(lib.loop.is_running(), lib.loop.is_closed())


def test_run_until_complete_takes_any_awaitable(lib):
    class Waits:
        def __await__(self):
            yield
            return "awaited"

    future = lib.loop.create_future()
    lib.loop.call_soon(future.set_result, 1)
    lib.note(lib.loop.run_until_complete(future))
    lib.note(lib.loop.run_until_complete(Waits()))
    lib.catch(lib.loop.run_until_complete, "nothing to await")
    lib.catch(lib.loop.run_until_complete, None)


def test_run_until_complete_refuses_a_foreign_future(lib):
    other = lib.new_loop()
    future = other.create_future()
    lib.catch(lib.loop.run_until_complete, future)
    future.cancel()


def test_stopped_before_done(lib):
    async def main():
        lib.loop.stop()
        await asyncio.sleep(0)
        lib.note("went on")
        await asyncio.sleep(0)
        return 1

    task = lib.loop.create_task(main())
    lib.catch(lib.loop.run_until_complete, task)
    assert not task.done()
    lib.note(lib.loop.run_until_complete(task))


def test_stop_before_run_runs_one_turn(lib):
    seen = []

    def first():
        seen.append("first")
        lib.loop.call_soon(seen.append, "second")

    lib.loop.call_soon(first)
    lib.loop.stop()
    lib.loop.run_forever()
    lib.note(seen)
    lib.loop.call_soon(lib.loop.stop)
    lib.loop.run_forever()
    lib.note(seen)


def test_stop_lets_the_turn_finish(lib):
    seen = []

    def stopper():
        lib.loop.stop()
        lib.loop.call_soon(seen.append, "next turn")
        seen.append("stop")

    lib.loop.call_soon(seen.append, "before")
    lib.loop.call_soon(stopper)
    lib.loop.call_soon(seen.append, "after")
    lib.loop.run_forever()
    lib.note(seen)
    lib.turns()
    lib.note(seen)


def test_stop_twice_is_stop_once(lib):
    lib.loop.call_soon(lib.loop.stop)
    lib.loop.call_soon(lib.loop.stop)
    lib.loop.run_forever()
    seen = []
    lib.loop.call_soon(seen.append, 1)
    lib.turns()
    lib.note(seen)


def test_nested_runs_are_refused(lib):
    lib.stock_defect(FORGETS_THE_LOOP, "3.13.0 forgets the running loop")
    other = lib.new_loop()

    async def main():
        lib.catch(lib.loop.run_forever)
        idle = asyncio.sleep(0)
        lib.catch(lib.loop.run_until_complete, idle)
        idle.close()
        lib.catch(other.run_forever)
        for run in (asyncio.run, lib.module.run):
            inner = asyncio.sleep(0)
            lib.catch(run, inner)
            inner.close()
        assert asyncio.get_running_loop() is lib.loop

    lib.loop.run_until_complete(main())
    lib.warnings_taken()
    lib.note(other.is_running(), lib.loop.is_running())


def test_refused_run_until_complete_destroys_its_task(lib):
    lib.stock_defect(FORGETS_THE_LOOP, "3.13.0 forgets the running loop")

    async def inner():
        await asyncio.sleep(0)

    async def main():
        coro = inner()
        lib.catch(lib.loop.run_until_complete, coro)
        coro.close()
        await asyncio.sleep(0)

    lib.loop.run_until_complete(main())
    gc.collect()
    lib.note(lib.logged())
    lib.warnings_taken()


def test_close_a_running_loop_is_refused(lib):
    async def main():
        lib.catch(lib.loop.close)

    lib.loop.run_until_complete(main())
    lib.note(lib.loop.is_closed())


def test_close_twice(lib):
    lib.loop.close()
    lib.loop.close()
    lib.note(lib.loop.is_closed(), lib.loop.is_running())


def test_closed_loop_refuses_work(lib):
    loop = lib.loop
    loop.close()
    future = loop.create_future()
    lib.note(repr(future))
    idle = asyncio.sleep(0)
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(0, print),
        lambda: loop.call_at(0, print),
        lambda: loop.run_forever(),
        lambda: loop.run_until_complete(future),
        lambda: loop.create_task(idle),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.add_reader(0, print),
        lambda: loop.add_writer(0, print),
        lambda: loop.remove_reader(0),
        lambda: loop.remove_writer(0),
        lambda: loop.add_signal_handler(10, print),
        lambda: loop.stop(),
        lambda: loop.time() > 0,
        lambda: loop.get_debug(),
        lambda: loop.set_debug(False),
        lambda: loop.set_exception_handler(None),
        lambda: loop.call_exception_handler({"message": "after close"}),
    ):
        lib.catch(call)
    lib.note(lib.logged())
    idle.close()
    future.cancel()
    lib.catch(asyncio.Runner(loop_factory=lambda: loop).run, asyncio.sleep(0))
    lib.warnings_taken()


def test_close_drops_what_waits(lib):
    class Argument:
        pass

    soon, later = Argument(), Argument()
    refs = [weakref.ref(soon), weakref.ref(later)]
    loop = lib.new_loop()
    handles = [loop.call_soon(print, soon), loop.call_later(1000, print, later)]
    del soon, later
    loop.close()
    lib.note([h.cancelled() for h in handles])
    del handles
    gc.collect()
    lib.note([r() is None for r in refs])


def test_unclosed_loop_warns(lib):
    loop = lib.new_loop()
    lib.loops.clear()
    del loop
    gc.collect()
    lib.note(lib.warnings_taken())
    assert len(lib.trace[0]) == 1


def test_loop_is_weakly_referable_and_takes_attributes(lib):
    loop = lib.new_loop()
    loop.remark = {"any": "attribute"}
    ref = weakref.ref(loop)
    assert ref() is loop
    loop.close()
    lib.loops.clear()
    loop.me = loop
    del loop
    gc.collect()
    assert ref() is None


def test_subclass_overrides_are_used(lib):
    class Mine(lib.loop_type):
        def call_exception_handler(self, context):
            lib.note("handler", context["message"])

        def get_debug(self):
            return super().get_debug()

    loop = Mine()
    lib.loops.append(loop)
    loop.call_soon(lambda: 1 / 0)
    lib.turns(1, loop)


def test_running_loop_is_known_in_callbacks_only(lib):
    lib.catch(asyncio.get_running_loop)
    lib.loop.call_soon(lambda: lib.note(asyncio.get_running_loop() is lib.loop))
    lib.loop.call_soon(lambda: lib.note(asyncio.get_event_loop() is lib.loop))
    lib.turns()
    lib.catch(asyncio.get_running_loop)


def test_get_event_loop_without_one(lib):
    asyncio.set_event_loop(lib.loop)
    lib.note(asyncio.get_event_loop() is lib.loop)
    asyncio.set_event_loop(None)
    lib.catch(asyncio.get_event_loop)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_errors_leave_the_loop(lib, error):
    seen = []

    def leave():
        seen.append("leave")
        raise error("now")

    lib.loop.call_soon(leave)
    lib.loop.call_soon(seen.append, "rest of the turn")
    lib.catch(lib.loop.run_forever)
    lib.note(seen, lib.loop.is_running(), asyncio._get_running_loop())
    lib.turns(2)
    lib.note(seen)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_errors_leave_run_until_complete(lib, error):
    async def main():
        await asyncio.sleep(0)
        raise error(3)

    task = lib.loop.create_task(main())
    lib.catch(lib.loop.run_until_complete, task)
    lib.note(task.done(), repr(task))
    lib.note(type(task.exception()).__name__)
    lib.note(lib.loop.run_until_complete(asyncio.sleep(0, "goes on")))


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_error_of_a_neighbour(lib, error):
    def leave():
        raise error()

    async def main():
        lib.loop.call_soon(leave)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "finished later"

    task = lib.loop.create_task(main())
    lib.catch(lib.loop.run_until_complete, task)
    lib.note(task.done())
    lib.note(lib.loop.run_until_complete(task))


def test_odd_base_exceptions_go_to_the_handler(lib):
    class Odd(BaseException):
        pass

    seen = lib.contexts()
    for error in (Odd("odd"), asyncio.CancelledError("c"), GeneratorExit(), StopIteration(1)):

        def fail(error=error):
            raise error

        lib.loop.call_soon(fail)
    lib.turns()
    lib.note([c["exception"] for c in seen])
    lib.note([c["message"] for c in seen])


def test_run_forever_again_and_again(lib):
    for number in range(3):
        lib.loop.call_soon(lib.note, number)
        lib.turns()
    assert lib.trace == [0, 1, 2]


def test_loops_in_other_threads(lib):
    def work(number):
        loop = lib.new_loop()

        async def main():
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)
            return number, threading.current_thread() is not threading.main_thread()

        return loop.run_until_complete(main())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        lib.note(list(pool.map(work, range(8))))


def test_running_in_another_thread_is_refused(lib):
    lib.stock_defect(FORGETS_THE_LOOP, "3.13.0 forgets the running loop")
    started, failed = threading.Event(), threading.Event()
    caught = []

    async def main():
        started.set()
        await lib.loop.run_in_executor(None, failed.wait)

    thread = threading.Thread(target=lib.loop.run_until_complete, args=(main(),))
    thread.start()
    started.wait()
    try:
        lib.loop.run_forever()
    except RuntimeError as exc:
        caught.append(exc)
    finally:
        failed.set()
    thread.join()
    lib.note(caught)


def test_hooks_are_restored_after_a_run(lib):
    hooks, depth = sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()
    inside = []

    async def main():
        inside.append(sys.get_asyncgen_hooks().firstiter is not None)
        inside.append(sys.get_coroutine_origin_tracking_depth())

    lib.loop.set_debug(True)
    lib.loop.run_until_complete(main())
    lib.note(inside)
    assert sys.get_asyncgen_hooks() == hooks
    assert sys.get_coroutine_origin_tracking_depth() == depth

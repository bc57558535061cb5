"""Reference cycles, weak references, and objects that die at awkward moments."""

import asyncio
import gc
import textwrap
import weakref

import pytest

pytestmark = pytest.mark.kinds("all")


class Kept:
    """Something whose life can be watched."""


def gone(*refs):
    """Collect (twice: a finalizer may keep things once), then say which references are dead."""
    gc.collect()
    gc.collect()
    return [ref() is None for ref in refs]


def test_types_are_tracked(lib):
    future = lib.loop.create_future()
    task = lib.loop.create_task(asyncio.sleep(0))
    handle = lib.loop.call_soon(print, future)
    timer = lib.loop.call_later(1000, print, future)
    lib.note([gc.is_tracked(o) for o in (future, task, handle, timer)])
    handle.cancel()
    timer.cancel()
    lib.turns(2)


def test_future_in_its_own_result(lib):
    future = lib.loop.create_future()
    kept = Kept()
    refs = weakref.ref(future), weakref.ref(kept)
    future.set_result([future, kept])
    del future, kept
    assert gone(*refs) == [True, True]


def test_future_in_its_own_exception(lib):
    future = lib.loop.create_future()
    error = LookupError(future)
    error.kept = Kept()
    refs = weakref.ref(future), weakref.ref(error.kept)
    future.set_exception(error)
    future.exception()
    del future, error
    assert gone(*refs) == [True, True]


def test_future_in_its_own_callbacks(lib):
    for count in (1, 3):
        future = lib.loop.create_future()
        kept = Kept()
        refs = weakref.ref(future), weakref.ref(kept)
        for _ in range(count):
            future.add_done_callback(lambda f, own=(future, kept): None)
        del future, kept
        assert gone(*refs) == [True, True]


def test_future_in_its_own_context(lib):
    import contextvars

    var = contextvars.ContextVar("var")
    own = contextvars.Context()
    future = lib.loop.create_future()
    kept = Kept()
    own.run(var.set, (future, kept))
    future.add_done_callback(print, context=own)
    refs = weakref.ref(future), weakref.ref(kept)
    del future, own, kept
    assert gone(*refs) == [True, True]


def test_cancelled_future_in_a_cycle(lib):
    future = lib.loop.create_future()
    future.cancel(future)
    ref = weakref.ref(future)
    del future
    assert gone(ref) == [True]


def test_finished_task_in_a_cycle(lib):
    async def body(box):
        box.append(asyncio.current_task())
        return box

    box = []
    task = lib.loop.create_task(body(box))
    lib.turns(2)
    refs = [weakref.ref(task)]
    del task, box
    assert gone(*refs) == [True]


def test_failed_task_in_a_cycle(lib):
    async def body():
        me = asyncio.current_task()
        error = LookupError(me)
        raise error

    task = lib.loop.create_task(body())
    lib.turns(2)
    task.exception()
    ref = weakref.ref(task)
    del task
    assert gone(ref) == [True]


def test_waiting_iterator_in_a_cycle(lib):
    future = lib.loop.create_future()
    waiting = iter(future)
    next(waiting)
    future.add_done_callback(waiting.send)
    ref = weakref.ref(future)
    del future, waiting
    assert gone(ref) == [True]


def test_handles_in_cycles(lib):
    refs = []
    for call in (lib.loop.call_soon, lib.loop.call_soon_threadsafe):
        kept = Kept()
        kept.handle = call(lambda kept=kept: None)
        refs.append(weakref.ref(kept))
    for call in (lambda *a: lib.loop.call_later(1000, *a), lambda *a: lib.loop.call_at(0, *a)):
        kept = Kept()
        kept.handle = call(lambda kept=kept: None)
        kept.handle.cancel()
        refs.append(weakref.ref(kept))
    del kept
    lib.turns(2)
    assert gone(*refs) == [True] * 4


def test_loop_in_a_cycle_with_everything(lib):
    loop = lib.new_loop()
    refs = [weakref.ref(loop)]

    async def body(loop):
        await asyncio.sleep(0)

    def cycle(*args, loop=loop):
        pass

    future = loop.create_future()
    future.add_done_callback(cycle)
    loop.set_exception_handler(cycle)
    task = loop.create_task(body(loop))
    lib.turns(3, loop)
    loop.call_later(1000, cycle, future)
    loop.call_soon(cycle, task)
    refs += [weakref.ref(o) for o in (future, task)]
    loop.close()
    lib.loops.clear()
    del loop, future, task, cycle, body
    assert gone(*refs) == [True] * 3


def test_open_loop_in_a_cycle_warns_and_closes(lib):
    loop = lib.new_loop()
    loop.call_later(1000, lambda loop=loop: None)
    loop.call_soon(lambda loop=loop: None)
    ref = weakref.ref(loop)
    lib.loops.clear()
    del loop
    gc.collect()
    # A recorded warning holds its source.
    lib.note(lib.warnings_taken())
    assert gone(ref) == [True]


def test_task_factory_and_handler_in_a_cycle(lib):
    loop = lib.new_loop()

    def factory(loop_, coro, *, own=loop, **options):
        return None

    loop.set_task_factory(factory)
    loop.set_exception_handler(lambda loop_, context, own=loop: None)
    ref = weakref.ref(loop)
    loop.close()
    lib.loops.clear()
    del loop, factory
    assert gone(ref) == [True]


def test_refcounts_after_a_task(lib):
    """Neither the coroutine nor its frame outlives the task."""
    kept = Kept()

    async def body(kept):
        await asyncio.sleep(0)

    coro = body(kept)
    ref = weakref.ref(coro)
    gc.disable()
    try:
        task = lib.loop.create_task(coro)
        del coro
        lib.turns(3)
        del task
        lib.note(ref() is None)
        frame_ref = weakref.ref(kept)
        del kept
        lib.note(frame_ref() is None)
    finally:
        gc.enable()


def test_callbacks_are_let_go_after_the_call(lib):
    kept = Kept()
    ref = weakref.ref(kept)
    future = lib.loop.create_future()
    future.add_done_callback(lambda f, kept=kept: None)
    future.add_done_callback(lambda f, kept=kept: None)
    del kept
    future.set_result(None)
    lib.turns()
    assert gone(ref) == [True]


def test_cancelled_futures_leave_no_cycle_with_the_task(lib):
    """What CPython's tests call refcycles: no collection is needed after a cancelled await."""

    async def body(future):
        try:
            await future
        except asyncio.CancelledError as exc:
            return weakref.ref(type("Probe", (), {})) and bool(exc.args or True)

    gc.disable()
    try:
        future = lib.loop.create_future()
        task = lib.loop.create_task(body(future))
        lib.turns()
        task.cancel()
        lib.turns(2)
        lib.note(task.result())
        refs = weakref.ref(task), weakref.ref(future)
        del task, future
        lib.note([r() is None for r in refs])
    finally:
        gc.enable()


def test_cancelled_error_is_in_no_cycle(lib):
    future = lib.loop.create_future()
    future.cancel()
    for ask in (future.result, future.exception):
        try:
            ask()
        except asyncio.CancelledError as exc:
            caught = exc
        lib.note([type(r).__name__ for r in gc.get_referrers(caught) if isinstance(r, lib.Future)])
        lib.note(future._cancel_message)
        del caught


def test_destructors_during_the_run(lib):
    """A last reference dropped inside the loop may call back into everything."""
    loop = lib.loop

    class Last:
        def __init__(self, number):
            self.number = number

        def __del__(self):
            loop.call_soon(lib.note, "soon", self.number)
            future = loop.create_future()
            future.add_done_callback(lambda f: lib.note("future", self.number))
            future.set_result(None)
            gc.collect()

    loop.call_soon(lambda last: None, Last(1))
    loop.call_later(0, lambda last: None, Last(2))
    cancelled = loop.call_later(0, lambda last: None, Last(3))
    cancelled.cancel()
    future = loop.create_future()
    future.set_result(Last(4))
    del future, cancelled
    lib.turns(5)
    lib.trace.sort(key=repr)


def test_collection_inside_every_callback(lib):
    async def body(number):
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        future = lib.loop.create_future()
        lib.loop.call_soon(future.set_result, number)
        gc.collect()
        return await future

    async def main():
        lib.note(await asyncio.gather(*(body(n) for n in range(5))))

    lib.run(main)


def test_suspended_coroutine_is_closed_with_its_task(lib):
    seen = []

    async def body():
        try:
            await lib.loop.create_future()
        except GeneratorExit:
            seen.append("closed")
            raise

    contexts = lib.contexts()
    task = lib.Task(body(), loop=lib.loop)
    lib.turns()
    lib.loop.close()
    del task
    lib._loop = None
    lib.loops.clear()
    gc.collect()
    lib.note(seen, [c["message"] for c in contexts])
    contexts.clear()


def test_collections_at_every_allocation(lib):
    """With the smallest thresholds the collector runs amid every step of every kind of object."""

    async def body(number):
        future = lib.loop.create_future()
        lib.loop.call_soon(future.set_result, [future, number])
        lib.loop.call_later(0, lambda f=future: None)
        result = await future
        await asyncio.sleep(0)
        if number % 4 == 0:
            raise LookupError(result)
        return result[1]

    async def main():
        tasks = [lib.loop.create_task(body(n)) for n in range(12)]
        tasks[3].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        lib.note([d if isinstance(d, int) else type(d).__name__ for d in done])

    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        lib.run(main)
    finally:
        gc.set_threshold(*thresholds)


def test_freed_memory_is_not_reused_badly(lib):
    """Make and drop many of everything in a mixed order: freelists must hand out clean objects."""

    async def body(number):
        if number % 3 == 0:
            await asyncio.sleep(0)
        if number % 7 == 0:
            raise LookupError(number)
        return number

    async def main():
        total = 0
        for round_ in range(10):
            tasks = [lib.loop.create_task(body(n), name=f"n{n}") for n in range(50)]
            tasks[round_].cancel()
            futures = [lib.loop.create_future() for _ in range(50)]
            handles = [lib.loop.call_later(100, print, f) for f in futures]
            for handle in handles[::2]:
                handle.cancel()
            for future in futures[::3]:
                future.set_result(1)
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                total += result if isinstance(result, int) else 1
            for handle in handles:
                handle.cancel()
            fresh = lib.loop.create_future()
            assert not fresh.done()
            assert fresh._callbacks is None or fresh._callbacks == []
            assert tasks[1].get_name() == "n1"
        lib.note(total)

    lib.run(main)


DEEP = {
    "results": """
        last = None
        for _ in range(20_000):
            future = loop.create_future()
            future.set_result(last)
            last = future
        del last, future
    """,
    "callbacks": """
        first = future = loop.create_future()
        for _ in range(20_000):
            following = loop.create_future()
            future.add_done_callback(lambda _, f=following: f.set_result(1))
            future = following
        del first, future, following
    """,
    "handles": """
        handle = None
        for _ in range(100_000):
            handle = loop.call_later(1000, print, handle)
        loop.close()
        del handle
        gc.collect()
    """,
    "tasks that await each other": """
        async def waits(thing):
            return await thing
        future = task = loop.create_future()
        for _ in range(20_000):
            task = loop.create_task(waits(task))
        loop.call_soon(loop.call_soon, future.set_result, "value")
        print(loop.run_until_complete(task))
    """,
    "cancellation": """
        async def waits(thing):
            return await thing
        task = loop.create_future()
        for _ in range(30_000):
            task = loop.create_task(waits(task))
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        try:
            task.cancel()
        except RecursionError:
            pass
        sys.stdout.flush()
        os._exit(0)
    """,
}


@pytest.mark.kinds("asyncio", "aioxide")
@pytest.mark.parametrize("name", DEEP)
def test_deep_structures(lib, name):
    """However long a chain: it is dropped, woken or cancelled without running out of stack."""
    # A thread's stack can be small, so that fewer links do; early stock versions need more.
    stack = 64 * 1024 if lib.kind == "asyncio" else 512
    done = lib.program(
        "import gc, os, sys, threading\n"
        "def work():\n"
        "    loop = LIB.new_event_loop()\n"
        f"{textwrap.indent(textwrap.dedent(DEEP[name]), '    ')}\n"
        f"threading.stack_size({stack} * 1024)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()\n",
        env={"PYTHONWARNINGS": "ignore"},
    )
    lib.note(done.returncode, done.stdout)

"""Task: making, stepping, asking, forgetting; current_task and all_tasks."""

import asyncio
import contextvars
import inspect
import io
import re
import sys
import types

import pytest

pytestmark = pytest.mark.kinds("all")

EAGER_START = sys.version_info >= (3, 14)


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


def test_is_a_task(lib):
    async def main():
        task = lib.loop.create_task(idle())
        lib.note(isinstance(task, lib.Task), isinstance(task, lib.Future))
        lib.note(asyncio.isfuture(task), inspect.isawaitable(task), asyncio.iscoroutine(task))
        if lib.kind != "pure":
            assert isinstance(task, asyncio.Task)
            assert isinstance(task, asyncio.Future)
        await task

    lib.run(main)


def test_life_of_a_task(lib):
    loop = lib.loop
    task = loop.create_task(idle(1, "result"), name="life")
    lib.note(task.done(), task.cancelled(), repr(task))
    lib.catch(task.result)
    lib.catch(task.exception)
    lib.turns()
    lib.note(task.done(), repr(task))
    lib.turns()
    lib.note(task.done(), task.cancelled(), task.result(), task.exception(), repr(task))
    assert task.get_loop() is loop


def test_failure_of_a_task(lib):
    async def fail():
        await asyncio.sleep(0)
        raise LookupError("gone", 1)

    task = lib.loop.create_task(fail())
    lib.turns(2)
    lib.note(task.done(), task.cancelled(), repr(task))
    first, second = lib.catch(task.result), lib.catch(task.result)
    assert first is second is task.exception()
    names = []
    trace = first.__traceback__
    while trace:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    lib.note(names[-1])


def test_traceback_of_an_awaited_failure(lib):
    async def inner():
        await asyncio.sleep(0)
        raise LookupError("deep")

    async def outer():
        await lib.loop.create_task(inner())

    exc = lib.catch(lib.loop.run_until_complete, outer())
    names = []
    trace = exc.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == __file__:
            names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    lib.note(names)


def test_names(lib):
    loop = lib.loop
    tasks = [
        loop.create_task(idle()),
        loop.create_task(idle(), name="given"),
        loop.create_task(idle(), name=None),
        loop.create_task(idle(), name=""),
        loop.create_task(idle(), name=12),
        loop.create_task(idle(), name=10**40),
        lib.Task(idle(), loop=loop, name="direct"),
        lib.Task(idle(), loop=loop),
    ]
    for task in tasks:
        lib.note(task.get_name(), isinstance(task.get_name(), str))
    assert re.fullmatch(r"Task-\d+", tasks[0].get_name())
    numbers = [int(t.get_name()[5:]) for t in (tasks[0], tasks[2], tasks[7])]
    assert numbers == sorted(set(numbers))
    tasks[0].set_name("later")
    tasks[1].set_name(5)
    lib.note([t.get_name() for t in tasks[:2]], repr(tasks[0]))
    lib.turns(2)
    assert all(t.done() for t in tasks)


def test_bad_coroutines(lib):
    async def function():
        pass

    def generator():
        yield

    for bad in (function, generator, None, 5, "text", lib.loop.create_future(), object()):
        lib.catch(lib.Task, bad, loop=lib.loop)
        lib.catch(lib.loop.create_task, bad)
    lib.trace = [re.sub("<function.*?>", "", str(t)) for t in lib.trace]


def test_coroutines_of_every_make(lib):
    @types.coroutine
    def old():
        yield
        return "generator based"

    class Custom:
        def __init__(self):
            self.steps = 0

        def send(self, value=None):
            self.steps += 1
            if self.steps == 3:
                raise StopIteration("custom")

        def throw(self, kind, value=None, trace=None):
            raise value if value is not None else kind

        def close(self):
            pass

        def __await__(self):
            return self

        def __iter__(self):
            return self

        __next__ = send

    import collections.abc

    collections.abc.Coroutine.register(Custom)

    async def new():
        return await old()

    lib.note(lib.loop.run_until_complete(lib.loop.create_task(new())))
    task = lib.loop.create_task(Custom())
    lib.note(repr(task).replace("_PyTask", "Task"))
    lib.note(lib.loop.run_until_complete(task))


@pytest.mark.parametrize("what", [None, 5, "text", [], "future", "own", "foreign", "self"])
def test_bad_yields(lib, what):
    other = lib.new_loop()
    task = None

    @types.coroutine
    def bad():
        thing = {
            "future": lambda: lib.loop.create_future(),
            "own": lambda: task,
            "foreign": lambda: other.create_future(),
        }.get(what, lambda: what)()
        if what == "self":
            yield from task
            return
        if what == "foreign":
            yield from thing
            return
        yield thing

    async def main():
        await bad()

    task = lib.loop.create_task(main(), name="bad")
    lib.turns(3)
    lib.note(task.done(), repr(task))
    if task.done():
        lib.note(task.exception())
    else:
        task.cancel()
        lib.turns(3)
        lib.note(task.done())


def test_a_yielded_future_after_an_error_can_be_caught(lib):
    @types.coroutine
    def tries():
        for wrong in (1, "x"):
            try:
                yield wrong
            except RuntimeError as exc:
                lib.note(exc)
        return "recovered"

    async def main():
        return await tries()

    lib.note(lib.loop.run_until_complete(lib.loop.create_task(main())))


def test_results_cannot_be_set(lib):
    task = lib.loop.create_task(idle())
    lib.catch(task.set_result, 1)
    lib.catch(task.set_exception, ValueError())
    lib.turns(2)
    lib.catch(task.set_result, 1)


def test_coroutine_and_context_of_a_task(lib):
    coro = idle()
    task = lib.loop.create_task(coro)
    assert task.get_coro() is coro
    assert task._coro is coro
    if hasattr(lib.Task, "get_context"):
        assert isinstance(task.get_context(), contextvars.Context)
        own = contextvars.copy_context()
        with_own = lib.Task(idle(), loop=lib.loop, context=own)
        assert with_own.get_context() is own
    lib.turns(2)
    lib.note(task.get_coro() is coro)


def test_stack_of_a_waiting_task(lib):
    future = lib.loop.create_future()

    async def inner():
        await future

    async def middle():
        await inner()

    async def outer():
        await middle()

    task = lib.loop.create_task(outer(), name="stacked")
    lib.note([f.f_code.co_name for f in task.get_stack()])
    lib.turns(2)
    lib.note([f.f_code.co_name for f in task.get_stack()])
    lib.note([f.f_code.co_name for f in task.get_stack(limit=1)])
    for limit in (None, 1, 0):
        out = io.StringIO()
        task.print_stack(limit=limit, file=out)
        lib.note(out.getvalue())
    future.set_result(None)
    lib.turns(3)
    lib.note(task.get_stack())
    out = io.StringIO()
    task.print_stack(file=out)
    lib.note(out.getvalue())


def test_stack_of_a_running_and_of_a_failed_task(lib):
    async def deep():
        stack = asyncio.current_task().get_stack()
        lib.note([f.f_code.co_name for f in stack if f.f_code.co_filename == __file__][-2:])
        raise LookupError("deep")

    async def fail():
        await deep()

    task = lib.loop.create_task(fail(), name="failed")
    lib.turns()
    lib.note([f.f_code.co_name for f in task.get_stack()])
    lib.note([f.f_code.co_name for f in task.get_stack(limit=1)])
    out = io.StringIO()
    task.print_stack(file=out)
    lib.note(out.getvalue())
    task.exception()


def test_current_task(lib):
    async def main(name):
        task = asyncio.current_task()
        assert task.get_name() == name
        assert asyncio.current_task(lib.loop) is task
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        lib.loop.call_soon(lambda: lib.note("in a callback", asyncio.current_task()))
        await asyncio.sleep(0)
        return name

    tasks = [lib.loop.create_task(main(f"name {n}"), name=f"name {n}") for n in range(3)]
    lib.note(lib.loop.run_until_complete(asyncio.gather(*tasks)))
    lib.note(asyncio.current_task(lib.loop))
    lib.catch(asyncio.current_task)


def test_all_tasks(lib):
    async def main():
        here = asyncio.current_task()
        first = lib.loop.create_task(idle(2), name="first")
        second = lib.loop.create_task(idle(4), name="second")
        lib.note({t.get_name() for t in asyncio.all_tasks() if t is not here})
        assert asyncio.all_tasks() == asyncio.all_tasks(lib.loop) == {here, first, second}
        await first
        lib.note({t.get_name() for t in asyncio.all_tasks() if t is not here})
        second.cancel()
        await asyncio.wait([second])
        assert asyncio.all_tasks() == {here}

    lib.loop.run_until_complete(main())
    lib.note(asyncio.all_tasks(lib.loop))
    lib.catch(asyncio.all_tasks)


def test_all_tasks_keeps_loops_apart(lib):
    other = lib.new_loop()
    here = lib.loop.create_task(idle(), name="here")
    there = other.create_task(idle(), name="there")
    assert asyncio.all_tasks(lib.loop) == {here}
    assert asyncio.all_tasks(other) == {there}
    lib.turns(2)
    lib.turns(2, other)
    assert asyncio.all_tasks(lib.loop) == asyncio.all_tasks(other) == set()


def test_awaiting_a_task_many_times(lib):
    async def main():
        task = lib.loop.create_task(idle(2, "once"))
        lib.note(await asyncio.gather(task, idle(), task))
        lib.note(await task, await task)
        waiters = [lib.loop.create_task(_wait_for(task)) for _ in range(3)]
        lib.note([await w for w in waiters])

    async def _wait_for(task):
        return await task

    lib.run(main)


def test_wake_up_order(lib):
    async def waiter(name, future):
        lib.note(name, await future)

    async def main():
        future = lib.loop.create_future()
        tasks = [lib.loop.create_task(waiter(n, future)) for n in range(4)]
        await asyncio.sleep(0)
        future.add_done_callback(lambda f: lib.note("callback", f.result()))
        tasks.append(lib.loop.create_task(waiter("last", future)))
        await asyncio.sleep(0)
        future.set_result("value")
        lib.note("set")
        await asyncio.wait(tasks)

    lib.loop.run_until_complete(main())


def test_interleaving(lib):
    async def worker(name):
        for step in range(3):
            lib.note(name, step)
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(worker("a"), worker("b"))
        task = lib.loop.create_task(worker("c"))
        lib.loop.call_soon(lib.note, "soon")
        await worker("d")
        await task

    lib.loop.run_until_complete(main())


def test_done_callbacks(lib):
    async def main():
        task = lib.loop.create_task(idle(1, "r"))
        task.add_done_callback(lambda t: lib.note("first", t is task, t.result()))
        gone = lambda t: lib.note("never")
        task.add_done_callback(gone)
        task.add_done_callback(gone)
        lib.note(task.remove_done_callback(gone), task.remove_done_callback(gone))
        await task
        task.add_done_callback(lambda t: lib.note("late"))
        lib.note("before late")
        await asyncio.sleep(0)

    lib.loop.run_until_complete(main())


def test_repr_of_a_waiting_task(lib):
    future = lib.loop.create_future()

    async def waits():
        await future

    task = lib.loop.create_task(waits(), name="waits")
    lib.turns()
    lib.note(repr(task))
    task.add_done_callback(idle)
    lib.note(repr(task))
    assert task._fut_waiter is future
    task.remove_done_callback(idle)
    task.cancel()
    lib.note(repr(task), task._fut_waiter)
    lib.turns(2)
    lib.note(repr(task), task._fut_waiter)


def test_repr_of_a_coroutine_in_a_task(lib):
    class Named:
        async def method(self):
            await asyncio.sleep(0)

    task = lib.loop.create_task(Named().method(), name="method")
    lib.note(repr(task), inspect.getcoroutinestate(task.get_coro()))
    lib.turns(2)
    lib.note(repr(task), inspect.getcoroutinestate(task.get_coro()))

"""Task factories, eager starts and what create_task passes on."""

import asyncio
import contextvars
import gc
import sys

import pytest

import aioxide

EAGER_START = sys.version_info >= (3, 14)
HAS_EAGER = sys.version_info >= (3, 12)
needs_eager = pytest.mark.skipif(not HAS_EAGER, reason="3.12 brought eager tasks")
needs_eager_start = pytest.mark.skipif(not EAGER_START, reason="3.14 brought eager_start")

# Early 3.13 names a task only after its factory has made, and perhaps run, it.
LATE_NAMES = (3, 13, 0) <= sys.version_info < (3, 13, 3)

var = contextvars.ContextVar("var", default="unset")


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


def eager_main(lib, main, factory=None):
    """Run a main coroutine on a loop whose factory is asyncio's eager one."""

    async def body():
        lib.loop.set_task_factory(factory or asyncio.eager_task_factory)
        return await main()

    return lib.run(body)


def test_factory_is_kept(lib):
    loop = lib.loop
    lib.note(loop.get_task_factory())

    def factory(loop, coro, **options):
        return asyncio.Task(coro, loop=loop, **options)

    lib.note(loop.set_task_factory(factory))
    assert loop.get_task_factory() is factory
    for bad in (5, "factory", object()):
        lib.catch(loop.set_task_factory, bad)
    assert loop.get_task_factory() is factory
    loop.set_task_factory(None)
    lib.note(loop.get_task_factory())


def test_factory_gets_the_options(lib):
    calls = []

    def factory(loop, coro, **options):
        calls.append((loop is lib.loop, options))
        return lib.Task(coro, loop=loop, **options)

    async def main():
        lib.loop.set_task_factory(factory)
        own = contextvars.copy_context()
        first = lib.loop.create_task(idle())
        second = lib.loop.create_task(idle(), name="named")
        third = lib.loop.create_task(idle(), context=own)
        fourth = asyncio.create_task(idle(), name="by asyncio")
        fifth = asyncio.ensure_future(idle())
        for task in (first, second, third, fourth, fifth):
            await task
        lib.note([sorted(o) for _, o in calls])
        lib.note([o.get("name") for _, o in calls], all(ok for ok, _ in calls))
        assert calls[2][1]["context"] is own
        lib.note(second.get_name(), fourth.get_name())

    lib.run(main)


def test_factory_may_give_anything(lib):
    lib.stock_defect(LATE_NAMES, "early 3.13 names eager tasks too late")

    class Odd:
        name = None

        def set_name(self, name):
            self.name = name

    async def main():
        odd = Odd()
        lib.loop.set_task_factory(lambda loop, coro, **options: (coro.close(), odd)[1])
        assert lib.loop.create_task(idle(), name="given") is odd
        lib.note(odd.name)
        lib.loop.set_task_factory(lambda loop, coro, **options: coro.close())
        lib.catch(lib.loop.create_task, idle(), name="x")
        lib.loop.set_task_factory(None)

    lib.run(main)


def test_factory_that_raises(lib):
    def factory(loop, coro, **options):
        coro.close()
        raise LookupError("factory")

    async def main():
        lib.loop.set_task_factory(factory)
        lib.catch(lib.loop.create_task, idle())
        lib.catch(asyncio.ensure_future, idle())
        lib.loop.set_task_factory(None)

    lib.run(main)


def test_old_factory_without_options(lib):
    def factory(loop, coro):
        return lib.Task(coro, loop=loop)

    async def main():
        lib.loop.set_task_factory(factory)
        task = lib.loop.create_task(idle())
        coro = idle()
        try:
            lib.loop.create_task(coro, context=contextvars.copy_context())
        except TypeError:
            lib.note("TypeError")
            coro.close()
        await task

    lib.run(main)


def test_stock_tasks_from_a_factory(lib):
    async def main():
        lib.loop.set_task_factory(lambda loop, coro, **o: asyncio.Task(coro, loop=loop, **o))
        lib.note(type(lib.loop.create_task(idle())) is asyncio.Task)
        lib.note(await asyncio.gather(idle(1, 1), idle(2, 2)))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(idle(1, "in a group"))
        lib.note(task.result())

    lib.run(main)


def test_unknown_options(lib):
    async def main():
        # aioxide takes eager_start on every Python.
        eager = [{"eager_start": False}] if EAGER_START else []
        for options in ({"other": 1}, *eager, {"loop": lib.loop}):
            coro = idle()
            try:
                task = lib.loop.create_task(coro, **options)
                lib.note(sorted(options), await task)
            except TypeError:
                lib.note(sorted(options), "TypeError")
                coro.close()

    lib.run(main)


@needs_eager
def test_eager_runs_at_once(lib):
    lib.stock_defect(LATE_NAMES, "early 3.13 names eager tasks too late")

    async def body(name):
        lib.note(name, "first", asyncio.current_task().get_name())
        await asyncio.sleep(0)
        lib.note(name, "second")
        return name

    async def main():
        here = asyncio.current_task()
        task = asyncio.create_task(body("a"), name="eager")
        assert asyncio.current_task() is here
        lib.note("made", task.done(), repr(task))
        lib.note(await task)

    eager_main(lib, main)


@needs_eager
def test_eager_that_never_waits_is_done(lib):
    lib.stock_defect(LATE_NAMES, "early 3.13 names eager tasks too late")

    async def main():
        task = asyncio.create_task(idle(0, "at once"))
        lib.note(task.done(), task.result())
        assert task not in asyncio.all_tasks()
        lib.note(await task)
        # 3.12.1's own task crashes the interpreter when it is asked for the coroutine it has lost.
        if sys.version_info >= (3, 13) or lib.kind != "asyncio":
            assert task.get_coro() is None
        if sys.version_info >= (3, 13):
            lib.note(repr(task))

    eager_main(lib, main)


@needs_eager
def test_eager_failures(lib):
    async def fail():
        raise LookupError("at once")

    async def leave():
        raise asyncio.CancelledError("by hand")

    async def main():
        task = asyncio.create_task(fail())
        lib.note(task.done(), task.exception())
        task = asyncio.create_task(leave())
        lib.note(task.done(), task.cancelled())

    eager_main(lib, main)


@needs_eager
def test_eager_exits(lib):
    async def leave():
        raise KeyboardInterrupt("at once")

    async def main():
        try:
            asyncio.create_task(leave())
        except KeyboardInterrupt as exc:
            lib.note(exc)
        lib.note(asyncio.current_task() is not None)

    eager_main(lib, main)
    gc.collect()
    lib.note(len(lib.logged()))


@needs_eager
def test_eager_swaps_the_current_task(lib):
    lib.stock_defect(LATE_NAMES, "early 3.13 names eager tasks too late")

    async def inner():
        lib.note("inner", asyncio.current_task().get_name())
        await asyncio.sleep(0)
        lib.note("inner again", asyncio.current_task().get_name())

    async def middle():
        task = asyncio.create_task(inner(), name="inner")
        lib.note("middle", asyncio.current_task().get_name())
        await task

    async def main():
        task = asyncio.create_task(middle(), name="middle")
        lib.note(sorted(t.get_name() for t in asyncio.all_tasks() if "Task-" not in t.get_name()))
        await task

    eager_main(lib, main)


@needs_eager
def test_eager_contexts(lib):
    async def body():
        lib.note(var.get())
        var.set("eager")
        await asyncio.sleep(0)
        lib.note(var.get())

    async def main():
        var.set("main")
        task = asyncio.create_task(body())
        lib.note(var.get())
        await task
        own = contextvars.Context()
        await asyncio.create_task(body(), context=own)
        lib.note(own[var])

    eager_main(lib, main)


@needs_eager
def test_eager_cancel(lib):
    async def body():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError as exc:
            lib.note(exc)
            raise

    async def main():
        task = asyncio.create_task(body())
        task.cancel("soon")
        try:
            await task
        except asyncio.CancelledError as exc:
            lib.note(exc)

        async def itself():
            asyncio.current_task().cancel("itself")
            await asyncio.sleep(0)

        task = asyncio.create_task(itself())
        await asyncio.wait([task])
        lib.note(task.cancelled())

    eager_main(lib, main)


@needs_eager
def test_eager_groups(lib):
    async def main():
        lib.note(await asyncio.gather(idle(0, 1), idle(1, 2), idle(0, 3)))
        lib.note(await asyncio.gather(idle(0, 1), idle(0, 2)))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(idle(n % 2, n)) for n in range(4)]
        lib.note([t.result() for t in tasks])
        done, pending = await asyncio.wait([asyncio.create_task(idle(0)) for _ in range(2)])
        lib.note(len(done), len(pending))
        lib.note(await asyncio.wait_for(idle(0, "waited"), 100))
        lib.note(await asyncio.shield(idle(0, "shielded")))
        lib.note([await f for f in asyncio.as_completed([idle(0, "one")])])

    eager_main(lib, main)


@needs_eager
def test_eager_failure_in_a_group(lib):
    async def main():
        async def fails():
            raise LookupError("in a group")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
        except* LookupError as caught:
            lib.note(caught)

    # 3.12.1's own group loses the error and leaves its parent cancelled.
    lib.catch(eager_main, lib, main)


@needs_eager
def test_eager_factory_of_a_subclass(lib):
    class Mine(lib.Task):
        pass

    async def main():
        task = asyncio.create_task(idle(1, "mine"))
        assert type(task) is Mine
        lib.note(await task)

    eager_main(lib, main, asyncio.create_eager_task_factory(Mine))


@needs_eager
def test_eager_by_hand(lib):
    async def main():
        task = lib.Task(idle(0, "now"), loop=lib.loop, eager_start=True, name="by hand")
        lib.note(task.done(), task.result(), task.get_name())
        task = lib.Task(idle(1, "then"), loop=lib.loop, eager_start=True)
        lib.note(task.done(), await task)
        task = lib.Task(idle(0, "later"), loop=lib.loop, eager_start=False)
        lib.note(task.done(), await task)

    lib.run(main)


@needs_eager
def test_eager_needs_a_running_loop(lib):
    coro = idle(0, "result")
    try:
        task = lib.Task(coro, loop=lib.loop, eager_start=True)
    except RuntimeError as exc:
        lib.note(exc)
        gc.collect()
        lib.logged()
    else:
        lib.note("made", task.done())
        lib.turns(2)
    coro.close()


@needs_eager
def test_eager_recursion_is_bounded_by_the_interpreter(lib):
    async def deeper(depth):
        if depth:
            return await asyncio.create_task(deeper(depth - 1)) + 1
        return 0

    async def main():
        lib.note(await asyncio.create_task(deeper(20)))

    eager_main(lib, main)


@needs_eager_start
def test_eager_start_option(lib):
    async def main():
        task = asyncio.create_task(idle(0, "eager"), eager_start=True)
        lib.note(task.done())
        task = lib.loop.create_task(idle(0, "lazy"), eager_start=False)
        lib.note(task.done())
        await task
        task = lib.loop.create_task(idle(0, "default"), eager_start=None)
        lib.note(task.done())
        await task
        async with asyncio.TaskGroup() as group:
            task = group.create_task(idle(0, "in a group"), eager_start=True)
            lib.note(task.done())
        lib.loop.set_task_factory(asyncio.eager_task_factory)
        task = asyncio.create_task(idle(0, "lazy"), eager_start=False)
        lib.note(task.done())
        await task

    lib.run(main)


def test_native_tasks_start_eagerly_on_every_python():
    """What docs/semantics.md promises: `eager_start` also where asyncio does not have it yet."""

    async def main():
        loop, outer, seen = asyncio.get_running_loop(), asyncio.current_task(), []

        async def child():
            seen.append(asyncio.current_task().get_name())
            await asyncio.sleep(0)
            return "late"

        async def quick():
            return "at once"

        task = loop.create_task(child(), name="child", eager_start=True)
        assert seen == ["child"] and asyncio.current_task() is outer
        assert task in asyncio.all_tasks()
        done = loop.create_task(quick(), eager_start=True)
        assert done.done() and done not in asyncio.all_tasks()
        return await task, done.result()

    assert aioxide.run(main()) == ("late", "at once")

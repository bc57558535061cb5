"""Loops, tasks and futures that a program derives, overrides, patches and mixes with bases."""

import abc
import asyncio
import contextlib
import gc
import typing
import weakref

import pytest


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


def loop_of(lib, kind):
    """Make a loop of a class derived here; the harness closes it."""
    loop = kind()
    lib.loops.append(loop)
    return loop


def test_time_of_a_derived_loop(lib):
    class Mine(lib.loop_type):
        def time(self):
            return 1000.0

    loop = loop_of(lib, Mine)
    handle = loop.call_later(5, lib.note, "never")
    lib.note(handle.when())
    past = loop.call_at(999, lib.note, "past")
    lib.turns(2, loop)
    lib.note(past.when())
    handle.cancel()


def test_moving_time_of_a_derived_loop(lib):
    """A loop whose clock a test moves by hand: due timers fire, others wait."""

    class Mine(lib.loop_type):
        now = 1000.0

        def time(self):
            return self.now

    loop = loop_of(lib, Mine)
    for delay in (1, 3, 2):
        loop.call_later(delay, lib.note, delay)
    lib.turns(1, loop)
    Mine.now += 2
    lib.turns(2, loop)
    lib.note("moved")
    Mine.now += 2
    lib.turns(2, loop)


def test_call_soon_of_a_derived_loop_sees_the_programs_calls(lib):
    calls = []

    class Mine(lib.loop_type):
        def call_soon(self, callback, *args, context=None):
            calls.append(getattr(callback, "__name__", "other"))
            return super().call_soon(callback, *args, context=context)

    loop = loop_of(lib, Mine)
    loop.call_soon(lib.note, "mine")
    future = loop.create_future()

    def done(f):
        lib.note("done")

    future.add_done_callback(done)
    future.set_result(None)
    lib.turns(1, loop)
    assert calls[0] == "note"
    lib.note("done" in calls)


def test_factories_of_a_derived_loop_are_used(lib):
    class Mine(lib.loop_type):
        def create_future(self):
            lib.note("create_future")
            return super().create_future()

        def create_task(self, coro, **options):
            lib.note("create_task", sorted(options))
            return super().create_task(coro, **options)

    loop = loop_of(lib, Mine)

    async def main():
        await asyncio.create_task(idle(), name="a")
        await asyncio.ensure_future(idle())
        await asyncio.sleep(0.001)
        await asyncio.gather(idle())
        lock = asyncio.Lock()
        await lock.acquire()
        waiter = asyncio.create_task(lock.acquire())
        await idle()
        lock.release()
        await waiter

    loop.run_until_complete(main())


def test_handlers_of_a_derived_loop_are_used(lib):
    class Mine(lib.loop_type):
        def call_exception_handler(self, context):
            lib.note("call", sorted(context))
            super().call_exception_handler(context)

        def default_exception_handler(self, context):
            lib.note("default", context["message"].split(" at ")[0])

    loop = loop_of(lib, Mine)
    loop.call_soon(lambda: 1 / 0)
    future = loop.create_future()
    future.set_exception(LookupError())
    del future
    gc.collect()
    lib.turns(1, loop)


def test_methods_patched_on_an_instance(lib):
    seen = []
    loop = lib.loop
    loop.call_exception_handler = lambda context: seen.append(context["message"].split(" at ")[0])
    loop.call_soon(lambda: 1 / 0)
    future = loop.create_future()
    future.set_exception(LookupError())
    del future
    gc.collect()
    lib.turns()
    del loop.call_exception_handler
    lib.note(seen)
    made = []
    real = loop.create_task

    def create_task(coro, **options):
        made.append(sorted(options))
        return real(coro, **options)

    loop.create_task = create_task

    async def main():
        await asyncio.create_task(idle(), name="patched")
        async with asyncio.TaskGroup() as group:
            group.create_task(idle())

    loop.run_until_complete(main())
    del loop.create_task
    lib.note(made)


def test_state_of_a_derived_loop(lib):
    class Mine(lib.loop_type):
        def __init__(self, remark):
            super().__init__()
            self.remark = remark

        @property
        def doubled(self):
            return self.remark * 2

    loop = Mine("x")
    lib.loops.append(loop)
    lib.note(loop.remark, loop.doubled, "Mine" in repr(loop))
    with contextlib.closing(Mine("closed")) as other:
        lib.note(other.run_until_complete(idle(1, "ran")))


def test_a_loop_without_init_can_be_dropped(lib):
    class Mine(lib.loop_type):
        def __init__(self):
            raise LookupError("in init")

    lib.catch(Mine)
    gc.collect()
    # Both loops complain in their own way; neither crashes nor keeps a descriptor.
    lib.unraisable_taken()
    lib.warnings_taken()


def test_close_of_a_derived_loop(lib):
    class Mine(lib.loop_type):
        def close(self):
            lib.note("close", self.is_running())
            super().close()

        def stop(self):
            lib.note("stop")
            super().stop()

    loop = loop_of(lib, Mine)
    loop.call_soon(loop.stop)
    loop.run_forever()
    lib.note(loop.run_until_complete(idle(1, "value")))
    loop.close()
    loop.close()
    with asyncio.Runner(loop_factory=Mine) as runner:
        runner.run(idle())


@pytest.mark.kinds("all")
def test_mixing_with_other_bases(lib):
    class Mixin:
        def extra(self):
            return "extra"

    class WithMixin(Mixin, lib.Future):
        pass

    class Slotted(lib.Future):
        __slots__ = ("value",)

    class Abstract(lib.Future, abc.ABC):
        @property
        @abc.abstractmethod
        def what(self):
            """Be abstract."""

    class Concrete(Abstract):
        what = "concrete"

    item = typing.TypeVar("item")

    class Typed(lib.Future, typing.Generic[item]):
        pass

    class Awaited(typing.Protocol):
        def done(self) -> bool: ...

    class Structural(lib.Future, Awaited):
        pass

    made = [WithMixin(loop=lib.loop), Slotted(loop=lib.loop), Concrete(loop=lib.loop)]
    made += [Typed(loop=lib.loop), Structural(loop=lib.loop)]
    made[1].value = 5
    lib.note(made[0].extra(), made[1].value, made[2].what)

    async def waits(future):
        return await future

    async def main():
        for future in made:
            lib.loop.call_soon(future.set_result, "value")
            lib.note(await waits(future), isinstance(future, lib.Future))

    lib.loop.run_until_complete(main())


@pytest.mark.kinds("all")
def test_derived_tasks(lib):
    class Abstract(lib.Task, abc.ABC):
        pass

    class Slotted(lib.Task):
        __slots__ = ("value",)

    class Deeper(Slotted):
        def __init__(self, coro, *, loop):
            self.value = "before init"
            super().__init__(coro, loop=loop, name="deeper")

    async def main():
        lib.note(await Abstract(idle(1, "abstract"), loop=lib.loop))
        task = Deeper(idle(1, "deeper"), loop=lib.loop)
        lib.note(task.value, task.get_name(), await task)
        assert weakref.ref(task)() is task

    lib.run(main)


@pytest.mark.kinds("all")
def test_overrides_that_asyncio_calls(lib):
    """What asyncio's own code calls on a task goes to the overriding method."""

    class Mine(lib.Task):
        def done(self):
            lib.note("done")
            return super().done()

        def exception(self):
            lib.note("exception")
            return super().exception()

        def result(self):
            lib.note("result")
            return super().result()

        def cancelled(self):
            lib.note("cancelled")
            return super().cancelled()

    async def main():
        task = Mine(idle(1, "value"), loop=lib.loop)
        lib.note(await asyncio.gather(task))
        task = Mine(idle(1, "value"), loop=lib.loop)
        lib.note(len((await asyncio.wait([task]))[0]))
        lib.note(await asyncio.shield(Mine(idle(1, "shielded"), loop=lib.loop)))

    lib.run(main)


@pytest.mark.kinds("all")
def test_destructor_of_a_derived_future(lib):
    class Mine(lib.Future):
        def __del__(self):
            lib.note("del", self.done())
            parent = getattr(super(), "__del__", None)
            if parent:
                parent()

    seen = lib.contexts()
    future = Mine(loop=lib.loop)
    del future
    gc.collect()
    future = Mine(loop=lib.loop)
    future.set_exception(LookupError("lost"))
    del future
    gc.collect()
    lib.note([c["message"].split(" ")[0] for c in seen])
    seen.clear()
    gc.collect()
    lib.trace.sort(key=repr)


@pytest.mark.kinds("all")
def test_equality_and_hash(lib):
    class Equal(lib.Future):
        def __eq__(self, other):
            return isinstance(other, Equal)

        def __hash__(self):
            return 7

    first, second = Equal(loop=lib.loop), Equal(loop=lib.loop)
    lib.note(first == second, len({first, second}), first == 5)
    plain = lib.loop.create_future()
    lib.note(plain == plain, plain == first, plain != lib.Future(loop=lib.loop))
    with pytest.raises(TypeError):
        plain < first

    async def waits(future):
        return await future

    async def main():
        tasks = [lib.loop.create_task(waits(f)) for f in (first, second)]
        await idle()
        second.set_result("second")
        first.set_result("first")
        lib.note([await t for t in tasks])

    lib.loop.run_until_complete(main())


@pytest.mark.kinds("all")
def test_structural_types(lib):
    """collections.abc and typing see what they see of asyncio's."""
    import collections.abc

    future = lib.loop.create_future()
    for base in (
        collections.abc.Awaitable,
        collections.abc.Iterable,
        collections.abc.Coroutine,
        collections.abc.Hashable,
        collections.abc.Generator,
    ):
        lib.note(base.__name__, isinstance(future, base), issubclass(lib.Task, base))
    lib.note(bool(future), callable(future), hasattr(future, "__len__"))
    lib.note(isinstance(future.__await__(), collections.abc.Iterator))
    lib.note(isinstance(future.__await__(), collections.abc.Generator))
    future.cancel()

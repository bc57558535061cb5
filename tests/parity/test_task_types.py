"""Task as a type: subclasses, attributes, arguments, and instances that nobody has initialised."""

import asyncio
import contextlib
import gc
import sys
import types
import weakref

import pytest

import aioxide

pytestmark = pytest.mark.kinds("all")


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


def test_weak_reference_and_attributes(lib):
    task = lib.loop.create_task(idle())
    ref = weakref.ref(task)
    lib.turns(2)
    if lib.kind != "pure":
        lib.note(hasattr(task, "__dict__"))
    task.remark = "any attribute"
    lib.note(task.remark)
    del task
    gc.collect()
    assert ref() is None


def test_subclasses(lib):
    class Mine(lib.Task):
        def __init__(self, coro, *, loop, extra):
            super().__init__(coro, loop=loop)
            self.extra = extra

        def result(self):
            return ("mine", super().result())

        def add_done_callback(self, *args, **options):
            lib.note("add_done_callback")
            super().add_done_callback(*args, **options)

        def cancel(self, *args, **options):
            lib.note("cancel")
            return super().cancel(*args, **options)

    async def main():
        task = Mine(idle(2, "result"), loop=lib.loop, extra=1)
        lib.note(repr(task), task.extra)
        lib.note(await task)
        lib.note(task.result())
        task = Mine(idle(5), loop=lib.loop, extra=2)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        lib.note(task.cancelled())

    lib.loop.run_until_complete(main())


@pytest.mark.parametrize("name", ["Task", "Future"])
def test_what_asyncio_keeps_too_lies_in_its_own_words(name):
    base = max(asyncio.Task.__basicsize__, asyncio.Future.__basicsize__)
    # What asyncio's has no word for; before 3.14 also the links of the list of all tasks.
    own = {"Task": 40 if sys.version_info >= (3, 14) else 56, "Future": 24}[name]
    # A word that was not found in asyncio's would add its own.
    assert getattr(aioxide, name).__basicsize__ <= base + own


def test_generic_alias(lib):
    alias = lib.Task[int]
    lib.note(alias.__args__, alias.__origin__ is lib.Task)
    lib.note(isinstance(alias, types.GenericAlias))


def test_arguments(lib):
    coro = idle()
    for args, options in (
        ((), {}),
        ((coro, 1), {"loop": lib.loop}),
        ((coro,), {"loop": lib.loop, "other": 1}),
    ):
        with pytest.raises((TypeError, RuntimeError)) as caught:
            lib.Task(*args, **options)
        lib.note(type(caught.value).__name__)
    coro.close()
    task = lib.Task(coro=idle(), loop=lib.loop, name="by keyword", context=None)
    lib.turns(2)
    lib.note(task.get_name(), task.done())


def test_making_in_a_running_loop_needs_no_loop(lib):
    async def main():
        task = lib.Task(idle(1, "made"))
        assert task.get_loop() is lib.loop
        future = lib.Future()
        assert future.get_loop() is lib.loop
        future.set_result("set")
        lib.note(await task, await future)

    lib.loop.run_until_complete(main())


def test_private_attributes(lib):
    task = lib.loop.create_task(idle())
    for name in (
        "_must_cancel",
        "_log_destroy_pending",
        "_num_cancels_requested",
        "_fut_waiter",
        "_state",
        "_callbacks",
        "_exception",
        "_result",
        "_log_traceback",
        "_asyncio_future_blocking",
        "_cancel_message",
        "_source_traceback",
    ):
        lib.note(name, getattr(task, name, "absent"))
    task._log_destroy_pending = True
    lib.note(task._asyncio_future_blocking)
    lib.turns(2)
    lib.note(task._state, task._result)


def test_bad_attribute_writes(lib):
    task = lib.loop.create_task(idle())
    if lib.kind != "pure":
        for name in ("_must_cancel", "_coro", "_fut_waiter", "_state", "_callbacks", "_loop"):
            with pytest.raises(AttributeError):
                setattr(task, name, None)
    lib.turns(2)


def test_making_without_init(lib):
    bare = lib.Task.__new__(lib.Task)
    if lib.kind != "pure":
        for ask in (lambda: bare.result(), lambda: bare.get_loop(), lambda: bare.cancel()):
            # It may answer or refuse; it must not crash.
            with contextlib.suppress(RuntimeError, AttributeError, asyncio.InvalidStateError):
                ask()
        assert isinstance(repr(type(bare)), str)
    else:
        bare._log_destroy_pending = False
        bare._state, bare._log_traceback = "FINISHED", False


def test_destroyed_pending(lib):
    seen = lib.contexts()
    lib.Task(idle(), loop=lib.loop, name="lost")
    lib.loop.close()
    lib._loop = None
    gc.collect()
    lib.note([(sorted(c), c["message"]) for c in seen])
    seen.clear()
    gc.collect()
    lib.note(lib.warnings_taken())

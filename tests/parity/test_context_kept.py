"""Contexts that somebody keeps, or finds: each callback and each task has one of its own."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest
from scheduled import Value, var

pytestmark = pytest.mark.kinds("all")


def context_of(handle):
    """The context of a handle: the method came with 3.12."""
    return handle._context


def test_a_handles_context_is_one_object_before_during_and_after(lib):
    seen = []

    def callback():
        var.set("by the callback")
        seen.append(context_of(handle))

    handle = lib.loop.call_soon(callback)
    before = context_of(handle)
    lib.turns()
    lib.note(seen[0] is before, context_of(handle) is before, before[var])


def test_a_handles_context_is_shown_after_it_ran(lib):
    handle = lib.loop.call_soon(var.set, "by the callback")
    other = lib.loop.call_soon(var.set, "by another")
    lib.turns()
    lib.note(context_of(handle)[var], context_of(other)[var])
    lib.note(context_of(handle) is context_of(handle))


def test_a_kept_context_is_given_to_nobody_else(lib):
    kept = []

    def keep(value):
        var.set(value)
        kept.append(context_of(handles[value]))

    handles = {value: lib.loop.call_soon(keep, value) for value in range(3)}
    lib.loop.call_soon(var.set, "not kept")
    lib.turns()
    handles.clear()
    for value in range(5):
        lib.loop.call_soon(var.set, f"later {value}")
    lib.turns()
    lib.note([context[var] for context in kept], len(set(map(id, kept))))


def test_a_token_keeps_the_tasks_context(lib):
    async def body(value):
        token = var.set(value)
        await asyncio.sleep(0)
        lib.note(var.get())
        var.reset(token)
        lib.note(var.get())

    async def main():
        await asyncio.gather(*[body(value) for value in range(3)])

    lib.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Task.get_context() came with 3.12")
def test_a_tasks_context_is_one_object_in_all_its_steps(lib):
    async def body():
        var.set("first step")
        before = asyncio.current_task().get_context()
        await asyncio.sleep(0)
        var.set("second step")
        lib.note(asyncio.current_task().get_context() is before, before[var])

    async def main():
        task = lib.loop.create_task(body())
        at_first = task.get_context()
        lib.note(at_first.get(var))
        await task
        lib.note(task.get_context() is at_first, at_first[var])

    lib.run(main())


def test_changes_of_a_task_last_from_step_to_step_and_stay_its_own(lib):
    async def body(value):
        for turn in range(3):
            var.set(f"{value} {turn}")
            lib.loop.call_soon(lambda: lib.note("callback", var.get()))
            await asyncio.sleep(0)
            lib.note(var.get())

    async def main():
        await asyncio.gather(body("a"), body("b"))
        lib.note(var.get())

    lib.run(main())


def test_values_die_with_the_callback_that_set_them(lib):
    def callback():
        value = Value()
        references.append(weakref.ref(value))
        var.set(value)

    references = []
    lib.loop.call_soon(callback)
    lib.turns()
    gc.collect()
    lib.note(references[0]() is None)


def test_a_weak_reference_to_a_context_goes_with_it(lib):
    references, handles = [], []

    def callback():
        references.append(weakref.ref(context_of(handles[0])))

    handles.append(lib.loop.call_soon(callback))
    lib.turns()
    lib.note(references[0]() is context_of(handles[0]))
    handles.clear()
    gc.collect()
    lib.loop.call_soon(lambda: lib.note(references[0]()))
    lib.turns()


def test_a_kept_context_of_a_handle_that_is_made_anew(lib):
    kept = []

    def callback():
        var.set("kept")
        kept.append(context_of(handle))
        handle.__init__(int, (), lib.loop)

    handle = lib.loop.call_soon(callback)
    lib.turns()
    lib.loop.call_soon(var.set, "later")
    lib.turns()
    lib.note(kept[0].get(var), context_of(handle) is kept[0], context_of(handle).get(var))


def test_who_finds_a_context_in_the_collector_changes_no_others(lib):
    # Who keeps the one that is used again makes the loop take another, which the collector lists:
    # the first is as old as the interpreter's modules, and left out with them.
    kept = []
    handle = lib.loop.call_soon(lambda: kept.append(context_of(handle)))
    lib.turns()
    for value in range(3):
        lib.loop.call_soon(var.set, value)
    lib.turns()
    found = [each for each in gc.get_objects() if isinstance(each, contextvars.Context)]
    lengths = [len(each) for each in found]
    for value in range(3):
        lib.loop.call_soon(var.set, value)
    lib.turns()
    lib.note([len(each) for each in found] == lengths)
    for each in found:
        each.run(var.set, "by who found it")
    lib.loop.call_soon(lambda: lib.note(var.get()), context=contextvars.Context())
    lib.loop.call_soon(lambda: lib.note(var.get()))
    lib.turns()


def test_a_loop_within_a_callback(lib):
    other = lib.new_loop()

    def inner():
        lib.note("inner", var.get())
        var.set("inner")

    def callback():
        var.set("outer")
        asyncio._set_running_loop(None)
        other.call_soon(inner)
        other.call_soon(other.stop)
        other.run_forever()
        asyncio._set_running_loop(lib.loop)
        lib.note("outer", var.get())

    lib.loop.call_soon(callback)
    lib.loop.call_soon(lambda: lib.note("next", var.get()))
    lib.turns()


def test_context_of_a_callback_that_raises(lib):
    def callback():
        var.set("raised")
        raise ValueError("as it should")

    told = lib.contexts()
    handle = lib.loop.call_soon(callback)
    lib.loop.call_soon(lambda: lib.note(var.get()))
    lib.turns()
    lib.note(context_of(handle)[var], [each["exception"] for each in told])


@pytest.mark.parametrize("place", range(3))
def test_the_context_of_a_done_callback_that_was_shown(lib, place):
    future = lib.loop.create_future()
    seen = []

    def callback(value):
        def call(_done):
            seen.append((value, var.get()))
            var.set(value)

        return call

    for value in range(3):
        var.set(f"before {value}")
        future.add_done_callback(callback(value))
    var.set("later")
    shown = [context for _, context in future._callbacks]
    lib.note([context[var] for context in shown], len(set(map(id, shown))))
    lib.note([one is two for one, (_, two) in zip(shown, future._callbacks, strict=True)])
    lib.note(future.remove_done_callback(future._callbacks[place][0]))
    lib.note([shown.index(context) for _, context in future._callbacks])
    future.set_result(None)
    lib.turns()
    lib.note(seen, [context[var] for context in shown])


def test_done_callbacks_have_contexts_of_their_own(lib):
    future, kept, seen = lib.loop.create_future(), [], []

    def call(done):
        seen.append(var.get())
        kept.append((var.set(f"by {len(seen)}"), contextvars.copy_context()))

    for value in range(4):
        var.set(value)
        future.add_done_callback(call)
    given = contextvars.copy_context()
    given.run(var.set, "given")
    future.add_done_callback(call, context=given)
    var.set("later")
    future.set_result(None)
    lib.turns()
    future.add_done_callback(call)
    var.set("too late")
    lib.turns()
    lib.note(seen, var.get(), given[var], [context[var] for _, context in kept])
    lib.note(future.remove_done_callback(call), [token.old_value for token, _ in kept])


def test_equal_done_callbacks_in_one_context_are_removed_together(lib):
    future, called = lib.loop.create_future(), []
    for callback in (called.append, called.extend, called.append):
        future.add_done_callback(callback)
    lib.note(future.remove_done_callback(called.append), len(future._callbacks))
    future.remove_done_callback(called.extend)
    future.add_done_callback(called.append)
    future.cancel()
    lib.turns()
    lib.note(len(called))

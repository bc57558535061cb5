"""Handles in the queue: kept by somebody or nobody, in cycles, made again of old ones."""

import functools
import gc
import warnings
import weakref

import pytest
from scheduled import WAYS, Value, nothing, run_inside, schedule, var

pytestmark = pytest.mark.kinds("all")


@pytest.mark.parametrize("method", WAYS)
def test_a_handle_kept_in_a_cycle_past_its_run_is_collected(lib, method):
    refs = []

    def body():
        value = Value()
        value.handle = schedule(lib, method, setattr, value, "was_called", True)
        refs.append(weakref.ref(value))

    gc.disable()
    run_inside(lib, body)
    lib.note(refs[0]().was_called, gc.is_tracked(refs[0]().handle))
    gc.enable()
    gc.collect()
    lib.note(refs[0]() is None)


@pytest.mark.parametrize("method", WAYS)
def test_a_handle_that_its_own_callback_keeps_is_collected(lib, method):
    refs = []

    def body():
        value = Value()

        def callback(*args):
            value.handle = found()

        handle = schedule(lib, method, callback, 1, 2, 3, 4)
        found = weakref.ref(handle)
        refs.extend([weakref.ref(value), found])

    gc.disable()
    run_inside(lib, body)
    lib.note([ref() is None for ref in refs])
    gc.enable()
    gc.collect()
    lib.note([ref() is None for ref in refs])


@pytest.mark.parametrize("method", WAYS)
def test_the_collector_knows_what_is_left_when_turns_end(lib, method):
    kept = []

    def body():
        kept.append(schedule(lib, method, lib.note, "ran"))
        lib.loop.stop()

    lib.loop.call_soon(body)
    lib.loop.run_forever()
    lib.note(gc.is_tracked(kept[0]))
    lib.turns()


def test_the_collector_knows_all_timers_when_turns_end(lib):
    seen = lib.contexts()

    def fail():
        raise LookupError("reason")

    def body(number):
        kept = [lib.loop.call_later(3600 + number, nothing)]
        for when in (-1, 3600, 7200):
            lib.loop.call_later(when, nothing)
            lib.loop.call_later(when, nothing).cancel()
            kept.append(lib.loop.call_later(when, nothing))
            kept.append(lib.loop.call_later(when, nothing))
            kept[-1].cancel()
        lib.loop.call_later(-1, fail)
        lib.loop.set_debug(number == 1)
        lib.loop.call_soon(lib.loop.call_later, 0.0005, lib.loop.stop)
        runs.append(kept)

    runs = []
    for number in range(3):
        lib.loop.call_soon(body, number)
        lib.loop.run_forever()
        lib.note([[gc.is_tracked(handle) for handle in kept] for kept in runs])
        lib.note(all(map(gc.is_tracked, lib.loop._scheduled)), len(seen))
    for handle in lib.loop._scheduled:
        handle.cancel()


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_a_loop_that_its_own_queue_holds_is_collected(lib, method):
    def body(value, loop):
        when = [3600] if method == "call_later" else []
        value.handle = getattr(loop, method)(*when, print, value, loop)
        loop.stop()

    def leave():
        loop, value = lib._make(), Value()
        loop.call_soon(body, value, loop)
        loop.run_forever()
        return weakref.ref(value), weakref.ref(loop)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        refs = leave()
        gc.collect()
        gc.collect()
    lib.note([ref() is None for ref in refs])


@pytest.mark.parametrize("method", WAYS)
def test_who_finds_a_handle_by_a_weak_reference_may_cancel_it_while_it_runs(lib, method):
    found = []

    def callback(value):
        handle = found[0]()
        lib.note(handle is not None, handle.cancelled())
        handle.cancel()
        del handle
        lib.note(value, found[0]() is not None)

    def body():
        found.append(weakref.ref(schedule(lib, method, callback, "argument")))

    run_inside(lib, body)
    lib.note(found[0]() is None)


def test_a_cancelled_handle_leaves_nothing_to_the_next(lib):
    def body():
        for number in range(3):
            lib.loop.call_soon(lib.note, "cancelled", number).cancel()
        lib.loop.call_soon(after)

    def after():
        handles = [lib.loop.call_soon(lib.note, *range(count)) for count in range(1, 6)]
        lib.note([handle.cancelled() for handle in handles])
        lib.note([handle._args for handle in handles])
        handles[3].cancel()

    run_inside(lib, body)


def test_a_timer_that_was_cancelled_leaves_nothing_to_the_next(lib):
    def body():
        for number in range(40):
            lib.loop.call_later(3600, lib.note, "cancelled", number).cancel()
        kept = lib.loop.call_later(0.0005, lib.note, "kept")
        kept.cancel()
        # An int stays one, for this handle and no other.
        lib.loop.call_at(0, lib.note, "due")
        # Before a sleep those that are cancelled leave.
        lib.loop.call_later(0.001, after, kept)

    def after(kept):
        lib.note(kept.cancelled(), kept._scheduled, kept._args, gc.is_tracked(kept))
        handles = [lib.loop.call_at(1e9 + count, nothing, *range(count)) for count in range(5)]
        lib.note([(handle.when(), handle.cancelled()) for handle in handles])
        lib.note([handle._scheduled for handle in handles])
        lib.note([handle._args for handle in handles])
        for handle in handles:
            handle.cancel()
        lib.loop.stop()

    lib.loop.call_soon(body)
    lib.loop.run_forever()


def test_a_timer_that_fires_leaves_nothing_to_the_next(lib):
    seen = lib.contexts()

    def fail():
        raise LookupError("reason")

    def body():
        lib.loop.call_at(0, nothing, 1, 2, 3)
        lib.loop.call_at(0, fail)
        lib.loop.call_soon(lib.loop.call_soon, after)

    def after():
        handles = [lib.loop.call_at(0.5, lib.note, "due", number) for number in range(3)]
        lib.note([(handle.when(), handle._args, handle._scheduled) for handle in handles])

    run_inside(lib, body, turns=8)
    failed = seen[0]["handle"]
    lib.note(failed._scheduled, failed.when(), gc.is_tracked(failed), len(lib.loop._scheduled))


def test_handles_with_fewer_arguments_after_those_with_more(lib):
    def some(*args):
        lib.note(args)

    for method in WAYS:
        for count in (3, 0, 4, 1, 1, 2, 0, 2, 5, 3):
            run_inside(lib, functools.partial(schedule, lib, method, some, *range(count)))


def test_handles_of_a_loop_that_debugged_leave_nothing_to_the_next(lib):
    def body():
        before = lib.loop.call_soon(nothing)
        lib.loop.set_debug(True)
        before.cancel()
        lib.loop.set_debug(False)
        lib.loop.call_soon(lib.loop.call_soon, between)

    def between():
        look()
        lib.loop.set_debug(True)
        lib.loop.call_soon(nothing)
        lib.loop.call_soon(nothing).cancel()
        lib.loop.call_soon(lib.loop.call_soon, after)

    def after():
        lib.loop.set_debug(False)
        lib.loop.call_soon(look)

    def look():
        handles = [lib.loop.call_soon(nothing) for _ in range(8)]
        lib.note([repr(handle) for handle in handles])
        lib.note([(handle._repr, handle._source_traceback) for handle in handles])

    run_inside(lib, body, turns=9)


@pytest.mark.parametrize("method", ["call_later", "call_at"])
def test_a_timer_handle_is_not_scheduled_once_it_ran(lib, method):
    handle = schedule(lib, method, nothing)
    failing = schedule(lib, method, lib.catch)
    seen = lib.contexts()
    lib.turns(2)
    lib.note(handle._scheduled, failing._scheduled, len(seen))
    lib.loop.call_soon(lambda: kept.append(schedule(lib, method, nothing)))
    kept = []
    lib.turns(3)
    lib.note(kept[0]._scheduled)


@pytest.mark.parametrize("method", WAYS)
def test_a_callback_that_fails_is_reported_with_its_handle(lib, method):
    seen = lib.contexts()
    tokens = []

    def fail(*args):
        var.set("of the failing one")
        raise LookupError(*args)

    def body():
        lib.loop.call_soon(lib.note, "first")
        schedule(lib, method, fail, "reason")
        lib.loop.call_soon(lambda: tokens.append(var.get()))

    run_inside(lib, body)
    handle = seen[0]["handle"]
    lib.note(seen, handle.cancelled(), handle._context[var], gc.is_tracked(handle), tokens)


def test_a_handle_that_is_made_by_hand_remembers_where_in_debug_mode(lib):
    def make():
        handle = type(lib.loop.call_soon(nothing))(nothing, (), lib.loop)
        traceback = handle._source_traceback
        lib.note(traceback and traceback[-1].name)

    make()
    lib.loop.set_debug(True)
    make()
    lib.loop.set_debug(False)
    make()
    lib.turns()

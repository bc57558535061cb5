"""Handles in the queue: kept by somebody or nobody, in cycles, and their contexts in a row."""

import contextvars
import functools
import gc
import warnings
import weakref

import pytest

pytestmark = pytest.mark.kinds("all")

var = contextvars.ContextVar("var", default="unset")


class Value:
    """Something that weak references can refer to."""


class Last:
    """Notes what the variable is when the object dies."""

    def __init__(self, lib):
        self.lib = lib

    def __del__(self):
        self.lib.note("died with", var.get())

    def method(self, *args):
        self.lib.note("called with", args)


class LastList(list):
    """The same, with methods that are C's."""

    def __init__(self, lib):
        self.last = Last(lib)


def nothing(*args):
    """Return at once."""


def run_inside(lib, body, turns=4):
    """Run a function in a turn, and more turns after it, in one run."""

    def count(left):
        if left:
            lib.loop.call_soon(count, left - 1)
        else:
            lib.loop.stop()

    lib.loop.call_soon(body)
    lib.loop.call_soon(count, turns - 1)
    lib.loop.run_forever()


def schedule(lib, method, *args):
    """Schedule a call for the next turn, in one of the ways there are."""
    when = {"call_later": [-1], "call_at": [0]}.get(method, [])
    return getattr(lib.loop, method)(*when, *args)


WAYS = ["call_soon", "call_soon_threadsafe", "call_later", "call_at"]


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


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_an_object_that_dies_with_its_handle_dies_outside_its_context(lib, count):
    def body(add):
        var.set("of the callback")
        add()

    def add():
        last = Last(lib)
        # In their turn after one without a trace, so that its context is a first one's or not.
        lib.loop.call_soon(nothing)
        lib.loop.call_soon(last.method, *range(count))
        lib.loop.call_soon(nothing)
        lib.loop.call_soon(nothing, *range(count), Last(lib))
        lib.loop.call_soon(functools.partial(nothing, Last(lib)), *range(count))
        lib.loop.call_soon(Last(lib).__init__, lib)
        lib.loop.call_soon(LastList(lib).append, 1)
        # An exact type of the interpreter's, that is, too, a container.
        lib.loop.call_soon(nothing, [Last(lib)], "".join(["a", "b"]))
        lib.loop.call_soon(nothing)
        lib.loop.call_soon_threadsafe(nothing, Last(lib))
        lib.loop.call_soon(nothing)
        lib.loop.call_later(-1, nothing, *range(count), Last(lib))
        lib.loop.call_later(-1, nothing)
        # Whoever looks at it meanwhile lets it go outside of the context, too.
        found.append(weakref.ref(lib.loop.call_soon(nothing, Last(lib))))

    found = []
    contextvars.copy_context().run(body, add)
    run_inside(lib, functools.partial(body, add))


@pytest.mark.parametrize("method", WAYS)
def test_a_weak_reference_to_a_callback_is_told_outside_its_context(lib, method):
    kept, told = [], []

    def body():
        var.set("of the callback")
        # Bound methods of Python and of C, whose owners live on.
        for callback in (told.append, Last.method.__get__(owner)):
            watch = weakref.ref(callback, lambda _: lib.note("let go with", var.get()))
            kept.append(watch)
            schedule(lib, method, nothing)
            schedule(lib, method, callback, 1)

    owner = Last(lib)
    run_inside(lib, lambda: contextvars.copy_context().run(body))
    lib.note(told, [watch() for watch in kept])


def test_callbacks_in_a_row_see_the_variables_of_their_own(lib):
    def change(value):
        lib.note(value, var.get())
        var.set(value)

    def body():
        lib.loop.call_soon(lib.note, "first")
        lib.loop.call_soon(change, 1)
        lib.loop.call_soon(change, 2)
        var.set("of the body")
        lib.loop.call_soon(change, 3)
        lib.loop.call_soon(change, 4, context=contextvars.Context())
        lib.loop.call_soon(change, 5)
        lib.loop.call_later(0, change, 6)
        lib.loop.call_soon_threadsafe(change, 7)

    run_inside(lib, body)
    lib.note(var.get())


def test_a_token_is_of_no_use_in_the_next_callback_of_the_turn(lib):
    tokens = []

    def reset():
        try:
            var.reset(tokens[0])
        except ValueError as error:
            lib.note(str(error).partition(" at ")[0].partition(" var=")[0])

    def body():
        lib.loop.call_soon(lib.note, "first")
        lib.loop.call_soon(lambda: tokens.append(var.set("there")))
        lib.loop.call_soon(reset)

    run_inside(lib, body)


def test_variables_that_are_set_and_reset_are_as_before_for_the_next(lib):
    def body():
        var.set("of the body")
        for value in range(3):
            lib.loop.call_soon(set_and_reset, value)

    def set_and_reset(value):
        token = var.set(value)
        lib.note(var.get())
        var.reset(token)
        lib.note(var.get())

    run_inside(lib, body)


def test_a_turn_inside_a_callback_has_contexts_of_its_own(lib):
    def outer():
        var.set("of the outer one")
        lib.loop.call_soon(lib.note, "between")
        lib.loop._run_once()
        lib.note("outer", var.get())

    def fill():
        # asyncio's outer turn has taken all that was there, and goes on to count.
        for _ in range(3):
            lib.loop.call_soon(nothing)

    def inner():
        lib.note("inner", var.get())
        var.set("of the inner one")
        fill()

    def body():
        var.set("of the body")
        lib.loop.call_soon(lib.note, "first")
        lib.loop.call_soon(outer)
        lib.loop.call_soon(inner)

    run_inside(lib, body)


def test_a_turn_inside_an_unchanged_context_does_not_share_it(lib):
    def outer():
        lib.loop._run_once()
        lib.note("outer", var.get())

    def fill():
        # asyncio's outer turn has taken all that was there, and goes on to count.
        for _ in range(3):
            lib.loop.call_soon(nothing)

    def inner():
        var.set("of the inner one")
        fill()

    def body():
        lib.loop.call_soon(lib.note, "first")
        lib.loop.call_soon(outer)
        lib.loop.call_soon(inner)

    run_inside(lib, body)


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


def test_the_context_is_left_when_an_exit_ends_the_run(lib):
    def leave():
        var.set("of the callback")
        raise SystemExit("enough")

    def body():
        lib.loop.call_soon(lib.note, "first")
        lib.loop.call_soon(leave)
        lib.loop.call_soon(lib.note, "after the exit")

    lib.loop.call_soon(body)
    lib.catch(lib.loop.run_forever)
    lib.note(var.get())
    lib.turns()


def test_the_context_is_left_when_the_run_ends(lib):
    before = contextvars.copy_context()

    def stop():
        lib.loop.stop()

    for _ in range(3):
        lib.loop.call_soon(stop)
        lib.loop.run_forever()
        lib.note(list(contextvars.copy_context().items()) == list(before.items()))
        token = var.set("outside")
        var.reset(token)

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


def test_a_handle_kept_in_a_cycle_past_its_run_is_collected(lib):
    refs = []

    def body():
        value = Value()
        value.handle = lib.loop.call_soon(setattr, value, "was_called", True)
        refs.append(weakref.ref(value))

    gc.disable()
    run_inside(lib, body)
    lib.note(refs[0]().was_called, gc.is_tracked(refs[0]().handle))
    gc.enable()
    gc.collect()
    lib.note(refs[0]() is None)


def test_a_handle_that_its_own_callback_keeps_is_collected(lib):
    refs = []

    def body():
        value = Value()

        def callback(*args):
            value.handle = found()

        handle = lib.loop.call_soon(callback, 1, 2, 3, 4)
        found = weakref.ref(handle)
        refs.extend([weakref.ref(value), found])

    gc.disable()
    run_inside(lib, body)
    lib.note([ref() is None for ref in refs])
    gc.enable()
    gc.collect()
    lib.note([ref() is None for ref in refs])


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_the_collector_knows_what_is_left_when_turns_end(lib, method):
    kept = []

    def body():
        kept.append(getattr(lib.loop, method)(lib.note, "ran"))
        lib.loop.stop()

    lib.loop.call_soon(body)
    lib.loop.run_forever()
    lib.note(gc.is_tracked(kept[0]))
    lib.turns()


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_a_loop_that_its_own_queue_holds_is_collected(lib, method):
    def body(value, loop):
        value.handle = getattr(loop, method)(print, value, loop)
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


def test_who_finds_a_handle_by_a_weak_reference_may_cancel_it_while_it_runs(lib):
    found = []

    def callback(value):
        handle = found[0]()
        lib.note(handle is not None, handle.cancelled())
        handle.cancel()
        del handle
        lib.note(value, found[0]() is not None)

    def body():
        found.append(weakref.ref(lib.loop.call_soon(callback, "argument")))

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


def test_handles_with_fewer_arguments_after_those_with_more(lib):
    def some(*args):
        lib.note(args)

    for counts in ((3, 0), (4, 1), (1, 2, 0), (2, 5, 3)):
        for count in counts:
            run_inside(lib, lambda count=count: lib.loop.call_soon(some, *range(count)))


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_an_object_that_dies_with_its_handle_dies_outside_its_context(lib, count):
    def body(schedule):
        var.set("of the callback")
        schedule()

    def schedule():
        last = Last(lib)
        # In their turn after one without a trace, so that its context is a first one's or not.
        lib.loop.call_soon(nothing)
        lib.loop.call_soon(last.method, *range(count))
        lib.loop.call_soon(nothing)
        lib.loop.call_soon(nothing, *range(count), Last(lib))
        lib.loop.call_soon(functools.partial(nothing, Last(lib)), *range(count))
        lib.loop.call_soon(Last(lib).__init__, lib)
        # An exact type of the interpreter's, that is, too, a container.
        lib.loop.call_soon(nothing, [Last(lib)], "".join(["a", "b"]))
        lib.loop.call_soon(nothing)
        lib.loop.call_soon_threadsafe(nothing, Last(lib))
        lib.loop.call_soon(nothing)
        # Whoever looks at it meanwhile lets it go outside of the context, too.
        found.append(weakref.ref(lib.loop.call_soon(nothing, Last(lib))))

    found = []
    contextvars.copy_context().run(body, schedule)
    run_inside(lib, functools.partial(body, schedule))


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


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_a_callback_that_fails_is_reported_with_its_handle(lib, method):
    seen = lib.contexts()
    tokens = []

    def fail(*args):
        var.set("of the failing one")
        raise LookupError(*args)

    def body():
        lib.loop.call_soon(lib.note, "first")
        getattr(lib.loop, method)(fail, "reason")
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

"""Contexts of callbacks in a row: one object serves them, and nobody can tell."""

import asyncio
import contextvars
import functools
import gc
import weakref

import pytest
from scheduled import WAYS, Last, LastList, Value, nothing, run_inside, schedule, var

pytestmark = pytest.mark.kinds("all")


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


@pytest.mark.parametrize("value", ["there", "before"])
@pytest.mark.parametrize("where", ["in one run", "in two runs"])
def test_a_token_is_of_no_use_in_the_next_callback(lib, value, where):
    tokens = []

    def reset():
        try:
            var.reset(tokens[-1])
        except ValueError as error:
            lib.note(str(error).partition(" at ")[0].partition(" var=")[0])

    def set_again():
        tokens.append(var.set(value))

    def body():
        # Set to what it is, a variable leaves no trace but its token.
        var.set("before")
        for _ in range(2):
            lib.loop.call_soon(lib.note, "first")
            lib.loop.call_soon(set_again)
            lib.loop.call_soon(reset)

    if where == "in one run":
        run_inside(lib, body)
    else:
        contextvars.copy_context().run(body)
        lib.turns()


def test_the_context_of_a_kept_token_keeps_its_variables(lib):
    tokens = []

    def keep(value):
        var.set(value)
        tokens.append(var.set(value + 1))

    def body():
        for value in (1, 3, 5):
            lib.loop.call_soon(lib.note, "between")
            lib.loop.call_soon(keep, value)

    run_inside(lib, body)
    referents = [each for token in tokens for each in gc.get_referents(token)]
    contexts = [each for each in referents if isinstance(each, contextvars.Context)]
    lib.note([context[var] for context in contexts])


def test_values_of_the_last_callback_die_with_it(lib):
    references = []

    def callback():
        value = Value()
        references.append(weakref.ref(value))
        var.set(value)
        lib.loop.stop()

    for _ in range(3):
        lib.loop.call_soon(lib.loop.call_soon, callback)
        lib.loop.run_forever()
        lib.note(references[-1]() is None)


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


def fill(lib):
    """For asyncio's outer turn: it has taken all that was there, and goes on to count."""
    for _ in range(3):
        lib.loop.call_soon(nothing)


def test_a_turn_inside_a_callback_has_contexts_of_its_own(lib):
    def outer():
        var.set("of the outer one")
        lib.loop.call_soon(lib.note, "between")
        lib.loop._run_once()
        lib.note("outer", var.get())

    def inner():
        lib.note("inner", var.get())
        var.set("of the inner one")
        fill(lib)

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

    def inner():
        var.set("of the inner one")
        fill(lib)

    def body():
        lib.loop.call_soon(lib.note, "first")
        lib.loop.call_soon(outer)
        lib.loop.call_soon(inner)

    run_inside(lib, body)


def test_what_dies_with_a_task_or_a_future_after_a_callback_dies_outside_its_context(lib):
    async def result(value):
        return value

    def change():
        var.set("of a callback")

    def body():
        lib.loop.call_soon(change)
        lib.loop.create_task(result(Last(lib)))
        lib.loop.call_soon(change)
        future = lib.loop.create_future()
        asyncio.gather(future)
        future.set_result(Last(lib))

    for _ in range(3):
        run_inside(lib, body)


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

"""Contexts of tasks whose steps follow each other, and callbacks, in one turn."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest

pytestmark = pytest.mark.kinds("all")

var = contextvars.ContextVar("var", default="unset")


class Last:
    """Notes what the variable is when the object dies."""

    def __init__(self, lib):
        self.lib = lib

    def __del__(self):
        self.lib.note("died with", var.get())


async def step():
    """Wait for the next turn."""
    await asyncio.sleep(0)


def test_tasks_in_a_row_see_the_variables_of_their_own(lib):
    async def body(value):
        lib.note(value, var.get())
        if value % 2:
            var.set(value)
        await step()
        lib.note(value, var.get())
        var.set((value, "again"))
        await step()
        lib.note(value, var.get())

    async def main():
        await asyncio.gather(*[body(value) for value in range(4)])
        lib.note(var.get())

    lib.run(main())


def test_steps_and_callbacks_in_a_row(lib):
    def change(value):
        lib.note(value, var.get())
        var.set(value)

    async def body(value):
        lib.note(value, var.get())
        await step()
        asyncio.get_running_loop().call_soon(change, (value, "called"))
        var.set(value)
        asyncio.get_running_loop().call_soon(lib.note, "same variables")
        asyncio.get_running_loop().call_soon(change, (value, "called after the change"))
        await step()
        lib.note(value, var.get())

    async def main():
        var.set("of main")
        tasks = [asyncio.get_running_loop().create_task(body(value)) for value in range(2)]
        asyncio.get_running_loop().call_soon(change, "in between")
        tasks.append(asyncio.get_running_loop().create_task(body(2)))
        await asyncio.wait(tasks)
        lib.note(var.get())

    lib.run(main())


def test_a_variable_that_is_set_and_reset_in_a_step(lib):
    async def body(value):
        for _ in range(2):
            token = var.set(value)
            lib.note(var.get())
            var.reset(token)
            del token
            await step()
            lib.note(var.get())

    async def main():
        var.set("of main")
        await asyncio.gather(body(1), body(2))

    lib.run(main())


def test_a_token_is_of_no_use_in_the_next_task(lib):
    tokens = []

    async def take():
        tokens.append(var.set("there"))

    async def reset():
        try:
            var.reset(tokens[0])
        except ValueError as error:
            lib.note(str(error).partition(" at ")[0].partition(" var=")[0])

    async def main():
        await asyncio.gather(step(), take(), reset())

    lib.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Task.get_context() came with 3.12")
def test_who_asks_for_a_context_in_a_step_has_that_of_the_step(lib):
    async def body(value, asked):
        context = asyncio.current_task().get_context() if value in asked else None
        var.set(value)
        await step()
        if context is not None:
            lib.note(context is asyncio.current_task().get_context(), context[var])
            lib.catch(context.run, var.get)
        var.set((value, "again"))
        await step()
        lib.note(var.get(), context and context[var])

    async def main():
        await asyncio.gather(*[body(value, (1, 2)) for value in range(4)])

    lib.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Task.get_context() came with 3.12")
def test_who_asks_for_the_context_of_another_task_that_waits(lib):
    async def waits():
        await step()
        lib.note("before", var.get())
        var.set("of the task")
        await step()

    async def main():
        task = asyncio.get_running_loop().create_task(waits())
        await step()
        context = task.get_context()
        context.run(var.set, "from outside")
        lib.note(var.get(), context[var])
        await step()
        lib.note(var.get(), context[var], task.get_context() is context)
        await task

    lib.run(main())


def test_what_dies_with_a_task_dies_outside_its_context(lib):
    async def returns(value):
        var.set(value)
        await step()
        return Last(lib)

    async def keeps_unchanged():
        return Last(lib)

    async def main():
        var.set("of main")
        for _ in range(2):
            asyncio.get_running_loop().create_task(step())
            asyncio.get_running_loop().create_task(keeps_unchanged())
            asyncio.get_running_loop().create_task(returns("of the task"))
            asyncio.get_running_loop().call_soon(lib.note, "between")
        for _ in range(4):
            await step()

    lib.run(main())


def test_values_die_with_the_task_that_set_them(lib):
    class Value:
        pass

    watched = []

    async def sets():
        value = Value()
        watched.append(weakref.ref(value))
        var.set(value)
        del value
        await step()

    async def main():
        for _ in range(3):
            asyncio.get_running_loop().create_task(sets())
        for _ in range(3):
            await step()
            lib.note([watch() is None for watch in watched])
        gc.collect()

    lib.run(main())


def test_a_turn_inside_a_step_does_not_share_its_context(lib):
    def fill():
        # asyncio's outer turn has taken all that was there, and goes on to count.
        for _ in range(3):
            asyncio.get_running_loop().call_soon(int)

    def inner():
        lib.note("inner", var.get())
        var.set("of the inner one")
        fill()

    async def outer():
        asyncio.get_running_loop().call_soon(inner)
        asyncio.get_running_loop()._run_once()
        lib.note("outer", var.get())
        var.set("of the outer one")
        await step()
        lib.note("outer", var.get())

    # A step of another task could not be run inside of this one's.
    lib.run(outer())
    lib.note(var.get())


def test_the_context_is_left_when_an_exit_ends_the_run(lib):
    async def leave():
        var.set("of the task")
        raise SystemExit("enough")

    async def stays():
        await step()
        lib.note("after the exit", var.get())

    tasks = [lib.loop.create_task(coroutine) for coroutine in (step(), leave(), stays())]
    lib.catch(lib.loop.run_forever)
    lib.note(var.get())
    lib.turns()
    lib.turns()
    lib.note(tasks[1].done(), tasks[2].done())
    lib.note(type(tasks[1].exception()).__name__)


def test_the_context_is_left_when_the_run_ends(lib):
    before = contextvars.copy_context()

    async def stop():
        var.set("of the task")
        lib.loop.stop()
        await step()

    for _ in range(3):
        task = lib.loop.create_task(stop())
        lib.loop.run_forever()
        lib.note(list(contextvars.copy_context().items()) == list(before.items()))
        lib.loop.run_until_complete(task)
        token = var.set("outside")
        var.reset(token)

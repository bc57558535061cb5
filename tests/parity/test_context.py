"""Context variables in callbacks, tasks, futures and threads."""

import asyncio
import contextvars
import gc
import weakref

import pytest

pytestmark = pytest.mark.kinds("all")

var = contextvars.ContextVar("var", default="unset")


def test_callbacks_run_in_a_context_of_their_own_or_the_callers(lib):
    def body():
        var.set("caller")
        lib.loop.call_soon(lambda: lib.note("soon", var.get()))
        lib.loop.call_later(0, lambda: lib.note("later", var.get()))
        lib.loop.call_at(0, lambda: lib.note("at", var.get()))
        lib.loop.call_soon_threadsafe(lambda: lib.note("threadsafe", var.get()))
        var.set("changed")

    contextvars.copy_context().run(body)
    lib.turns(3)
    lib.note(var.get())


def test_given_contexts_are_used_not_copied(lib):
    own = contextvars.Context()
    for call in (
        lib.loop.call_soon,
        lib.loop.call_soon_threadsafe,
        lambda *a, **k: lib.loop.call_later(0, *a, **k),
        lambda *a, **k: lib.loop.call_at(0, *a, **k),
    ):
        call(lambda: var.set(var.get() + "+"), context=own)
    lib.turns(3)
    lib.note(own[var], var.get())


def test_changes_in_a_callback_stay_there(lib):
    lib.loop.call_soon(var.set, "leaks")
    lib.loop.call_soon(lambda: lib.note(var.get()))
    lib.turns()
    assert lib.trace == ["unset"]


def test_tasks_copy_the_context_when_made(lib):
    async def body():
        lib.note(var.get())
        var.set("inside")
        await asyncio.sleep(0)
        lib.note(var.get())

    async def main():
        var.set("main")
        task = lib.loop.create_task(body())
        var.set("later")
        await task
        lib.note(var.get())
        await body()
        lib.note(var.get())

    lib.run(main)
    lib.note(var.get())


def test_task_with_a_given_context(lib):
    own = contextvars.Context()

    async def body():
        lib.note(var.get())
        var.set("inside")
        await asyncio.sleep(0)
        lib.note(var.get())

    async def main():
        await lib.loop.create_task(body(), context=own)
        lib.note(own[var], var.get())
        own.run(var.set, "between")
        await lib.loop.create_task(body(), context=own)
        lib.note(own[var])

    lib.run(main)


def test_two_tasks_in_one_context(lib):
    own = contextvars.Context()

    async def body(name):
        for step in range(3):
            lib.note(name, var.get())
            var.set(f"{name}{step}")
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(
            lib.loop.create_task(body("a"), context=own),
            lib.loop.create_task(body("b"), context=own),
        )

    lib.run(main)
    lib.note(own[var])


def test_bad_contexts(lib):
    async def body():
        pass

    coro = body()
    for bad in (5, "context"):
        try:
            task = lib.Task(coro, loop=lib.loop, context=bad)
        except TypeError:
            lib.note("TypeError")
        else:
            seen = lib.contexts()
            lib.turns()
            lib.note([type(c["exception"]).__name__ for c in seen])
            task._log_destroy_pending = False
            break
    coro.close()


def test_wake_up_happens_in_the_tasks_context(lib):
    async def waits(future):
        var.set("mine")
        await future
        lib.note(var.get())

    async def main():
        future = lib.loop.create_future()
        task = lib.loop.create_task(waits(future))
        await asyncio.sleep(0)
        var.set("setter")
        future.set_result(None)
        await task

    lib.run(main)


def test_destructors_see_the_tasks_context(lib):
    class Last:
        def __del__(self):
            lib.note("del", var.get())

    async def body():
        var.set("task's")
        thing = Last()
        await asyncio.sleep(0)
        del thing
        await asyncio.sleep(0)

    lib.run(body)


def test_context_is_entered_while_a_step_runs(lib):
    own = contextvars.Context()

    async def body():
        try:
            own.run(print)
        except RuntimeError as exc:
            lib.note(type(exc).__name__)
        await asyncio.sleep(0)

    async def main():
        await lib.loop.create_task(body(), context=own)
        own.run(lib.note, "free again")

    lib.run(main)


def test_callback_in_an_entered_context(lib):
    own = contextvars.Context()
    seen = lib.contexts()

    def outer():
        lib.loop.call_soon(lib.note, "never", context=own)
        lib.turns()

    own.run(outer)
    lib.note([(type(c["exception"]).__name__, c["message"].split("(")[0]) for c in seen])
    # On 3.14 the handler too is run in the callback's context, and fails to enter it.
    lib.note([line.split("\n")[0] for line in lib.logged()])
    seen.clear()


def test_step_in_an_entered_context(lib):
    own = contextvars.Context()
    seen = lib.contexts()

    async def body():
        lib.note("ran")

    def outer():
        task = lib.Task(body(), loop=lib.loop, context=own)
        lib.turns()
        return task

    task = own.run(outer)
    lib.note([(type(c["exception"]).__name__, sorted(c)) for c in seen], task.done())
    lib.note([line.split("\n")[0] for line in lib.logged()])
    seen.clear()
    task._log_destroy_pending = False
    task.get_coro().close()


def test_contexts_are_let_go(lib):
    class Payload:
        pass

    holder = contextvars.ContextVar("holder")

    async def body(payload):
        holder.set(payload)
        await asyncio.sleep(0)

    async def main():
        payload = Payload()
        ref = weakref.ref(payload)
        task = lib.loop.create_task(body(payload))
        del payload
        await task
        del task
        await asyncio.sleep(0)
        gc.collect()
        lib.note(ref() is None)

    lib.run(main)


def test_tokens_reset_in_the_same_task(lib):
    async def main():
        token = var.set("set")
        await asyncio.sleep(0)
        var.reset(token)
        lib.note(var.get())
        async with asyncio.timeout(100):
            token = var.set("again")
            await asyncio.sleep(0)
        var.reset(token)
        lib.note(var.get())

    lib.run(main)


def test_to_thread_and_executor(lib):
    async def main():
        var.set("main")
        lib.note(await asyncio.to_thread(var.get))
        lib.note(await lib.loop.run_in_executor(None, var.get))

    lib.run(main)


def test_reader_contexts(lib):
    import socket

    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")

        def body():
            var.set("reader")
            lib.loop.add_reader(left, lambda: (lib.note(var.get()), lib.loop.stop()))

        contextvars.copy_context().run(body)
        var.get()
        lib.loop.run_forever()
        lib.loop.remove_reader(left)
    assert lib.trace == ["reader"]


def test_deep_isolation(lib):
    """Each of many interleaved tasks sees only its own values."""

    async def worker(number):
        for step in range(5):
            var.set((number, step))
            await asyncio.sleep(0)
            assert var.get() == (number, step)
        return number

    async def main():
        lib.note(await asyncio.gather(*(worker(n) for n in range(50))))
        lib.note(var.get())

    lib.run(main)


def test_async_generator_contexts(lib):
    async def numbers():
        for number in range(3):
            var.set(f"gen {number}")
            yield number

    async def main():
        var.set("main")
        async for _ in numbers():
            lib.note(var.get())

    lib.run(main)

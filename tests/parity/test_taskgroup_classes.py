"""`TaskGroup`: its keywords, what subclasses and instances may replace, its private attributes."""

import asyncio
import contextvars

import pytest

pytestmark = pytest.mark.kinds("all")


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fail(turns=1, error=None):
    """Take a number of turns, then raise."""
    await idle(turns)
    raise error or LookupError("failed")


def test_keywords(lib):
    var = contextvars.ContextVar("var", default="unset")

    async def look():
        return var.get()

    async def main():
        given = contextvars.copy_context()
        given.run(var.set, "given")
        var.set("parent")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(look(), name="named", context=given),
                group.create_task(look(), name=None, context=None),
                group.create_task(coro=look(), name="by name"),
            ]
        lib.note([t.result() for t in tasks], tasks[0].get_name(), tasks[2].get_name())
        async with asyncio.TaskGroup() as group:
            coro = look()
            error = lib.catch(group.create_task, coro, unknown=1)
            lib.note(type(error).__name__)
            coro.close()

    lib.run(main)
    lib.trace = [line for line in lib.trace if "unexpected" not in repr(line)]


def test_a_subclass_replaces_methods(lib):
    seen = []

    class Group(asyncio.TaskGroup):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def create_task(self, coro, **options):
            seen.append(("create", coro.__name__))
            return super().create_task(coro, **options)

        def _on_task_done(self, task):
            seen.append(("done", len(self._tasks), task.cancelled()))
            super()._on_task_done(task)

        def _abort(self):
            seen.append(("abort", self._aborting, self._exiting))
            super()._abort()

        def _is_base_error(self, exc):
            seen.append(("base", exc))
            return isinstance(exc, LookupError)

        async def __aexit__(self, *exc_info):
            seen.append(("leave", exc_info[0]))
            return await super().__aexit__(*exc_info)

    async def main():
        async with Group("plain") as group:
            group.create_task(idle(1))
            lib.note(group.name, isinstance(group, asyncio.TaskGroup), group)
        try:
            async with Group("failing") as group:
                group.create_task(fail(1))
                group.create_task(idle(50))
        except BaseException as exc:
            lib.note(exc)
        lib.note(seen)

    lib.run(main)


def test_an_instance_replaces_methods(lib):
    seen = []

    async def main():
        async with asyncio.TaskGroup() as group:
            original = group._on_task_done
            group.extra = "kept"

            def noticed(task):
                seen.append(task.result())
                original(task)

            group._on_task_done = noticed
            group.create_task(idle(1, "one"))
            del group._on_task_done
            group.create_task(idle(2, "two"))
        lib.note(seen, group.extra)

    lib.run(main)


def test_private_attributes(lib):
    names = ("_entered", "_exiting", "_aborting", "_parent_cancel_requested", "_base_error")

    async def main():
        group = asyncio.TaskGroup()
        lib.note([getattr(group, name) for name in names])
        lib.note(group._loop, group._parent_task, group._tasks, group._errors)
        async with group:
            lib.note([getattr(group, name) for name in names])
            lib.note(group._loop is lib.loop, group._parent_task is asyncio.current_task())
            task = group.create_task(idle(2))
            lib.note(group._tasks == {task}, group._on_completed_fut)
            group._tasks.discard(task)
            group._aborting = True
            group._aborting = False
        lib.note([getattr(group, name) for name in names], task.done())
        lib.note(group._loop is lib.loop, group._errors, group._on_completed_fut)
        await task

    lib.run(main)

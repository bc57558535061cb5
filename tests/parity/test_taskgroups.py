"""`TaskGroup`: order of wake-ups, errors, cancellations."""

import asyncio
import gc
import sys

import pytest

pytestmark = pytest.mark.kinds("all")

HAS_CANCEL = hasattr(asyncio.TaskGroup, "cancel")


async def idle(turns=1, result=None):
    """Take a number of turns, then return."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return result


async def fail(turns=1, error=None):
    """Take a number of turns, then raise."""
    await idle(turns)
    raise error or LookupError("failed")


async def settled(awaitable):
    """Give the outcome back, also where it is an exception."""
    try:
        return await awaitable
    except BaseException as exc:
        return exc


def chain(exc):
    """Give an exception, its cause and its contexts, as far as they go."""
    found = []
    while exc is not None:
        found.append((exc, exc.__cause__, exc.__suppress_context__))
        exc = exc.__context__
    return found


def test_results_and_order(lib):
    order = []

    async def child(name, turns):
        await idle(turns)
        order.append(name)
        return name

    async def watcher(task):
        await task
        order.append("watched")

    async def main():
        async with asyncio.TaskGroup() as group:
            lib.note(group)
            one = group.create_task(child("one", 2), name="first")
            two = group.create_task(child("two", 1))
            lib.note(one.get_name(), two in group._tasks, len(group._tasks), group)
            lib.loop.create_task(watcher(two))
            two.add_done_callback(lambda _: order.append("callback"))
            for turn in range(3):
                order.append(turn)
                await idle()
        lib.note(order, one.result(), two.result(), group, group._tasks, group._errors)
        order.clear()
        async with asyncio.TaskGroup() as group:
            lib.loop.call_soon(order.append, "soon")
            for turn in range(3):
                group.create_task(child(turn, turn))
        order.append("left")
        await idle()
        lib.note(order)
        async with asyncio.TaskGroup() as group:
            pass
        lib.note(group)

    lib.run(main)


def test_grow_while_leaving(lib):
    async def main():
        done = []

        async def child(group, depth):
            await idle()
            if depth:
                group.create_task(child(group, depth - 1))
            done.append(depth)

        async with asyncio.TaskGroup() as group:
            group.create_task(child(group, 5))
        lib.note(done)

    lib.run(main)


@pytest.mark.parametrize("turns", range(4))
def test_errors_of_children(lib, turns):
    async def main():
        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks += [
                    group.create_task(c)
                    for c in (idle(50), fail(1), fail(turns, KeyError(2)), idle(0))
                ]
                await idle(turns)
                await asyncio.sleep(100)
        except BaseException as exc:
            lib.note(chain(exc))
        lib.note([t.cancelled() for t in tasks], asyncio.current_task().cancelling())
        lib.note(group)

    lib.run(main)


def test_errors_of_the_body(lib):
    async def main():
        for error in (ValueError("own"), asyncio.CancelledError("own")):
            try:
                async with asyncio.TaskGroup() as group:
                    child = group.create_task(idle(50))
                    await idle()
                    raise error
            except BaseException as exc:
                lib.note(chain(exc))
            lib.note(child.cancelled(), group)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(1))
                try:
                    await asyncio.sleep(100)
                finally:
                    raise ValueError("on the way out")
        except BaseException as exc:
            lib.note(chain(exc))

    lib.run(main)


def test_cancelled_from_outside(lib):
    async def grouped(refuse=False, then=None):
        async def child():
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                if then:
                    await idle(2)
                    raise then from None
                raise

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(asyncio.sleep(100))
            if refuse:
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    pass

    async def main():
        for then in (None, LookupError("later")):
            for refuse in (False, True):
                for times in (1, 2):
                    task = lib.loop.create_task(grouped(refuse, then))
                    await idle(2)
                    for _ in range(times):
                        task.cancel("from outside")
                        await idle()
                    if refuse:
                        await idle(1)
                        task.cancel("again")
                    lib.note(await settled(task), task.cancelling(), task.cancelled())

    lib.run(main)


def test_cancellation_and_error_at_once(lib):
    async def grouped():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(2))
            await asyncio.sleep(100)

    async def main():
        for turns in range(1, 6):
            task = lib.loop.create_task(grouped())
            await idle(turns)
            task.cancel(f"after {turns}")
            lib.note(await settled(task), task.cancelling())

    lib.run(main)


def test_nested(lib):
    async def main():
        try:
            async with asyncio.TaskGroup() as outer:
                outer.create_task(idle(2))
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(fail(1))
                    inner.create_task(asyncio.sleep(100))
        except BaseException as exc:
            lib.note(chain(exc))
        try:
            async with asyncio.TaskGroup() as outer:
                outer.create_task(fail(1))
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(fail(1, ValueError("inner")))
                    await asyncio.sleep(100)
        except BaseException as exc:
            lib.note(chain(exc))
        lib.note(asyncio.current_task().cancelling())

    lib.run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exits(lib, error):
    async def in_body():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(100))
            await idle()
            raise error("body")

    async def in_child():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(1, error("child")))
            group.create_task(asyncio.sleep(100))

    for main in (in_body, in_child):
        lib.catch(lib.run, main)
    gc.collect()
    lib.note([line.split("\n")[0] for line in lib.logged()])


def test_misuse(lib):
    async def main():
        group = asyncio.TaskGroup()

        def refused():
            coro = idle()
            try:
                group.create_task(coro)
            except RuntimeError as exc:
                lib.note(exc, coro.cr_frame is None)
            coro.close()

        refused()
        lib.catch(asyncio.TaskGroup, 1)
        async with group:
            try:
                await group.__aenter__()
            except RuntimeError as exc:
                lib.note(exc)
            lib.catch(group.create_task)
            lib.catch(group.create_task, None)
            child = group.create_task(idle(1))
            group._abort()
            refused()
            lib.note(group)
        lib.note(child.cancelled())
        refused()
        try:
            async with group:
                pass
        except RuntimeError as exc:
            lib.note(exc)

    lib.run(main)
    lib.warnings_taken()


def test_without_a_task(lib):
    group = asyncio.TaskGroup()
    entering = group.__aenter__()
    lib.loop.call_soon(lambda: lib.note(type(lib.catch(entering.send, None)).__name__))
    lib.turns(1)
    entering.close()
    lib.note(group._entered)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.kinds("asyncio", "aioxide", "loose", "visiting")
def test_eager_tasks(lib):
    async def main():
        lib.loop.set_task_factory(asyncio.eager_task_factory)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(idle(n, n)) for n in range(3)]
            lib.note([t.done() for t in tasks], len(group._tasks))
        lib.note([t.result() for t in tasks])
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(c) for c in (idle(9), fail(0))]
                lib.note("both made")
                await idle(1)
                lib.note("not reached on all versions")
                await asyncio.sleep(100)
        except BaseException as exc:
            lib.note(chain(exc))
        lib.note([t.cancelled() for t in tasks])

    lib.run(main)


@pytest.mark.skipif(not HAS_CANCEL, reason="TaskGroup.cancel() came with 3.15")
def test_cancel(lib):
    async def main():
        async with asyncio.TaskGroup() as group:
            child = group.create_task(idle(50))
            await idle()
            group.cancel()
            group.cancel()
            await asyncio.sleep(100)
        lib.note(child.cancelled(), asyncio.current_task().cancelling(), group)
        group.cancel()
        group = asyncio.TaskGroup()
        group.cancel()
        async with group:
            lib.note("entered")
            await asyncio.sleep(100)
        lib.note(asyncio.current_task().cancelling())
        async with asyncio.TaskGroup() as group:
            children = [group.create_task(idle(50)) for _ in range(3)]
            lib.loop.call_soon(group.cancel)
        lib.note([c.cancelled() for c in children])
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(0))
                await idle()
                group.cancel()
                await asyncio.sleep(100)
        except BaseException as exc:
            lib.note(chain(exc))

        async def stopped():
            async with asyncio.TaskGroup() as group:
                lib.loop.call_soon(group.cancel)
                await asyncio.sleep(100)

        task = lib.loop.create_task(stopped())
        await idle(2)
        task.cancel("as well")
        lib.note(await settled(task), task.cancelling())

    lib.run(main)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio shows who awaits whom from 3.14 on")
def test_who_awaits(lib):
    def awaited_by(future):
        return sorted(task.get_name() for task in future._asyncio_awaited_by or ())

    async def main():
        asyncio.current_task().set_name("main")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(idle(n)) for n in (1, 3)]
            lib.note([awaited_by(task) for task in tasks])
            await idle(3)
            lib.note([awaited_by(task) for task in tasks])
        lib.note([awaited_by(task) for task in tasks])

    lib.run(main)


def test_debug_mode(lib):
    async def main():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(idle(n, n)) for n in range(3)]
        lib.note([t.result() for t in tasks])
        lib.note(await settled(grouped()))

    async def grouped():
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(1))

    lib.run(main, debug=True)


def test_generator_exit(lib):
    async def numbers():
        async with asyncio.TaskGroup() as group:
            group.create_task(idle(1))
            yield 1
            yield 2

    async def main():
        generator = numbers()
        lib.note(await anext(generator))
        try:
            await generator.aclose()
        except BaseException as exc:
            lib.note(chain(exc))
        lib.note("closed")

    lib.run(main)


def test_a_parent_that_is_done(lib):
    async def main():
        seen = lib.contexts()
        group = asyncio.TaskGroup()

        async def parent():
            await group.__aenter__()
            group.create_task(fail(2))

        await lib.loop.create_task(parent())
        await idle(5)
        lib.note([(c["message"], c["exception"]) for c in seen])

    lib.run(main)


def test_nobody_keeps_the_exceptions(lib):
    async def main():
        gc.collect()
        gc.disable()
        try:
            error = LookupError("kept by nobody")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail(1, error))
            except* LookupError:
                pass
            lib.note(group._errors is None or group._errors == [])
        finally:
            gc.enable()

    lib.run(main)

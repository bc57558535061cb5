"""What cancellation meets: futures that refuse, errors in cleaning up, exits, tracebacks."""

import asyncio
import sys
import traceback

import pytest

pytestmark = pytest.mark.kinds("all")


async def idle(turns=1):
    """Take a number of turns."""
    for _ in range(turns):
        await asyncio.sleep(0)


def outcome(task):
    """Say in one word how a task stands."""
    if not task.done():
        return "pending"
    return "cancelled" if task.cancelled() else task.exception() or "finished"


def test_future_that_refuses(lib):
    class Stubborn(lib.Future):
        def cancel(self, msg=None):
            lib.note("asked", msg)
            return False

    future = Stubborn(loop=lib.loop)

    async def body():
        await future

    task = lib.loop.create_task(body())
    lib.turns()
    lib.note(task.cancel("please"), repr(task).replace("<test_future", "<"))
    lib.note(task.done(), task._must_cancel)
    future.set_result(None)
    lib.turns(2)
    lib.note(outcome(task))


def test_future_whose_cancel_raises(lib):
    class Broken(lib.Future):
        def cancel(self, msg=None):
            raise LookupError("no")

    future = Broken(loop=lib.loop)

    async def body():
        await future

    task = lib.loop.create_task(body())
    lib.turns()
    lib.catch(task.cancel)
    future.set_result("went on")
    lib.turns(2)
    lib.note(outcome(task))


def test_finally_that_awaits(lib):
    async def body():
        try:
            await asyncio.sleep(100)
        finally:
            await idle(2)
            lib.note("cleaned")

    task = lib.loop.create_task(body())
    lib.turns()
    task.cancel()
    lib.turns(2)
    lib.note(outcome(task))
    lib.turns(3)
    lib.note(outcome(task))


def test_again_while_cleaning(lib):
    async def body():
        try:
            await asyncio.sleep(100)
        finally:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError as exc:
                lib.note("second", exc, exc.__context__)
                raise

    task = lib.loop.create_task(body())
    lib.turns()
    task.cancel("one")
    lib.turns(2)
    task.cancel("two")
    lib.turns(2)
    lib.catch(task.result)
    lib.note(task.cancelling())


def test_generator_exit_on_close(lib):
    async def body():
        try:
            await asyncio.sleep(100)
        except BaseException as exc:
            lib.note(exc)
            raise

    coro = body()
    task = lib.loop.create_task(coro)
    lib.turns()
    task.cancel()
    coro.close()
    lib.turns(2)
    lib.note(outcome(task))


def test_base_exceptions_during_cancellation(lib):
    class Odd(BaseException):
        pass

    async def body():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise Odd("odd")

    task = lib.loop.create_task(body())
    lib.turns()
    task.cancel()
    lib.turns(2)
    lib.note(task.done(), task.cancelled(), task.exception())


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exits_during_cancellation(lib, error):
    async def body():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise error("leaves")

    task = lib.loop.create_task(body())
    lib.turns()
    task.cancel()
    lib.catch(lib.turns, 2)
    lib.note(task.done(), task.cancelled(), task.exception())
    lib.turns()


def test_context_of_the_error(lib):
    async def inner():
        try:
            raise KeyError("first")
        except KeyError:
            await asyncio.sleep(100)

    task = lib.loop.create_task(inner())
    lib.turns()
    task.cancel("m")
    lib.turns(2)
    exc = lib.catch(task.result)
    lib.note(exc.__context__, exc.__cause__)


def test_traceback_of_an_awaited_cancelled_task(lib):
    async def sleeper():
        await asyncio.sleep(100)

    async def outer():
        task = lib.loop.create_task(sleeper())
        await idle()
        task.cancel("m")
        await task

    task = lib.loop.create_task(outer())
    lib.turns(5)
    try:
        task.result()
    except asyncio.CancelledError as exc:
        chain, seen = exc, []
        while chain is not None:
            frames = traceback.extract_tb(chain.__traceback__)
            seen.append([f.name for f in frames if f.filename == __file__])
            chain = chain.__context__
        lib.note(seen)


def test_gathering(lib):
    async def main():
        children = [lib.loop.create_task(asyncio.sleep(100)) for _ in range(3)]
        group = asyncio.gather(*children)
        await idle()
        children[1].cancel("child")
        try:
            await group
        except asyncio.CancelledError as exc:
            lib.note(exc)
        lib.note([outcome(c) for c in children])
        group = asyncio.gather(children[0], children[2], return_exceptions=True)
        await idle()
        lib.note(group.cancel("group"))
        try:
            await group
        except asyncio.CancelledError as exc:
            lib.note(exc)
        lib.note([outcome(c) for c in children])

    lib.run(main)


def test_structured_counts(lib):
    """A timeout inside a cancelled task must not swallow the outer request."""

    async def main():
        async def body():
            task = asyncio.current_task()
            try:
                async with asyncio.timeout(100):
                    await asyncio.sleep(100)
            except TimeoutError:
                lib.note("timeout")
            finally:
                lib.note(task.cancelling())

        task = lib.loop.create_task(body())
        await idle(2)
        task.cancel("outer")
        await asyncio.wait([task])
        lib.note(outcome(task))

    lib.run(main)


def test_many_at_once(lib):
    async def main():
        tasks = [lib.loop.create_task(asyncio.sleep(100)) for _ in range(500)]
        await idle()
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        lib.note(len(done), {type(d).__name__ for d in done}, all(t.cancelled() for t in tasks))

    lib.run(main)


def test_cancelled_error_is_fresh_or_the_same(lib):
    async def body():
        await asyncio.sleep(100)

    task = lib.loop.create_task(body())
    lib.turns()
    task.cancel("m")
    lib.turns(2)
    first, second, third = (lib.catch(task.result) for _ in range(3))
    lib.note(first is second, second is third, sys.exc_info()[0])


def test_a_ring_of_tasks(lib):
    """Tasks that wait for each other can never end; cancelling one must still come back."""
    tasks = []

    async def waits(index):
        await asyncio.sleep(0)
        await tasks[index]

    tasks += [lib.loop.create_task(waits(i), name=f"ring {i}") for i in (1, 2, 0)]
    lib.turns(3)
    with pytest.raises(RecursionError):
        tasks[0].cancel()
    lib.note([outcome(t) for t in tasks], [t.cancelling() > 0 for t in tasks])
    lib.turns(2)
    for task in tasks:
        task._log_destroy_pending = False
        task.get_coro().close()

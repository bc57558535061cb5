"""Cancellation of tasks: when it strikes, messages, counts, what can be caught and what is left."""

import asyncio

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


def test_before_the_first_step(lib):
    ran = []

    async def body():
        ran.append(1)

    task = lib.loop.create_task(body(), name="early")
    lib.note(task.cancel("msg"), repr(task), task.cancelling(), task.done())
    lib.turns()
    lib.note(ran, outcome(task), repr(task))
    lib.catch(task.result)
    lib.note(task.cancel(), task.cancelling())


def test_at_an_await(lib):
    async def body():
        try:
            await lib.loop.create_future()
        except asyncio.CancelledError as exc:
            lib.note("caught", exc)
            raise
        finally:
            lib.note("finally")

    task = lib.loop.create_task(body(), name="waits")
    lib.turns()
    waiter = task._fut_waiter
    lib.note(task.cancel("why"), repr(task))
    lib.note(waiter.cancelled())
    lib.turns(2)
    lib.note(outcome(task), repr(task), task.cancelling())
    lib.catch(task.result)


@pytest.mark.parametrize("options", [{}, {"msg": None}, {"msg": "m"}, {"msg": 5}, {"msg": ""}])
def test_messages(lib, options):
    async def sleeper():
        await asyncio.sleep(100)

    async def awaits(task):
        await task

    inner = lib.loop.create_task(sleeper())
    outer = lib.loop.create_task(awaits(inner))
    lib.turns()
    outer.cancel(**options)
    lib.turns(3)
    for task in (inner, outer):
        lib.note(outcome(task))
        lib.catch(task.result)
        lib.catch(task.exception)
        lib.note(task._cancel_message)


def test_message_of_the_last_request_wins(lib):
    async def body():
        await asyncio.sleep(100)

    task = lib.loop.create_task(body())
    lib.turns()
    lib.note(task.cancel("first"), task.cancel("second"), task.cancelling())
    lib.turns(2)
    lib.catch(task.result)


def test_swallowed(lib):
    async def body():
        for _ in range(2):
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError as exc:
                lib.note("swallowed", exc)
        return "survived"

    task = lib.loop.create_task(body())
    lib.turns()
    task.cancel("one")
    lib.turns(2)
    lib.note(outcome(task), task.cancelling())
    task.cancel("two")
    lib.turns(2)
    lib.note(outcome(task), task.result(), task.cancelling())


def test_turned_into_another_error(lib):
    async def body():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise LookupError("instead")

    task = lib.loop.create_task(body())
    lib.turns()
    task.cancel()
    lib.turns(2)
    exc = lib.catch(task.result)
    lib.note(exc.__context__, task.cancelled())


def test_counts(lib):
    async def body():
        task = asyncio.current_task()
        lib.note(task.cancelling(), task.uncancel(), task.cancelling())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            lib.note(task.cancelling(), task.uncancel(), task.uncancel())
        task.cancel("self")
        task.cancel("self again")
        lib.note(task.cancelling(), task.uncancel())
        try:
            await asyncio.sleep(0)
            lib.note("not reached")
        except asyncio.CancelledError as exc:
            lib.note(exc, task.cancelling())
        lib.note(task.uncancel())
        await asyncio.sleep(0)
        return "done"

    task = lib.loop.create_task(body())
    lib.turns()
    lib.note(task.cancel(), task.cancel(), task.cancelling())
    lib.turns(5)
    lib.note(outcome(task))


def test_uncancel_before_it_strikes(lib):
    async def body():
        task = asyncio.current_task()
        task.cancel()
        lib.note(task.uncancel())
        await asyncio.sleep(0)
        return "reached"

    task = lib.loop.create_task(body())
    lib.turns(4)
    lib.note(outcome(task), repr(task))


def test_itself_then_return(lib):
    async def body():
        asyncio.current_task().cancel("late")
        return "returned"

    task = lib.loop.create_task(body())
    lib.turns(2)
    lib.note(outcome(task))
    lib.catch(task.result)


def test_itself_then_raise(lib):
    async def body():
        asyncio.current_task().cancel("late")
        raise LookupError("raised")

    task = lib.loop.create_task(body())
    lib.turns(2)
    lib.note(outcome(task))


def test_itself_then_await_a_done_future(lib):
    async def body():
        future = lib.loop.create_future()
        future.set_result("value")
        asyncio.current_task().cancel()
        lib.note(await future)
        await asyncio.sleep(0)
        lib.note("not reached")

    task = lib.loop.create_task(body())
    lib.turns(3)
    lib.note(outcome(task))


def test_itself_then_await_a_pending_future(lib):
    future = lib.loop.create_future()

    async def body():
        asyncio.current_task().cancel("m")
        await future

    task = lib.loop.create_task(body())
    lib.turns(3)
    lib.note(outcome(task), future.cancelled())
    lib.catch(task.result)
    lib.catch(future.result)


def test_raised_by_hand(lib):
    async def body():
        raise asyncio.CancelledError("by hand", 2)

    task = lib.loop.create_task(body())
    lib.turns(2)
    lib.note(outcome(task), task.cancelling())
    lib.catch(task.result)
    lib.catch(task.result)


def test_raised_subclass(lib):
    class Mine(asyncio.CancelledError):
        pass

    async def body():
        raise Mine("mine")

    task = lib.loop.create_task(body())
    lib.turns(2)
    lib.note(task.cancelled())
    lib.catch(task.result)


def test_waiter_cancelled_directly(lib):
    future = lib.loop.create_future()

    async def body():
        try:
            await future
        except asyncio.CancelledError as exc:
            lib.note(exc, asyncio.current_task().cancelling())
            raise

    task = lib.loop.create_task(body())
    lib.turns()
    future.cancel("the future's")
    lib.turns(2)
    lib.note(outcome(task), task.cancelling())
    lib.catch(task.result)


def test_when_the_waiter_is_done_already(lib):
    future = lib.loop.create_future()

    async def body():
        try:
            lib.note("got", await future)
        except asyncio.CancelledError as exc:
            lib.note("cancelled", exc)
            raise

    task = lib.loop.create_task(body())
    lib.turns()
    future.set_result("value")
    lib.note(task.cancel("too late for the future"))
    lib.turns(3)
    lib.note(outcome(task))
    lib.catch(task.result)


def test_a_failed_waiter(lib):
    future = lib.loop.create_future()

    async def body():
        await future

    task = lib.loop.create_task(body())
    lib.turns()
    future.set_exception(LookupError("first"))
    task.cancel()
    lib.turns(3)
    exc = lib.catch(task.result)
    lib.note(exc.__context__)
    lib.note(future._log_traceback)
    future.exception()


def test_a_chain_of_tasks(lib):
    async def leaf():
        try:
            await asyncio.sleep(100)
        finally:
            lib.note("leaf")

    async def level(depth):
        try:
            await lib.loop.create_task(level(depth - 1) if depth else leaf())
        finally:
            lib.note(depth)

    task = lib.loop.create_task(level(4))
    lib.turns(8)
    task.cancel("down")
    lib.turns(8)
    lib.note(outcome(task))
    lib.catch(task.result)


def test_done_tasks_say_no(lib):
    task = lib.loop.create_task(idle())
    lib.turns(2)
    lib.note(task.cancel(), task.cancel("msg"), task.cancelling(), task.cancelled())


def test_from_a_callback_of_the_same_turn(lib):
    future = lib.loop.create_future()

    async def body():
        lib.note("got", await future)
        await asyncio.sleep(0)

    task = lib.loop.create_task(body())
    lib.turns()
    future.add_done_callback(lambda f: lib.note("callback cancels", task.cancel()))
    lib.loop.call_soon(future.set_result, 1)
    lib.turns(4)
    lib.note(outcome(task))


def test_a_cancellation_that_the_awaited_task_swallows(lib):
    """It was delivered once, when the task began to wait, and is not delivered again."""

    async def stubborn():
        try:
            await lib.loop.create_future()
        except asyncio.CancelledError as error:
            return "swallowed", error.args

    async def canceller(inner):
        lib.note(asyncio.current_task().cancel("reason"))
        got = await inner
        await asyncio.sleep(0)
        return got, asyncio.current_task().cancelling()

    async def main():
        inner = lib.loop.create_task(stubborn())
        await asyncio.sleep(0)
        lib.note(await lib.loop.create_task(canceller(inner)))

    lib.run(main)

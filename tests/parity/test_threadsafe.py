"""run_coroutine_threadsafe: what becomes of the future that the other thread holds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import aioxide
from aioxide import _threadsafe

pytestmark = pytest.mark.kinds("all")


def beside(lib: Any, ask: Callable[[Any], Any], *, debug: bool = False) -> None:
    """Run `ask(loop)` in a thread while the loop runs, and note what it returns or raises."""
    loop = lib.loop
    loop.set_debug(debug)
    ended: list[Any] = []

    def work() -> None:
        try:
            ended.append(ask(loop))
        except Exception as error:
            ended.append((type(error).__name__, str(error)))
        finally:
            loop.call_soon_threadsafe(end, 10)

    def end(turns_left: int) -> None:
        # What was cancelled last has still to end.
        if turns_left:
            loop.call_soon(end, turns_left - 1)
        else:
            loop.stop()

    thread = threading.Thread(target=work)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    lib.note(ended)


async def turns(count: int, result: Any = None) -> Any:
    for _ in range(count):
        await asyncio.sleep(0)
    return result


async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("failed")


def test_one_after_the_other(lib: Any) -> None:
    """Each is asked for when the loop looks out, or sleeps, or is busy."""

    def ask(loop: Any) -> Any:
        submit = asyncio.run_coroutine_threadsafe
        return [submit(turns(number % 3, number), loop).result() for number in range(300)]

    beside(lib, ask)


def test_many_threads_at_once(lib: Any) -> None:
    def ask(loop: Any) -> Any:
        def each(number: int) -> int:
            submit = asyncio.run_coroutine_threadsafe
            found = [submit(turns(count % 3, number), loop).result(30) for count in range(50)]
            return sum(found)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return list(pool.map(each, range(8)))

    beside(lib, ask)


@pytest.mark.parametrize("timeout", [None, 30, 30.0, True])
def test_timeouts_that_do_not_pass(lib: Any, timeout: Any) -> None:
    def ask(loop: Any) -> Any:
        done = asyncio.run_coroutine_threadsafe(turns(3, "done"), loop)
        failed = asyncio.run_coroutine_threadsafe(fails(), loop)
        error = failed.exception(timeout)
        first = done.result(timeout), done.exception(timeout), done.result(0), str(error)
        try:
            failed.result(timeout)
        except LookupError as raised:
            return (*first, raised is error)

    beside(lib, ask)


@pytest.mark.parametrize("timeout", [0, -1, 0.0, 1e-9, 0.0001, 0.002])
@pytest.mark.parametrize("method", ["result", "exception"])
def test_timeouts_that_pass(lib: Any, method: str, timeout: float) -> None:
    def ask(loop: Any) -> Any:
        go = concurrent.futures.Future[None]()

        async def waits() -> str:
            await asyncio.wrap_future(go)
            return "late"

        future = asyncio.run_coroutine_threadsafe(waits(), loop)
        try:
            getattr(future, method)(timeout)
        except TimeoutError as error:
            passed = str(error)
        go.set_result(None)
        return passed, future.result()

    beside(lib, ask)


def test_a_timeout_of_the_wrong_type(lib: Any) -> None:
    def ask(loop: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(3600), loop)
        try:
            future.result("soon")  # type: ignore[arg-type]
        except TypeError:
            return future.cancel()

    beside(lib, ask)


def test_cancelled_by_a_third_thread(lib: Any) -> None:
    def ask(loop: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(3600), loop)
        thread = threading.Thread(target=future.cancel)
        thread.start()
        try:
            future.result()
        except concurrent.futures.CancelledError:
            thread.join()
            return future.cancelled(), future.done(), future.running()

    beside(lib, ask)


def test_what_else_waits_for_it(lib: Any) -> None:
    def ask(loop: Any) -> Any:
        submit = asyncio.run_coroutine_threadsafe
        several = [submit(turns(number, number), loop) for number in range(5)]
        done, pending = concurrent.futures.wait(several)
        found = sorted(future.result() for future in done), len(pending)
        again = [submit(turns(number, number), loop) for number in range(5)]
        each = sorted(future.result() for future in concurrent.futures.as_completed(again))
        called: list[Any] = []
        several[0].add_done_callback(lambda future: called.append(future.result()))

        async def inside() -> Any:
            return await asyncio.wrap_future(submit(turns(2, "wrapped"), loop))

        return found, each, called, submit(inside(), loop).result()

    beside(lib, ask)


def test_a_failed_future_is_no_cycle(lib: Any) -> None:
    """Neither the exception's traceback nor anything else keeps the future."""

    def ask(loop: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(fails(), loop)
        try:
            future.result()
        except LookupError:
            pass
        asyncio.run_coroutine_threadsafe(turns(2), loop).result()
        seen = weakref.ref(future)
        gc.disable()
        try:
            del future
            return seen() is None
        finally:
            gc.enable()

    beside(lib, ask)


@pytest.mark.kinds("asyncio", "aioxide", "loose", "visiting")
def test_a_task_that_cannot_be_made(lib: Any) -> None:
    def refuse(loop: Any, coro: Any, **options: Any) -> Any:
        coro.close()
        raise LookupError("no task today")

    lib.loop.set_task_factory(refuse)
    lib.contexts()
    beside(lib, lambda loop: asyncio.run_coroutine_threadsafe(turns(1), loop).result())
    lib.note([str(context["exception"]) for context in lib.contexts()])


def test_a_closed_loop(lib: Any) -> None:
    loop = lib.new_loop()
    loop.close()
    coro = turns(1)
    lib.catch(asyncio.run_coroutine_threadsafe, coro, loop)
    coro.close()


def test_in_debug_mode(lib: Any) -> None:
    beside(
        lib, lambda loop: asyncio.run_coroutine_threadsafe(turns(2, 7), loop).result(), debug=True
    )


def test_its_face(lib: Any) -> None:
    def ask(loop: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(turns(1, 5), loop)
        isinstance(future, concurrent.futures.Future)
        future.result()
        return type(future).__name__, repr(future).partition(" at ")[0], repr(future)[-14:]

    beside(lib, ask)


def test_what_is_no_coroutine(lib: Any) -> None:
    for wrong in (turns, 5, lib.loop.create_future()):
        lib.catch(asyncio.run_coroutine_threadsafe, wrong, lib.loop)


@pytest.mark.kinds("asyncio")
def test_whose_future_it_is(lib: Any) -> None:
    """Of a native loop: ours, which can look out on every supported interpreter."""
    native = aioxide.Loop()
    try:
        submit = aioxide.run_coroutine_threadsafe
        for loop, kind in ((lib.loop, concurrent.futures.Future), (native, _threadsafe.Future)):
            future = submit(turns(0), loop)
            assert type(future) is kind
            loop.run_until_complete(turns(3))
            assert future.done()
        assert native._lookout().can_wait()
    finally:
        native.close()

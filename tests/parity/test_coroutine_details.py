"""Native coroutines seen from outside: names, messages, origins, what a forgotten one tells."""

import asyncio
import contextlib
import copy
import gc
import pickle
import sys
import tracemalloc
import types
import warnings
import weakref

import pytest


def here():
    """Give the caller's line number."""
    return sys._getframe(1).f_lineno


@contextlib.contextmanager
def warned():
    """Collect the warnings about coroutines that nobody awaited."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
        gc.collect()


def each_kind():
    """Give makers of coroutines: a function's, methods', and what `async with` calls."""
    return {
        "sleep": lambda: asyncio.sleep(0),
        "wait_for": lambda: asyncio.wait_for(None, 1),
        "acquire": lambda: asyncio.Lock().acquire(),
        "aenter": lambda: asyncio.Semaphore().__aenter__(),
        "get": lambda: asyncio.Queue().get(),
    }


@pytest.mark.parametrize("kind", each_kind())
def test_names_can_be_set(lib, kind):
    coroutine = each_kind()[kind]()
    lib.note(coroutine.__name__, coroutine.__qualname__)
    coroutine.__name__, coroutine.__qualname__ = "name", "some.name"
    lib.note(coroutine.__name__, coroutine.__qualname__, repr(coroutine))
    coroutine.__name__ = "another"
    lib.note(coroutine.__name__, coroutine.__qualname__)
    for attribute in ("__name__", "__qualname__"):
        lib.catch(setattr, coroutine, attribute, 5)
        lib.catch(setattr, coroutine, attribute, None)
        lib.catch(delattr, coroutine, attribute)
        lib.catch(setattr, coroutine, "cr_" + attribute, "x")
    coroutine.close()
    lib.note(coroutine.__name__, repr(coroutine))
    other = each_kind()[kind]()
    lib.note(other.__name__, other.__qualname__, other.close())
    with warned() as caught:
        coroutine = each_kind()[kind]()
        coroutine.__qualname__ = "forgotten.name"
        del coroutine
    lib.note([(w.category, str(w.message)) for w in caught])


@pytest.mark.parametrize("kind", each_kind())
def test_what_it_cannot_do(lib, kind):
    coroutine, other = each_kind()[kind](), each_kind()[kind]()
    for call in (iter, tuple, aiter, len, bytes, copy.copy, copy.deepcopy, pickle.dumps, type):
        if call is not type:
            lib.catch(call, coroutine)
        lib.catch(lambda call=call: call(coroutine, other) if call is tuple else call()(coroutine))
    lib.catch(lambda: [each for each in coroutine])  # noqa: C416
    lib.catch(lambda: 1 in coroutine)
    lib.catch(lambda: coroutine < other)
    lib.catch(lambda: coroutine + other)
    lib.catch(lambda: coroutine())
    lib.catch(lambda: coroutine[0])
    lib.catch(lambda: coroutine.attribute)
    lib.catch(setattr, coroutine, "attribute", 1)
    lib.catch(setattr, coroutine, "cr_running", 1)
    lib.catch(type(coroutine))
    lib.catch(type, "Derived", (type(coroutine),), {})
    lib.note(hasattr(coroutine, "__next__"), hasattr(coroutine, "__dict__"), coroutine.__doc__)
    lib.note(coroutine == coroutine, coroutine == other, bool(coroutine))
    lib.note(type(coroutine).__name__, type(coroutine.__await__()).__name__)
    # What sleeps for no time refers to nothing: `test_native_coroutines.py`.
    lib.note(weakref.ref(coroutine)() is coroutine, kind == "sleep" or gc.is_tracked(coroutine))
    coroutine.close()
    other.close()


def test_arguments_of_throw(lib):
    traceback = types.TracebackType(None, sys._getframe(), 0, 1)
    for arguments in (
        (),
        (ValueError,),
        (ValueError("told"),),
        (ValueError, "told"),
        (ValueError, ValueError("told"), None),
        (ValueError, ("told", "twice"), traceback),
        (ValueError, None, traceback),
        (ValueError, "told", 5),
        (ValueError("told"), 5),
        (ValueError("told"), None, traceback),
        (5,),
        (5, 5, 5),
        (int,),
        (ValueError, None, None, None),
    ):
        for begun in (False, True):
            coroutine = asyncio.sleep(0)
            if begun:
                coroutine.send(None)
            lib.catch(coroutine.throw, *arguments)
            coroutine.close()
            iterator = asyncio.sleep(0).__await__()
            if begun:
                iterator.send(None)
            lib.catch(iterator.throw, *arguments)
            iterator.close()
        future = lib.loop.create_future()
        lib.catch(iter(future).throw, *arguments)
        future.cancel()
    lib.warnings_taken()


def test_where_it_stands(lib):
    def state(coroutine):
        return (coroutine.cr_running, coroutine.cr_suspended, coroutine.cr_origin)

    class Delay:
        def __le__(self, other):
            lib.note(state(coroutine))
            return True

    coroutine = asyncio.sleep(Delay())
    lib.note(state(coroutine))
    coroutine.send(None)
    lib.note(state(coroutine))
    lib.catch(coroutine.send, None)
    lib.note(state(coroutine))


def test_origins(lib):
    def make(levels):
        if levels:
            return make(levels - 1)
        return asyncio.Lock().acquire(), here()

    def told(origin):
        return [(file == __file__, line, name) for file, line, name in origin]

    async def main():
        depth = sys.get_coroutine_origin_tracking_depth()
        for levels in (0, 1, 30):
            coroutine, line = make(levels)
            origin = coroutine.cr_origin
            lib.note(levels, line, len(origin), told(origin)[: levels + 2])
            coroutine.close()
            lib.note(len(coroutine.cr_origin))
        sys.set_coroutine_origin_tracking_depth(2)
        coroutine, line = make(5)
        lib.note(told(coroutine.cr_origin))
        coroutine.close()
        sys.set_coroutine_origin_tracking_depth(0)
        coroutine, line = make(0)
        lib.note(coroutine.cr_origin, coroutine.close())
        sys.set_coroutine_origin_tracking_depth(depth)

    lib.run(main, debug=True)
    coroutine, _ = make(0)
    lib.note(coroutine.cr_origin, coroutine.close())
    lib.run(main, debug=True)


def test_debug_that_ends_while_it_runs(lib):
    async def main():
        for debug in (True, False, True):
            lib.loop.set_debug(debug)
            await asyncio.sleep(0)
            coroutine = asyncio.sleep(0)
            lib.note(debug, coroutine.cr_origin is None, coroutine.close())

    lib.run(main)
    coroutine = asyncio.sleep(0)
    lib.note(coroutine.cr_origin, coroutine.close())


@pytest.mark.parametrize("debug", [False, True])
def test_a_forgotten_one_tells_its_origin(lib, debug):
    async def main():
        with warned() as caught:
            asyncio.Queue().put(1)
        (warning,) = caught
        lines = str(warning.message).splitlines()
        lib.note(warning.category, warning.lineno, warning.filename == __file__)
        # Between them are the frames of the loop.
        lib.note(lines[:2], lines[-2:])

    lib.run(main, debug=debug)


def test_the_warning_holds_the_coroutine(lib):
    """It can be awaited after all; nobody is told of it again."""
    with warned() as caught:
        asyncio.sleep(0, "late")
        event = asyncio.Event()
        event.set()
        event.wait()
    lib.note([repr(w.source) for w in caught])
    coroutines = [w.source for w in caught]
    lib.note(coroutines[0].send(None))
    for coroutine in coroutines:
        lib.catch(coroutine.send, None)
    with warned() as caught_later:
        asyncio.sleep(0)
    forgotten = caught_later.pop().source
    with warned() as caught_later:
        del forgotten
    lib.note(len(caught_later))


def test_a_warning_that_is_an_error_cannot_be_raised(lib):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.sleep(0)
        gc.collect()
    lib.note(lib.unraisable_taken())


def test_no_function_for_the_warning(lib, monkeypatch):
    monkeypatch.delattr(warnings, "_warn_unawaited_coroutine")
    with warned() as caught:
        asyncio.sleep(0)
    lib.note([(w.category, str(w.message)) for w in caught])


def test_tracemalloc_knows_where_each_was_made(lib):
    """Memory that is used again counts as new, while a loop debugs."""

    async def main():
        held = [asyncio.sleep(0) for _ in range(100)]
        later = [asyncio.sleep(0) for _ in range(5)]
        for each in (*held, *later):
            each.close()
        del each, later
        coroutine = asyncio.sleep(0)
        line = here() - 1
        found = tracemalloc.get_object_traceback(coroutine)
        lib.note([(each.filename == __file__, each.lineno - line) for each in found or ()])
        coroutine.close()

    tracemalloc.start()
    try:
        lib.run(main, debug=True)
    finally:
        tracemalloc.stop()


def test_entered_again_from_a_comparison(lib):
    class Item:
        def __lt__(self, other):
            lib.note(coroutine.cr_running, coroutine.cr_suspended)
            lib.catch(coroutine.send, None)
            lib.catch(coroutine.throw, LookupError)
            lib.catch(coroutine.close)
            return True

    queue = asyncio.PriorityQueue()
    queue.put_nowait(Item())
    coroutine = queue.put(Item())
    lib.catch(coroutine.send, None)
    coroutine = queue.get()
    lib.catch(coroutine.send, None)


def test_one_that_goes_on_when_it_is_closed(lib):
    async def main():
        condition = asyncio.Condition()
        await condition.acquire()
        coroutine = condition.wait()
        coroutine.send(None)
        await condition.acquire()
        lib.catch(coroutine.close)
        condition.release()
        lib.catch(coroutine.send, None)

    lib.run(main)


def test_errors_of_closing(lib):
    class Lock(asyncio.Lock):
        async def acquire(self):
            if self.fails:
                raise LookupError("no lock any more")
            return await super().acquire()

    async def main():
        lock = Lock()
        lock.fails = False
        condition = asyncio.Condition(lock)
        await condition.acquire()
        coroutine = condition.wait()
        coroutine.send(None)
        lock.fails = True
        lib.catch(coroutine.close)
        lib.catch(coroutine.send, None)
        lock.fails = False
        await condition.acquire()
        coroutine = condition.wait()
        coroutine.send(None)
        lock.fails = True
        del coroutine
        gc.collect()
        lib.note(lib.unraisable_taken())

    lib.run(main)


def test_a_future_that_was_never_made(lib):
    class Loop(lib.loop_type):
        def create_future(self):
            return lib.Future.__new__(lib.Future)

    loop = Loop()
    lib.loops.append(loop)

    async def main():
        for coroutine in (asyncio.Queue().get(), asyncio.Event().wait()):
            lib.catch(coroutine.send, None)
            lib.catch(coroutine.send, None)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("begun", [False, True])
def test_closed_by_its_iterator(lib, begun):
    coroutine = asyncio.sleep(0)
    iterator = coroutine.__await__()
    if begun:
        lib.note(next(iterator))
    lib.note(iterator.close(), iterator.close())
    lib.catch(coroutine.send, None)
    lib.catch(next, iterator)


def test_ends_under_an_exception(lib):
    """It dies as a temporary of a call that fails, and the exception goes on."""

    def begun():
        coroutine = asyncio.sleep(0)
        coroutine.send(None)
        return coroutine

    lib.catch(lambda: int(begun()))
    with warned() as caught:
        lib.catch(lambda: int(asyncio.sleep(0)))
    lib.note([str(w.message) for w in caught])

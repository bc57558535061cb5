"""Future as a type: reprs, subclasses, attributes, arguments, iteration by hand, wrapping."""

import asyncio
import concurrent.futures
import gc
import sys
import threading
import types
import weakref

import pytest

pytestmark = pytest.mark.kinds("all")

# The iterator of early versions answers a send() after the end with a SystemError.
SOUND_ITERATORS = sys.version_info >= (3, 13, 3)


def callback(future):
    """Have a name and a place that a repr can show."""


def test_iteration_by_hand(lib):
    future = lib.loop.create_future()
    for method in ("__iter__", "__await__"):
        waiting = getattr(future, method)()
        lib.note(future._asyncio_future_blocking)
        assert waiting.send(None) is future
        lib.note(future._asyncio_future_blocking)
        future._asyncio_future_blocking = False
        if lib.kind != "pure":
            assert waiting.send(None) is future
            with pytest.raises(RuntimeError):
                waiting.send(None)
        future._asyncio_future_blocking = False
    waiting = iter(future)
    next(waiting)
    future.set_result("value")
    lib.catch(waiting.send, "ignored")
    waiting = iter(future)
    lib.catch(waiting.send, None)
    lib.note(iter(waiting) is waiting)


def test_throw_into_a_waiting_iterator(lib):
    class Mine(Exception):
        pass

    for error in (ValueError("v"), ValueError, Mine("m"), asyncio.CancelledError()):
        future = lib.loop.create_future()
        waiting = iter(future)
        next(waiting)
        lib.catch(waiting.throw, error)
        if SOUND_ITERATORS:
            lib.catch(waiting.send, None)
        future.cancel()
    future = lib.loop.create_future()
    waiting = iter(future)
    next(waiting)
    lib.note(waiting.close())
    if SOUND_ITERATORS:
        lib.catch(waiting.send, None)
    fresh = iter(future)
    lib.catch(fresh.throw, ValueError("before the first step"))
    for bad in (None, 5, "text", int):
        with pytest.raises(TypeError):
            iter(future).throw(bad)
    with pytest.raises(TypeError):
        iter(future).throw()
    future.cancel()


def test_iterator_lets_go(lib):
    future = lib.loop.create_future()
    ref = weakref.ref(future)
    waiting = iter(future)
    next(waiting)
    waiting.close()
    del future
    gc.collect()
    assert ref() is None


def test_yield_without_from(lib):
    future = lib.loop.create_future()

    class Awkward:
        def __await__(self):
            yield future

    async def main():
        await Awkward()

    task = lib.loop.create_task(main(), name="awkward")
    lib.turns(2)
    lib.note(task.exception())
    future.cancel()


def test_reprs(lib):
    loop = lib.loop
    future = loop.create_future()
    lib.note(repr(future))
    for cb in (callback, callback, lambda f: None, print, callback):
        future.add_done_callback(cb)
        lib.note(repr(future))
    future.set_result("x" * 300)
    lib.note(repr(future))
    future = loop.create_future()
    future.set_result(future)
    lib.note(repr(future))
    future = loop.create_future()
    future.set_exception(ValueError("why", 1))
    future.exception()
    lib.note(repr(future))
    future = loop.create_future()
    future.cancel()
    lib.note(repr(future))


def test_repr_in_a_subclass(lib):
    class Mine(lib.Future):
        pass

    future = Mine(loop=lib.loop)
    lib.note(repr(future))
    future.cancel()
    lib.note(repr(future))


def test_subclasses(lib):
    class Mine(lib.Future):
        def __init__(self, *, loop, extra):
            super().__init__(loop=loop)
            self.extra = extra

        def result(self):
            return ("mine", super().result())

        def set_result(self, value):
            super().set_result(("set", value))

    async def main():
        future = Mine(loop=lib.loop, extra=1)
        lib.loop.call_soon(future.set_result, 5)
        lib.note(await future, future.extra, future.result())
        assert isinstance(future, lib.Future)

    lib.run(main)


def test_without_super_init(lib):
    class Mine(lib.Future):
        def __init__(self):
            pass

    future = Mine()
    if lib.kind != "pure":
        for ask in (
            future.result,
            future.exception,
            future.get_loop,
            future.done,
            future.cancel,
            future.cancelled,
            future.__await__,
            lambda: future.set_result(1),
            lambda: future.set_exception(ValueError),
            lambda: future._loop,
            lambda: future.add_done_callback(callback),
            lambda: future.remove_done_callback(callback),
        ):
            try:
                lib.note(ask())
            except Exception as exc:
                lib.note(type(exc).__name__)


def test_arguments(lib):
    for args, options in (((1,), {}), ((lib.loop,), {}), ((), {"loop": lib.loop, "x": 1})):
        with pytest.raises(TypeError):
            lib.Future(*args, **options)
    lib.note(repr(lib.Future(loop=lib.loop)))
    asyncio.set_event_loop(lib.loop)
    try:
        assert lib.Future().get_loop() is lib.loop
        assert lib.Future(loop=None).get_loop() is lib.loop
    finally:
        asyncio.set_event_loop(None)


def test_generic_alias(lib):
    alias = lib.Future[str]
    lib.note(alias.__args__, alias.__origin__ is lib.Future, isinstance(alias, types.GenericAlias))


def test_attributes(lib):
    future = lib.loop.create_future()
    for name in (
        "_state",
        "_callbacks",
        "_exception",
        "_result",
        "_log_traceback",
        "_asyncio_future_blocking",
        "_cancel_message",
        "_source_traceback",
    ):
        lib.note(name, getattr(future, name, "absent"))
    if lib.kind != "pure":
        for name in ("_state", "_callbacks", "_exception", "_result", "_loop", "_source_traceback"):
            with pytest.raises(AttributeError):
                setattr(future, name, None)
    for value in (True, 1, "yes"):
        with pytest.raises(ValueError):
            future._log_traceback = value
    future._log_traceback = False
    future._asyncio_future_blocking = True
    lib.note(future._asyncio_future_blocking)
    with pytest.raises(AttributeError):
        del future._log_traceback
    future.cancel()


def test_weak_reference(lib):
    future = lib.loop.create_future()
    ref = weakref.ref(future)
    future.add_done_callback(callback)
    del future
    gc.collect()
    assert ref() is None


def test_wrap_future(lib):
    async def main():
        source = concurrent.futures.Future()
        wrapped = asyncio.wrap_future(source, loop=lib.loop)
        threading.Thread(target=source.set_result, args=("from a thread",)).start()
        lib.note(await wrapped)
        source = concurrent.futures.Future()
        wrapped = asyncio.wrap_future(source)
        wrapped.cancel()
        await asyncio.sleep(0)
        lib.note(source.cancelled())
        source = concurrent.futures.Future()
        wrapped = asyncio.wrap_future(source)
        source.set_exception(LookupError("from a thread"))
        try:
            await wrapped
        except LookupError as exc:
            lib.note(exc)
        own = lib.loop.create_future()
        assert asyncio.wrap_future(own) is own
        own.cancel()

    lib.run(main)

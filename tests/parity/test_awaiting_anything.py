"""What a native coroutine awaits for its caller: `wait_for` is given anything that can be."""

import asyncio
import gc
import types
import weakref

import pytest


class Steps:
    """An iterator without `send`, `throw` and `close`."""

    def __init__(self, lib, count=2):
        self.lib, self.left = lib, count

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.left == 0:
            raise StopIteration("the end")
        self.left -= 1
        return f"{self.left} left"


class Throwing(Steps):
    """An iterator that has them, and notes what it is told."""

    def send(self, value):
        self.lib.note("sent", value)
        return next(self)

    def throw(self, *exception):
        self.lib.note("thrown", exception)
        if isinstance(exception[0], LookupError):
            raise StopIteration("from throw")
        if isinstance(exception[0], ValueError):
            return "went on"
        raise exception[0]

    def close(self):
        self.lib.note("closed")
        if self.left == 0:
            raise ArithmeticError("cannot be closed")


@types.coroutine
def generator():
    """Give a generator that can be awaited."""
    yield from asyncio.sleep(0)
    return "by a generator"


class Returning:
    """An awaitable whose `__await__` returns what it was told to."""

    def __init__(self, what):
        self.what = what

    def __await__(self):
        return self.what() if callable(self.what) else self.what


async def plain():
    """Wait a turn."""
    await asyncio.sleep(0)
    return "by a coroutine"


def awaitables():
    """Give makers of what is awaited, by what each of them is."""
    return {
        "coroutine": plain,
        "native": lambda: asyncio.sleep(0, "native"),
        "generator": generator,
        "no awaitable": lambda: 5,
        "none": lambda: None,
        "a coroutine by await": lambda: Returning(plain()),
        "a generator by await": lambda: Returning(generator()),
        "a plain iterator": lambda: Returning(lambda: iter([None])),
        "no iterator": lambda: Returning(5),
        "an error": lambda: Returning(lambda: 1 / 0),
    }


@pytest.mark.parametrize("kind", awaitables())
@pytest.mark.parametrize("timeout", [None, 10])
def test_awaited_in_a_task(lib, kind, timeout):
    async def main():
        awaitable = awaitables()[kind]()
        try:
            lib.note(await asyncio.wait_for(awaitable, timeout))
        except (TypeError, RuntimeError, ZeroDivisionError) as error:
            lib.note(type(error), str(error))
        if isinstance(awaitable, Returning) and hasattr(awaitable.what, "close"):
            awaitable.what.close()

    lib.run(main)


def test_a_coroutine_that_is_awaited_already(lib):
    async def main():
        for make in (plain, generator, lambda: asyncio.sleep(0)):
            coroutine = make()
            coroutine.send(None)
            try:
                lib.note(await asyncio.wait_for(coroutine, 10))
            except RuntimeError as error:
                lib.note(str(error))
            coroutine.close()

    lib.run(main)


@pytest.mark.parametrize("kind", [Steps, Throwing])
@pytest.mark.parametrize(
    "thrown", [None, LookupError, ValueError, KeyboardInterrupt, StopIteration, GeneratorExit]
)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_driven_by_hand(lib, kind, thrown, count):
    async def main():
        coroutine = asyncio.wait_for(kind(lib, count), None)
        lib.catch(coroutine.send, None)
        if thrown is None:
            lib.catch(coroutine.close)
        else:
            lib.catch(coroutine.throw, thrown("thrown"))
        lib.catch(coroutine.send, None)
        lib.catch(coroutine.send, "value")
        lib.catch(coroutine.close)

    lib.run(main)


def test_awaits_upon_awaits(lib):
    """Too many are a RecursionError and no crash."""

    class Deep:
        def __await__(self):
            return asyncio.wait_for(Deep(), None).__await__()

    async def main():
        for thrown in (False, True):
            coroutine = asyncio.sleep(0)
            for _ in range(100):
                coroutine = asyncio.wait_for(coroutine, None)
            lib.note(coroutine.send(None))
            if thrown:
                lib.catch(coroutine.throw, LookupError("from above"))
            else:
                lib.catch(coroutine.send, None)
        with pytest.raises(RecursionError):
            await asyncio.wait_for(Deep(), None)

    lib.run(main)


def test_a_long_line_of_awaits(lib):
    """It is a RecursionError and no crash, also where no Python frame lies between them."""

    async def main():
        line = [asyncio.sleep(0)]
        for _ in range(100_000):
            line.append(asyncio.wait_for(line[-1], None))
        with pytest.raises(RecursionError):
            line[-1].send(None)
        for coroutine in reversed(line):
            coroutine.close()
        lib.catch(line[-1].send, None)

    lib.run(main)


def test_a_circle_through_what_is_awaited(lib):
    class Step:
        def __await__(self):
            return Iterator()

    class Iterator:
        def __iter__(self):
            return self

        def __next__(self):
            return self

    async def main():
        coroutine = asyncio.wait_for(Step(), None)
        iterator = coroutine.send(None)
        iterator.coroutine = coroutine
        watch = weakref.ref(iterator)
        del coroutine, iterator
        gc.collect()
        lib.note(watch())

    lib.run(main)

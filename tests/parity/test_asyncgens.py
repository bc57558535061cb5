"""Asynchronous generators: hooks, finalisation, shutdown_asyncgens."""

import asyncio
import gc
import sys

import pytest


class Waits:
    """An awaitable that takes one turn."""

    def __await__(self):
        yield


async def turns():
    """Let the loop turn often enough to close a generator."""
    for _ in range(10):
        await asyncio.sleep(0)


def make(lib, name="gen", clean=True):
    """Make a generator that notes how it ends."""

    async def generator():
        try:
            yield 1
            await Waits()
            yield 2
        finally:
            if clean:
                await Waits()
            lib.note(f"{name} cleaned")

    return generator()


def test_exhausted_generators(lib):
    async def main():
        lib.note([n async for n in make(lib)])
        lib.note(len(lib.loop._asyncgens))

    lib.run(main)


def test_dropped_generator_is_closed_by_the_loop(lib):
    async def main():
        async for number in make(lib):
            lib.note(number)
            break
        gc.collect()
        await turns()
        lib.note("end of main")

    lib.run(main)


def test_shutdown_closes_what_is_left(lib):
    async def main():
        kept = [make(lib, f"gen {n}") for n in range(2)]
        for gen in kept:
            lib.note(await gen.asend(None))
        lib.note(len(lib.loop._asyncgens))
        lib.note(await lib.loop.shutdown_asyncgens())
        lib.note(len(lib.loop._asyncgens))
        lib.note(await lib.loop.shutdown_asyncgens())

    lib.run(main)
    lib.trace.sort(key=repr)


def test_runner_shuts_generators_down(lib):
    kept = []

    async def main():
        kept.append(make(lib))
        await kept[0].asend(None)

    lib.run(main)
    assert lib.trace == ["gen cleaned"]


def test_first_iteration_after_shutdown_warns(lib):
    async def main():
        await lib.loop.shutdown_asyncgens()
        gen = make(lib)
        await gen.asend(None)
        await gen.aclose()

    lib.run(main)
    lib.note([(w[0], w[1].split(" object ")[0]) for w in lib.warnings_taken()])


def test_error_in_the_cleaning(lib):
    async def generator():
        try:
            yield 1
        finally:
            raise LookupError("cleaning")

    async def main():
        seen = lib.contexts()
        gen = generator()
        await gen.asend(None)
        await lib.loop.shutdown_asyncgens()
        lib.note([(sorted(c), c["message"].split("<")[0], c["exception"]) for c in seen])
        seen.clear()
        del gen

    lib.run(main)


def test_error_in_the_cleaning_of_a_dropped_generator(lib):
    async def generator():
        try:
            yield 1
        finally:
            raise LookupError("cleaning")

    async def main():
        seen = lib.contexts()
        gen = generator()
        await gen.asend(None)
        del gen
        gc.collect()
        await turns()
        gc.collect()
        lib.note([(sorted(c), c["message"].split("<")[0], c["exception"]) for c in seen])
        seen.clear()

    lib.run(main)


def test_generator_that_yields_in_its_cleaning(lib):
    async def stubborn():
        try:
            yield 1
        finally:
            yield 2

    async def main():
        seen = lib.contexts()
        gen = stubborn()
        await gen.asend(None)
        await lib.loop.shutdown_asyncgens()
        lib.note([(c["message"].split("<")[0], c["exception"]) for c in seen])
        seen.clear()

    lib.run(main)
    gc.collect()


def test_dropped_in_another_thread(lib):
    async def main():
        box = [make(lib)]
        await box[0].asend(None)
        await lib.loop.run_in_executor(None, box.clear)
        gc.collect()
        await turns()
        lib.note("end of main")

    lib.run(main)


def test_dropped_after_the_loop_has_closed(lib):
    loop = lib.new_loop()
    gen = make(lib, clean=False)

    async def main(gen):
        await gen.asend(None)

    loop.run_until_complete(main(gen))
    loop.close()
    del gen
    gc.collect()
    lib.note([w[0] for w in lib.warnings_taken()], lib.unraisable_taken())


def test_own_hooks_are_restored(lib):
    calls = []
    sys.set_asyncgen_hooks(firstiter=calls.append)
    try:

        async def main():
            lib.note(sys.get_asyncgen_hooks().firstiter != calls.append)
            return [n async for n in make(lib)]

        lib.note(lib.run(main))
        lib.note(sys.get_asyncgen_hooks().firstiter == calls.append, calls)
    finally:
        sys.set_asyncgen_hooks(None, None)


def test_cancelled_while_iterating(lib):
    async def endless():
        try:
            while True:
                yield
                await Waits()
        finally:
            lib.note("cleaned")

    async def consume():
        async for _ in endless():
            pass

    async def main():
        task = asyncio.create_task(consume())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            lib.note("cancelled")
        await turns()

    lib.run(main)


@pytest.mark.parametrize("method", ["asend", "athrow", "aclose"])
def test_generator_methods(lib, method):
    async def echo():
        got = None
        while True:
            try:
                got = yield got
                await asyncio.sleep(0)
            except LookupError as exc:
                got = str(exc)

    async def main():
        gen = echo()
        await gen.asend(None)
        if method == "asend":
            lib.note([await gen.asend(n) for n in range(3)])
        elif method == "athrow":
            lib.note(await gen.athrow(LookupError("thrown")))
        await gen.aclose()
        try:
            await gen.asend(1)
        except StopAsyncIteration:
            lib.note("ended")

    lib.run(main)


def test_asynchronous_context_managers(lib):
    from contextlib import AsyncExitStack, asynccontextmanager

    @asynccontextmanager
    async def managed(name):
        lib.note("enter", name)
        try:
            yield name
            await asyncio.sleep(0)
        except LookupError as exc:
            lib.note("caught", exc)
        finally:
            await asyncio.sleep(0)
            lib.note("exit", name)

    async def main():
        async with AsyncExitStack() as stack:
            for name in "ab":
                lib.note(await stack.enter_async_context(managed(name)))
        async with managed("c"):
            raise LookupError("inside")

    lib.run(main)

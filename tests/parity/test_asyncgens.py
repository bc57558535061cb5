"""Asynchronous generators: hooks, finalisation, shutdown_asyncgens."""

import asyncio
import gc
import sys
import threading
import warnings
import weakref

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


def test_shutdown_closes_just_those_that_live(lib):
    """Begun, ended and dropped in any order, and in the memory of those that were before."""

    async def numbered(number):
        try:
            yield number
        finally:
            lib.note(number)

    async def main():
        kept = {}
        for number in range(1000):
            gen = kept[number] = numbered(number)
            await gen.asend(None)
            if number % 3:
                # Ended, and every other one kept all the same.
                async for _ in gen:
                    pass
                if number % 2:
                    del kept[number]
            # An older one ends, so that its place is free for the next.
            if number % 7 == 0 and (old := kept.pop(number // 2, None)) is not None:
                await old.aclose()
        lib.trace.clear()
        gen = None
        gc.collect()
        await lib.loop.shutdown_asyncgens()
        lib.trace.sort()
        lib.note(len(lib.loop._asyncgens))

    lib.run(main)


def test_dropped_generator_is_not_closed_twice(lib):
    class Counted:
        def __init__(self):
            self.gen = make(lib)

    async def main():
        counted = Counted()
        await counted.gen.asend(None)
        seen = lib.contexts()
        del counted
        gc.collect()
        # The task that closes it has not run yet, and it is no longer the loop's to close.
        await lib.loop.shutdown_asyncgens()
        lib.note("shut down")
        await turns()
        lib.note(seen)

    lib.run(main)


def test_weak_references_to_ended_generators_stay_dead(lib):
    async def one():
        yield 1

    async def main():
        ended, told = [], []
        # So often that generators come to lie where others were.
        for number in range(90):
            gen = one()
            # None at all; one from before it was begun; one from then on.
            when = number % 3
            if when == 1:
                ended.append(weakref.ref(gen))
            async for _ in gen:
                if when == 2:
                    ended.append(weakref.ref(gen))
                if when:
                    lib.note(ended[-1]() is gen, hash(ended[-1]) == hash(gen))
                    weakref.finalize(gen, told.append, number)
                lib.note(sum(each() is not None for each in ended))
            del gen
            lib.note({each() for each in ended}, len(told))
        lib.note(len({id(each) for each in ended}))

    lib.run(main)


def test_the_set_is_obeyed(lib):
    async def main():
        loop = lib.loop
        before, hidden, listed = make(lib, "before"), make(lib, "hidden"), make(lib, "listed")
        await before.asend(None)
        known = loop._asyncgens
        lib.note(list(known) == [before], known is loop._asyncgens, type(known).__name__)
        await hidden.asend(None)
        await listed.asend(None)
        lib.note(len(known))
        known.discard(hidden)
        known.discard(listed)
        known.add(listed)
        dropped = make(lib, "dropped")
        await dropped.asend(None)
        del dropped
        gc.collect()
        lib.note(len(known))
        await turns()
        closing = lib.trace
        await loop.shutdown_asyncgens()
        closing[-2:] = sorted(closing[-2:])
        lib.note(len(known), loop._asyncgens_shutdown_called)
        await hidden.aclose()
        loop._asyncgens = weakref.WeakSet([listed])
        loop._asyncgens_shutdown_called = False
        after = make(lib, "after")
        await after.asend(None)
        lib.note(len(loop._asyncgens))
        await after.aclose()

    lib.run(main)


def test_own_hooks_of_a_loop(lib):
    """Of a subclass, and then on an instance, each passing on what it is told."""

    class Loop(lib.loop_type):
        def _asyncgen_firstiter_hook(self, agen):
            lib.note("subclass: first", agen.__name__)
            super()._asyncgen_firstiter_hook(agen)

        def _asyncgen_finalizer_hook(self, agen):
            lib.note("subclass: dropped", agen.__name__)
            super()._asyncgen_finalizer_hook(agen)

    async def main():
        lib.note([n async for n in make(lib)])
        gen = make(lib)
        await gen.asend(None)
        del gen
        gc.collect()
        await turns()
        lib.note(len(asyncio.get_running_loop()._asyncgens))

    loop = Loop()
    lib.loops.append(loop)
    loop.run_until_complete(main())
    first = loop._asyncgen_firstiter_hook

    def own(agen):
        lib.note("instance: first")
        first(agen)

    loop._asyncgen_firstiter_hook = own
    loop.run_until_complete(main())


def test_hooks_called_by_hand(lib):
    class Other:
        async def aclose(self):
            lib.note("closed")

    loop = lib.loop
    first = loop._asyncgen_firstiter_hook
    for nothing in (1, None, "text"):
        with pytest.raises(TypeError) as caught:
            first(nothing)
        lib.note(caught.value)
    other = Other()
    lib.note(first(other), first(other), len(loop._asyncgens))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop._asyncgens_shutdown_called = False
    second = Other()
    thread = threading.Thread(target=first, args=[second])
    thread.start()
    thread.join()
    lib.note(loop._asyncgen_finalizer_hook(second), len(loop._asyncgens))
    loop.run_until_complete(turns())
    # The same where nobody has looked at the set before.
    loop = lib.new_loop()
    loop._asyncgen_firstiter_hook(other)
    loop._asyncgen_firstiter_hook(second)
    loop._asyncgen_finalizer_hook(second)
    lib.note(list(loop._asyncgens) == [other])
    loop.run_until_complete(turns())


def test_late_generator_whose_warning_is_an_error(lib):
    async def main():
        await lib.loop.shutdown_asyncgens()
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            gen = make(lib)
            with pytest.raises(ResourceWarning) as caught:
                await gen.asend(None)
            lib.note(str(caught.value).split(" object ")[0], len(lib.loop._asyncgens))
        await gen.aclose()

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

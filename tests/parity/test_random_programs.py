"""Random programs of tasks, futures, cancellations and callbacks: every loop must run them alike.

A seed makes a program: workers that await, cancel, set, gather, shield and wait for each other's
futures and tasks in an order that chance decides. Nothing in it depends on time or on I/O, so the
whole trace is a matter of the loop's order: it must be the stock loop's to the last observation.
"""

import asyncio
import gc
import random
import sys

import pytest

WORKERS = 6
STEPS = 9
# A program that still has work after so many turns is stopped by cancelling all of it.
TURNS_MAX = 150
SEEDS = range(25)
# What a step may be; the last one starts a task eagerly.
KINDS = 22 if sys.version_info >= (3, 12) else 21


class Program:
    """One random program, and the trace of its run."""

    def __init__(self, lib, seed):
        self.lib = lib
        self.loop = lib.loop
        self.chance = random.Random(seed)
        self.trace = []
        self.futures = [self.loop.create_future() for _ in range(4)]
        self.tasks = []
        self.event = asyncio.Event()
        self.lock = asyncio.Lock()
        self.queue = asyncio.Queue(2)
        self.count = 0

    def say(self, *words):
        """Add one observation."""
        self.trace.append(words)

    def future(self):
        """Choose a future; replace a done one now and then."""
        index = self.chance.randrange(len(self.futures))
        if self.futures[index].done() and self.chance.random() < 0.5:
            self.futures[index] = self.loop.create_future()
        return self.futures[index]

    def task(self):
        """Choose a task, which may be the caller itself."""
        return self.chance.choice(self.tasks)

    def later_task(self):
        """Choose a task made after the caller, or None: so tasks never wait in a ring."""
        rest = self.tasks[self.tasks.index(asyncio.current_task()) + 1 :]
        return self.chance.choice(rest) if rest else None

    def fail(self):
        """Be a callback that raises."""
        self.say("fails")
        raise LookupError("callback")

    def spawn(self, coro):
        """Start a task under a name of its own."""
        self.count += 1
        task = self.loop.create_task(coro, name=f"t{self.count}")
        self.tasks.append(task)
        return task

    async def leaf(self, turns):
        """Take some turns; then return, raise, or wait for a future."""
        for _ in range(turns):
            await asyncio.sleep(0)
        end = self.chance.randrange(5)
        if end == 0:
            raise LookupError(turns)
        if end == 1:
            return await self.future()
        return turns

    async def step(self, name):
        """Do one thing that chance decides."""
        chance, kind = self.chance, self.chance.randrange(KINDS)
        self.say(name, "does", kind)
        if kind <= 1:
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        elif kind == 2:
            return await self.future()
        elif kind == 3:
            future = self.future()
            if not future.done():
                future.set_result(chance.randrange(100))
        elif kind == 4:
            future = self.future()
            if not future.done():
                future.set_exception(ValueError(chance.randrange(100)))
        elif kind == 5:
            return self.future().cancel(chance.choice([None, "f"]))
        elif kind in (6, 7):
            task = self.task()
            return task.get_name(), task.cancel(chance.choice([None, "a", "b"])), task.cancelling()
        elif kind == 8:
            task = self.later_task()
            if task is not None:
                return await task
        elif kind == 9:
            self.spawn(self.leaf(chance.randrange(4)))
        else:
            return await self.step_with_others(name, kind)
        return None

    async def step_with_others(self, name, kind):
        """Do one thing that involves primitives, handles or several tasks."""
        chance = self.chance
        if kind == 10:
            return await asyncio.gather(
                self.leaf(1), self.leaf(2), return_exceptions=chance.random() < 0.5
            )
        elif kind == 11:
            task = self.later_task() if chance.random() < 0.5 else None
            return await asyncio.shield(task or self.leaf(2))
        elif kind == 12:
            done, pending = await asyncio.wait(
                [self.spawn(self.leaf(1)), self.spawn(self.leaf(3))],
                return_when=chance.choice(["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"]),
            )
            return sorted(t.get_name() for t in done), len(pending)
        elif kind == 13:
            future, mark = self.future(), chance.randrange(100)
            future.add_done_callback(lambda f: self.say("callback", mark, f.cancelled()))
        elif kind == 14:
            async with self.lock:
                await asyncio.sleep(0)
        elif kind == 15:
            if chance.random() < 0.5:
                return await self.queue.get()
            await self.queue.put(name)
        elif kind == 16:
            mark = chance.randrange(100)
            handle = self.loop.call_soon(self.say, "soon", mark)
            if chance.random() < 0.3:
                handle.cancel()
        elif kind == 17:
            if chance.random() < 0.5:
                self.event.set()
            else:
                self.event.clear()
                await self.event.wait()
        elif kind == 18:
            # Long due, each at a time of its own: the order among equal ones is nobody's promise.
            self.count += 1
            handle = self.loop.call_at(self.count * 1e-6, self.say, "timer", self.count)
            if chance.random() < 0.3:
                handle.cancel()
        elif kind == 19:
            self.loop.call_soon(self.fail)
        elif kind == 21:
            return await type(asyncio.current_task())(
                self.leaf(chance.randrange(2)), loop=self.loop, eager_start=True
            )
        else:
            async with asyncio.TaskGroup() as group:
                # Only one: a group cancels its children in the order of a set.
                group.create_task(self.leaf(chance.randrange(3)))
                await asyncio.sleep(0)
        return None

    async def worker(self, name):
        """Do a number of things; note what each gave, and survive it."""
        for _ in range(STEPS):
            try:
                self.say(name, "got", self.lib_normal(await self.step(name)))
            except BaseExceptionGroup as exc:
                self.say(name, "group", sorted(repr(e) for e in exc.exceptions))
            except (asyncio.CancelledError, Exception) as exc:
                self.say(name, "caught", self.lib_normal(exc))
                if self.chance.random() < 0.3:
                    asyncio.current_task().uncancel()
        return name

    def lib_normal(self, value):
        """Picture a value without addresses."""
        if isinstance(value, BaseException):
            # The text of an error may show a task's repr, which shows where it is.
            return type(value).__name__, [a for a in value.args if isinstance(a, int)]
        if isinstance(value, list):
            return [self.lib_normal(v) for v in value]
        return value if isinstance(value, str | int | tuple | None) else type(value).__name__

    async def main(self):
        """Run the program to its end, or to the bound of its turns."""
        for number in range(WORKERS):
            self.spawn(self.worker(f"w{number}"))
        for turn in range(TURNS_MAX):
            if all(task.done() for task in self.tasks):
                break
            if turn % 10 == 9:
                # Let waiters go on, so that programs get somewhere.
                self.event.set()
                self.future().cancel()
            await asyncio.sleep(0)
        for _ in range(STEPS * 3):
            for task in self.tasks:
                task.cancel("end")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for future in self.futures:
            future.cancel()
        await asyncio.sleep(0)
        for task in self.tasks:
            what = "pending"
            if task.done():
                what = "cancelled" if task.cancelled() else self.lib_normal(task.exception())
            self.say(task.get_name(), what)


@pytest.mark.kinds("all")
@pytest.mark.parametrize("seed", SEEDS)
def test_random_program(lib, seed):
    async def main():
        lib.loop.set_exception_handler(lambda loop, context: None)
        lib.loop.set_debug(seed % 5 == 0)
        # When garbage is found must not be a part of the order.
        gc.disable()
        try:
            program = Program(lib, seed)
            await program.main()
        finally:
            gc.enable()
        for words in program.trace:
            lib.note(words)
        assert len(program.trace) > WORKERS * STEPS

    lib.run(main)

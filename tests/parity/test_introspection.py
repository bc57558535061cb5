"""What looks into tasks from outside: call graphs, `python -m asyncio ps` and `pstree`, stacks.

The stdlib's tools read a process's memory; they must show a program on aioxide as they show it on
asyncio.
"""

import asyncio
import io
import re
import subprocess
import sys

import pytest

HAS_GRAPH = sys.version_info >= (3, 14)
needs_graph = pytest.mark.skipif(not HAS_GRAPH, reason="3.14 brought call graphs")

PROGRAM = """
import asyncio, sys, threading

async def leaf(future):
    await future

async def branch(name, future):
    await leaf(future)

async def grouped(future):
    async with asyncio.TaskGroup() as group:
        group.create_task(branch("a", future), name="in group a")
        group.create_task(branch("b", future), name="in group b")

async def gathers(future):
    await asyncio.gather(branch("c", future), leaf(future))

async def sleeps():
    await asyncio.sleep(1000)

async def shields(task):
    await asyncio.shield(task)

async def waits(tasks):
    await asyncio.wait(tasks)

async def limited():
    async with asyncio.timeout(1000):
        await sleeps()

async def main():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    sleeper = asyncio.create_task(sleeps(), name="sleeper")
    tasks = [
        asyncio.create_task(grouped(future), name="group"),
        asyncio.create_task(gathers(future), name="gather"),
        asyncio.create_task(shields(sleeper), name="shield"),
        asyncio.create_task(limited(), name="limited"),
        sleeper,
    ]
    tasks.append(asyncio.create_task(waits(tasks[:2]), name="waits"))
    for _ in range(6):
        await asyncio.sleep(0)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    for task in tasks:
        task.cancel()

def thread():
    async def other():
        await asyncio.create_task(sleeping(), name="other thread's")
    async def sleeping():
        go.set()
        await asyncio.sleep(1000)
    loop = LIB.new_event_loop()
    loop.run_until_complete(other())

go = threading.Event()
threading.Thread(target=thread, daemon=True).start()
go.wait()
LIB.run(main())
"""


BUSY = """
import asyncio, sys, threading

done = []

def spin():
    while not done: pass

async def spins():
    spin()

async def waits(task):
    await task

async def main():
    task = asyncio.create_task(spins(), name="spins")
    waiter = asyncio.create_task(waits(task), name="waiter")
    task2 = asyncio.create_task(waits(waiter), name="outer")
    await asyncio.sleep(0)
    await task2

def reads():
    print("ready", flush=True)
    sys.stdin.readline()
    done.append(1)

async def start():
    threading.Thread(target=reads).start()
    await main()

LIB.run(start())
"""


def listing_of(lib, program, tool, names):
    """Start a program; look at it, again where it was caught in the middle of a change; end it."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import {lib.module.__name__} as LIB\n{program}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        for _ in range(10):
            shown = subprocess.run(
                [sys.executable, "-m", "asyncio", tool, str(process.pid)],
                capture_output=True,
                text=True,
                timeout=30,
            )
            listing = normal_listing(shown.stdout)
            if shown.returncode == 0 and all(name in listing for name in names):
                break
    finally:
        process.communicate("\n", timeout=30)
    assert process.returncode == 0
    if "ermission" in shown.stderr:
        pytest.skip("this process may not look into another one")
    assert shown.returncode == 0, shown.stderr
    assert all(name in listing for name in names), listing
    return listing


def normal_listing(text):
    """Drop from a listing what may differ between two runs: thread and task ids, default names."""
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    text = re.sub(r"\bTask-\d+\b", "Task-N", text)
    lines = [re.sub(r"^\d+ +", "TID ", line) for line in text.splitlines()]
    return "\n".join(re.sub(r" {2,}", "  ", line).rstrip() for line in lines)


@needs_graph
@pytest.mark.parametrize("tool", ["ps", "pstree"])
def test_tools_that_look_from_outside(lib, tool):
    names = ("in group a", "gather", "shield", "limited", "sleeper")
    # The order of the tasks of a listing means nothing.
    lib.note(sorted(listing_of(lib, PROGRAM, tool, names).splitlines()))


@needs_graph
@pytest.mark.parametrize("tool", ["ps", "pstree"])
def test_tools_that_look_at_a_busy_task(lib, tool):
    listing = listing_of(lib, BUSY, tool, ("spins", "waiter", "outer"))
    lib.note(sorted(listing.splitlines()))


def graph_of(call):
    """Describe a call graph by names only: no addresses, no lines outside this file."""
    if call is None:
        return None
    stack = [
        (f.frame.f_code.co_name, f.frame.f_lineno)
        for f in call.call_stack
        if f.frame.f_code.co_filename == __file__
    ]
    awaited = sorted((graph_of(c) for c in call.awaited_by), key=repr)
    name = call.future.get_name() if hasattr(call.future, "get_name") else "future"
    return (name, stack, awaited)


@needs_graph
@pytest.mark.kinds("all")
def test_capture_call_graph(lib):
    async def leaf(future):
        await future

    async def branch(future):
        await leaf(future)

    async def main():
        future = lib.loop.create_future()
        task = lib.loop.create_task(branch(future), name="task")
        waiter = lib.loop.create_task(leaf(task), name="waiter")
        other = lib.loop.create_task(leaf(task), name="other")
        group = asyncio.gather(waiter, other)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for thing in (task, future, waiter):
            lib.note(graph_of(asyncio.capture_call_graph(thing)))
            # Waiters are a set: their order means nothing.
            text = re.sub(r"line \d+", "line", asyncio.format_call_graph(thing))
            lib.note(sorted(text.splitlines()))
        out = io.StringIO()
        asyncio.print_call_graph(task, file=out, limit=1)
        lib.note(sorted(re.sub(r"line \d+", "line", out.getvalue()).splitlines()))
        future.set_result(None)
        await group
        lib.note(graph_of(asyncio.capture_call_graph(task)))

    lib.run(main)


@needs_graph
@pytest.mark.kinds("all")
def test_capture_the_running_task(lib):
    async def inner():
        lib.note(graph_of(asyncio.capture_call_graph()))
        lib.note(graph_of(asyncio.capture_call_graph(depth=2)))

    async def awaits(task):
        await task

    async def main():
        task = lib.loop.create_task(inner(), name="inner")
        await lib.loop.create_task(awaits(task), name="awaits")

    lib.run(main)
    lib.catch(asyncio.capture_call_graph)


@needs_graph
@pytest.mark.kinds("all")
def test_awaited_by(lib):
    async def waits(thing):
        await thing

    def names(thing):
        return sorted(t.get_name() for t in thing._asyncio_awaited_by or ())

    async def main():
        future = lib.loop.create_future()
        tasks = [lib.loop.create_task(waits(future), name=f"w{n}") for n in range(3)]
        lib.note(names(future))
        await asyncio.sleep(0)
        lib.note(names(future))
        assert set(future._asyncio_awaited_by) == set(tasks)
        tasks[0].cancel()
        await asyncio.sleep(0)
        lib.note(names(future))
        future.cancel()
        await asyncio.wait(tasks)
        lib.note(names(future))
        task = lib.loop.create_task(waits(asyncio.sleep(0)), name="awaited")
        outer = lib.loop.create_task(waits(task), name="outer")
        await asyncio.sleep(0)
        lib.note(names(task), names(outer))
        await outer
        lib.note(names(task))
        asyncio.future_add_to_awaited_by(task, outer)
        lib.note(names(task))
        asyncio.future_discard_from_awaited_by(task, outer)
        lib.note(names(task))

    lib.run(main)


@pytest.mark.kinds("all")
def test_coroutines_show_what_they_wait_for(lib):
    """Tools that walk `cr_await` reach the awaited future or its iterator."""

    async def leaf(future):
        await future

    async def main():
        future = lib.loop.create_future()
        task = lib.loop.create_task(leaf(future))
        await asyncio.sleep(0)
        lib.note(task.get_coro().cr_await is not None, task.get_coro().cr_running)
        lib.note(task.get_coro().cr_frame.f_code.co_name)
        assert task._fut_waiter is future
        future.set_result(None)
        await task
        lib.note(task.get_coro().cr_await, task.get_coro().cr_frame)

    lib.run(main)


@pytest.mark.kinds("all")
def test_task_stack_while_debugging(lib):
    """What a crashing program prints about its tasks."""

    async def deep():
        raise LookupError("deep")

    async def shallow():
        await deep()

    async def main():
        task = lib.loop.create_task(shallow(), name="crash")
        await asyncio.wait([task])
        out = io.StringIO()
        task.print_stack(file=out)
        lib.note(out.getvalue())
        task.exception()

    lib.run(main)


@pytest.mark.kinds("all")
def test_hand_registered_tasks(lib):
    """What third-party task types call: register, enter, leave, unregister, swap."""
    from asyncio import tasks

    class Thing:
        """Stand for a task of somebody else's."""

        def __init__(self, loop):
            self._loop = loop

        def done(self):
            return False

        def get_loop(self):
            return self._loop

    def call():
        thing = Thing(lib.loop)
        tasks._register_task(thing)
        assert asyncio.all_tasks() == {thing}
        tasks._enter_task(lib.loop, thing)
        assert asyncio.current_task() is thing
        lib.catch(tasks._enter_task, lib.loop, Thing(lib.loop))
        lib.trace[-1] = lib.trace[-1][0]
        tasks._leave_task(lib.loop, thing)
        lib.note(asyncio.current_task())
        if hasattr(tasks, "_swap_current_task"):
            assert tasks._swap_current_task(lib.loop, thing) is None
            assert asyncio.current_task() is thing
            assert tasks._swap_current_task(lib.loop, None) is thing
        tasks._unregister_task(thing)
        lib.note(asyncio.all_tasks())

    lib.loop.call_soon(call)
    lib.turns()

"""Which tasks the garbage collector may take: the one promised deviation from asyncio.

A native task on an aioxide loop that is scheduled, or waits on anything of that loop, is kept alive
until it is done. With `hold_tasks=False`, and on a foreign loop, asyncio's rule holds: the program
must keep its tasks.
"""

import asyncio
import gc
import weakref

import pytest

WAITS_CODE = "Task was destroyed but it is pending!"


class Kept:
    """Something whose life can be watched."""


async def waits_for_lost_future(loop, seen):
    """Wait for a future that only this coroutine knows."""
    future = loop.create_future()
    try:
        await future
    finally:
        seen.append("finally")


def lost_task(lib, seen):
    """Start a task that waits for a future nobody else knows; keep neither."""
    ref = weakref.ref(lib.loop.create_task(waits_for_lost_future(lib.loop, seen), name="lost"))
    lib.turns(2)
    return ref


@pytest.mark.kinds("asyncio", "loose", "foreign")
def test_lost_tasks_are_collected_as_asyncio_does(lib):
    seen = []
    contexts = lib.contexts()
    ref = lost_task(lib, seen)
    gc.collect()
    lib.note([(sorted(c), c["message"]) for c in contexts])
    # A kept context, or recorded warning, keeps what it is about; on 3.15 weakly too.
    contexts.clear()
    gc.collect()
    lib.note(ref() is None, seen)
    assert ref() is None


@pytest.mark.kinds("asyncio", "aioxide")
def test_lost_tasks_are_held(lib):
    lib.stock_defect(True, "asyncio lets the collector take a waiting task")
    seen = []
    ref = lost_task(lib, seen)
    gc.collect()
    lib.turns(3)
    gc.collect()
    task = ref()
    assert task is not None
    assert seen == []
    assert task in asyncio.all_tasks(lib.loop)
    assert task.cancel()
    lib.turns(2)
    assert seen == ["finally"]
    assert task.cancelled()
    del task
    gc.collect()
    assert ref() is None


@pytest.mark.kinds("asyncio", "aioxide")
def test_a_ring_of_lost_tasks_is_held(lib):
    lib.stock_defect(True, "asyncio lets the collector take waiting tasks")

    async def outer(depth):
        if depth:
            await lib.loop.create_task(outer(depth - 1))
        else:
            await lib.loop.create_future()

    refs = [weakref.ref(lib.loop.create_task(outer(3)))]
    lib.turns(6)
    gc.collect()
    tasks = asyncio.all_tasks(lib.loop)
    assert len(tasks) == 4
    assert refs[0]() in tasks
    for task in tasks:
        task.cancel()
    lib.turns(6)
    assert asyncio.all_tasks(lib.loop) == set()


@pytest.mark.kinds("asyncio", "aioxide", "loose", "foreign", "guest", "pure")
@pytest.mark.parametrize("what", ["scheduled", "sleeping", "reading", "executor"])
def test_tasks_that_the_loop_can_reach_are_never_lost(lib, what):
    import socket
    import threading

    seen = []
    left, right = socket.socketpair()
    left.setblocking(False)
    go = threading.Event()

    async def body():
        if what == "sleeping":
            await asyncio.sleep(0.001)
        elif what == "reading":
            seen.append(await lib.loop.sock_recv(left, 10))
        elif what == "executor":
            await lib.loop.run_in_executor(None, go.wait)
        seen.append("end")
        lib.loop.stop()

    with left, right:
        lib.loop.create_task(body())
        gc.collect()
        if what != "scheduled":
            lib.turns()
        gc.collect()
        right.send(b"x")
        go.set()
        lib.loop.run_forever()
    lib.note(seen)
    assert seen[-1] == "end"


@pytest.mark.kinds("all")
def test_a_task_held_by_a_known_future(lib):
    seen = []
    future = lib.loop.create_future()

    async def body():
        seen.append(await future)

    lib.loop.create_task(body())
    lib.turns()
    gc.collect()
    future.set_result("kept")
    lib.turns(2)
    assert seen == ["kept"]


@pytest.mark.kinds("asyncio", "aioxide", "loose")
def test_done_tasks_are_let_go_at_once(lib):
    """No collection may be needed for a task that has ended."""
    refs = []

    async def body(value):
        await asyncio.sleep(0)
        return value

    gc.disable()
    try:
        for _ in range(20):
            kept = Kept()
            refs.append(weakref.ref(kept))
            task = lib.loop.create_task(body(kept))
            refs.append(weakref.ref(task))
            del kept, task
        lib.turns(4)
        lib.note([r() is None for r in refs])
    finally:
        gc.enable()
    assert not any(r() for r in refs)


@pytest.mark.kinds("asyncio", "aioxide", "loose")
def test_a_closed_loop_with_waiting_tasks_is_collectable(lib):
    contexts = []
    loop = lib.new_loop()
    loop.set_exception_handler(lambda loop, context: contexts.append(context["message"]))
    refs = [weakref.ref(loop)]

    async def body(loop, kept):
        await loop.create_future()

    for _ in range(3):
        kept = Kept()
        refs.append(weakref.ref(kept))
        refs.append(weakref.ref(loop.create_task(body(loop, kept))))
    del kept
    lib.turns(2, loop)
    loop.close()
    lib.loops.clear()
    del loop
    gc.collect()
    gc.collect()
    lib.note([r() is None for r in refs], contexts)
    assert not any(r() for r in refs)


@pytest.mark.kinds("asyncio", "aioxide")
def test_an_unclosed_loop_with_held_tasks_is_collectable(lib):
    """A loop that nothing else knows is garbage together with the tasks that it holds."""
    loop = lib.new_loop()
    loop.set_exception_handler(lambda loop, context: None)
    refs = [weakref.ref(loop)]

    async def body(loop):
        await loop.create_future()

    for _ in range(3):
        refs.append(weakref.ref(loop.create_task(body(loop))))
    lib.turns(2, loop)
    lib.loops.clear()
    del loop
    gc.collect()
    lib.note([w[0] for w in lib.warnings_taken()])
    gc.collect()
    assert not any(r() for r in refs)


@pytest.mark.kinds("asyncio", "aioxide", "loose")
def test_held_tasks_do_not_pile_up(lib):
    async def main():
        for _ in range(50):
            future = lib.loop.create_future()
            tasks = [lib.loop.create_task(wait(future)) for _ in range(20)]
            await asyncio.sleep(0)
            future.set_result(None)
            await asyncio.sleep(0)
            del tasks
        gc.collect()
        lib.note(len(asyncio.all_tasks()))

    async def wait(future):
        await future

    lib.run(main)


@pytest.mark.kinds("asyncio", "aioxide")
def test_the_option(lib):
    lib.stock_defect(True, "asyncio has no such option")
    module = lib.module
    for options, expected in (({}, True), ({"hold_tasks": True}, True), ({"hold_tasks": 0}, False)):
        loop = module.Loop(**options)
        assert loop._hold_tasks is expected
        loop.close()
    with pytest.raises(TypeError):
        module.Loop(False)
    with pytest.raises(TypeError):
        module.Loop(other=1)


@pytest.mark.kinds("asyncio", "aioxide")
def test_a_held_task_survives_a_stopped_loop(lib):
    lib.stock_defect(True, "asyncio lets the collector take a waiting task")
    seen = []
    ref = lost_task(lib, seen)
    for _ in range(3):
        gc.collect()
        lib.turns()
    assert ref() is not None
    ref().cancel()
    lib.turns(2)


@pytest.mark.kinds("asyncio", "aioxide")
def test_a_lost_task_waiting_for_a_foreign_future_is_held(lib):
    lib.stock_defect(True, "asyncio lets the collector take a waiting task")
    seen = []

    async def body():
        try:
            await asyncio.Future()
        finally:
            seen.append("finally")

    async def gathers():
        await asyncio.gather(lib.loop.create_future(), lib.loop.create_future())

    async def stock(seen):
        await asyncio.shield(lib.loop.create_future())

    refs = [weakref.ref(lib.loop.create_task(c)) for c in (body(), gathers(), stock(seen))]
    lib.turns(3)
    gc.collect()
    assert all(r() is not None for r in refs)
    for ref in refs:
        ref().cancel()
    lib.turns(4)
    gc.collect()
    assert not any(r() for r in refs)
    assert seen == ["finally"]

"""call_later, call_at and TimerHandle."""

import asyncio
import contextvars
import gc
import math
import random
import threading
import weakref

import pytest


def callback(*args):
    """Have a name and a place that a repr can show."""


@pytest.mark.parametrize("delay", [0, 0.0, -1, 1e-12, 5, 1e6, True])
def test_call_later_gives_a_timer_handle(lib, delay):
    before = lib.loop.time()
    handle = lib.loop.call_later(delay, callback, 1, 2)
    after = lib.loop.time()
    assert isinstance(handle, asyncio.TimerHandle)
    assert isinstance(handle, asyncio.Handle)
    assert before + delay <= handle.when() <= after + delay
    lib.note(handle.cancelled(), handle._args, handle._scheduled, handle._loop is lib.loop)
    handle.cancel()
    lib.note(handle.cancelled(), handle._args, handle._callback)


@pytest.mark.parametrize("when", [0, -5, 12345.678, 10**9])
def test_call_at_keeps_its_deadline(lib, when):
    handle = lib.loop.call_at(when, callback)
    assert handle.when() == when
    assert handle._when == when
    lib.note(type(handle).__name__, handle.when(), hash(handle) == hash(when))
    handle.cancel()


def test_missing_and_bad_times(lib):
    for bad in (None, "soon", object()):
        with pytest.raises(TypeError):
            lib.loop.call_later(bad, callback)
    lib.catch(lib.loop.call_later, None, callback)
    lib.catch(lib.loop.call_at, None, callback)
    for call in (lib.loop.call_later, lib.loop.call_at):
        with pytest.raises(TypeError):
            call(1)
        with pytest.raises(TypeError):
            call(1, callback, other=2)


def test_infinite_deadline_waits_for_ever(lib):
    handle = lib.loop.call_later(math.inf, lib.note, "never")
    lib.note(handle.when())
    far = lib.loop.call_at(1e300, lib.note, "never")
    lib.loop.call_later(0.001, lib.note, "soon")
    lib.loop.call_later(0.002, lib.loop.stop)
    lib.loop.run_forever()
    handle.cancel()
    far.cancel()


def test_timers_fire_in_order_of_deadline(lib):
    loop, fired = lib.loop, []
    now = loop.time()
    delays = [n / 10_000 for n in range(40)]
    random.Random(7).shuffle(delays)
    for delay in delays:
        loop.call_at(now + delay, fired.append, delay)
    loop.call_at(now + 0.01, loop.stop)
    loop.run_forever()
    assert fired == sorted(delays)


def test_timers_never_fire_early(lib):
    loop = lib.loop
    early = []

    def check(handle_when):
        if loop.time() + 1e-6 < handle_when:
            early.append(handle_when - loop.time())

    base = loop.time()
    for n in range(30):
        loop.call_at(base + n * 0.0003, check, base + n * 0.0003)
    loop.call_at(base + 0.0095, loop.stop)
    loop.run_forever()
    assert early == []


def test_zero_delay_runs_after_what_is_ready(lib):
    order = []
    lib.loop.call_later(0, order.append, "later 0")
    lib.loop.call_soon(order.append, "soon 1")
    lib.loop.call_later(-1, order.append, "later -1")
    lib.loop.call_soon(order.append, "soon 2")
    lib.loop.call_later(0.001, lib.loop.stop)
    lib.loop.run_forever()
    lib.note(order)
    assert order == ["soon 1", "soon 2", "later -1", "later 0"]


def test_a_timer_set_by_a_timer_waits_for_the_next_turn(lib):
    order, loop = [], lib.loop

    def first():
        loop.call_at(loop.time() - 1, order.append, "second")
        loop.call_soon(order.append, "soon")
        order.append("first")

    loop.call_at(0, first)
    loop.call_at(1e-9, order.append, "neighbour")
    lib.turns(3)
    lib.note(order)


def test_cancelled_timers_do_not_fire(lib):
    loop = lib.loop
    handles = [loop.call_later(0.0001 * n, lib.note, n) for n in range(20)]
    for handle in handles[::2]:
        handle.cancel()
    loop.call_later(0.003, loop.stop)
    loop.run_forever()
    assert lib.trace == list(range(1, 20, 2))
    assert [h.cancelled() for h in handles] == [n % 2 == 0 for n in range(20)]


def test_cancel_of_a_due_timer_by_its_neighbour(lib):
    loop = lib.loop
    second = loop.call_at(2, lib.note, "never")
    loop.call_at(1, second.cancel)
    loop.call_at(3, lib.note, "third")
    lib.turns(2)
    assert lib.trace == ["third"]


def test_cancel_twice_after_and_while_firing(lib):
    handles = []
    handles.append(lib.loop.call_later(0, lambda: (handles[0].cancel(), lib.note("fired"))))
    lib.turns(2)
    lib.note(handles[0].cancelled(), handles[0]._scheduled)
    handles[0].cancel()
    other = lib.loop.call_later(10, callback)
    other.cancel()
    other.cancel()
    lib.turns()


def test_scheduled_flag(lib):
    handle = lib.loop.call_later(0, callback)
    lib.note(handle._scheduled)
    lib.turns(2)
    lib.note(handle._scheduled)


def test_many_cancelled_timers_are_let_go(lib):
    class Payload:
        pass

    loop = lib.loop
    refs = []
    for _ in range(500):
        payload = Payload()
        refs.append(weakref.ref(payload))
        loop.call_later(1000, callback, payload).cancel()
    del payload
    keep = loop.call_later(1000, callback)
    lib.turns(2)
    gc.collect()
    assert not any(ref() for ref in refs)
    keep.cancel()


def test_cancelled_timer_handles_are_let_go(lib):
    loop = lib.loop
    refs = [weakref.ref(loop.call_later(1000, callback)) for _ in range(300)]
    gc.collect()
    assert all(ref() is not None for ref in refs)
    for ref in refs:
        ref().cancel()
    lib.turns(2)
    gc.collect()
    assert not any(ref() for ref in refs)


class Last:
    """Goes with whoever holds it, and does something then."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


VARIABLE = contextvars.ContextVar("VARIABLE")


@pytest.mark.parametrize("name", ["call_soon", "call_later", "stop"])
def test_what_goes_with_a_cancelled_timer_may_schedule(lib, name):
    """A loop that is about to sleep hears of it."""
    loop = lib.loop

    def end(how):
        lib.note(how)
        loop.stop()

    acts = {
        "call_soon": lambda: loop.call_soon(end, name),
        "call_later": lambda: loop.call_later(0.001, end, name),
        "stop": lambda: end(name),
    }
    context = contextvars.copy_context()
    context.run(VARIABLE.set, Last(acts[name]))
    # asyncio lets go of the first one when it takes the second one out.
    timers = [
        loop.call_later(1000, callback, context=context),
        loop.call_later(2000, callback),
    ]
    del context

    def cancel():
        while timers:
            timers.pop().cancel()

    loop.call_soon(cancel)
    rescue = threading.Timer(10, loop.call_soon_threadsafe, (end, "woken by somebody else"))
    rescue.start()
    loop.run_forever()
    rescue.cancel()
    rescue.join()


def test_reprs(lib):
    handle = lib.loop.call_at(123.5, callback, 1, "x")
    lib.note(repr(handle))
    assert " when=123.5 " in repr(handle)
    handle.cancel()
    lib.note(repr(handle))


def test_comparisons(lib):
    early = lib.loop.call_at(10, callback)
    late = lib.loop.call_at(20, callback)
    same = lib.loop.call_at(10, callback)
    gone = lib.loop.call_at(10, callback)
    gone.cancel()
    stock = asyncio.TimerHandle(10, callback, (), lib.loop)
    handles = [early, late, same, gone, stock, lib.loop.call_soon(callback), object()]
    for one in handles[:5]:
        for other in handles:
            lib.note(one == other, one != other)
            for name in ("__lt__", "__le__", "__gt__", "__ge__"):
                lib.note(name, getattr(one, name)(other))
    lib.note(sorted([late, early])[0] is early, len({early, late}))
    assert early == same
    assert early != gone
    for handle in handles[:3]:
        handle.cancel()


def test_weak_reference(lib):
    handle = lib.loop.call_later(1000, callback)
    assert weakref.ref(handle)() is handle
    handle.cancel()


def test_when_after_cancel_and_after_close(lib):
    handle = lib.loop.call_at(1000, callback)
    other = lib.loop.call_at(2000, callback)
    handle.cancel()
    lib.loop.close()
    lib.note(handle.when(), other.when(), other.cancelled())
    other.cancel()
    lib.note(other.cancelled())


def test_exception_in_a_timer(lib):
    seen = lib.contexts()

    def fail():
        raise LookupError("late")

    handle = lib.loop.call_at(1, fail)
    lib.loop.call_at(2, lib.note, "goes on")
    lib.turns(2)
    lib.note([(c["message"], c["exception"], sorted(c)) for c in seen])
    assert seen[0]["handle"] is handle
    seen.clear()


def test_deadline_classes(lib):
    """Any number with an order will do, as it does for asyncio."""
    from fractions import Fraction

    class Whole(int):
        pass

    lib.loop.call_at(Whole(5), lib.note, "whole")
    lib.loop.call_at(6, lib.note, "int")
    lib.loop.call_at(Fraction(13, 2), lib.note, "fraction")
    lib.turns(2)
    assert lib.trace == ["whole", "int", "fraction"]


def test_sleep_keeps_time(lib):
    async def main():
        start = lib.loop.time()
        lib.note(await asyncio.sleep(0.002, "result"))
        assert lib.loop.time() - start >= 0.0019
        lib.note(await asyncio.sleep(0, "at once"), await asyncio.sleep(-1, "negative"))

    lib.loop.run_until_complete(main())


def test_cancelled_sleep_leaves_no_timer(lib):
    async def main():
        task = asyncio.ensure_future(asyncio.sleep(1000))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            lib.note("cancelled")

    lib.loop.run_until_complete(main())


def test_sleep_refuses_nan(lib):
    async def main():
        try:
            await asyncio.sleep(math.nan)
        except ValueError as exc:
            lib.note(exc)

    lib.stock_defect(not _sleep_checks_nan(), "this Python's sleep takes nan")
    if _sleep_checks_nan():
        lib.loop.run_until_complete(main())


def _sleep_checks_nan():
    import sys

    return sys.version_info >= (3, 13)

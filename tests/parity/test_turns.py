"""The order of callbacks in a turn: I/O, timers, the snapshot; what one may do to others."""

import socket
import sys

# 3.13.0 forgets the running loop when it refuses to run it a second time.
FORGETS_THE_LOOP = sys.version_info[:3] == (3, 13, 0)


def test_snapshot_of_a_turn(lib):
    loop, order = lib.loop, []

    def chain(depth):
        order.append(f"chain {depth}")
        if depth:
            loop.call_soon(chain, depth - 1)

    loop.call_soon(chain, 2)
    loop.call_soon(order.append, "one")
    loop.call_soon(loop.call_soon, order.append, "two")
    for turn in range(4):
        order.append(f"turn {turn}")
        lib.turns()
    lib.note(order)


def test_io_then_timers_then_what_they_schedule(lib):
    loop, order = lib.loop, []
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        deadline = loop.time() + 0.001

        def busy():
            while loop.time() <= deadline:
                pass

        def note(what):
            order.append(what)
            loop.call_soon(order.append, f"after {what}")

        loop.add_reader(left, lambda: (note("io"), loop.remove_reader(left)))
        loop.call_at(deadline, note, "timer")
        loop.call_at(deadline - 0.0005, note, "earlier timer")
        busy()
        loop.call_later(0.02, loop.stop)
        loop.run_forever()
    lib.note(order)
    assert order[:3] == ["io", "earlier timer", "timer"]


def test_due_timers_come_after_what_is_ready(lib):
    loop, order = lib.loop, []

    def first():
        loop.call_at(loop.time() - 1, order.append, "timer")
        loop.call_soon(order.append, "soon")

    loop.call_soon(first)
    lib.turns(3)
    lib.note(order)
    assert order == ["soon", "timer"]


def test_a_busy_ready_queue_does_not_starve_io(lib):
    loop = lib.loop
    left, right = socket.socketpair()
    turns = 0

    def spin():
        nonlocal turns
        turns += 1
        assert turns < 10_000
        loop.call_soon(spin)

    with left, right:
        right.send(b"x")
        loop.add_reader(left, loop.stop)
        loop.call_soon(spin)
        loop.run_forever()
        loop.remove_reader(left)
    # Stock asyncio polls at every turn; aioxide at least at every 64th.
    assert turns <= (2 if lib.kind == "asyncio" else 72)


def test_a_busy_ready_queue_does_not_starve_timers(lib):
    loop = lib.loop
    turns = 0
    due_turn = []

    def spin():
        nonlocal turns
        turns += 1
        if turns == 5:
            loop.call_at(loop.time() - 1, lambda: (due_turn.append(turns), loop.stop()))
        assert turns < 10_000
        loop.call_soon(spin)

    loop.call_soon(spin)
    loop.run_forever()
    lib.note(due_turn)


def test_reader_and_writer_of_one_descriptor(lib):
    loop, order = lib.loop, []
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        loop.add_writer(left, lambda: (order.append("writer"), loop.remove_writer(left)))
        loop.add_reader(left, lambda: (order.append("reader"), loop.remove_reader(left)))
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
    lib.note(order)


def test_cancelled_by_an_earlier_callback_of_the_turn(lib):
    loop = lib.loop
    handles = []
    loop.call_soon(lambda: handles[0].cancel())
    handles.append(loop.call_soon(lib.note, "never"))
    loop.call_soon(lib.note, "runs")
    lib.turns(2)
    assert lib.trace == ["runs"]


def test_callback_that_closes_is_told_no(lib):
    seen = lib.contexts()
    lib.loop.call_soon(lambda: lib.loop.close())
    lib.loop.call_soon(lib.note, "still runs")
    lib.turns()
    lib.note([(c["message"], c["exception"]) for c in seen])


def test_callback_that_reenters_is_told_no(lib):
    lib.stock_defect(FORGETS_THE_LOOP, "3.13.0 forgets the running loop")
    seen = lib.contexts()
    lib.loop.call_soon(lambda: lib.loop.run_forever())
    lib.loop.call_soon(lib.note, "still runs")
    lib.turns()
    lib.note([(c["message"], c["exception"]) for c in seen])


def test_recursion_in_a_callback(lib):
    seen = lib.contexts()

    def deep():
        deep()

    lib.loop.call_soon(deep)
    lib.loop.call_soon(lib.note, "still runs")
    lib.turns()
    lib.note([type(c["exception"]).__name__ for c in seen])

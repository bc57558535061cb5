"""add_reader and add_writer: whom they call, replacing, removing, and descriptors that are none."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from wire import IO_TURNS, io_turns, on_loop, until


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two connected non-blocking sockets."""
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    with one, two:
        yield one, two


@on_loop
async def test_reader(lib: Any) -> None:
    """Called with its arguments each turn while there is something to read, until removed."""
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    with pair() as (one, two):
        lib.note(loop.add_reader(one, lambda *a: calls.append(a), 1, "two"))
        await io_turns()
        lib.note(calls)
        two.send(b"x")
        await until(lambda: len(calls) >= 3)
        assert set(calls) == {(1, "two")}
        one.recv(10)
        await io_turns()
        count = len(calls)
        await io_turns()
        assert len(calls) == count
        lib.note(loop.remove_reader(one), loop.remove_reader(one))
        two.send(b"x")
        await io_turns()
        assert len(calls) == count


@on_loop
async def test_writer(lib: Any) -> None:
    """The same for writing."""
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    with pair() as (one, two):
        lib.note(loop.add_writer(one.fileno(), calls.append, "w"))
        await until(lambda: len(calls) >= 3)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.send(bytes(65536))
        await io_turns()
        count = len(calls)
        await io_turns()
        assert len(calls) == count
        with contextlib.suppress(BlockingIOError):
            while True:
                two.recv(65536)
        await until(lambda: len(calls) > count)
        lib.note(loop.remove_writer(one.fileno()), loop.remove_writer(one))


@on_loop
async def test_the_end_is_readable(lib: Any) -> None:
    """End of stream and hangup call the reader and, where there is one, the writer."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    with pair() as (one, two):
        loop.add_reader(one, calls.append, "r")
        loop.add_writer(one, calls.append, "w")
        two.close()
        await until(lambda: {"r", "w"} <= set(calls))
        lib.note(loop.remove_reader(one), loop.remove_writer(one))


@on_loop
async def test_reader_and_writer_are_apart(lib: Any) -> None:
    """Removing one leaves the other."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    with pair() as (one, two):
        two.send(b"x")
        loop.add_reader(one, calls.append, "r")
        loop.add_writer(one, calls.append, "w")
        await until(lambda: {"r", "w"} <= set(calls))
        lib.note(loop.remove_writer(one))
        calls.clear()
        await until(lambda: len(calls) >= 2)
        assert set(calls) == {"r"}
        loop.add_writer(one, calls.append, "w")
        lib.note(loop.remove_reader(one))
        calls.clear()
        await until(lambda: len(calls) >= 2)
        assert set(calls) == {"w"}
        lib.note(loop.remove_writer(one), loop.remove_writer(one), loop.remove_reader(one))


@on_loop
async def test_order_in_one_turn(lib: Any) -> None:
    """Of one descriptor the reader runs before the writer."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    with pair() as (one, two):
        two.send(b"x")
        loop.add_writer(one, calls.append, "w")
        loop.add_reader(one, calls.append, "r")
        await until(lambda: len(calls) >= 6)
        loop.remove_reader(one)
        loop.remove_writer(one)
        lib.note(calls[:6])


@on_loop
async def test_replacing(lib: Any) -> None:
    """A second reader takes the first one's place, also when the first one's call is due."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    with pair() as (one, two):
        two.send(b"x")
        loop.add_reader(one, calls.append, "first")
        loop.add_reader(one, calls.append, "second")
        await until(lambda: calls)
        assert set(calls) == {"second"}
        handle = loop._add_reader(one, calls.append, "third")
        lib.note(type(handle).__name__, handle.cancelled())
        calls.clear()
        await until(lambda: calls)
        lib.note(set(calls), loop.remove_reader(one), handle.cancelled())


@on_loop
async def test_removed_by_another_of_the_same_turn(lib: Any) -> None:
    """Of two that are ready together the first removes the second: it is not called."""
    loop = asyncio.get_running_loop()
    calls: list[int] = []
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(pair()) for _ in range(2)]

        def first_comes(number: int) -> None:
            calls.append(number)
            for one, _ in pairs:
                loop.remove_reader(one)

        for number, (one, two) in enumerate(pairs):
            two.send(b"x")
            loop.add_reader(one, first_comes, number)
        await until(lambda: calls)
        await io_turns()
        lib.note(len(calls))
        assert len(calls) == 1


@on_loop
async def test_removing_itself(lib: Any) -> None:
    """A callback may remove, replace and add during its own call."""
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    with pair() as (one, two):
        two.send(b"x")

        def first() -> None:
            calls.append(loop.remove_reader(one))
            loop.add_reader(one, second)

        def second() -> None:
            calls.append("second")
            loop.add_reader(one, third)

        def third() -> None:
            calls.append(loop.remove_reader(one))

        loop.add_reader(one, first)
        await until(lambda: len(calls) == 3)
        lib.note(calls)


@pytest.mark.parametrize("bad", [-1, "5", None, 5.5, object, []], ids=repr)
@on_loop
async def test_no_descriptor(lib: Any, bad: Any) -> None:
    """Things that are no descriptors are ValueErrors."""
    loop = asyncio.get_running_loop()
    for name, arguments in (
        ("add_reader", (print,)),
        ("add_writer", (print,)),
        ("remove_reader", ()),
        ("remove_writer", ()),
    ):
        try:
            result = getattr(loop, name)(bad, *arguments)
        except Exception as exc:
            lib.note(name, type(exc), str(exc))
        else:
            lib.note(name, result)


@on_loop
async def test_descriptors_that_are_closed(lib: Any) -> None:
    """A number that nobody has is an OSError when added, and nothing when removed."""
    loop = asyncio.get_running_loop()
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    for add in (loop.add_reader, loop.add_writer):
        with pytest.raises(OSError) as caught:
            add(free, print)
        lib.note(caught.value)
    lib.note(loop.remove_reader(free), loop.remove_writer(free))
    sock = socket.socket()
    sock.close()
    for call in (loop.add_reader, loop.add_writer):
        with pytest.raises(ValueError) as closed:
            call(sock, print)
        lib.note(type(closed.value))


@on_loop
async def test_regular_files(lib: Any) -> None:
    """What cannot be polled is refused by the kernel: PermissionError."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(PermissionError) as caught:
                add(file, print)
            lib.note(caught.value)
        lib.note(loop.remove_reader(file))


@on_loop
async def test_objects_with_fileno(lib: Any) -> None:
    """Whatever has a fileno() will do, and is the same as its number."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []

    class Wrapped:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def fileno(self) -> int:
            return self.fd

    read, write = os.pipe()
    try:
        loop.add_reader(Wrapped(read), calls.append, "r")
        os.write(write, b"x")
        await until(lambda: calls)
        loop.add_reader(read, calls.append, "by number")
        lib.note(loop.remove_reader(Wrapped(read)))
        loop.add_writer(Wrapped(write), calls.append, "w")
        await until(lambda: "w" in calls)
        lib.note(loop.remove_writer(write))
    finally:
        os.close(read)
        os.close(write)


@on_loop
async def test_a_number_that_is_used_again(lib: Any) -> None:
    """A watched descriptor is closed unremoved; whoever gets its number is served."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    read, write = os.pipe()
    loop.add_reader(read, calls.append, "old")
    os.write(write, b"x")
    await until(lambda: calls)
    os.close(read)
    os.close(write)
    await io_turns()
    calls.clear()
    again, other = os.pipe()
    assert again == read
    loop.remove_reader(again)
    loop.add_reader(again, calls.append, "new")
    await io_turns()
    assert calls == []
    os.write(other, b"x")
    await until(lambda: calls)
    lib.note(set(calls), loop.remove_reader(again))
    os.close(again)
    os.close(other)


@on_loop
async def test_a_copy_keeps_the_old_one_ready(lib: Any) -> None:
    """A watched descriptor is closed while a copy of it lives: no stale call, no spinning loop."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    one, two = socket.socketpair()
    copy = one.dup()
    fd = one.fileno()
    loop.add_reader(fd, calls.append, "old")
    loop.remove_reader(fd)
    one.close()
    two.send(b"x")
    await io_turns()
    assert calls == []
    loop.add_reader(copy, calls.append, "copy")
    await until(lambda: calls)
    lib.note(set(calls), loop.remove_reader(copy))
    copy.close()
    two.close()


@on_loop
async def test_context(lib: Any) -> None:
    """The callback runs in the context in which it was added; its changes stay there."""
    loop = asyncio.get_running_loop()
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)
    seen: list[int] = []

    def read() -> None:
        seen.append(var.get())
        var.set(var.get() + 1)

    with pair() as (one, two):
        var.set(10)
        loop.add_reader(one, read)
        var.set(20)
        two.send(b"x")
        await until(lambda: len(seen) >= 3)
        loop.remove_reader(one)
        lib.note(seen[:3], var.get())


@on_loop
async def test_a_callback_that_raises(lib: Any) -> None:
    """The error goes to the exception handler, and the descriptor stays watched."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    with pair() as (one, two):
        two.send(b"x")
        loop.add_reader(one, lambda: 1 // 0)
        await until(lambda: len(contexts) >= 3)
        lib.note(loop.remove_reader(one), sorted(contexts[0]), type(contexts[0]["exception"]))
        assert contexts[0]["message"].startswith("Exception in callback ")
        assert isinstance(contexts[0]["handle"], asyncio.Handle)


def test_when_the_loop_is_closed(lib: Any) -> None:
    """Adding to a closed loop raises; removing gives False."""
    loop = lib.new_loop()
    with pair() as (one, _):
        loop.add_reader(one, print)
        loop.close()
        lib.catch(loop.add_reader, one, print)
        lib.catch(loop.add_writer, one, print)
        lib.catch(loop.remove_reader, one)
        lib.catch(loop.remove_writer, one)


def test_while_not_running(lib: Any) -> None:
    """A descriptor added before the loop runs is served when it does; it outlives a run."""
    loop = lib.loop
    calls: list[str] = []
    with pair() as (one, two):
        loop.add_reader(one, calls.append, "r")
        two.send(b"x")
        lib.turns(IO_TURNS)
        lib.note(bool(calls))
        one.recv(5)
        lib.turns(IO_TURNS)
        calls.clear()
        two.send(b"x")
        lib.turns(IO_TURNS)
        lib.note(bool(calls), loop.remove_reader(one))


@on_loop
async def test_many_at_once(lib: Any) -> None:
    """Hundreds of descriptors that are ready in the same turn are all served."""
    loop = asyncio.get_running_loop()
    called: set[int] = set()
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(pair()) for _ in range(400)]
        for number, (one, two) in enumerate(pairs):
            two.send(b"x")
            loop.add_reader(one, called.add, number)
        await until(lambda: len(called) == len(pairs))
        for one, _ in pairs:
            assert loop.remove_reader(one)
        lib.note(len(called))


@on_loop
async def test_the_same_kernel_file_twice(lib: Any) -> None:
    """Two descriptors of one pipe end are two registrations."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    read, write = os.pipe()
    copy = os.dup(read)
    loop.add_reader(read, calls.append, "a")
    loop.add_reader(copy, calls.append, "b")
    os.write(write, b"x")
    await until(lambda: {"a", "b"} <= set(calls))
    lib.note(loop.remove_reader(read))
    calls.clear()
    await until(lambda: len(calls) >= 2)
    assert set(calls) == {"b"}
    lib.note(loop.remove_reader(copy))
    for fd in (read, write, copy):
        os.close(fd)

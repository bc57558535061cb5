"""Lookups and threads: literals need none, and names never get all of the default executor's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from wire import io_turns, needs_ipv6, on_loop, turns

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]


class Counting(ThreadPoolExecutor):
    """An executor that remembers what it was asked to do."""

    def __init__(self, workers: int = 4) -> None:
        super().__init__(workers, thread_name_prefix="counting")
        self.asked: list[Any] = []

    def submit(self, call: Any, /, *args: Any, **options: Any) -> Any:
        """Remember and do."""
        self.asked.append((call, args))
        return super().submit(call, *args, **options)


@pytest.fixture
def executor() -> Iterator[Counting]:
    """Give an executor of four threads."""
    with Counting() as executor:
        yield executor


class Resolver:
    """Stands in for `socket.getaddrinfo`: names wait until they are let go."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.begun: list[str] = []
        self._told = told
        self._lock = threading.Lock()

    def __call__(self, host: str, *args: Any) -> Any:
        """Wait in this thread."""
        with self._lock:
            self.begun.append(host)
            gate = self.gates.setdefault(host, threading.Event())
        self._told()
        assert gate.wait(20)
        return ANSWER

    def let(self, host: str) -> None:
        """Let a lookup end."""
        with self._lock:
            self.gates.setdefault(host, threading.Event()).set()


class Names:
    """Lookups of names under a resolver, on the running loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.resolver = Resolver(lambda: self.loop.call_soon_threadsafe(self._news.set))
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        monkeypatch.setattr(socket, "getaddrinfo", self.resolver)

    def ask(self, names: str) -> None:
        """Begin to look names up."""
        for name in names:
            self.tasks[name] = asyncio.ensure_future(self.loop.getaddrinfo(name, 80))

    async def begun(self, count: int) -> str:
        """Wait until so many lookups have a thread; give their names in order."""
        while len(self.resolver.begun) < count:
            self._news.clear()
            await self._news.wait()
        await io_turns()
        return "".join(self.resolver.begun)

    async def cancel(self, names: str) -> None:
        """Cancel lookups, one after the other."""
        for name in names:
            self.tasks[name].cancel()
            with pytest.raises(asyncio.CancelledError):
                await self.tasks[name]

    async def finish(self) -> None:
        """Let everything end."""
        for name in self.tasks:
            self.resolver.let(name)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def hanging(monkeypatch: pytest.MonkeyPatch, executor: Counting, names: str) -> Names:
    """Look names up that hang, with an executor of four threads: three of them are at it."""
    asked = Names(monkeypatch)
    asked.loop.set_default_executor(executor)
    asked.ask(names)
    await asked.begun(3)
    return asked


@needs_ipv6
@on_loop
async def test_literals_need_no_thread(lib: Any, executor: Counting) -> None:
    """Neither getaddrinfo nor anything that resolves an address submits a job for a literal."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    threads = threading.active_count()
    udp = asyncio.DatagramProtocol
    for host in ("127.0.0.1", "::1", b"127.0.0.1", "127.1", "fe80::1%lo", "fe80::1%1", None):
        lib.note(await loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM))
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    lib.note(await loop.getnameinfo(("127.0.0.1", 80), numeric))
    for host in ("127.0.0.1", "::1", None, ["127.0.0.1", "::1"], ""):
        server = await loop.create_server(asyncio.Protocol, host, 0)
        port = server.sockets[0].getsockname()[1]
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family not in {sock.family for sock in server.sockets}:
                continue
            if [sock.family for sock in server.sockets].index(family) > 0:
                continue  # has a port of its own
            transport, _ = await loop.create_connection(asyncio.Protocol, address, port)
            transport.abort()
            with socket.socket(family) as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, (address, port))
        server.close()
        await io_turns()
    for options in (
        {"local_addr": ("127.0.0.1", 0)},
        {"remote_addr": ("127.0.0.1", 9)},
        {"local_addr": ("::1", 0), "remote_addr": ("::1", 9)},
    ):
        transport, _ = await loop.create_datagram_endpoint(udp, **options)
        transport.close()
    await turns(5)
    if lib.native_loop:
        assert executor.asked == []
        assert threading.active_count() == threads


@on_loop
async def test_zones_are_kept(lib: Any, executor: Counting) -> None:
    """An IPv6 zone in an address arrives at the socket as its number, without a thread."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    number = socket.if_nametoindex("lo")
    connected: list[Any] = []

    class Sock(socket.socket):
        """Remembers where it was to connect to."""

        def connect(self, address: Any) -> None:
            """Remember only."""
            connected.append(address)

    with Sock(socket.AF_INET6) as sock:
        sock.setblocking(False)
        for address in (
            ("fe80::1%lo", 80),
            (f"fe80::1%{number}", 80),
            ("fe80::1", 80, 0, number),
            ("fe80::1", 80, 7, number),
        ):
            await loop.sock_connect(sock, address)
    lib.note(connected)
    assert [address[3] for address in connected] == [number] * 4
    if lib.native_loop:
        assert executor.asked == []


@on_loop
async def test_names_need_a_thread(lib: Any, executor: Counting) -> None:
    """Names and services are looked up in the default executor, by socket's own functions."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    await loop.getaddrinfo("localhost", 80)
    await loop.getaddrinfo("127.0.0.1", "http")
    with contextlib.suppress(OSError):
        await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
    lib.note([(call.__name__, args) for call, args in executor.asked])


@on_loop
async def test_replaced_lookups_are_asked_in_a_thread(
    lib: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever replaces `socket.getaddrinfo` may do so with something slow: literals too."""
    seen: list[Any] = []

    def mine(*args: Any) -> Any:
        seen.append((args, threading.current_thread() is threading.main_thread()))
        return ANSWER

    def names(*args: Any) -> Any:
        seen.append((args, threading.current_thread() is threading.main_thread()))
        return ("name", "service")

    monkeypatch.setattr(socket, "getaddrinfo", mine)
    monkeypatch.setattr(socket, "getnameinfo", names)
    loop = asyncio.get_running_loop()
    lib.note(await loop.getaddrinfo("127.0.0.1", 80))
    lib.note(await loop.getnameinfo(("127.0.0.1", 80), 3))
    lib.note(seen)


def test_overridden_run_in_executor(lib: Any) -> None:
    """A loop with a `run_in_executor` of its own sees each lookup, with asyncio's arguments."""
    seen: list[Any] = []

    class Own(lib.loop_type):  # type: ignore[misc, name-defined]
        """Sees what is run."""

        def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
            """Remember and do."""
            seen.append((executor, getattr(func, "__name__", func), args))
            return super().run_in_executor(executor, func, *args)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        await loop.getnameinfo(("127.0.0.1", 80), 3)
        await loop.getaddrinfo("localhost", 80)

    def spy(executor: Any, func: Any, *args: Any) -> Any:
        seen.append(("spied", func.__name__, args))
        return type(plain).run_in_executor(plain, executor, func, *args)

    own, plain = Own(), lib.new_loop()
    plain.run_in_executor = spy
    lib.loops.append(own)
    for loop in (own, plain):
        loop.run_until_complete(main())
    lib.note(seen)


@on_loop
async def test_lookups_leave_threads_to_others(
    lib: Any, monkeypatch: pytest.MonkeyPatch, executor: Counting
) -> None:
    """However many names hang, other jobs of the default executor are done."""
    if not lib.native_loop:
        return  # waits for the names
    names = Names(monkeypatch)
    names.loop.set_default_executor(executor)
    names.ask("abcdefgh")
    assert sorted(await names.begun(3)) == ["a", "b", "c"]
    assert await asyncio.to_thread(lambda: "done") == "done"
    names.resolver.let("b")
    assert await names.tasks["b"] == ANSWER
    assert (await names.begun(4))[3:] == "d"
    names.resolver.let("a")
    names.resolver.let("c")
    assert sorted((await names.begun(6))[4:]) == ["e", "f"]
    await names.finish()
    assert sorted(names.resolver.begun) == list("abcdefgh")
    assert [args[0] for call, args in executor.asked if call is names.resolver] == list("abcdefgh")


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 1), (3, 2), (6, 4), (9, 6)])
@on_loop
async def test_the_bound(
    lib: Any, monkeypatch: pytest.MonkeyPatch, workers: int, most: int
) -> None:
    """Three quarters of the threads, at least one."""
    if not lib.native_loop:
        return  # has no bound
    names = Names(monkeypatch)
    with Counting(workers) as executor:
        names.loop.set_default_executor(executor)
        names.ask("abcdefghijkl")
        assert len(await names.begun(most)) == most
        await names.finish()


@on_loop
async def test_cancelled_in_the_queue(
    lib: Any, monkeypatch: pytest.MonkeyPatch, executor: Counting
) -> None:
    """A lookup that is cancelled before it has a thread is never asked; the others move up."""
    if not lib.native_loop:
        return  # has no queue
    names = await hanging(monkeypatch, executor, "abcdefg")
    await names.cancel("df")
    names.resolver.let("a")
    assert (await names.begun(4))[3:] == "e"
    names.resolver.let("b")
    assert (await names.begun(5))[4:] == "g"
    await names.finish()
    assert sorted(names.resolver.begun) == list("abceg")


@on_loop
async def test_cancelled_with_a_thread(
    lib: Any, monkeypatch: pytest.MonkeyPatch, executor: Counting
) -> None:
    """A lookup that is cancelled keeps its place while its thread is at it."""
    if not lib.native_loop:
        return  # has no places
    names = await hanging(monkeypatch, executor, "abcde")
    await names.cancel("abc")
    assert sorted(await names.begun(3)) == ["a", "b", "c"]
    names.resolver.let("b")
    assert (await names.begun(4))[3:] == "d"
    await names.finish()
    assert sorted(names.resolver.begun) == list("abcde")


@on_loop
async def test_cancelled_when_its_turn_has_come(
    lib: Any, monkeypatch: pytest.MonkeyPatch, executor: Counting
) -> None:
    """A turn that is not taken goes to the next in the queue."""
    if not lib.native_loop:
        return  # has no queue
    names = await hanging(monkeypatch, executor, "abcdef")
    end: Any = names.loop._end_lookup  # type: ignore[attr-defined]

    def end_and_cancel() -> None:
        del names.loop._end_lookup  # type: ignore[attr-defined]
        end()
        names.tasks["d"].cancel()

    names.loop._end_lookup = end_and_cancel  # type: ignore[attr-defined]
    names.resolver.let("a")
    with pytest.raises(asyncio.CancelledError):
        await names.tasks["d"]
    assert (await names.begun(4))[3:] == "e"
    await names.finish()
    assert sorted(names.resolver.begun) == list("abcef")


@on_loop
async def test_a_larger_executor_meanwhile(
    lib: Any, monkeypatch: pytest.MonkeyPatch, executor: Counting
) -> None:
    """With more threads the bound rises for those that wait; the order stays."""
    if not lib.native_loop:
        return  # has no bound
    names = Names(monkeypatch)
    with Counting(1) as small:
        names.loop.set_default_executor(small)
        names.ask("abc")
        assert await names.begun(1) == "a"
        names.loop.set_default_executor(executor)
        names.ask("de")
        begun = await names.begun(3)
        assert (begun[0], sorted(begun[1:])) == ("a", ["b", "c"])
        await names.finish()
    assert [args[0] for _, args in executor.asked] == list("bcde")


@on_loop
async def test_a_shut_executor(
    lib: Any, monkeypatch: pytest.MonkeyPatch, executor: Counting
) -> None:
    """Lookups that wait when the default executor is shut down are refused in its words."""
    if not lib.native_loop:
        return  # has no queue
    names = await hanging(monkeypatch, executor, "abcde")
    shutting = asyncio.ensure_future(names.loop.shutdown_default_executor())
    await turns(3)
    for name in "abc":
        names.resolver.let(name)
    for name in "de":
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            await names.tasks[name]
    await shutting
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        await names.loop.getaddrinfo("f", 80)
    await names.finish()


def test_a_closed_loop(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that comes back after the loop was closed harms nobody."""
    loop = lib.new_loop()
    gate, begun = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        begun.set()
        gate.wait(20)
        return ANSWER

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with Counting() as executor:
        loop.set_default_executor(executor)

        async def wait() -> None:
            task = asyncio.ensure_future(loop.getaddrinfo("slow", 80))
            await asyncio.to_thread(begun.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        loop.run_until_complete(wait())
        loop.close()
        gate.set()

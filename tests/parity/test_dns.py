"""getaddrinfo and getnameinfo: results, errors, and the executor they run in."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
from wire import on_loop, turns

QUESTIONS = [
    (("127.0.0.1", 80), {}),
    (("127.0.0.1", "80"), {}),
    (("::1", 80), {}),
    (("localhost", 80), {}),
    (("localhost", None), {"family": socket.AF_INET}),
    ((None, 80), {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}),
    ((None, 80), {"type": socket.SOCK_STREAM}),
    ((b"127.0.0.1", b"80"), {"type": socket.SOCK_STREAM}),
    (("127.0.0.1", 80), {"type": socket.SOCK_DGRAM}),
    (("127.0.0.1", 80), {"proto": socket.IPPROTO_UDP}),
    (("127.0.0.1", 80), {"family": socket.AF_INET6}),
    (("127.0.0.1", 80), {"type": 99}),
    (("fe80::1%lo", 80), {"type": socket.SOCK_STREAM}),
    (("::ffff:127.0.0.1", 80), {"type": socket.SOCK_STREAM}),
    (("not a number", 80), {"flags": socket.AI_NUMERICHOST}),
    (("127.0.0.1", "http"), {"flags": socket.AI_NUMERICSERV}),
    (("127.1", 80), {"type": socket.SOCK_STREAM}),
    (("127.0.0.1", 70000), {"type": socket.SOCK_STREAM}),
    ((5, 80), {}),
    (("127.0.0.1", 5.5), {}),
    (("x" * 300, 80), {"flags": socket.AI_NUMERICHOST}),
    (("nul\0byte", 80), {"flags": socket.AI_NUMERICHOST}),
    (("", 80), {"flags": socket.AI_NUMERICHOST}),
    ((None, None), {}),
    (("127.0.0.1", 80), {"flags": socket.AI_CANONNAME, "type": socket.SOCK_STREAM}),
]


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
@on_loop
async def test_getaddrinfo(lib: Any, number: int) -> None:
    """The same answer as socket.getaddrinfo(), the same errors."""
    args, options = QUESTIONS[number]
    try:
        answer = await asyncio.get_running_loop().getaddrinfo(*args, **options)
    except Exception as exc:
        lib.note(type(exc), str(exc))
        with pytest.raises(type(exc)):
            socket.getaddrinfo(*args, **options)
    else:
        lib.note(answer)
        assert answer == socket.getaddrinfo(*args, **options)
        assert type(answer[0][0]) is socket.AddressFamily


@on_loop
async def test_getnameinfo(lib: Any) -> None:
    """Numbers to names and back, and errors."""
    loop = asyncio.get_running_loop()
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    for address, flags in (
        (("127.0.0.1", 80), numeric),
        (("::1", 80, 0, 0), numeric),
        (("127.0.0.1", 80, 0), numeric),
        (("127.0.0.1",), numeric),
        ("127.0.0.1", numeric),
        (("not a number", 80), numeric),
        (("127.0.0.1", 80), "flags"),
        (5, 0),
    ):
        try:
            lib.note(await loop.getnameinfo(address, flags))
        except Exception as exc:
            lib.note(address, type(exc), str(exc))
    lib.note(await loop.getnameinfo(sockaddr=("127.0.0.1", 80), flags=numeric))


@on_loop
async def test_it_does_not_block_the_loop(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that takes long is looked up by a thread, while the loop goes on."""
    gate = threading.Event()
    threads: list[str] = []

    def slow(*args: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        gate.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(loop.getaddrinfo("a.slow.name", 80))
    await turns(50)
    lib.note(task.done())
    gate.set()
    lib.note(await task, threads)
    assert threads[0] != threading.main_thread().name


@on_loop
async def test_an_executor_of_the_user(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """set_default_executor() is what lookups use."""
    from concurrent.futures import ThreadPoolExecutor

    loop = asyncio.get_running_loop()
    seen: list[str] = []
    real = socket.getaddrinfo

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(threading.current_thread().name)
        return real(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", spy)
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        loop.set_default_executor(executor)
        await loop.getaddrinfo("localhost", 80)
    lib.note(seen)


@on_loop
async def test_cancelled(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup that is cancelled ends at once; the thread's late answer is dropped quietly."""
    gate = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **o: gate.wait(20))
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(loop.getaddrinfo("a.slow.name", 80))
    await turns(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    lib.note(task.cancelled())


@on_loop
async def test_debug_mode(lib: Any) -> None:
    """Debug mode logs and answers the same."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    lib.note(await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM))
    lib.note(lib.logged())

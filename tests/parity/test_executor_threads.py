"""Threads of a loop's executor: exit, signals, tools, growth; what arrives while a loop waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import signal
import socket
import sys
import threading
import time
import weakref
from typing import Any

import pytest
from pools import all_at_once, busy_pool, first_executor

IDLE_COUNT = "3.11 counts a thread as idle after each job, also when it has the next"


def test_threads_end_with_the_program(lib: Any) -> None:
    """At exit the executor's threads are waited for, idle or busy."""
    done = lib.program(
        """
import asyncio, threading, time
async def main():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)
    loop.run_in_executor(None, lambda: (time.sleep(0.2), print("ran to its end")))
loop = LIB.new_event_loop()
loop.run_until_complete(main())
print("main is over", flush=True)
"""
    )
    lib.note(done.returncode, done.stdout, done.stderr)


def test_a_job_is_refused_at_exit(lib: Any) -> None:
    """Daemon threads whose loops go on while the interpreter ends: no hang, no lost job."""
    done = lib.program(
        """
import asyncio, threading, time
def go_on():
    async def main():
        loop = asyncio.get_running_loop()
        while True:
            try:
                await asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(3)))
            except RuntimeError:
                await asyncio.sleep(0.001)
    loop = LIB.new_event_loop()
    loop.run_until_complete(main())
for _ in range(3):
    threading.Thread(target=go_on, daemon=True).start()
time.sleep(0.05)
print("main is over", flush=True)
"""
    )
    lib.note(done.returncode, done.stdout)


def test_a_waiting_thread_keeps_no_loop_alive(lib: Any) -> None:
    """What a thread did last, and for whom, is forgotten while it waits for more."""

    class Own(lib.loop_type):  # type: ignore[misc, name-defined]
        pass

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(None, str, n) for n in range(3)]

    loop = Own()
    seen = weakref.ref(loop)
    lib.note(loop.run_until_complete(main()))
    executor = loop._default_executor
    loop._default_executor = None
    loop.close()
    del loop
    # The thread may still be on its way from the last job to its wait.
    deadline = time.monotonic() + 10
    while seen() is not None and time.monotonic() < deadline:
        gc.collect()
    lib.note(seen() is None, all(thread.is_alive() for thread in executor._threads))
    executor.shutdown()


def test_a_thread_that_cannot_start(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call fails and its job waits for the next thread; later ones get all threads."""
    lib.stock_defect(sys.version_info < (3, 12), IDLE_COUNT)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        loop = lib.loop
        await first_executor(lib)
        executor = type(loop._default_executor)(max_workers=3)
        loop.set_default_executor(executor)
        ran: list[int] = []
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for number in range(4):
            with pytest.raises(RuntimeError) as caught:
                loop.run_in_executor(None, ran.append, number)
            lib.note(caught.value)
        monkeypatch.undo()
        lib.note(len(executor._threads), executor._work_queue.qsize())
        await loop.run_in_executor(None, ran.append, 4)
        lib.note(sorted(ran))
        await all_at_once(loop, executor, 3)
        lib.note(len(executor._threads))
        executor.shutdown()

    lib.run(main)


def test_jobs_that_wait_for_each_other(lib: Any) -> None:
    """Idle threads, new threads and others' work: each job gets a thread while there are some."""
    lib.stock_defect(sys.version_info < (3, 12), IDLE_COUNT)

    async def main() -> None:
        loop = lib.loop
        await first_executor(lib)
        executor = type(loop._default_executor)(max_workers=6)
        loop.set_default_executor(executor)
        for count in (1, 3, 2, 5, 6, 6):
            for number in range(5):
                lib.note(await loop.run_in_executor(None, str, number))
                lib.note(await asyncio.wrap_future(executor.submit(str, number)))
            await all_at_once(loop, executor, count)
        lib.note(len(executor._threads))
        executor.shutdown()

    lib.run(main)


def test_what_tools_look_at(lib: Any) -> None:
    async def main() -> None:
        executor, release, held = await busy_pool(lib, 2)
        pending = [lib.loop.run_in_executor(None, int) for _ in range(3)]
        lib.note(isinstance(executor, concurrent.futures.ThreadPoolExecutor))
        lib.note(executor._max_workers, executor._work_queue.qsize(), executor._work_queue.empty())
        lib.note(sorted(thread.name for thread in executor._threads))
        lib.note(executor._threads <= set(threading.enumerate()))
        lib.note([thread.daemon for thread in executor._threads])
        lib.note(isinstance(executor._idle_semaphore, threading.Semaphore))
        lib.note(executor._idle_semaphore._value, executor._shutdown)
        release.set()
        await asyncio.gather(*held, *pending)
        lib.note(executor._work_queue.qsize(), executor._work_queue.empty())
        executor.shutdown()
        lib.note(executor._shutdown, [thread.is_alive() for thread in executor._threads])

    lib.run(main)


def test_an_executor_with_an_initializer(lib: Any) -> None:
    async def main() -> None:
        await first_executor(lib)
        local = threading.local()
        executor = type(lib.loop._default_executor)(
            max_workers=1, initializer=setattr, initargs=(local, "name", "set")
        )
        lib.loop.set_default_executor(executor)
        lib.note(await lib.loop.run_in_executor(None, lambda: local.name))
        lib.note(await lib.loop.run_in_executor(executor, lambda: local.name))
        lib.note(len(executor._threads))
        executor.shutdown()

    lib.run(main)


def test_signals_while_jobs_run(lib: Any) -> None:
    """Each is handled, whether the loop runs, looks out for an outcome or sleeps."""

    async def main() -> None:
        loop = lib.loop
        handled = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, handled.set)
        for _ in range(100):
            await loop.run_in_executor(None, os.kill, os.getpid(), signal.SIGUSR1)
            await handled.wait()
            handled.clear()
        loop.remove_signal_handler(signal.SIGUSR1)

    lib.run(main)


def test_jobs_keep_neither_sockets_nor_timers_waiting(lib: Any) -> None:
    """Outcomes arrive all the time; a reader and a timer are called nevertheless."""

    async def main() -> None:
        loop = lib.loop
        near, far = socket.socketpair()
        called: set[str] = set()
        loop.add_reader(near, called.add, "reader")
        loop.call_later(0.001, called.add, "timer")
        far.send(b"x")
        for _ in range(100_000):
            await loop.run_in_executor(None, int)
            if len(called) == 2:
                break
        lib.note(called)
        loop.remove_reader(near)
        near.close()
        far.close()

    lib.run(main)


def test_a_job_while_the_loop_blocks(lib: Any) -> None:
    """It begins at once, not when the loop has nothing else to do."""

    async def main() -> None:
        for _ in range(20):
            began = threading.Event()
            future = lib.loop.run_in_executor(None, began.set)
            lib.note(began.wait(30))
            await future

    lib.run(main)


def test_outcomes_of_a_loop_that_stopped_wait_for_it(lib: Any) -> None:
    loop = lib.loop
    futures = [loop.run_in_executor(None, str, n) for n in range(50)]
    loop._default_executor.shutdown()
    lib.note([future.done() for future in futures] == [False] * 50)
    lib.note(loop.run_until_complete(asyncio.gather(*futures)) == [str(n) for n in range(50)])


def test_nothing_is_lost_when_all_come_at_once(lib: Any) -> None:
    """Jobs, calls and coroutines from many threads, into a loop that sleeps in between."""
    threads, each = 4, 300
    arrived: list[tuple[int, int]] = []

    async def answer(number: int) -> int:
        return number

    async def main() -> None:
        loop = lib.loop
        done = loop.create_future()

        def arrive(thread: int, number: int) -> None:
            arrived.append((thread, number))
            if len(arrived) == threads * each:
                done.set_result(None)

        def send(thread: int) -> bool:
            asked = []
            for number in range(each):
                loop.call_soon_threadsafe(arrive, thread, number)
                if number % 10 == 0:
                    asked.append(asyncio.run_coroutine_threadsafe(answer(number), loop))
            return [future.result(30) for future in asked] == list(range(0, each, 10))

        senders = [loop.run_in_executor(None, send, thread) for thread in range(threads)]
        for _ in range(100):
            await loop.run_in_executor(None, int)
        lib.note(await asyncio.gather(*senders))
        await done
        for thread in range(threads):
            lib.note([number for sent, number in arrived if sent == thread] == [*range(each)])

    lib.run(main)

"""Ctrl-C: it arrives, each time, and nothing hangs afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from . import FIXED, Has, lesson

NewLoop = Callable[[], asyncio.AbstractEventLoop]


def press_after(seconds: float) -> threading.Thread:
    """Send this process a SIGINT from a thread, a moment later."""

    def press() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


@lesson(
    "uvloop#295",
    uvloop=FIXED,
)
def interrupts_an_idle_loop(new_event_loop: NewLoop) -> None:
    """Ctrl-C is ignored while a server waits in `run_forever`."""
    loop = new_event_loop()
    server = loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
    for _ in range(3):
        press_after(0.1)
        guard = threading.Timer(5, loop.call_soon_threadsafe, (loop.stop,))
        guard.start()
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            guard.cancel()
        else:
            raise AssertionError("Ctrl-C was ignored")
    server.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@lesson(
    "uvloop#335",
    uvloop=FIXED,
    zuvloop=Has("hung"),
)
def ends_after_an_interrupt(new_event_loop: NewLoop) -> None:
    """After Ctrl-C the program hangs while it cleans up."""
    loop = new_event_loop()
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("task")

    task = loop.create_task(work())
    press_after(0.1)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert cleaned == ["task"]


@lesson(
    "rsloop#37",
    rsloop=FIXED,
    zuvloop=Has("hung"),
)
def each_interrupt_counts(new_event_loop: NewLoop) -> None:
    """Ctrl-C is lost now and then while the loop is at work."""

    async def busy() -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)
            await loop.run_in_executor(None, time.sleep, 0)

    async def idle() -> None:
        await asyncio.sleep(5)
        raise AssertionError("Ctrl-C was lost")

    for number in range(12):
        press_after(0.03 + number / 500)
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(busy() if number % 2 else idle())
        except KeyboardInterrupt:
            continue
        raise AssertionError("no KeyboardInterrupt")


@lesson(
    "rsloop#37",
    rloop=Has("_is_main_thread"),
    rsloop=Has("KeyboardInterrupt"),
)
async def signal_handlers_get_every_kind() -> None:
    """Handlers added with `add_signal_handler` are not called while the loop sleeps."""
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[Any] = asyncio.Queue()
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    for number in wanted:
        loop.add_signal_handler(number, came.put_nowait, number)
    for number in wanted * 3:
        sender = threading.Timer(0.01, os.kill, (os.getpid(), number))
        sender.start()
        async with asyncio.timeout(5):
            assert await came.get() == number
        sender.join()
    for number in wanted:
        loop.remove_signal_handler(number)

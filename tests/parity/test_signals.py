"""Signals: handlers of the loop, of the user, the wakeup descriptor, and Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from wire import io_turns, on_loop, until

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put every handler back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, USR1, USR2)
    before = {n: signal.getsignal(n) for n in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert signal.set_wakeup_fd(-1) == -1, "the wakeup descriptor was left set"


def me(number: int) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


@on_loop
async def test_handler(lib: Any) -> None:
    """Called in the loop with its arguments, once per signal that was seen."""
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    lib.note(loop.add_signal_handler(USR1, lambda *a: calls.append(a), 1, "two"))
    me(USR1)
    await until(lambda: calls)
    lib.note(calls)
    assert asyncio.get_running_loop() is loop
    lib.note(loop.remove_signal_handler(USR1), loop.remove_signal_handler(USR1))
    lib.note(signal.getsignal(USR1) == signal.SIG_DFL)


@on_loop
async def test_while_the_loop_sleeps(lib: Any) -> None:
    """A signal from outside wakes a loop that waits for nothing else."""
    loop = asyncio.get_running_loop()
    came = loop.create_future()
    loop.add_signal_handler(USR1, came.set_result, "woken")
    with subprocess.Popen(
        [sys.executable, "-c", f"import os; input(); os.kill({os.getpid()}, {int(USR1)})"],
        stdin=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.close()
        lib.note(await came)
    loop.remove_signal_handler(USR1)


@on_loop
async def test_several_signals(lib: Any) -> None:
    """Different signals call different handlers."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    loop.add_signal_handler(USR1, calls.append, "one")
    loop.add_signal_handler(USR2, calls.append, "two")
    me(USR1)
    me(USR2)
    await until(lambda: len(calls) == 2)
    lib.note(calls)
    loop.remove_signal_handler(USR1)
    me(USR2)
    await until(lambda: len(calls) == 3)
    lib.note(calls, loop.remove_signal_handler(USR2))


@on_loop
async def test_replacing(lib: Any) -> None:
    """A second handler takes the first one's place."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    loop.add_signal_handler(USR1, calls.append, "first")
    loop.add_signal_handler(USR1, calls.append, "second")
    me(USR1)
    await until(lambda: calls)
    lib.note(calls, loop.remove_signal_handler(USR1))


@on_loop
async def test_removing_itself(lib: Any) -> None:
    """A handler that removes itself is not called again."""
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    signal.signal(USR1, signal.SIG_IGN)
    loop.add_signal_handler(USR1, lambda: calls.append(loop.remove_signal_handler(USR1)))
    me(USR1)
    await until(lambda: calls)
    signal.signal(USR1, signal.SIG_IGN)
    me(USR1)
    await io_turns()
    lib.note(calls)


@on_loop
async def test_a_handler_that_raises(lib: Any) -> None:
    """The error goes to the exception handler, and the handler stays."""
    loop = asyncio.get_running_loop()
    contexts = lib.contexts(loop)
    loop.add_signal_handler(USR1, lambda: 1 // 0)
    for count in (1, 2):
        me(USR1)
        await until(lambda count=count: len(contexts) == count)
    lib.note(sorted(contexts[0]), type(contexts[0]["exception"]))
    lib.note(loop.remove_signal_handler(USR1))


@pytest.mark.parametrize(
    "bad", [0, -1, 5000, "5", None, 5.5, signal.SIGKILL, signal.SIGSTOP], ids=repr
)
@on_loop
async def test_signals_that_are_none(lib: Any, bad: Any) -> None:
    """Numbers out of range, types that are no number, signals that cannot be caught."""
    loop = asyncio.get_running_loop()
    for call in (
        lambda: loop.add_signal_handler(bad, print),
        lambda: loop.remove_signal_handler(bad),
    ):
        try:
            lib.note(call())
        except Exception as exc:
            lib.note(type(exc), str(exc))


@on_loop
async def test_coroutines_are_refused(lib: Any) -> None:
    """Neither a coroutine nor a coroutine function is a handler."""

    async def handler() -> None:
        """Do nothing."""

    loop = asyncio.get_running_loop()
    lib.catch(loop.add_signal_handler, USR1, handler)
    coro = handler()
    lib.catch(loop.add_signal_handler, USR1, coro)
    coro.close()
    lib.note(signal.getsignal(USR1) == signal.SIG_DFL)


def test_closed_loop(lib: Any) -> None:
    """A closed loop takes no handler; closing gives the signals and the wakeup descriptor back."""
    loop = lib.new_loop()
    loop.add_signal_handler(USR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    lib.note(signal.getsignal(USR1) == signal.SIG_DFL)
    loop.close()
    lib.note(signal.getsignal(USR1) == signal.SIG_DFL)
    lib.note(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    assert signal.set_wakeup_fd(-1) == -1
    lib.catch(loop.add_signal_handler, USR1, print)
    lib.catch(loop.remove_signal_handler, USR1)


def test_wakeup_descriptor(lib: Any) -> None:
    """Set with the first handler, gone with the last, not touched by a loop without handlers."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        signal.set_wakeup_fd(write)
        loop = lib.new_loop()
        lib.turns(3, loop)
        mine = signal.set_wakeup_fd(write)
        lib.note(mine == write)
        loop.add_signal_handler(USR1, print)
        now = signal.set_wakeup_fd(write)
        lib.note(now not in (-1, write))
        signal.set_wakeup_fd(now)
        loop.add_signal_handler(USR2, print)
        loop.remove_signal_handler(USR1)
        lib.note(signal.set_wakeup_fd(now) == now)
        loop.remove_signal_handler(USR2)
        lib.note(signal.set_wakeup_fd(-1))
        loop.close()
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read)
        os.close(write)


@on_loop
async def test_not_the_main_thread(lib: Any) -> None:
    """Another thread's loop cannot take signals: RuntimeError."""

    def elsewhere() -> None:
        loop = lib.new_loop()
        try:
            loop.add_signal_handler(USR1, print)
        except RuntimeError as exc:
            lib.note(type(exc), str(exc).partition(" in ")[0])
        loop.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    lib.note(signal.getsignal(USR1) == signal.SIG_DFL)


@on_loop
async def test_a_users_own_handler(lib: Any) -> None:
    """signal.signal() handlers run in the main thread while the loop runs or sleeps."""
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    came = loop.create_future()

    def mine(number: int, frame: Any) -> None:
        calls.append((number, threading.current_thread() is threading.main_thread()))
        loop.call_soon_threadsafe(lambda: came.done() or came.set_result(None))

    signal.signal(USR1, mine)
    timer = threading.Timer(0.05, me, (USR1,))
    timer.start()
    await came
    timer.join()
    lib.note(calls)
    loop.add_signal_handler(USR2, calls.append, "loop's")
    me(USR1)
    me(USR2)
    await until(lambda: len(calls) == 3)
    lib.note([c if isinstance(c, str) else c[1] for c in calls], loop.remove_signal_handler(USR2))


def test_a_users_handler_that_raises(lib: Any) -> None:
    """What a signal.signal() handler raises comes out of the loop's run, and the loop can go on."""
    loop = lib.loop

    class Alarm(BaseException):
        pass

    def mine(number: int, frame: Any) -> None:
        raise Alarm

    signal.signal(USR1, mine)
    timer = threading.Timer(0.05, me, (USR1,))
    timer.start()
    lib.note(type(lib.catch(loop.run_forever)).__name__)
    timer.join()
    lib.note(loop.is_running(), loop.run_until_complete(asyncio.sleep(0, "goes on")))


@on_loop
async def test_a_storm(lib: Any) -> None:
    """A hundred signals in a row: the handlers are called, nothing is stuck or said."""
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    loop.add_signal_handler(USR1, calls.append, "one")
    loop.add_signal_handler(USR2, calls.append, "two")
    for _ in range(50):
        me(USR1)
        me(USR2)
    await until(lambda: {"one", "two"} <= set(calls))
    await io_turns()
    lib.note(loop.remove_signal_handler(USR1), loop.remove_signal_handler(USR2))
    assert len(calls) <= 100


@on_loop
async def test_children_of_the_user(lib: Any) -> None:
    """A SIGCHLD handler of the user runs, and the loop takes no child's status away."""
    loop = asyncio.get_running_loop()
    came = loop.create_future()

    def mine(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(lambda: came.done() or came.set_result(number))

    signal.signal(signal.SIGCHLD, mine)
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", "raise SystemExit(7)"]) as child:
        lib.note(await came)
        lib.note(child.wait())


def interrupted(lib: Any, code: str) -> subprocess.CompletedProcess[str]:
    """Run a program that says "ready" when it wants Ctrl-C; give how it ended."""
    text = f"import {lib.module.__name__} as LIB, asyncio, os, signal, sys, time\n{code}"
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if line == "ready\n":
            child.send_signal(signal.SIGINT)
        try:
            out, err = child.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    last = err.strip().splitlines()[-1] if err.strip() else ""
    lib.note(line, out, last, child.returncode)
    return subprocess.CompletedProcess(child.args, child.returncode, line + out, err)


def test_ctrl_c_cancels_main(lib: Any) -> None:
    """Ctrl-C while the loop sleeps cancels the main task; run() then raises KeyboardInterrupt."""
    done = interrupted(
        lib,
        """
async def main():
    print("ready", flush=True)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        await asyncio.sleep(0)
        print("cleaned", flush=True)
        raise
    finally:
        print("finally", flush=True)
try:
    LIB.run(main())
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
""",
    )
    assert done.stdout.split() == "ready cancelled cleaned finally interrupted True".split()
    assert done.returncode == 0


def test_ctrl_c_uncaught(lib: Any) -> None:
    """Nobody catches it: the program dies of SIGINT, with a traceback."""
    done = interrupted(
        lib,
        """
async def main():
    print("ready", flush=True)
    await asyncio.Event().wait()
LIB.run(main())
""",
    )
    assert done.returncode == -signal.SIGINT


def test_ctrl_c_swallowed(lib: Any) -> None:
    """A main task that ends itself after Ctrl-C gives its result."""
    interrupted(
        lib,
        """
async def main():
    print("ready", flush=True)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return "swallowed"
print(LIB.run(main()))
""",
    )


def test_ctrl_c_in_a_busy_loop(lib: Any) -> None:
    """A coroutine that never waits is interrupted by the second Ctrl-C; the first cancels."""
    interrupted(
        lib,
        """
async def main():
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("ready", flush=True)
    end = time.monotonic() + 20
    count = 0
    while time.monotonic() < end:
        count += 1
        if asyncio.current_task().cancelling():
            os.kill(os.getpid(), signal.SIGINT)
    print("never interrupted")
try:
    LIB.run(main())
except KeyboardInterrupt:
    print("interrupted")
""",
    )


def test_ctrl_c_while_callbacks_spin(lib: Any) -> None:
    """A loop that is never idle sees Ctrl-C just as well."""
    interrupted(
        lib,
        """
async def main():
    print("ready", flush=True)
    while True:
        await asyncio.sleep(0)
try:
    LIB.run(main())
except KeyboardInterrupt:
    print("interrupted")
""",
    )


def test_ctrl_c_in_run_forever(lib: Any) -> None:
    """Without a Runner, KeyboardInterrupt comes straight out of run_forever()."""
    interrupted(
        lib,
        """
loop = LIB.new_event_loop()
loop.call_soon(print, "ready", )
loop.call_soon(sys.stdout.flush)
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("interrupted", loop.is_running())
print(loop.run_until_complete(asyncio.sleep(0, "usable")))
loop.close()
""",
    )


def test_ctrl_c_with_a_handler_of_the_loop(lib: Any) -> None:
    """add_signal_handler(SIGINT) takes Ctrl-C over."""
    interrupted(
        lib,
        """
async def main():
    got = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, got.set)
    print("ready", flush=True)
    await got.wait()
    print("handled")
LIB.run(main())
""",
    )


def test_ctrl_c_with_a_handler_of_the_user(lib: Any) -> None:
    """A handler that the program set before run() is left alone."""
    interrupted(
        lib,
        """
def mine(number, frame):
    os.write(1, b"mine\\n")
    raise SystemExit(7)
signal.signal(signal.SIGINT, mine)
async def main():
    print("ready", flush=True)
    await asyncio.sleep(3600)
LIB.run(main())
""",
    )


def test_ctrl_c_in_a_server(lib: Any) -> None:
    """serve_forever() under run() ends with Ctrl-C, its sockets closed."""
    interrupted(
        lib,
        """
async def main():
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    async with server:
        print("ready", flush=True)
        await server.serve_forever()
try:
    LIB.run(main())
except KeyboardInterrupt:
    print("interrupted")
""",
    )


def test_sigterm_kills(lib: Any) -> None:
    """SIGTERM without a handler ends the process as ever."""
    done = interrupted(
        lib,
        """
async def main():
    signal.signal(signal.SIGINT, lambda *a: os.kill(os.getpid(), signal.SIGTERM))
    print("ready", flush=True)
    await asyncio.sleep(3600)
LIB.run(main())
""",
    )
    assert done.returncode == -signal.SIGTERM

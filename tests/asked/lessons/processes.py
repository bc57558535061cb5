"""Child processes: real pipes, every argument, nobody else's signal handlers."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from . import FIXED, Has, lesson
from .descriptors import until

NewLoop = Callable[[], asyncio.AbstractEventLoop]
PR_SET_CHILD_SUBREAPER = 36


@lesson(
    "uvloop#409",
    uvloop=Has("cannot add a signal handler for SIGCHLD"),
    rloop=Has("_is_main_thread"),
    rsloop=Has("SIGCHLD is reserved"),
)
async def user_signal_handler_for_sigchld() -> None:
    """No handler for SIGCHLD can be added."""
    loop = asyncio.get_running_loop()
    calls: list[None] = []
    loop.add_signal_handler(signal.SIGCHLD, calls.append, None)
    child = await asyncio.create_subprocess_exec("sh", "-c", "exit 3")
    async with asyncio.timeout(10):
        assert await child.wait() == 3
        await until(lambda: calls)
    assert loop.remove_signal_handler(signal.SIGCHLD)


def plain_handler_of_sigchld(new_event_loop: NewLoop) -> None:
    """Run a child on the loop, then one that the loop knows nothing of."""
    calls: list[int] = []

    def mine(number: int, frame: Any) -> None:
        calls.append(number)

    async def main() -> None:
        async with asyncio.timeout(10):
            child = await asyncio.create_subprocess_exec("true")
            await child.wait()
            del calls[:]
            other = os.fork()
            if other == 0:
                os._exit(0)
            await until(lambda: calls)
            os.waitpid(other, 0)

    signal.signal(signal.SIGCHLD, mine)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    assert signal.getsignal(signal.SIGCHLD) is mine


@lesson(
    "uvloop#582, libuv#4179",
    uvloop=Has("TimeoutError"),
)
def plain_signal_handler_for_sigchld(new_event_loop: NewLoop) -> None:
    """A SIGCHLD handler set with `signal.signal` is lost once the loop runs a child."""
    plain_handler_of_sigchld(new_event_loop)


@lesson(
    "uvloop#582, libuv#4179",
    uvloop=Has("never reaped"),
)
def orphans_of_pid_1(new_event_loop: NewLoop) -> None:
    """As PID 1, a program cannot reap the orphans that it inherits."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    wanted: set[int] = set()
    reaped: set[int] = set()

    def reap(number: int, frame: Any) -> None:
        for pid in tuple(wanted):
            try:
                wanted.difference_update({os.waitpid(pid, os.WNOHANG)[0]})
            except ChildProcessError:
                continue
            if pid not in wanted:
                reaped.add(pid)

    async def main() -> None:
        async with asyncio.timeout(10):
            child = await asyncio.create_subprocess_exec(
                "sh", "-c", "sleep 0.3 >&- & echo $!; exit 7", stdout=subprocess.PIPE
            )
            out, _ = await child.communicate()
            assert child.returncode == 7
            orphan = int(out)
            wanted.add(orphan)
            try:
                await until(lambda: orphan in reaped)
            except TimeoutError:
                raise AssertionError("the orphan is never reaped") from None

    signal.signal(signal.SIGCHLD, reap)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


@lesson(
    "uvloop#118, asyncio#414",
    aioxide=Has(
        "blocked for",
        reason=(
            "as asyncio: a thread that forked in the loop's place would, when it ends, end the"
            " children that asked for `PR_SET_PDEATHSIG`, the commonest use of `preexec_fn`"
        ),
    ),
    asyncio=Has("blocked for"),
    uvloop=Has("blocked for"),
    rloop=Has("blocked for"),
    rsloop=Has("unsupported"),
    zuvloop=Has("not supported"),
)
async def slow_preexec_fn() -> None:
    """A `preexec_fn` that takes its time blocks the loop."""
    loop = asyncio.get_running_loop()
    gaps: list[float] = []
    stop = False

    async def tick() -> None:
        last = loop.time()
        while not stop:
            await asyncio.sleep(0.01)
            now = loop.time()
            gaps.append(now - last)
            last = now

    ticking = loop.create_task(tick())
    await asyncio.sleep(0.05)
    child = await asyncio.create_subprocess_exec("true", preexec_fn=lambda: time.sleep(1))
    await child.wait()
    stop = True
    await ticking
    assert max(gaps) < 0.7, f"blocked for {max(gaps):.1f} s"


@lesson(
    "uvloop#505",
    uvloop=Has("No such device or address"),
)
async def pipes_are_pipes() -> None:
    """Children get socket pairs, which `/proc/self/fd/1` cannot open, instead of pipes."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",
        "-c",
        "open('/proc/self/fd/1', 'w').write(open('/proc/self/fd/0').read().upper())",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(10):
        out, err = await child.communicate(b"text")
    assert (out, child.returncode) == (b"TEXT", 0), err.decode().splitlines()[-1]


@lesson(
    "dd-trace-py#15798",
    uvloop=Has("fork handlers ran"),
)
def fork_handlers_stay_out(new_event_loop: NewLoop) -> None:
    """Starting a child runs Python's fork handlers between fork and exec."""
    read, write = os.pipe()
    os.register_at_fork(
        after_in_child=lambda: os.write(write, b"c"), after_in_parent=lambda: os.write(write, b"p")
    )

    async def main() -> None:
        for _ in range(3):
            child = await asyncio.create_subprocess_exec("true", stdout=subprocess.PIPE)
            await child.communicate()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    os.set_blocking(read, False)
    try:
        ran = os.read(read, 100)
    except BlockingIOError:
        return
    raise AssertionError(f"fork handlers ran: {ran!r}")


@lesson(
    "rsloop#68",
    uvloop=Has("unexpected kwargs"),
    rsloop=FIXED,
    zuvloop=Has("umask is not supported"),
)
async def keywords_of_popen() -> None:
    """Keyword arguments of `subprocess.Popen` are refused or dropped."""
    code = (
        "import os; print(os.getcwd(), os.environ.get('ASKED'), oct(os.umask(0)),"
        " os.getsid(0) == os.getpid())"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",
        "-c",
        code,
        stdout=subprocess.PIPE,
        startupinfo=None,
        creationflags=0,
        cwd="/",
        env={"ASKED": "yes", "PATH": os.environ["PATH"]},
        umask=0o31,
        start_new_session=True,
        restore_signals=True,
        close_fds=True,
        pipesize=-1,
    )
    async with asyncio.timeout(10):
        out, _ = await child.communicate()
    assert out == b"/ yes 0o31 True\n", out
    group = await asyncio.create_subprocess_exec(
        "sh", "-c", "ps -o pgid= -p $$; echo $$", stdout=subprocess.PIPE, process_group=0
    )
    out, _ = await group.communicate()
    words = out.split()
    assert len(set(words)) == 1, f"process_group: {words}"


@lesson(
    "uvloop#128",
    uvloop=FIXED,
)
async def closed_child_is_reaped() -> None:
    """Closing a child's transport leaves a zombie and never tells the protocol."""
    loop = asyncio.get_running_loop()
    trace: list[str] = []
    lost = loop.create_future()

    class Told(asyncio.SubprocessProtocol):
        def process_exited(self) -> None:
            trace.append("exited")

        def connection_lost(self, exc: Exception | None) -> None:
            trace.append("lost")
            lost.set_result(None)

    transport, _ = await loop.subprocess_exec(Told, "sleep", "60")
    pid = transport.get_pid()
    transport.close()
    async with asyncio.timeout(5):
        await lost
    assert trace == ["exited", "lost"], trace
    await until(lambda: not os.path.exists(f"/proc/{pid}"))

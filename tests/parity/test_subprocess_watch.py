"""Who learns of a child's end, and how: pidfds, threads, signals, forks, closed loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from typing import Any

import pytest
from wire import on_loop, turns

import aioxide.children

HAS_PIDFD = aioxide.children.can_use_pidfd()
WAYS = ["pidfd", "thread"] if HAS_PIDFD else ["thread"]


@contextlib.contextmanager
def by(way: str) -> Iterator[None]:
    """Make aioxide (and asyncio from 3.12 on) watch children by pidfd or by thread."""
    saved = aioxide.children.can_use_pidfd
    aioxide.children.can_use_pidfd = lambda: way == "pidfd"
    try:
        yield
    finally:
        aioxide.children.can_use_pidfd = saved


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way in which a child can be watched here."""
    with by(request.param):
        yield request.param


def zombies() -> list[int]:
    """Give the children of this process that have ended and were not waited for."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                if state == "Z" and int(parent) == os.getpid():
                    found.append(int(name))
    return found


async def child(command: str = "exit 3", **options: Any) -> Any:
    """Start a shell command."""
    return await asyncio.create_subprocess_shell(command, **options)


@on_loop
async def test_ends_are_told(lib: Any, way: str) -> None:
    """Children that end at once, later, and by a signal."""
    process = await child()
    lib.note(await process.wait())
    process = await child("read line; exit 4", stdin=PIPE)
    process.stdin.write(b"\n")
    lib.note(await process.wait())
    process = await child("kill -9 $$")
    lib.note(await process.wait())
    assert not zombies()


@on_loop
async def test_which_way(lib: Any, way: str) -> None:
    """By pidfd there is no thread, and one descriptor for each child; else one thread each."""
    lib.stock_defect(True, "chooses on its own")
    loop: Any = asyncio.get_running_loop()
    processes = [await child("read line", stdin=PIPE) for _ in range(3)]
    names = [thread.name for thread in threading.enumerate()]
    waiting = [name for name in names if name.startswith("asyncio-waitpid-")]
    links = [
        os.readlink(f"/proc/self/fd/{pidfd}") for pidfd, _ in loop._children.values() if pidfd >= 0
    ]
    assert len(waiting) == (3 if way == "thread" else 0)
    assert len(links) == (3 if way == "pidfd" else 0)
    assert all("pidfd" in link for link in links)
    for process in processes:
        process.stdin.close()
        await process.wait()
    assert not loop._children


@on_loop
async def test_nothing_is_reaped_before_it_is_told(lib: Any, way: str) -> None:
    """Until the loop knows of the end, the number is the child's: a signal reaches no other."""
    lib.stock_defect(True, "reaps in a thread before 3.14")
    process = await child("exec sleep 1000")
    process.kill()
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio-waitpid-"):
            thread.join(10)
            assert not thread.is_alive()
    assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT).si_pid == process.pid
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL


@on_loop
async def test_no_descriptor_left_for_the_pidfd(lib: Any) -> None:
    """A thread waits then; asyncio raises, and the child is lost."""
    lib.stock_defect(True, "loses the child")
    if not HAS_PIDFD:
        pytest.skip("no pidfds here")
    saved = os.pidfd_open

    def refuse(*args: Any) -> int:
        raise OSError(24, "Too many open files")

    os.pidfd_open = refuse
    try:
        process = await child()
    finally:
        os.pidfd_open = saved
    assert await process.wait() == 3


@on_loop
async def test_descriptors_that_nobody_can_wait_for(lib: Any) -> None:
    """Linux 5.3 has pidfds, but waits for numbers alone."""
    saved = os.waitid
    asked = []

    def refuse(kind: int, number: int, options: int) -> Any:
        asked.append(kind)
        raise OSError(22, "Invalid argument")

    os.waitid = refuse
    try:
        for command, code in (("exit 3", 3), ("kill -9 $$", -signal.SIGKILL)):
            process = await child(command)
            assert await process.wait() == code
    finally:
        os.waitid = saved
    if lib.native_loop and HAS_PIDFD:
        assert set(asked) == {os.P_PIDFD}
    assert not zombies()


@pytest.mark.parametrize("reaper", ["waitpid", "poll"])
@on_loop
async def test_reaped_by_somebody_else(lib: Any, way: str, reaper: str) -> None:
    """255 and a line in the log; what Popen itself has read counts."""
    lib.stock_defect(True, "waits in a thread before 3.12")
    process = await child("exec sleep 1000")
    popen = process._transport.get_extra_info("subprocess")
    process.terminate()
    # The loop does not run meanwhile.
    if reaper == "poll":
        popen.wait()
        assert await process.wait() == -signal.SIGTERM
        assert not lib.logged()
    else:
        os.waitpid(process.pid, 0)
        assert await process.wait() == 255
        assert [line.replace(str(process.pid), "N") for line in lib.logged()] == [
            "child process pid N exit status already read:  will report returncode 255"
            if way == "pidfd"
            else "Unknown child process pid N, will report returncode 255"
        ]


SIGNALS = """
import asyncio, os, signal, sys
seen = []
if sys.argv[1] == "handler":
    signal.signal(signal.SIGCHLD, lambda *args: seen.append(args[0]))
elif sys.argv[1] == "ignored":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
before = signal.getsignal(signal.SIGCHLD)
async def main():
    if sys.argv[1] == "loop":
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, seen.append, signal.SIGCHLD)
    codes = []
    for _ in range(3):
        process = await asyncio.create_subprocess_shell("exit 3")
        codes.append(await process.wait())
    await asyncio.sleep(0)
    print(codes, bool(seen), len(set(seen)))
    if sys.argv[1] == "loop":
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
LIB.run(main())
print(signal.getsignal(signal.SIGCHLD) == before)
"""


@pytest.mark.parametrize("how", ["none", "handler", "loop"])
def test_the_programs_sigchld(lib: Any, how: str) -> None:
    """A handler of the program is called, and left in place."""
    done = lib.program(SIGNALS, how)
    lib.note(done.stdout, done.stderr)


def test_sigchld_ignored(lib: Any) -> None:
    """The kernel reaps: the end is noticed, the status is lost."""
    done = lib.program(SIGNALS, "ignored")
    lines = done.stdout.splitlines()
    if lib.native_loop:
        assert lines == ["[255, 255, 255] False 0", "True"], done.stderr
        assert "returncode 255" in done.stderr


WAKEUP = """
import asyncio, os, signal, sys
async def main():
    process = await asyncio.create_subprocess_shell("exit 3")
    return await process.wait()
r, w = os.pipe()
os.set_blocking(w, False)
signal.set_wakeup_fd(w)
print(LIB.run(main()))
print(signal.set_wakeup_fd(-1) == w)
"""


def test_wakeup_fd_of_the_program(lib: Any) -> None:
    """signal.set_wakeup_fd stays the program's."""
    done = lib.program(WAKEUP)
    if lib.native_loop:
        assert done.stdout.splitlines() == ["3", "True"], done.stderr


PID_ONE = """
import asyncio, os, sys
async def main():
    assert os.getpid() == 1, os.getpid()
    codes = []
    for number in range(5):
        process = await asyncio.create_subprocess_shell(f"exit {number}")
        codes.append(await process.wait())
    out = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print(codes, await out.communicate(b"data"), out.returncode)
LIB.run(main())
"""


def test_as_pid_1(lib: Any) -> None:
    """The init process of a container has children, too."""
    unshare = shutil.which("unshare")
    options = ["--pid", "--fork", "--mount-proc"]
    if unshare is None:
        pytest.skip("no unshare here")
    if subprocess.run([unshare, *options, "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("making a pid namespace is not permitted here")
    text = f"import {lib.module.__name__} as LIB\n{PID_ONE}"
    done = subprocess.run(
        [unshare, *options, sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lib.note(done.returncode, done.stdout, done.stderr)


FORKED = """
import asyncio, os, sys
async def run():
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    return (await process.communicate(b"x"))[0], process.returncode
async def main():
    return await run()
print(LIB.run(main()), flush=True)
pid = os.fork()
if pid == 0:
    print(LIB.run(main()), flush=True)
    os._exit(0)
print(os.waitpid(pid, 0)[1], LIB.run(main()))
"""


def test_in_a_fork(lib: Any) -> None:
    """A forked child of a program that had children has its own."""
    done = lib.program(FORKED)
    lib.note(done.stdout, done.stderr, done.returncode)


FORKED_WHILE_RUNNING = """
import asyncio, gc, os, signal, sys
loop = LIB.new_event_loop()
process = loop.run_until_complete(asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1))
pid = os.fork()
if pid == 0:
    asyncio._set_running_loop(None) if hasattr(asyncio, "_set_running_loop") else None
    loop.close()
    del process, loop
    gc.collect()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
async def rest():
    return await process.communicate(b"still there")
print(loop.run_until_complete(rest()), process.returncode)
loop.close()
"""


def test_fork_that_drops_the_loop(lib: Any) -> None:
    """A fork that closes its copy of the loop harms neither the child nor the loop."""
    lib.stock_defect(True, "the fork unregisters or kills what is the parent's")
    done = lib.program(FORKED_WHILE_RUNNING)
    assert done.stdout.splitlines() == ["0", "(b'still there', None) 0"], done.stderr


@pytest.mark.parametrize("ended", [False, True])
def test_loop_closed_while_a_child_runs(lib: Any, way: str, ended: bool) -> None:
    """The transport dies and kills the child; no zombie stays, nor a thread, nor a descriptor."""
    lib.stock_defect(True, "leaves a zombie to the next Popen")
    loop = lib.new_loop()
    process = loop.run_until_complete(child("exec sleep 1000", stdin=PIPE))
    popen = process._transport.get_extra_info("subprocess")
    if ended:
        process.terminate()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    loop.close()
    threads = [t for t in threading.enumerate() if t.name.startswith("asyncio-waitpid-")]
    del process, loop
    lib.close()
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
    assert not zombies()
    assert popen.returncode == (-signal.SIGTERM if ended else -signal.SIGKILL)
    lib.logged()
    lib.warnings_taken()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="3.14 has no child watchers")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_watcher_of_the_program(lib: Any) -> None:
    """A watcher that was set is asked, entered, and may refuse."""

    class Watcher(asyncio.ThreadedChildWatcher):  # type: ignore[name-defined,misc]
        active = True

        def is_active(self) -> bool:
            lib.note("asked")
            return self.active

        def add_child_handler(self, pid: int, callback: Any, *args: Any) -> None:
            lib.note("added", pid > 0)
            super().add_child_handler(pid, callback, *args)

        def __enter__(self) -> Any:
            lib.note("entered")
            return self

        def __exit__(self, *args: Any) -> None:
            lib.note("left")

    async def main() -> None:
        process = await child()
        lib.note(await process.wait())
        watcher.active = False
        with pytest.raises(RuntimeError) as caught:
            await child()
        lib.note(caught.value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = asyncio.get_event_loop_policy()
        watcher = Watcher()
        policy.set_child_watcher(watcher)
        try:
            lib.run(main)
        finally:
            policy.set_child_watcher(None)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="3.14 has no child watchers")
@pytest.mark.parametrize("name", ["SafeChildWatcher", "FastChildWatcher", "MultiLoopChildWatcher"])
def test_stock_watchers(lib: Any, name: str) -> None:
    """asyncio's watchers that need SIGCHLD work when a program sets them."""

    async def main() -> list[Any]:
        processes = [await child(f"exit {number}") for number in range(3)]
        return [await process.wait() for process in processes]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        watcher = getattr(asyncio, name)()
        loop = lib.new_loop()
        asyncio.set_event_loop(loop)
        watcher.attach_loop(loop)
        policy = asyncio.get_event_loop_policy()
        policy.set_child_watcher(watcher)
        try:
            lib.note(loop.run_until_complete(main()))
        finally:
            policy.set_child_watcher(None)
            asyncio.set_event_loop(None)
            loop.close()


@on_loop
async def test_start_that_cannot_be_watched(lib: Any) -> None:
    """The error comes out, the child is killed and reaped."""
    lib.stock_defect(True, "leaves the child running")
    loop: Any = asyncio.get_running_loop()
    started = []

    def refuse(process: Any, exited: Any) -> None:
        started.append(process)
        raise ZeroDivisionError

    loop._watch_child = refuse
    try:
        with pytest.raises(ZeroDivisionError):
            await child("exec sleep 1000", stdin=PIPE, stdout=PIPE)
    finally:
        del loop._watch_child
    assert started[0].returncode == -9
    await turns(20)
    assert started[0].stdin.closed and started[0].stdout.closed


@on_loop
async def test_many_leave_nothing(lib: Any, way: str) -> None:
    """Children that end, are killed, cancelled: no zombie, no thread, no descriptor stays."""
    lib.stock_defect(True, "leaves what was cancelled to the garbage collector")
    before = len(os.listdir("/proc/self/fd"))
    loop: Any = asyncio.get_running_loop()

    async def one(number: int) -> None:
        command = "exit 0" if number % 3 else "exec sleep 1000"
        process = await child(command, stdout=PIPE, stdin=PIPE)
        if number % 3 == 0:
            process.kill()
        await process.wait()
        process._transport.close()

    for _ in range(3):
        tasks = [asyncio.create_task(one(number)) for number in range(20)]
        await turns(1)
        for task in tasks[::4]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await turns(10)
    assert not loop._children and not zombies()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@on_loop
async def test_cancelled_start_closes_its_pipes(lib: Any) -> None:
    """Also where a grandchild keeps the other ends, so that no end of the stream ever comes."""
    lib.stock_defect(True, "leaves its ends open as long as the grandchild lives")
    before = set(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()

    def fork() -> None:
        pid = os.fork()
        if pid:
            os.write(writer, b"%d" % pid)
            return
        os.closerange(3, 256)
        signal.pause()
        os._exit(0)

    start = child("exec sleep 1000", stdin=PIPE, stdout=PIPE, stderr=PIPE, preexec_fn=fork)
    task = asyncio.create_task(start)
    await turns(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns(20)
    os.kill(int(os.read(reader, 100)), signal.SIGKILL)
    os.close(reader)
    os.close(writer)
    assert set(os.listdir("/proc/self/fd")) == before

"""Subprocesses through asyncio's own front: communicate, wait, signals, streams, arguments."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import pytest
from wire import on_loop, turns, until

MILLION = random.Random(7).randbytes(1_000_000)


def python(code: str) -> list[str]:
    """Give the command of an interpreter that runs a text and imports little."""
    return [sys.executable, "-I", "-S", "-c", code]


async def run(*command: Any, **options: Any) -> tuple[bytes | None, bytes | None, int | None]:
    """Run a command to its end."""
    data = options.pop("input", None)
    process = await asyncio.create_subprocess_exec(*command, **options)
    out, err = await process.communicate(data)
    return out, err, process.returncode


@on_loop
async def test_communicate(lib: Any) -> None:
    """All that goes in comes out, more than any pipe holds, on both streams."""
    code = (
        "import sys; data = sys.stdin.buffer.read()\n"
        "sys.stdout.buffer.write(data); sys.stderr.write('errors')"
    )
    out, err, returncode = await run(
        *python(code), stdin=PIPE, stdout=PIPE, stderr=PIPE, input=MILLION
    )
    assert out == MILLION
    lib.note(err, returncode)


@on_loop
async def test_streams_are_none_unless_piped(lib: Any) -> None:
    """Only pipes have streams; STDOUT joins the error stream to the other."""
    process = await asyncio.create_subprocess_exec("true")
    lib.note(process.stdin, process.stdout, process.stderr, await process.communicate())
    lib.note(await run("sh", "-c", "echo out; echo err >&2", stdout=PIPE, stderr=STDOUT))
    lib.note(await run("cat", stdin=DEVNULL, stdout=PIPE))
    lib.note(await run("sh", "-c", "echo lost", stdout=DEVNULL, stderr=PIPE))


@on_loop
async def test_files_and_descriptors(lib: Any, tmp_path: Any) -> None:
    """Streams may be files and numbers, which stay open and as they were."""
    path = tmp_path / "file"
    path.write_bytes(b"from a file")
    with open(path, "rb") as source, open(tmp_path / "out", "wb") as target:
        lib.note(await run("cat", stdin=source, stdout=target.fileno(), stderr=PIPE))
        lib.note(source.closed, target.closed, os.get_blocking(source.fileno()))
    lib.note((tmp_path / "out").read_bytes())
    reader, writer = os.pipe()
    lib.note(await run("echo", "through a pipe", stdout=writer))
    lib.note(os.read(reader, 100), os.get_blocking(reader))
    os.close(reader)
    os.close(writer)


@on_loop
async def test_streams_are_pipes(lib: Any) -> None:
    """What the child has are pipes, blocking, that it may open again by /proc (uvloop#505)."""
    code = (
        "import os, stat\n"
        "print([stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in range(3)])\n"
        "print([os.get_blocking(fd) for fd in range(3)], flush=True)\n"
        "with open('/proc/self/fd/1', 'w') as again: print('again', file=again)\n"
        "with open('/proc/self/fd/0') as again: print(again.read())\n"
    )
    out, err, returncode = await run(
        *python(code), stdin=PIPE, stdout=PIPE, stderr=PIPE, input=b"input"
    )
    lib.note(out, err, returncode)


@on_loop
async def test_returncodes(lib: Any) -> None:
    """Exit statuses, and signals as negative numbers."""
    for command in ("exit 0", "exit 3", "exit 255", "kill -9 $$", "kill -15 $$"):
        process = await asyncio.create_subprocess_shell(command)
        lib.note(await process.wait(), process.returncode)


@on_loop
async def test_signals(lib: Any) -> None:
    """send_signal, terminate and kill; after the end they do nothing, or raise as asyncio's do."""
    for method, args in (("send_signal", (signal.SIGUSR1,)), ("terminate", ()), ("kill", ())):
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        getattr(process, method)(*args)
        lib.note(await process.wait())
        await until(lambda: process._transport._proc is None)
        with pytest.raises(ProcessLookupError):
            getattr(process, method)(*args)


@on_loop
async def test_wait_by_many(lib: Any) -> None:
    """Any number of tasks may wait, some may be cancelled, late ones are answered at once."""
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    waiters = [asyncio.create_task(process.wait()) for _ in range(10)]
    await asyncio.sleep(0)
    for waiter in waiters[::2]:
        waiter.cancel()
    await asyncio.sleep(0)
    process.stdin.close()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    lib.note([type(result).__name__ for result in results], await process.wait())


@on_loop
async def test_wait_ends_with_the_process(lib: Any) -> None:
    """A grandchild that keeps the pipe does not keep wait() waiting."""
    if lib.kind == "asyncio" and sys.version_info < (3, 14):
        pytest.skip("before 3.14 wait() waits for the pipes, too")
    process = await asyncio.create_subprocess_shell(
        "sleep 1000 & echo $!", stdout=PIPE, start_new_session=True
    )
    grandchild = int(await process.stdout.readline())
    lib.note(await process.wait(), process.stdout.at_eof())
    os.kill(grandchild, signal.SIGKILL)
    lib.note(await process.stdout.read())


@on_loop
async def test_child_that_closes_its_pipes(lib: Any) -> None:
    """The ends of the streams come before the end of the process."""
    process = await asyncio.create_subprocess_exec(
        *python("import os; os.close(1); os.close(2); os.read(0, 1)"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    lib.note(await process.stdout.read(), await process.stderr.read(), process.returncode)
    process.stdin.write(b"x")
    lib.note(await process.wait())


@on_loop
async def test_child_that_dies_at_once(lib: Any) -> None:
    """Input for nobody is no error of communicate(), and one of drain() at most."""
    for _ in range(5):
        process = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
        lib.note(await process.communicate(MILLION), process.returncode)
    process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
    process.stdin.write(MILLION)
    try:
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass
    lib.note(await process.wait())


@on_loop
async def test_child_that_never_reads(lib: Any) -> None:
    """drain() waits; what was written is bounded by the limits; killing the child ends it."""
    process = await asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE)
    written = 0

    async def feed() -> None:
        nonlocal written
        while True:
            process.stdin.write(b"x" * 10_000)
            written += 10_000
            await process.stdin.drain()

    task = asyncio.create_task(feed())
    await turns(200)
    assert process._transport.get_pipe_transport(0)._protocol_paused
    assert written < 300_000
    process.kill()
    with pytest.raises((BrokenPipeError, ConnectionResetError)) as caught:
        await task
    lib.note(isinstance(caught.value, ConnectionError), await process.wait())


@on_loop
async def test_child_that_prints_much(lib: Any) -> None:
    """100 MB are read in bounded memory, every byte counted."""
    process = await asyncio.create_subprocess_exec(
        "head", "-c", "100000000", "/dev/zero", stdout=PIPE
    )
    count = largest = 0
    while data := await process.stdout.read(1 << 20):
        count += len(data)
        largest = max(largest, len(process.stdout._buffer))
    assert largest <= 2 * 2**16 + 256 * 1024
    lib.note(count, await process.wait())


@on_loop
async def test_lines(lib: Any) -> None:
    """A dialogue, line by line."""
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    for number in range(100):
        process.stdin.write(b"%d\n" % number)
        assert await process.stdout.readline() == b"%d\n" % number
    process.stdin.close()
    await process.stdin.wait_closed()
    lib.note(await process.stdout.read(), await process.wait())


@on_loop
async def test_cwd_env_and_more(lib: Any, tmp_path: Any) -> None:
    """The keywords of Popen reach it."""
    os.mkdir(tmp_path / "inner")
    out, _, _ = await run("pwd", cwd=tmp_path / "inner", stdout=PIPE)
    assert out.rstrip() == os.fsencode(os.path.realpath(tmp_path / "inner"))
    lib.note(await run("/usr/bin/env", env={"ONE": "1", "TWO": "2"}, stdout=PIPE))
    lib.note(await run("zero", "-c", "echo $0", executable="/bin/sh", stdout=PIPE))
    out, _, _ = await run(
        *python("import os; print(os.getsid(0) == os.getpid())"),
        start_new_session=True,
        stdout=PIPE,
    )
    lib.note(out)
    out, _, _ = await run(
        *python("import os; print(os.getpgrp() == os.getpid())"), process_group=0, stdout=PIPE
    )
    lib.note(out)
    lib.note(await run("sh", "-c", "umask", umask=0o027, stdout=PIPE))
    if os.getuid() == 0:
        lib.note(await run("id", "-u", user=12345, group=54321, extra_groups=[], stdout=PIPE))


@on_loop
async def test_pass_fds(lib: Any) -> None:
    """The descriptors named are inherited, no others are: none of the loop's."""
    reader, writer = os.pipe()
    code = "import os, sys; print(os.listdir('/proc/self/fd')); os.write(int(sys.argv[1]), b'x')"
    out, _, _ = await run(
        *python(code),
        str(writer),
        pass_fds=(writer,),
        stdout=PIPE,
    )
    inherited = [int(fd) for fd in re.findall(rb"\d+", out)]
    assert writer in inherited and len(inherited) == 5, inherited  # 0 1 2, ours, the folder's
    lib.note(os.read(reader, 10))
    os.close(reader)
    os.close(writer)


@on_loop
async def test_nothing_is_inherited_by_forks(lib: Any) -> None:
    """With close_fds off, too: the loop's descriptors close themselves on exec."""
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    before = set(os.listdir("/proc/self/fd"))
    code = (
        "import os\n"
        "paths = ['/proc/self/fd/' + name for name in os.listdir('/proc/self/fd')]\n"
        "print([os.readlink(path) for path in paths if os.path.exists(path)])"
    )
    out, _, _ = await run(*python(code), close_fds=False, stdin=DEVNULL, stdout=PIPE)
    for word in (b"eventpoll", b"pidfd", b"eventfd"):
        assert word not in out, out
    assert before <= set(os.listdir("/proc/self/fd"))
    process.stdin.close()
    lib.note(await process.communicate(), process.returncode)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@on_loop
async def test_preexec_fn(lib: Any) -> None:
    """Runs in the child; its failure is a SubprocessError here."""
    reader, writer = os.pipe()
    await run("true", preexec_fn=lambda: os.write(writer, b"in the child"))
    lib.note(os.read(reader, 100))
    with pytest.raises(subprocess.SubprocessError) as caught:
        await run("true", preexec_fn=lambda: 1 / 0)
    lib.note(caught.value)
    os.close(reader)
    os.close(writer)


@on_loop
async def test_programs_that_do_not_start(lib: Any, tmp_path: Any) -> None:
    """The error of Popen, and nothing left behind."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    plain.chmod(stat.S_IRUSR)
    for program in ("/no/such/program", "no-such-program-anywhere", plain, tmp_path):
        with pytest.raises(OSError) as caught:
            await run(program, stdin=PIPE, stdout=PIPE)
        lib.note(type(caught.value), caught.value.errno)
    with pytest.raises(FileNotFoundError):
        await run("true", cwd=tmp_path / "missing")
    with pytest.raises(ValueError) as embedded:
        await run("tr\0ue")
    lib.note(embedded.value)
    with pytest.raises(TypeError):
        await run(1, stdout=PIPE)
    with pytest.raises(TypeError) as unknown:
        await run("true", no_such_keyword=1)
    lib.note(type(unknown.value))


@on_loop
async def test_what_is_refused(lib: Any) -> None:
    """Text, buffers and the wrong shell are refused with asyncio's words."""
    loop = asyncio.get_running_loop()
    makers = (
        lambda **options: loop.subprocess_exec(asyncio.SubprocessProtocol, "true", **options),
        lambda **options: loop.subprocess_shell(asyncio.SubprocessProtocol, "true", **options),
    )
    wrong: list[dict[str, Any]] = [
        {"universal_newlines": True},
        {"bufsize": 4096},
        {"bufsize": None},
        {"text": True},
        {"encoding": "utf-8"},
        {"errors": "strict"},
        {"errors": "strict", "encoding": "ascii", "text": True, "bufsize": 1},
    ]
    for index, maker in enumerate(makers):
        for options in (*wrong, {"shell": not index}):
            with pytest.raises(ValueError) as caught:
                await maker(**options)
            lib.note(caught.value)
    for cmd in (["true"], 1, None):
        with pytest.raises(ValueError) as caught:
            await loop.subprocess_shell(asyncio.SubprocessProtocol, cmd)  # type: ignore[arg-type]
        lib.note(caught.value)


@on_loop
async def test_tools_see_a_start_by_its_frames(lib: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks for calls that block excuses a start by the name and file of a frame."""
    frames: set[tuple[str, str]] = set()
    read = os.read

    def watched(fd: int, count: int) -> bytes:
        frame = sys._getframe()
        while frame := frame.f_back:
            if "/asyncio/" in frame.f_code.co_filename:
                file = os.path.basename(frame.f_code.co_filename)
                frames.add((file, frame.f_code.co_name))
        return read(fd, count)

    monkeypatch.setattr(os, "read", watched)
    for make in (asyncio.create_subprocess_exec, asyncio.create_subprocess_shell):
        process = await make("true")
        await process.wait()
    monkeypatch.undo()
    names = ("subprocess_exec", "subprocess_shell")
    lib.note([("base_events.py", name) in frames for name in names])


@on_loop
async def test_shell(lib: Any) -> None:
    """Text and bytes commands."""
    for command in ("echo text; exit 2", b"echo bytes; exit 3"):
        process = await asyncio.create_subprocess_shell(command, stdout=PIPE)
        lib.note(await process.communicate(), process.returncode)


@on_loop
async def test_many_at_once(lib: Any) -> None:
    """200 children together, each with its own output, none left."""

    async def one(number: int) -> bytes | None:
        async with limit:
            return (await run("echo", str(number), stdout=PIPE))[0]

    limit = asyncio.Semaphore(50)
    results = await asyncio.gather(*(one(number) for number in range(200)))
    lib.note(results == [b"%d\n" % number for number in range(200)])


def test_from_another_thread(lib: Any) -> None:
    """A loop in any thread may have children."""
    results: list[Any] = []

    def body() -> None:
        with asyncio.Runner(loop_factory=lib.new_loop) as runner:
            results.append(runner.run(run("cat", stdin=PIPE, stdout=PIPE, input=b"data")))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    lib.note(results)


def test_from_many_threads(lib: Any) -> None:
    """Loops in several threads have children at once."""
    results: list[Any] = []

    async def children() -> list[Any]:
        return await asyncio.gather(*(run("echo", "x", stdout=PIPE) for _ in range(10)))

    def body() -> None:
        with asyncio.Runner(loop_factory=lib.new_loop) as runner:
            results.append(runner.run(children()))

    threads = [threading.Thread(target=body) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lib.note(results)

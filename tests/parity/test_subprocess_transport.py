"""Transports of processes: the protocol's calls in order, closing, cancelling, what they say."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import signal
import subprocess
import weakref
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import pytest
from ends import nameless
from wire import on_loop, turns


class Recorder(asyncio.SubprocessProtocol):
    """A protocol that records its calls; `hooks` are called after a call was recorded."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks
        self.calls: list[Any] = []
        self.data = {1: bytearray(), 2: bytearray()}
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self.exited = asyncio.get_running_loop().create_future()
        self.more = asyncio.Event()

    def _record(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        self.more.set()
        if name in self.hooks:
            self.hooks[name](self, *args)

    def connection_made(self, transport: Any) -> None:
        """Record it."""
        self.transport = transport
        self._record("made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Record it; repeated calls for a pipe as one."""
        self.data[fd] += data
        if self.calls[-1] != ("data", fd):
            self._record("data", fd)
        self.more.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Record it."""
        self._record("pipe lost", fd, exc)

    def process_exited(self) -> None:
        """Record it, with the return code that the transport has by then."""
        self._record("exited", self.transport and self.transport.get_returncode())
        self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Record it."""
        self._record("lost", exc)
        self.lost.set_result(None)

    def of(self, fd: int) -> list[Any]:
        """The calls about one pipe."""
        return [call for call in self.calls if call[0] in ("data", "pipe lost") and call[1] == fd]

    def pause_writing(self) -> None:
        """Record it."""
        self._record("pause")

    def resume_writing(self) -> None:
        """Record it."""
        self._record("resume")


async def start(
    *command: Any, factory: Any = Recorder, stdin: Any = PIPE, **options: Any
) -> tuple[Any, Recorder]:
    """Start a program, or a shell command where there is only one word with a space."""
    loop = asyncio.get_running_loop()
    if len(command) == 1 and " " in command[0]:
        return await loop.subprocess_shell(factory, command[0], stdin=stdin, **options)
    return await loop.subprocess_exec(factory, *command, stdin=stdin, **options)


def anonymous(text: str) -> str:
    """Drop from a text what may differ between kinds: classes, numbers."""
    text = re.sub(r"\b_UnixSubprocessTransport\b", "SubprocessTransport", nameless(text))
    return re.sub(r"\bpid[= ]\d+", "pid=N", text)


@on_loop
async def test_order_of_calls(lib: Any) -> None:
    """Made first; lost last, when the process has exited and its pipes are closed."""
    transport, protocol = await start("echo out; echo err >&2; read line; exit 7")
    transport.get_pipe_transport(0).write(b"line\n")
    await protocol.lost
    lib.note(protocol.calls[0], protocol.calls[-1], len(protocol.calls))
    for fd in range(3):
        lib.note(protocol.of(fd))
    lib.note(("exited", 7) in protocol.calls, protocol.data)
    transport.close()
    await turns(3)
    lib.note(transport.get_returncode(), len(protocol.calls))


@on_loop
async def test_pipes_end_before_the_process(lib: Any) -> None:
    """The order of the ends is that of the child."""
    transport, protocol = await start("exec >&- 2>&-; read line; exit 1")
    while len(protocol.calls) < 3:
        protocol.more.clear()
        await protocol.more.wait()
    transport.get_pipe_transport(0).write(b"\n")
    await protocol.lost
    lib.note(sorted(protocol.calls[1:3]), protocol.calls[3:].count(("exited", 1)))
    lib.note(protocol.calls[-1])
    transport.close()


@on_loop
async def test_process_ends_before_its_pipes(lib: Any) -> None:
    """A grandchild keeps the pipe: exited first, its output still comes, lost last."""
    reader, writer = os.pipe()
    transport, protocol = await start(
        "exec 3<&0; { read line <&3; echo late; } & exit 5", stdin=reader, stderr=None
    )
    os.close(reader)
    await protocol.exited
    lib.note(protocol.calls, transport.get_returncode())
    os.write(writer, b"\n")
    os.close(writer)
    await protocol.lost
    lib.note(protocol.calls, protocol.data)
    transport.close()


@on_loop
async def test_without_pipes(lib: Any) -> None:
    """Nothing but the process itself."""
    transport, protocol = await start("true", stdin=None, stdout=None, stderr=None)
    await protocol.lost
    lib.note(protocol.calls, [transport.get_pipe_transport(fd) for fd in range(4)])
    transport.close()


@on_loop
async def test_pipe_transports(lib: Any) -> None:
    """get_pipe_transport gives pipe transports by number."""
    transport, protocol = await start("cat", stderr=STDOUT)
    stdin, stdout = transport.get_pipe_transport(0), transport.get_pipe_transport(1)
    lib.note(isinstance(stdin, asyncio.WriteTransport), isinstance(stdout, asyncio.ReadTransport))
    lib.note(transport.get_pipe_transport(2), transport.get_pipe_transport(3))
    lib.note(stdin.get_extra_info("pipe") is transport.get_extra_info("subprocess").stdin)
    stdout.pause_reading()
    stdin.write(b"data")
    await turns(100)
    lib.note(protocol.calls)
    stdout.resume_reading()
    stdin.close()
    await protocol.lost
    lib.note(protocol.of(0), protocol.of(1), protocol.data[1])
    transport.close()


@on_loop
async def test_flow_control(lib: Any) -> None:
    """The process's protocol hears of its input's pauses."""
    transport, protocol = await start("cat", stdout=DEVNULL, stderr=None)
    transport.get_pipe_transport(0).write(b"x" * 1_000_000)
    lib.note(protocol.calls)
    while ("resume",) not in protocol.calls:
        protocol.more.clear()
        await protocol.more.wait()
    transport.get_pipe_transport(0).close()
    await protocol.lost
    lib.note(protocol.calls)
    transport.close()


@on_loop
async def test_what_it_says_of_itself(lib: Any) -> None:
    """Classes, extra info, private names and reprs, from start to end."""
    transport, protocol = await start("cat", stderr=None)
    lib.note(isinstance(transport, asyncio.SubprocessTransport), transport.is_closing())
    process = transport.get_extra_info("subprocess")
    lib.note(type(process), process.pid == transport.get_pid() == transport._pid)
    lib.note(transport._proc is process, transport._returncode, transport._closed)
    lib.note(sorted(transport._pipes), transport._finished, transport._pending_calls)
    lib.note(transport.get_protocol() is protocol, transport._protocol is protocol)
    lib.note(anonymous(repr(transport)), transport._loop is asyncio.get_running_loop())
    ends = transport._pipes.values()
    lib.note([(end.fd, end.proc is transport, end.disconnected) for end in ends])
    transport.get_pipe_transport(0).close()
    await protocol.exited
    lib.note(transport.get_returncode(), process.returncode)
    await protocol.lost
    lib.note(anonymous(repr(transport)), transport._proc, transport._loop, transport._protocol)
    lib.note([(end.fd, end.proc, end.disconnected) for end in ends])
    transport.close()
    lib.note(anonymous(repr(transport)), transport.is_closing(), await transport._wait())
    for call in (transport.kill, transport.terminate, lambda: transport.send_signal(1)):
        lib.note(type(lib.catch(call)))


@on_loop
async def test_set_protocol(lib: Any) -> None:
    """What comes next goes to the new protocol."""
    transport, protocol = await start("cat", stderr=None)
    transport.get_pipe_transport(0).write(b"first")
    while protocol.data[1] != b"first":
        protocol.more.clear()
        await protocol.more.wait()
    second = Recorder()
    second.transport, second.calls = transport, ["start"]
    transport.set_protocol(second)
    transport.get_pipe_transport(0).write(b"second")
    transport.get_pipe_transport(0).close()
    await second.lost
    lib.note(protocol.calls, sorted(second.calls[1:], key=repr), second.data)
    transport.close()


@on_loop
async def test_close_kills(lib: Any) -> None:
    """close() closes the pipes and kills."""
    transport, protocol = await start("sleep", "1000", stderr=None)
    transport.close()
    lib.note(transport.is_closing(), transport.get_returncode())
    transport.close()
    await protocol.lost
    lib.note(sorted(protocol.calls, key=repr), protocol.calls[-1])


@on_loop
async def test_close_after_the_end_that_nobody_saw(lib: Any) -> None:
    """A process that has ended already is not killed, and its status is its own."""
    if lib.kind == "asyncio":
        pytest.skip("asyncio's close() may reap, and 255 is reported")
    for _ in range(5):
        transport, protocol = await start("exit 9; ", stdin=None, stdout=None, stderr=None)
        with contextlib.suppress(ChildProcessError):  # the loop has seen it
            os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)
        transport.close()
        await protocol.lost
        assert transport.get_returncode() == 9


@on_loop
async def test_close_in_callbacks(lib: Any) -> None:
    """Any callback may close."""
    for name in ("made", "data", "pipe lost", "exited", "lost"):
        hooks = {name: lambda protocol, *args: protocol.transport.close()}
        transport, protocol = await start(
            "echo text; read line", factory=lambda hooks=hooks: Recorder(**hooks), stderr=None
        )
        if name not in ("made", "data"):
            transport.get_pipe_transport(0).close()
        await protocol.lost
        lib.note(name, protocol.calls[0], protocol.calls[-1], transport.is_closing())
        transport.close()


@on_loop
async def test_callbacks_that_raise(lib: Any) -> None:
    """The exception handler hears of each, and everything goes on."""
    contexts = lib.contexts(asyncio.get_running_loop())
    for name in ("made", "data", "pipe lost", "exited"):
        hooks = {name: lambda *args: 1 / 0}
        transport, protocol = await start(
            "echo text; exit 2", factory=lambda hooks=hooks: Recorder(**hooks), stderr=None
        )
        while len([call for call in protocol.calls if call[0] == "pipe lost"]) < 2:
            protocol.more.clear()
            await protocol.more.wait()
        if name != "exited":
            await protocol.lost
        else:
            await transport._wait()
            await turns(5)
        lib.note(name, len(contexts), {repr(context["exception"]) for context in contexts})
        contexts.clear()
        transport.close()


@pytest.mark.parametrize("steps", range(8))
@on_loop
async def test_cancelled_start(lib: Any, steps: int) -> None:
    """A start that is cancelled kills the child and leaves nothing."""
    task = asyncio.create_task(
        asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    )
    await turns(steps)
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        process = await task
        process.kill()
        await process.communicate()
    await turns(5)
    del task
    gc.collect()


@on_loop
async def test_cancelled_communicate_and_wait(lib: Any) -> None:
    """Cancelling who waits does nothing to the child."""
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    for call in (process.wait, process.stdout.read, process.communicate):
        task = asyncio.create_task(call())
        await turns(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if call != process.communicate:  # from 3.13 on that has closed the input
            lib.note(process.returncode)
    process.stdin.close()
    lib.note(await process.wait(), process.returncode)


@on_loop
async def test_pipes_that_cannot_be_connected(lib: Any) -> None:
    """The error comes out of the start; the child is killed and its pipes are closed."""
    lib.stock_defect(True, "closes its pipes from 3.14 on only")
    loop = asyncio.get_running_loop()
    connect = loop.connect_read_pipe
    seen = []

    async def refuse(factory: Any, pipe: Any) -> Any:
        seen.append(pipe)
        if len(seen) == 2:
            raise ZeroDivisionError
        return await connect(factory, pipe)

    loop.connect_read_pipe = refuse
    try:
        with pytest.raises(ZeroDivisionError):
            await start("sleep", "1000")
    finally:
        del loop.connect_read_pipe
    await turns(5)
    lib.note(len(seen))
    assert all(pipe.closed for pipe in seen)


@on_loop
async def test_collected_while_running(lib: Any) -> None:
    """A loop that still watches keeps the transport; nothing is killed."""
    transport, protocol = await start("read line; exit 4", stdout=None, stderr=None)
    stdin = transport.get_pipe_transport(0)
    protocol.transport = None
    known = weakref.ref(transport)
    del transport
    gc.collect()
    lib.note(known() is not None)
    stdin.close()
    await protocol.lost
    lib.note(protocol.calls)
    if (transport := known()) is not None:
        transport.close()
    gc.collect()
    lib.warnings_taken()  # it was never closed, and may be gone by now


@on_loop
async def test_debug_lines(lib: Any) -> None:
    """Debug mode tells of the start, the exit and a kill; never of the arguments."""
    loop = asyncio.get_running_loop()
    logger = logging.getLogger("asyncio")
    loop.set_debug(True)
    logger.setLevel(logging.DEBUG)
    try:
        transport, protocol = await start("echo", "secret", stderr=STDOUT, stdin=None)
        await protocol.lost
        transport.close()
        transport, protocol = await start("sleep 1000; true", stdout=DEVNULL, stderr=None)
        transport.close()
        await protocol.lost
        lines = [anonymous(line) for line in lib.logged(logging.DEBUG)]
    finally:
        logger.setLevel(logging.NOTSET)
        loop.set_debug(False)
    words = ("execute program", "run shell", "created:", "Close running", "return code")
    lines = [line for line in lines if any(word in line for word in words)]
    # How far it has come by then may differ.
    lib.note(sorted(re.sub(r"<.*>", "<...>", line) for line in lines))


@on_loop
async def test_text_of_streams_in_debug_lines(lib: Any) -> None:
    """Each kind of stream has its word."""
    loop = asyncio.get_running_loop()
    logger = logging.getLogger("asyncio")
    loop.set_debug(True)
    logger.setLevel(logging.DEBUG)
    lines = []
    try:
        for options in (
            {"stdin": None, "stdout": None, "stderr": None},
            {"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT},
            {"stdin": PIPE, "stdout": None, "stderr": STDOUT},
            {"stdin": 0, "stdout": DEVNULL, "stderr": PIPE},
        ):
            transport, protocol = await start("true", **options)
            await protocol.lost
            transport.close()
            lines += [line for line in lib.logged(logging.DEBUG) if line.startswith("execute")]
    finally:
        logger.setLevel(logging.NOTSET)
        loop.set_debug(False)
    lib.note([line for line in lines if "<SubprocessTransport" not in anonymous(line)])


@on_loop
async def test_signals_reach_the_child(lib: Any) -> None:
    """Stopped and continued children still run; a handled signal is theirs."""
    transport, protocol = await start(
        "trap 'echo caught' USR1; echo ready; while :; do read line; done", stderr=None
    )
    while not protocol.data[1]:
        protocol.more.clear()
        await protocol.more.wait()
    transport.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, transport.get_pid(), os.WSTOPPED | os.WNOWAIT)
    await turns(50)
    lib.note(transport.get_returncode())
    transport.send_signal(signal.SIGCONT)
    transport.send_signal(signal.SIGUSR1)
    transport.get_pipe_transport(0).write(b"\n")
    while b"caught" not in protocol.data[1]:
        protocol.more.clear()
        await protocol.more.wait()
    transport.terminate()
    await protocol.lost
    lib.note(transport.get_returncode(), protocol.data[1])
    transport.close()


@on_loop
async def test_popen_objects_know(lib: Any) -> None:
    """The Popen behind a transport has the return code, and dies in silence."""
    transport, protocol = await start("exit 3; ", stdin=None, stdout=None, stderr=None)
    process = transport.get_extra_info("subprocess")
    await protocol.lost
    lib.note(process.returncode, process.poll(), isinstance(process, subprocess.Popen))
    transport.close()


@on_loop
async def test_pipe_with_a_protocol_of_its_own(lib: Any) -> None:
    """Who replaces the protocol of a process's pipe gets what comes from then on."""

    class Own(asyncio.Protocol):
        data = asyncio.Event()

        def data_received(self, data: bytes) -> None:
            lib.note("own", data)
            self.data.set()

    transport, protocol = await start("cat", stderr=None)
    stdout = transport.get_pipe_transport(1)
    end, own = stdout.get_protocol(), Own()
    stdout.set_protocol(own)
    transport.get_pipe_transport(0).write(b"for its own")
    await own.data.wait()
    stdout.set_protocol(end)
    transport.get_pipe_transport(0).write(b"for the process")
    transport.get_pipe_transport(0).close()
    await protocol.lost
    lib.note(protocol.data)
    transport.close()

"""A program that touches every public feature once, for `test_interpreters.py`.

Its argument is a file with a key and a certificate for localhost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
from typing import Any

import aioxide

CERTIFICATE = sys.argv[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a line back."""
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def streams() -> None:
    """TCP, Unix and TLS, by streams; start_tls; a Unix server's path."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(CERTIFICATE)
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_tls.check_hostname, client_tls.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        for tls in (None, server_tls):
            server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls)
            unix = await asyncio.start_unix_server(echo, path, ssl=tls)
            own = client_tls if tls else None
            address = server.sockets[0].getsockname()
            for opening in (
                asyncio.open_connection(*address, ssl=own),
                asyncio.open_unix_connection(path, ssl=own, server_hostname="x" if own else None),
            ):
                reader, writer = await opening
                writer.write(b"line\n")
                assert await reader.readline() == b"line\n"
                writer.close()
                await writer.wait_closed()
            for listening in (server, unix):
                listening.close()
                await listening.wait_closed()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


async def upgrade() -> None:
    """start_tls in both roles."""
    loop = asyncio.get_running_loop()
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(CERTIFICATE)
    client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_tls.check_hostname, client_tls.verify_mode = False, ssl.CERT_NONE
    ours, theirs = socket.socketpair()
    one, other = asyncio.Protocol(), asyncio.Protocol()
    first, _ = await loop.connect_accepted_socket(lambda: one, ours)
    second, _ = await loop.connect_accepted_socket(lambda: other, theirs)
    transports = await asyncio.gather(
        loop.start_tls(first, one, server_tls, server_side=True),
        loop.start_tls(second, other, client_tls),
    )
    for transport in transports:
        transport.abort()  # type: ignore[union-attr]
    await asyncio.sleep(0.01)


async def datagrams() -> None:
    """UDP."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[bytes] = loop.create_future()

    class Receiver(asyncio.DatagramProtocol):
        """Takes one datagram."""

        def datagram_received(self, data: bytes, addr: Any) -> None:
            """Tell."""
            arrived.set_result(data)

    one, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    address = one.get_extra_info("sockname")
    two, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
    two.sendto(b"datagram")
    assert await arrived == b"datagram"
    one.close()
    two.close()
    await asyncio.sleep(0)


async def pipes() -> None:
    """Pipes and subprocesses."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    with os.fdopen(reading, "rb", 0) as source, os.fdopen(writing, "wb", 0) as target:
        left, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
        right, _ = await loop.connect_write_pipe(asyncio.Protocol, target)
        right.write(b"through")
        right.close()
        assert await reader.read() == b"through"
        left.close()
        await asyncio.sleep(0.01)
    for make in (
        asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1, stderr=-1),
        asyncio.create_subprocess_shell("cat", stdin=-1, stdout=-1),
    ):
        process = await make
        out, _ = await process.communicate(b"hello")
        assert (out, process.returncode) == (b"hello", 0)


async def sockets_and_files() -> None:
    """sock_*, readers and writers, sendfile, lookups, executors."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as file:
        ours.setblocking(False)
        theirs.setblocking(False)
        file.write(b"file")
        file.flush()
        await loop.sock_sendall(ours, b"data")
        assert await loop.sock_recv(theirs, 10) == b"data"
        assert await loop.sock_sendfile(ours, file) == 4
        assert await loop.sock_recv(theirs, 10) == b"file"
        ready = asyncio.Event()
        loop.add_writer(ours, ready.set)
        await ready.wait()
        loop.remove_writer(ours)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        assert await loop.sendfile(transport, file) == 4
        transport.close()
        await asyncio.sleep(0)
    assert await loop.getaddrinfo("localhost", 80)
    assert await loop.getaddrinfo("127.0.0.1", 80)
    assert await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
    assert await loop.run_in_executor(None, lambda: 5) == 5


def patient() -> None:
    """A debug mode does not tell of what a busy machine makes slow."""
    asyncio.get_running_loop().slow_callback_duration = 1000


async def tasks() -> None:
    """Tasks and what is built of them."""
    patient()
    loop = asyncio.get_running_loop()

    async def slow() -> int:
        await asyncio.sleep(0)
        return 1

    async with asyncio.TaskGroup() as group:
        group.create_task(slow(), name="slow")
    async with asyncio.timeout(5):
        assert await asyncio.gather(slow(), slow()) == [1, 1]
    assert await asyncio.wait_for(slow(), 5) == 1
    assert await asyncio.shield(slow()) == 1
    await asyncio.wait([asyncio.ensure_future(slow())])
    for future in asyncio.as_completed([slow()]):
        assert await future == 1
    queue: asyncio.Queue[int] = asyncio.Queue()
    await queue.put(1)
    assert await queue.get() == 1
    for sync in (asyncio.Lock(), asyncio.Semaphore(), asyncio.Condition()):
        async with sync:
            pass
    handle = loop.call_later(100, print)
    handle.cancel()
    task = loop.create_task(slow())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert asyncio.iscoroutine(coroutine := slow())
    coroutine.close()
    loop.set_task_factory(None)
    assert loop.get_exception_handler() is None


async def signals() -> None:
    """A signal's handler."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


async def everything() -> None:
    """All of it."""
    patient()
    for part in (streams, upgrade, datagrams, pipes, sockets_and_files, tasks, signals):
        await part()
        print(part.__name__)


def main() -> None:
    """Everything, by each way to a loop that warns of nothing."""
    aioxide.run(everything(), debug=False)
    with aioxide.Runner(debug=True) as runner:
        runner.run(everything())
    with asyncio.Runner(loop_factory=aioxide.new_event_loop) as runner:
        runner.run(tasks())
    loop = aioxide.Loop(hold_tasks=False)
    loop.run_until_complete(tasks())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    aioxide.install()
    asyncio.run(tasks())
    print("all done")


if __name__ == "__main__":
    main()

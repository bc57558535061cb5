"""accept() out of descriptors or buffers: told, tried again after a while, nobody is lost."""

from __future__ import annotations

from typing import Any

import pytest

# Fills the process's table, lets clients connect, then makes room again.
PROGRAM = """
import asyncio, gc, os, resource, socket, sys
from asyncio import constants
constants.ACCEPT_RETRY_DELAY = 0.05
async def main():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    served = []
    class Hello(asyncio.Protocol):
        def connection_made(self, transport):
            served.append(self)
            transport.write(b"hello")
            transport.close()
    server = await loop.create_server(Hello, "127.0.0.1", 0)
    clients = [socket.socket() for _ in range(4)]
    for sock in clients:
        sock.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for sock in clients:
        sock.connect_ex(server.sockets[0].getsockname())
    while not told:
        await asyncio.sleep(0.005)
    first = told[0]
    print(first["message"], sorted(first), type(first["exception"]).__name__,
          first["exception"].errno, type(first["socket"]).__name__)
    print(first["socket"].fileno() == server.sockets[0].fileno(), len(served))
    beat = asyncio.ensure_future(asyncio.sleep(0.01, "the loop lives"))
    print(await beat, server.is_serving())
    for fd in held:
        os.close(fd)
    for sock in clients:
        got = b""
        while True:
            data = await loop.sock_recv(sock, 10)
            if not data:
                break
            got += data
        print(got)
        sock.close()
    print(len(served), {c["message"] for c in told})
    WHAT
LIB.run(main())
print("fds", len(os.listdir("/proc/self/fd")))
"""


@pytest.mark.parametrize(
    "ending",
    ["server.close()", "server.close(); await server.wait_closed()"],
    ids=["close", "wait_closed"],
)
def test_out_of_descriptors(lib: Any, ending: str) -> None:
    """EMFILE: the handler is told, the loop lives, and with room again all clients are served."""
    done = lib.program(PROGRAM.replace("WHAT", ending))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("b'hello'") == 4, done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("fds ")
    lib.note(lines[:-1])


CLOSED_MEANWHILE = """
import asyncio, os, resource, socket
from asyncio import constants
constants.ACCEPT_RETRY_DELAY = 0.02
async def main():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    client = socket.socket()
    client.setblocking(False)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    client.connect_ex(server.sockets[0].getsockname())
    while not told:
        await asyncio.sleep(0.005)
    for fd in held:
        os.close(fd)
    server.close()
    told.clear()
    await asyncio.sleep(0.1)
    if LIB is not asyncio:  # Stock asyncio tries to serve the closed socket, in vain, and says so.
        assert not told, told
    print(server.is_serving())
    client.close()
LIB.run(main())
"""


def test_closed_while_waiting_to_try_again(lib: Any) -> None:
    """A server that is closed before the next try stays closed; the loop goes on."""
    done = lib.program(CLOSED_MEANWHILE)
    assert done.returncode == 0, done.stderr
    lib.note(done.stdout)


FAULTS = """
import asyncio, errno, os, socket
from asyncio import constants
constants.ACCEPT_RETRY_DELAY = 0.01
class Faulty(socket.socket):
    fault = None
    def accept(self):
        if Faulty.fault:
            number, Faulty.fault = Faulty.fault, None
            raise OSError(number, os.strerror(number))
        return super().accept()
async def main():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
    for name in ("ENFILE", "ENOBUFS", "ENOMEM"):
        sock = Faulty()
        sock.bind(("127.0.0.1", 0))
        made = loop.create_future()
        class Once(asyncio.Protocol):
            def connection_made(self, transport):
                made.set_result(name)
                transport.abort()
        server = await loop.create_server(Once, sock=sock)
        Faulty.fault = getattr(errno, name)
        with socket.create_connection(sock.getsockname()):
            print(await made)
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
LIB.run(main())
"""


def test_out_of_other_things(lib: Any) -> None:
    """ENFILE, ENOBUFS, ENOMEM of a socket subclass's accept(): the client is served in the end."""
    done = lib.program(FAULTS)
    assert done.returncode == 0, done.stderr
    lib.note(done.stdout)

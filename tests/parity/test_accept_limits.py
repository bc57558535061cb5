"""accept() out of descriptors or buffers: told, tried again after a while, nobody is lost."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from wire import compile_shim

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


# Lets accept() and accept4() fail with each error of a list, once, before they do their work.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
static char *rest;
static int faulty(void) {
    static int started;
    if (!started) { rest = getenv("ACCEPT_FAULTS"); started = 1; }
    if (rest == NULL || *rest == 0) return 0;
    errno = (int)strtol(rest, &rest, 10);
    if (*rest == ',') rest++;
    return 1;
}
int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags) {
    int (*real)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
    return faulty() ? -1 : real(fd, address, size, flags);
}
int accept(int fd, struct sockaddr *address, socklen_t *size) {
    int (*real)(int, struct sockaddr *, socklen_t *) = dlsym(RTLD_NEXT, "accept");
    return faulty() ? -1 : real(fd, address, size);
}
"""

FAULTS = """
import asyncio, errno, os, socket
from asyncio import constants
constants.ACCEPT_RETRY_DELAY = 0.01
async def main():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(
        (context["message"].split(" ")[0], *sorted(context), context["exception"].errno)))
    served = []
    class Hello(asyncio.Protocol):
        def connection_made(self, transport):
            served.append(transport)
            transport.write(b"hello")
            transport.close()
    server = await loop.create_server(Hello, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    for number in range(3):
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, where)
            print(await loop.sock_recv(client, 10))
    server.close()
    await server.wait_closed()
    print(len(served), sorted(set(told)))
LIB.run(main())
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compile the library that is put before libc's accept()."""
    return compile_shim(SHIM, tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize(
    "errors",
    ["ENFILE", "EMFILE", "ENOBUFS", "ENOMEM", "EAGAIN", "ECONNABORTED", "EPROTO", "ENFILE,ENOMEM"],
)
def test_accept_fails(lib: Any, shim: str, errors: str) -> None:
    """Whatever accept() fails with: told as stock tells it, and every client is served."""
    numbers = ",".join(str(getattr(errno, name)) for name in errors.split(","))
    done = lib.program(FAULTS, env={"LD_PRELOAD": shim, "ACCEPT_FAULTS": numbers})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("hello") == 3
    lib.note(done.stdout)

"""The random walks again, over a kernel that reads and writes short, is interrupted, and fails.

A small library is put before libc's calls on sockets (LD_PRELOAD); its dice are seeded. Errors that
mean "try again" must change nothing; errors that end a connection end it as connection_lost tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wire import compile_shim, stock_at

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static unsigned dice = 1;
static int again_in_thousand, fail_in_thousand;
static long long hits;

__attribute__((constructor)) static void start(void) {
    dice = (unsigned)atoi(getenv("FAULTY_SEED") ? getenv("FAULTY_SEED") : "1");
    again_in_thousand = atoi(getenv("FAULTY_AGAIN") ? getenv("FAULTY_AGAIN") : "0");
    fail_in_thousand = atoi(getenv("FAULTY_FAIL") ? getenv("FAULTY_FAIL") : "0");
}

long long faulty_hits(void) { return hits; }

static int roll(int below) { return (int)(rand_r(&dice) % (unsigned)below); }

static int ours(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode)) return 0;
    return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
}

static int fails(int fd, const int *errors, int count) {
    if (!ours(fd)) return 0;
    if (roll(1000) < again_in_thousand) {
        hits++;
        errno = roll(2) ? EAGAIN : EINTR;
        return 1;
    }
    if (roll(1000) < fail_in_thousand) {
        hits++;
        errno = errors[roll(count)];
        return 1;
    }
    return 0;
}

static size_t shorter(int fd, size_t size) {
    if (size > 1 && again_in_thousand && ours(fd) && roll(3) == 0) {
        hits++;
        return 1 + (size_t)roll(size > 1000000 ? 1000000 : (int)size);
    }
    return size;
}

static const int reading[] = {ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENOMEM, EIO};
static const int writing[] = {EPIPE, ECONNRESET, ENOBUFS, ENETDOWN, ETIMEDOUT};

ssize_t recv(int fd, void *data, size_t size, int flags) {
    ssize_t (*real)(int, void *, size_t, int) = dlsym(RTLD_NEXT, "recv");
    if (fails(fd, reading, 5)) return -1;
    return real(fd, data, shorter(fd, size), flags);
}

ssize_t recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *a, socklen_t *n) {
    ssize_t (*real)(int, void *, size_t, int, struct sockaddr *, socklen_t *) =
        dlsym(RTLD_NEXT, "recvfrom");
    if (fails(fd, reading, 5)) return -1;
    return real(fd, data, shorter(fd, size), flags, a, n);
}

ssize_t read(int fd, void *data, size_t size) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    if (fails(fd, reading, 5)) return -1;
    return real(fd, data, shorter(fd, size));
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    ssize_t (*real)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");
    if (fails(fd, writing, 5)) return -1;
    return real(fd, data, shorter(fd, size), flags);
}

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    if (fails(fd, writing, 5)) return -1;
    return real(fd, data, shorter(fd, size));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    struct msghdr less = *message;
    if (fails(fd, writing, 5)) return -1;
    if (less.msg_iovlen > 1) less.msg_iovlen = shorter(fd, less.msg_iovlen);
    return real(fd, &less, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "writev");
    if (fails(fd, writing, 5)) return -1;
    return real(fd, parts, count > 1 ? (int)shorter(fd, (size_t)count) : count);
}

static int next_ctl_error;

void faulty_ctl(int number) { next_ctl_error = number; }

int epoll_ctl(int fd, int what, int other, struct epoll_event *event) {
    int (*real)(int, int, int, struct epoll_event *) = dlsym(RTLD_NEXT, "epoll_ctl");
    if (next_ctl_error && what != EPOLL_CTL_DEL && ours(other)) {
        errno = next_ctl_error;
        next_ctl_error = 0;
        return -1;
    }
    return real(fd, what, other, event);
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout) {
    int (*real)(int, struct epoll_event *, int, int) = dlsym(RTLD_NEXT, "epoll_wait");
    if (roll(1000) < again_in_thousand) { hits++; errno = EINTR; return -1; }
    return real(fd, events, count, timeout);
}

int epoll_pwait2(int fd, struct epoll_event *events, int count, const struct timespec *timeout,
                 const sigset_t *mask) {
    int (*real)(int, struct epoll_event *, int, const struct timespec *, const sigset_t *) =
        dlsym(RTLD_NEXT, "epoll_pwait2");
    if (roll(1000) < again_in_thousand) { hits++; errno = EINTR; return -1; }
    return real(fd, events, count, timeout, mask);
}
"""

PROGRAM = """
import asyncio, ctypes, logging, sys
sys.path[:0] = sys.argv[1:3]
import test_random_walk
logging.disable(logging.CRITICAL)
async def main():
    loop = asyncio.get_running_loop()
    strange = []
    def handler(loop, context):
        if not isinstance(context.get("exception"), (ZeroDivisionError, OSError)):
            strange.append(context)
    loop.set_exception_handler(handler)
    for seed in range(int(sys.argv[3]), int(sys.argv[4])):
        async with asyncio.timeout(20):
            await test_random_walk.walk(seed)
        assert not strange, (seed, strange)
LIB.run(main())
shim = ctypes.CDLL(None)
shim.faulty_hits.restype = ctypes.c_longlong
print("walked", shim.faulty_hits() > 5)
"""


REGISTRATION = """
import asyncio, ctypes, errno, socket, sys
sys.path[:0] = sys.argv[1:3]
from wire import Recorder, fill, io_turns, join
fail_next = lambda: ctypes.CDLL(None).faulty_ctl(errno.ENOSPC)
async def main():
    loop = asyncio.get_running_loop()
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    one, two = socket.socketpair()
    one.setblocking(False)
    for call in (
        lambda: loop.add_reader(one, print),
        lambda: loop.add_writer(one, print),
        lambda: loop.sock_recv(one, 5),
    ):
        fail_next()
        try:
            result = call()
            if asyncio.iscoroutine(result):
                await result
        except OSError as exc:
            print(type(exc).__name__, exc.errno)
        print(loop.remove_reader(one), loop.remove_writer(one))
    two.send(b"hello")
    print(await loop.sock_recv(one, 5), len(told))
    one.close()
    two.close()
    fail_next()
    transport, protocol, peer = await join(Recorder)
    await io_turns()
    print(protocol.calls, len(told), sorted(told[0]), told[0]["exception"].errno)
    if not transport.is_closing():
        transport.close()
    await protocol.seen("CL")
    peer.close()
    told.clear()
    transport, protocol, peer = await join(Recorder)
    await io_turns()
    fail_next()
    try:
        while not transport.get_write_buffer_size() and not transport.is_closing():
            transport.write(bytes(100_000))
    except OSError as exc:
        print(type(exc).__name__, exc.errno)
    transport.abort()
    await protocol.seen("CL")
    peer.close()
    await io_turns()
LIB.run(main())
print("end")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compile the library that is put before libc's calls."""
    return compile_shim(SHIM, tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize(
    ("again", "fail"), [(300, 0), (50, 20), (0, 30)], ids=["again", "both", "failing"]
)
@pytest.mark.parametrize("seed", [1, 2])
def test_walks(lib: Any, shim: str, again: int, fail: int, seed: int) -> None:
    """The invariants of the walks hold whatever the kernel says."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # Stock asyncio lost some of these connections twice (gh-156512).
    here = Path(__file__).parent
    done = lib.program(
        PROGRAM,
        str(here),
        str(here.parent / "parity"),
        str(5000 + 60 * seed),
        str(5060 + 60 * seed),
        env={
            "LD_PRELOAD": shim,
            "FAULTY_SEED": str(seed),
            "FAULTY_AGAIN": str(again),
            "FAULTY_FAIL": str(fail),
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "walked True\n"


def test_registration_fails(lib: Any, shim: str) -> None:
    """epoll has no room for a descriptor: whoever asked is told, and the next try may succeed."""
    here = Path(__file__).parent
    done = lib.program(
        REGISTRATION, str(here), str(here.parent / "parity"), env={"LD_PRELOAD": shim}
    )
    assert done.returncode == 0, done.stderr
    lib.note(done.stdout)

"""Datagram endpoints over a kernel that interrupts, moves short batches, and fails.

A small library is put before libc's calls that move datagrams (LD_PRELOAD); its dice are seeded.
What goes in must come out: each datagram once and in order, or as one error of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wire import compile_shim

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

static unsigned dice = 1;
static int again_in_thousand, fail_in_thousand;
static long long hits, failed_sends, failed_receives;

__attribute__((constructor)) static void start(void) {
    dice = (unsigned)atoi(getenv("FAULTY_SEED"));
    again_in_thousand = atoi(getenv("FAULTY_AGAIN"));
    fail_in_thousand = atoi(getenv("FAULTY_FAIL"));
}

long long faulty_hits(void) { return hits; }
long long faulty_failed_sends(void) { return failed_sends; }
long long faulty_failed_receives(void) { return failed_receives; }

static int roll(int below) { return (int)(rand_r(&dice) % (unsigned)below); }

static int fails(const int *errors, int count, long long *failed) {
    if (roll(1000) < again_in_thousand) {
        hits++;
        errno = roll(2) ? EAGAIN : EINTR;
        return 1;
    }
    if (roll(1000) < fail_in_thousand) {
        hits++;
        (*failed)++;
        errno = errors[roll(count)];
        return 1;
    }
    return 0;
}

static const int reading[] = {ECONNREFUSED, EHOSTUNREACH, ENOMEM, ENETDOWN};
static const int writing[] = {ECONNREFUSED, EPERM, ENOBUFS, ENETUNREACH, EMSGSIZE};

#define REAL(name, result, ...) result (*real)(__VA_ARGS__) = dlsym(RTLD_NEXT, name)

ssize_t recvfrom(int fd, void *data, size_t size, int flags, struct sockaddr *a, socklen_t *n) {
    REAL("recvfrom", ssize_t, int, void *, size_t, int, struct sockaddr *, socklen_t *);
    if (fails(reading, 4, &failed_receives)) return -1;
    return real(fd, data, size, flags, a, n);
}

int recvmmsg(int fd, struct mmsghdr *all, unsigned count, int flags, struct timespec *limit) {
    REAL("recvmmsg", int, int, struct mmsghdr *, unsigned, int, struct timespec *);
    if (fails(reading, 4, &failed_receives)) return -1;
    if (again_in_thousand) count = 1 + (unsigned)roll((int)count);
    return real(fd, all, count, flags, limit);
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    REAL("send", ssize_t, int, const void *, size_t, int);
    if (fails(writing, 5, &failed_sends)) return -1;
    return real(fd, data, size, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *a,
               socklen_t n) {
    REAL("sendto", ssize_t, int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    if (fails(writing, 5, &failed_sends)) return -1;
    return real(fd, data, size, flags, a, n);
}

int sendmmsg(int fd, struct mmsghdr *all, unsigned count, int flags) {
    REAL("sendmmsg", int, int, struct mmsghdr *, unsigned, int);
    if (fails(writing, 5, &failed_sends)) return -1;
    if (again_in_thousand) count = 1 + (unsigned)roll((int)count);
    return real(fd, all, count, flags);
}
"""

PROGRAM = """
import asyncio, ctypes, random, socket, sys
sys.path[:0] = [sys.argv[1]]
from udp_ends import Catcher, endpoint
from wire import abstract_name, io_turns, turns

shim = ctypes.CDLL(None)
for name in ("hits", "failed_sends", "failed_receives"):
    getattr(shim, "faulty_" + name).restype = ctypes.c_longlong
COUNT = 600


async def walk(seed, family):
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    raised = []
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    expected_raises = [0]

    def received(protocol, data, sender):
        dice = rng.randrange(100)
        if dice < 3:
            protocol.transport.pause_reading()
            loop.call_soon(protocol.transport.resume_reading)
        elif dice < 6:
            protocol.transport.pause_reading()
            protocol.transport.resume_reading()
        elif dice < 12:
            loop.call_soon(lambda: None)
        elif dice < 15:
            expected_raises[0] += 1
            raise ZeroDivisionError

    unix = family == socket.AF_UNIX
    local = abstract_name if unix else lambda: ("127.0.0.1", 0)
    options = {"family": family, "local_addr": local()}
    before = shim.faulty_failed_sends(), shim.faulty_failed_receives()
    async with endpoint(lambda: Catcher(datagram_received=received), **options) as (sink, heard):
        name = sink.get_extra_info("sockname")
        sink.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        connected = rng.random() < 0.5
        if connected:
            options["remote_addr"] = name.decode() if unix else name
        options["local_addr"] = local()
        async with endpoint(**options) as (source, told):
            to = () if connected else (name,)
            for number in range(COUNT):
                data = b"%d" % number
                source.sendto(bytearray(data) if rng.random() < 0.2 else data, *to)
                if rng.random() < 0.1:
                    await turns(rng.randrange(5))
                if number % 100 == 99:
                    # Loopback UDP drops what does not fit into the sink's buffer.
                    while source._buffer:
                        await turns(1)
                    await io_turns()
            while source._buffer:
                await turns(1)
            failed = shim.faulty_failed_sends() - before[0]
            await heard.when(lambda: len(heard.data) >= COUNT - failed)
            await io_turns()
            got = [int(data) for data in heard.data]
            assert got == sorted(set(got)), "out of order, or twice"
            assert len(got) == COUNT - failed, (len(got), failed)
            receives = shim.faulty_failed_receives() - before[1]
            assert len(told.errors) + len(heard.errors) == failed + receives
            assert len(raised) == expected_raises[0], raised
            assert not source.is_closing() and not sink.is_closing()
            source.close()
            await told.seen("CL")


async def main():
    for seed in range(int(sys.argv[2]), int(sys.argv[3])):
        for family in (socket.AF_UNIX, socket.AF_INET):
            async with asyncio.timeout(30):
                await walk(seed, family)

LIB.run(main())
print("walked", shim.faulty_hits() > 50)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compile the library that is put before libc's calls."""
    return compile_shim(SHIM, tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize(
    ("again", "fail"), [(300, 0), (100, 50), (0, 100)], ids=["again", "both", "failing"]
)
def test_walks(lib: Any, shim: str, again: int, fail: int) -> None:
    """Nothing is lost, doubled or out of order but what failed, which was told."""
    here = Path(__file__).parent
    done = lib.program(
        PROGRAM,
        str(here.parent / "parity"),
        str(again),
        str(again + 4),
        env={
            "LD_PRELOAD": shim,
            "FAULTY_SEED": "3",
            "FAULTY_AGAIN": str(again),
            "FAULTY_FAIL": str(fail),
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "walked True\n"

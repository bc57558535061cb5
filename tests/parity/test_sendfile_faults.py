"""The system call refuses, is interrupted, sends little: what becomes of the file."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from wire import compile_shim

# Fails the calls whose numbers (from 1) are in FAULT_CALLS ("1", "3", "2-") with FAULT_ERRNO, or,
# if that is 0, lets them send three bytes at most.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static int calls;

static ssize_t fault(const char *name, int out, int in, void *offset, size_t count)
{
    const char *which = getenv("FAULT_CALLS");
    int number = which ? atoi(which) : 0;
    int from_on = which && strchr(which, '-') != NULL;
    ssize_t (*real)(int, int, void *, size_t) = dlsym(RTLD_NEXT, name);
    calls += 1;
    if (number && (calls == number || (from_on && calls > number))) {
        int code = atoi(getenv("FAULT_ERRNO"));
        if (code) {
            errno = code;
            return -1;
        }
        count = count > 3 ? 3 : count;
    }
    return real(out, in, offset, count);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
    return fault("sendfile", out, in, offset, count);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
    return fault("sendfile64", out, in, offset, count);
}
"""

PROGRAM = """
import asyncio, hashlib, os, socket, tempfile
CONTENT = bytes(range(251)) * SIZE
async def receive(sock):
    loop, got = asyncio.get_running_loop(), bytearray()
    while data := await loop.sock_recv(sock, 1 << 18):
        got += data
    return bytes(got)
async def main():
    loop = asyncio.get_running_loop()
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context["message"]))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with tempfile.TemporaryFile() as file, ours, theirs:
        file.write(CONTENT)
        file.flush()
        file.seek(2)
        receiving = asyncio.ensure_future(receive(theirs))
        if TRANSPORT:
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
            sending = loop.sendfile(transport, file, 5, fallback=FALLBACK)
        else:
            sending = loop.sock_sendfile(ours, file, 5, fallback=FALLBACK)
        try:
            print("sent", await sending)
        except OSError as error:
            print(type(error).__name__, error.errno, error)
        except Exception as error:
            print(type(error).__name__, error)
        print("position", file.tell())
        if TRANSPORT:
            print(transport.is_reading(), transport.is_closing())
            transport.close()
        else:
            ours.close()
        got = await receiving
        print(len(got), got == CONTENT[5:5 + len(got)], contexts)
LIB.run(main())
print("fds", len(os.listdir("/proc/self/fd")))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the library that makes the call fail."""
    return compile_shim(SHIM, tmp_path_factory.mktemp("shim"))


def outcome(lib: Any, shim: str, calls: str, code: int, size: int, **flags: bool) -> list[str]:
    """Run the program under faults; give what it says."""
    text = PROGRAM.replace("SIZE", str(size))
    for name, value in flags.items():
        text = text.replace(name, str(value))
    done = lib.program(
        text, env={"LD_PRELOAD": shim, "FAULT_CALLS": calls, "FAULT_ERRNO": str(code)}
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lines: list[str] = done.stdout.splitlines()
    # The loop and its program left nothing: three, the listing's own, and nothing of ours.
    assert int(lines.pop().split()[1]) <= 5
    return lines


@pytest.mark.parametrize("transport", [False, True], ids=["socket", "transport"])
@pytest.mark.parametrize(
    ("name", "fallback"),
    [
        ("EINVAL", False),
        ("EINVAL", True),
        ("ENOSYS", True),
        ("ENOTSOCK", True),
        ("EOVERFLOW", True),
        ("EPIPE", False),
    ],
)
def test_refused_at_once(lib: Any, shim: str, name: str, fallback: bool, transport: bool) -> None:
    """Nothing was sent: the file is read and written, or the caller told that it is not."""
    code = getattr(errno, name)
    flags = {"TRANSPORT": transport, "FALLBACK": fallback}
    lib.note(outcome(lib, shim, "1-", code, 4000, **flags))


@pytest.mark.parametrize("transport", [False, True], ids=["socket", "transport"])
@pytest.mark.parametrize("name", ["EINVAL", "EPIPE", "ENOTCONN"])
def test_refused_later(lib: Any, shim: str, name: str, transport: bool) -> None:
    """Something was sent: the error is told, and the position is behind what was sent."""
    code = getattr(errno, name)
    flags = {"TRANSPORT": transport, "FALLBACK": True}
    lines = outcome(lib, shim, "2-", code, 8000, **flags)
    sent = int(lines[1].split()[1]) - 5
    assert sent > 0
    assert str(sent) in lines[-1]
    lib.note([line for line in lines if str(sent) not in line and str(sent + 5) not in line])


@pytest.mark.parametrize("transport", [False, True], ids=["socket", "transport"])
@pytest.mark.parametrize("name", ["EINTR", "EAGAIN"])
@pytest.mark.parametrize("calls", ["1", "2"])
def test_interrupted(lib: Any, shim: str, calls: str, name: str, transport: bool) -> None:
    """An interrupted or premature call is made again."""
    flags = {"TRANSPORT": transport, "FALLBACK": False}
    lib.note(outcome(lib, shim, calls, getattr(errno, name), 8000, **flags))


@pytest.mark.parametrize("transport", [False, True], ids=["socket", "transport"])
def test_sends_little(lib: Any, shim: str, transport: bool) -> None:
    """Three bytes for each call: all arrive."""
    flags = {"TRANSPORT": transport, "FALLBACK": False}
    lib.note(outcome(lib, shim, "1-", 0, 10, **flags))

"""Memory of idle TLS connections: `python idle_memory.py [--connections 2000] [--loops ...]`.

For each loop a server process of its own; another process opens the connections, says a word on
each, hears it back, and holds them. What the server's resident set has grown by, divided by their
number, is the memory of one. The row `OpenSSL` is the same done by hand: accepted sockets, each
with an `ssl.SSLObject` and its two `MemoryBIO`, in a list. What a loop holds beyond is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import json
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import loops

CONNECTIONS = 2000
BARE = "OpenSSL"
LOOPS = (loops.CONTROL, "uvloop", loops.SUBJECT)
WORD = b"hello"
# Opened and closed before the first look at the memory: imports and caches are not counted.
WARM_UP = 20
PAGE_BYTES = resource.getpagesize()
READ_BYTES = 65536
# Descriptors beyond those of the connections.
SPARE_DESCRIPTORS = 100


def allow(descriptors: int) -> None:
    """Raise the soft limit of descriptors; exit with a message where the hard one is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = descriptors + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"{descriptors} connections need {wanted} descriptors, {hard} are allowed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def resident_bytes(pid: int) -> int:
    """Return the resident set of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def server_context(pem: str) -> ssl.SSLContext:
    """Make the server's context from a file with key and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


class Echo(asyncio.Protocol):
    """Writes back what it reads."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def answer_collect(_loop: Any, _context: Any) -> None:
    """Ignore reports: clients leave by being killed."""


async def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
    """Serve on the running loop; each line on standard input is answered after a collection."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(answer_collect)
    server = await loop.create_server(Echo, sock=listener, ssl=context, backlog=1024)
    print(listener.getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        gc.collect()
        print("collected", flush=True)
    server.close()


class Session:
    """An accepted socket with TLS done by hand."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def drive(self, call: Any, *args: Any) -> Any:
        """Call a method of the TLS object until it has what it needs."""
        while True:
            try:
                result = call(*args)
            except ssl.SSLWantReadError:
                result = None
            if self.outgoing.pending:
                self.sock.sendall(self.outgoing.read())
            if result is not None:
                return result
            if not (data := self.sock.recv(READ_BYTES)):
                raise ConnectionResetError
            self.incoming.write(data)


def serve_bare(context: ssl.SSLContext, listener: socket.socket, connections: int) -> None:
    """Serve without a loop: one client after the other, each kept."""
    print(listener.getsockname()[1], flush=True)
    for count in (WARM_UP, connections):
        kept = []
        for _ in range(count):
            session = Session(context, listener.accept()[0])
            session.drive(lambda s=session: s.tls.do_handshake() or True)
            session.drive(session.tls.write, session.drive(session.tls.read, READ_BYTES))
            kept.append(session)
        sys.stdin.readline()
        gc.collect()
        print("collected", flush=True)
    sys.stdin.readline()


def run_server(name: str, pem: str, connections: int) -> None:
    """Be a server until standard input ends."""
    allow(connections)
    context = server_context(pem)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        if name == BARE:
            serve_bare(context, listener, connections)
            return
        listener.setblocking(False)
        loop = loops.new_event_loop(name)
        with contextlib.closing(loop):
            loop.run_until_complete(serve(context, listener))
            loop.run_until_complete(loop.shutdown_default_executor())


def run_client(port: int, connections: int) -> None:
    """Open the connections, say the word on each, hold them until standard input ends."""
    allow(connections)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    held = []
    for _ in range(connections):
        sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
        sock.sendall(WORD)
        if sock.recv(READ_BYTES) != WORD:
            raise SystemExit("the server did not say the word")
        held.append(sock)
    print("held", flush=True)
    sys.stdin.readline()


@contextlib.contextmanager
def child(*args: str) -> Iterator[Any]:
    """Run this script with other arguments; end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: Any) -> str:
    """Say a line to a child, return its answer."""
    process.stdin.write("\n")
    process.stdin.flush()
    line: str = process.stdout.readline()
    if not line:
        raise RuntimeError("a server ended early")
    return line


def measure(name: str, connections: int, pem: str) -> float:
    """Return the bytes that one idle connection costs the named server."""
    with child("--serve", name, "--pem", pem, "--connections", str(connections)) as server:
        port = server.stdout.readline().strip()
        with child("--connect", port, "--connections", str(WARM_UP)) as client:
            client.stdout.readline()
        say(server)
        before = resident_bytes(server.pid)
        with child("--connect", port, "--connections", str(connections)) as client:
            if client.stdout.readline().strip() != "held":
                raise RuntimeError(f"{name}: the connections could not be made")
            say(server)
            return (resident_bytes(server.pid) - before) / connections


@contextlib.contextmanager
def certificate() -> Iterator[str]:
    """Give the path of a file with a key and a certificate for localhost."""
    import trustme  # here, so that the measured processes do without

    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "server.pem"
        chain = trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem
        pem.write_bytes(chain.bytes())
        yield str(pem)


def measure_all(names: list[str], connections: int) -> dict[str, float]:
    """Return the bytes of one idle connection for each name, OpenSSL's own first."""
    with certificate() as pem:
        return {name: measure(name, connections, pem) for name in [BARE, *names]}


def table(found: dict[str, float], connections: int) -> str:
    """Return the Markdown table."""
    lines = [
        f"{connections} idle TLS connections, KiB of resident memory for each:",
        "",
        "| server | all | own, beyond OpenSSL's |",
        "|---|---|---|",
    ]
    for name, size in found.items():
        own = "" if name == BARE else f"{(size - found[BARE]) / 1024:.1f}"
        lines.append(f"| {name} | {size / 1024:.1f} | {own} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--loops", nargs="+", default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--pem", help=argparse.SUPPRESS)
    parser.add_argument("--connect", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run_server(options.serve, options.pem, options.connections)
    elif options.connect:
        run_client(options.connect, options.connections)
    else:
        names = options.loops or [name for name in LOOPS if importlib.util.find_spec(name)]
        found = measure_all(names, options.connections)
        text = table(found, options.connections)
        print(json.dumps(found, indent=1) if options.json else text)


if __name__ == "__main__":
    main()

"""Renegotiation (TLS 1.2) and key updates (TLS 1.3), asked for by the `openssl` program.

`openssl s_client` and `s_server` take commands on standard input: a line that begins with R or r
renegotiates, K and k update the keys (K asks the other side to do the same).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import ssl
import subprocess
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tlswire import HOST, client_context, leaf, only, server_context
from wire import Recorder, io_turns, on_loop

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl program")
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
#: SSL_OP_ALLOW_CLIENT_RENEGOTIATION: a server of OpenSSL 3 refuses otherwise.
ALLOW_CLIENT_RENEGOTIATION = 1 << 8
BULK = bytes(range(256)) * 2000


class Program:
    """The openssl program, with its output at hand."""

    def __init__(self, *args: str) -> None:
        assert OPENSSL is not None
        self.process = subprocess.Popen(
            [OPENSSL, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        assert self.process.stdout is not None
        self.fd = self.process.stdout.fileno()
        os.set_blocking(self.fd, False)
        self.output = bytearray()

    async def say(self, line: str) -> None:
        """Type a line, and wait until it is read: a command must come in a read of its own."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        unread = b"\1"
        while any(unread):
            await asyncio.sleep(0)
            unread = fcntl.ioctl(self.process.stdin, termios.FIONREAD, bytes(4))

    async def shows(self, pattern: bytes) -> re.Match[bytes]:
        """Wait until the output has the pattern; give the match, with all the text before it."""
        loop = asyncio.get_running_loop()
        while not (match := re.search(pattern, bytes(self.output))):
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self.fd, lambda: ready.done() or ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(self.fd)
            data = os.read(self.fd, 1 << 16)
            assert data, f"openssl ended: {bytes(self.output)!r}"
            self.output += data
        del self.output[: match.end()]
        return match

    def stop(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


@contextlib.asynccontextmanager
async def serving(version: Any, allow: bool = True) -> AsyncIterator[tuple[Any, Any, Program]]:
    """Give our server's transport and protocol, and the program as its client."""
    loop = asyncio.get_running_loop()
    context = server_context(**only(version))
    if allow:
        context.options |= ALLOW_CLIENT_RENEGOTIATION
    protocol = Recorder()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    program = Program("s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST)
    try:
        await protocol.seen("CM")
        await program.shows(rb"\n---\n[^-]*\Z|Verify return code")
        yield protocol.transport, protocol, program
    finally:
        program.stop()
        server.close()
        protocol.transport.abort()
        await io_turns()


@contextlib.asynccontextmanager
async def connected(version: Any, folder: Path) -> AsyncIterator[tuple[Any, Any, Program]]:
    """Give our client's transport and protocol, and the program as its server."""
    loop = asyncio.get_running_loop()
    pem = folder / "server.pem"
    pem.write_bytes(leaf(HOST).private_key_and_cert_chain_pem.bytes())
    program = Program("s_server", "-accept", "127.0.0.1:0", "-cert", str(pem), "-key", str(pem))
    transport: Any = None
    try:
        port = int((await program.shows(rb"ACCEPT [^\n]*:(\d+)\n"))[1])
        transport, protocol = await loop.create_connection(
            Recorder,
            "127.0.0.1",
            port,
            ssl=client_context(**only(version)),
            server_hostname=HOST,
        )
        await program.shows(rb"CIPHER is|Secure Renegotiation")
        yield transport, protocol, program
    finally:
        program.stop()
        if transport is not None:
            transport.abort()
        await io_turns()


async def talk(lib: Any, transport: Any, protocol: Any, program: Program, word: str) -> None:
    """Say a word in each direction."""
    protocol.data.clear()
    await program.say(f"in-{word}")
    lib.note(await protocol.has(len(word) + 4))
    transport.write(f"out-{word}\n".encode())
    await program.shows(f"out-{word}\n".encode())


@on_loop
async def test_client_renegotiates(lib: Any) -> None:
    """Renegotiation by the client, several times, with words and bulk in between."""
    async with serving(V12) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        for number in range(3):
            await program.say("R")
            await program.shows(b"RENEGOTIATING")
            await talk(lib, transport, protocol, program, f"again-{number}")
        lib.note(protocol.grammar, transport.get_extra_info("ssl_object").version())


@on_loop
async def test_bulk_after_renegotiation(lib: Any) -> None:
    """Bulk in our direction right after the new handshake: every byte comes."""
    async with serving(V12) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        await program.say("R")
        await program.shows(b"RENEGOTIATING")
        await talk(lib, transport, protocol, program, "second")
        text = b"0123456789abcdef" * 40_000
        transport.write(text + b"the end\n")
        match = await program.shows(b"the end\n")
        assert match.string.endswith(text + b"the end\n")


@on_loop
async def test_client_renegotiation_refused(lib: Any) -> None:
    """Where the context does not allow it, the server goes on or ends as on asyncio."""
    async with serving(V12, allow=False) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        await program.say("R")
        await program.shows(b"RENEGOTIATING")
        await protocol.seen("CL")
        lib.note(protocol.grammar, type(protocol.lost_with), lib.logged())


@pytest.mark.parametrize("command", ["R", "r"])
@on_loop
async def test_server_renegotiates(lib: Any, command: str, tmp_path: Path) -> None:
    """Renegotiation asked for by the server: our client does it."""
    async with connected(V12, tmp_path) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        for number in range(2):
            await program.say(command)
            await program.shows(b"SSL_do_handshake -> \\d+")
            await talk(lib, transport, protocol, program, f"again-{number}")
        lib.note(protocol.grammar)


@pytest.mark.parametrize("command", ["K", "k"])
@on_loop
async def test_client_updates_keys(lib: Any, command: str) -> None:
    """TLS 1.3 key updates by the client, one-sided and both ways."""
    async with serving(V13) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        for number in range(3):
            await program.say(command)
            await program.shows(b"KEYUPDATE")
            await talk(lib, transport, protocol, program, f"again-{number}")
        transport.write(BULK.replace(b"\n", b".") + b"the end\n")
        await program.shows(b"the end\n")
        lib.note(protocol.grammar)


@pytest.mark.parametrize("command", ["K", "k"])
@on_loop
async def test_server_updates_keys(lib: Any, command: str, tmp_path: Path) -> None:
    """The same by the server; K makes our client answer with an update although it is idle."""
    async with connected(V13, tmp_path) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        for number in range(3):
            await program.say(command)
            await talk(lib, transport, protocol, program, f"again-{number}")
        lib.note(protocol.grammar)


@on_loop
async def test_the_program_quits(lib: Any) -> None:
    """Q ends s_client with close_notify."""
    async with serving(V13) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        await program.say("Q")
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.lost_with)


@on_loop
async def test_the_program_is_killed(lib: Any) -> None:
    """A client that dies."""
    async with serving(V13) as (transport, protocol, program):
        await talk(lib, transport, protocol, program, "first")
        program.process.kill()
        await protocol.seen("CL")
        lib.note(protocol.grammar, type(protocol.lost_with))

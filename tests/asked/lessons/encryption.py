"""TLS: ending it, starting it in the middle of a stream, obeying its settings, its memory.

The certificate and its authority are in the folder that `ASKED_CERTIFICATES` names.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from . import Either, Has, Skips, lesson
from .descriptors import Idle, turns

#: Connections whose memory is measured.
IDLE = 150
#: What a connection may cost, OpenSSL's own 40 to 60 KiB included.
KIB_MAX = 160


def server_context() -> ssl.SSLContext:
    """Give a context with the certificate for `localhost`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(os.environ["ASKED_CERTIFICATES"], "server.pem"))
    return context


def client_context() -> ssl.SSLContext:
    """Give a context that knows the authority of that certificate."""
    authority = os.path.join(os.environ["ASKED_CERTIFICATES"], "authority.pem")
    return ssl.create_default_context(cafile=authority)


def in_thread(work: Callable[[], Any]) -> asyncio.Future[Any]:
    """Run a function that blocks in a thread that nobody has to wait for."""
    loop = asyncio.get_running_loop()
    result = loop.create_future()

    def run() -> None:
        try:
            found = work()
        except BaseException as error:
            loop.call_soon_threadsafe(result.set_exception, error)
        else:
            loop.call_soon_threadsafe(result.set_result, found)

    threading.Thread(target=run, daemon=True).start()
    return result


@lesson(
    "uvloop#471, aiohttp#6762",
    uvloop=Has("not closed after 3 s"),
    rloop=Has("NotImplementedError"),
)
async def close_ends_a_talking_peer() -> None:
    """A closed TLS transport stays for 30 seconds while the peer keeps sending."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def talk() -> None:
        sock, _ = listener.accept()
        with (
            contextlib.suppress(OSError),
            server_context().wrap_socket(sock, server_side=True, suppress_ragged_eofs=True) as tls,
        ):
            while not stop.is_set():
                tls.send(bytes(1000))
                stop.wait(0.005)

    talking = in_thread(talk)
    transport, protocol = await loop.create_connection(
        Idle, *listener.getsockname(), ssl=client_context(), server_hostname="localhost"
    )
    await asyncio.sleep(0.1)
    transport.close()
    try:
        async with asyncio.timeout(3):
            await protocol.lost
    except TimeoutError:
        raise AssertionError("not closed after 3 s") from None
    finally:
        stop.set()
        transport.abort()
        await talking
        listener.close()


@lesson(
    "rloop PR#63",
    rloop=Has("NotImplementedError"),
    rsloop=Has("NoneType"),
)
async def close_of_tls13() -> None:
    """Closing a TLS 1.3 connection hangs."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()
        await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    server_side, client_side = server_context(), client_context()
    server_side.minimum_version = client_side.minimum_version = ssl.TLSVersion.TLSv1_3
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    where = server.sockets[0].getsockname()
    async with asyncio.timeout(5):
        for _ in range(3):
            ended.clear()
            reader, writer = await asyncio.open_connection(
                *where, ssl=client_side, server_hostname="localhost"
            )
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            writer.write(b"hello")
            assert await reader.read() == b"hello"
            writer.close()
            await writer.wait_closed()
            await ended.wait()
    server.close()


@lesson(
    "uvloop#564, cpython#109051",
    asyncio=Has("AssertionError"),
    uvloop=Has("AssertionError"),
    rloop=Has("NotImplementedError"),
    zuvloop=Has("AssertionError"),
)
async def start_tls_while_writing_is_paused() -> None:
    """`start_tls` on a transport whose writing is paused ends in an assertion."""
    loop = asyncio.get_running_loop()
    reports: list[Any] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))
    plain = 8 << 20
    one, two = socket.socketpair()
    one.setblocking(False)
    paused: list[None] = []

    class Paused(Idle):
        def pause_writing(self) -> None:
            paused.append(None)

    def peer() -> bytes:
        left = plain
        while left:
            left -= len(two.recv(min(left, 1 << 16)))
        with client_context().wrap_socket(two, server_hostname="localhost") as tls:
            got = tls.recv(100)
            tls.send(b"bye")
            return got

    transport, protocol = await loop.create_connection(Paused, sock=one)
    transport.write(bytes(plain))
    await turns()
    assert paused
    reading = in_thread(peer)
    async with asyncio.timeout(10):
        upgraded = await loop.start_tls(transport, protocol, server_context(), server_side=True)
        assert upgraded is not None
        upgraded.write(b"secret")
        assert await reading == b"secret"
        upgraded.close()
        await protocol.lost
    assert not reports, reports


@lesson(
    "uvloop#707, cpython#142352",
    asyncio=Either("never ends", until=(3, 15)),
    uvloop=Has("never ends"),
    rloop=Has("never ends"),
    rsloop=Has("never ends"),
)
async def start_tls_after_a_proxy_line() -> None:
    """`start_tls` loses the bytes that came together with a PROXY protocol line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever came is in the reader's buffer before the line is taken out of it.
        assert (await reader.readline()).startswith(b"PROXY ")
        await writer.start_tls(server_context())
        writer.write(b"echo " + await reader.readline())
        writer.close()

    def peer(where: Any) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        got = b""
        with socket.create_connection(where) as sock:
            sock.settimeout(5)
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            sock.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + outgoing.read())
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    incoming.write(sock.recv(65536))
            tls.write(b"hello\n")
            sock.sendall(outgoing.read())
            while not got.endswith(b"\n"):
                with contextlib.suppress(ssl.SSLWantReadError):
                    got += tls.read(100)
                    continue
                incoming.write(sock.recv(65536))
        return got

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()
    try:
        assert await in_thread(lambda: peer(where)) == b"echo hello\n"
    except TimeoutError:
        raise AssertionError("the handshake never ends") from None
    server.close()


@lesson(
    "uvloop#707",
    rloop=Has("NotImplementedError"),
)
async def start_tls_loses_no_plain_text() -> None:
    """What was written before `start_tls` is lost, or sent after the handshake began."""
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    one.setblocking(False)
    plain = bytes(range(256)) * 1000

    def peer() -> tuple[bytes, bytes]:
        before = b""
        while len(before) < len(plain):
            before += two.recv(len(plain) - len(before))
        with server_context().wrap_socket(two, server_side=True) as tls:
            return before, tls.recv(100)

    reading = in_thread(peer)
    transport, protocol = await loop.create_connection(Idle, sock=one)
    transport.write(plain)
    async with asyncio.timeout(10):
        upgraded = await loop.start_tls(
            transport, protocol, client_context(), server_hostname="localhost"
        )
        assert upgraded is not None
        upgraded.write(b"secret")
        assert await reading == (plain, b"secret")
        upgraded.close()
        await protocol.lost


@lesson(
    "rsloop#37",
    rloop=Has("NotImplementedError"),
    rsloop=Has("NoneType"),
)
async def context_settings_are_obeyed() -> None:
    """Settings of the `SSLContext` are ignored."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    names: list[str | None] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server_side = server_context()
    server_side.set_alpn_protocols(["h2", "http/1.1"])
    server_side.sni_callback = lambda _object, name, _context: names.append(name)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    where = server.sockets[0].getsockname()

    async def connect(context: ssl.SSLContext, name: str) -> Any:
        _, writer = await asyncio.open_connection(*where, ssl=context, server_hostname=name)
        connected = writer.get_extra_info("ssl_object")
        found = (connected.selected_alpn_protocol(), connected.version())
        writer.close()
        return found

    async def refused(context: ssl.SSLContext, name: str) -> bool:
        try:
            await connect(context, name)
        except ssl.SSLCertVerificationError:
            return True
        return False

    async with asyncio.timeout(10):
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        lax.check_hostname = False
        lax.verify_mode = ssl.CERT_NONE
        assert await connect(lax, "elsewhere"), "CERT_NONE"
        assert await refused(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "localhost"), "unknown CA"
        assert await refused(client_context(), "elsewhere"), "wrong host name"
        strict = client_context()
        strict.set_alpn_protocols(["http/1.1"])
        strict.maximum_version = ssl.TLSVersion.TLSv1_2
        alpn, version = await connect(strict, "localhost")
        assert alpn == "http/1.1", "ALPN"
        assert version == "TLSv1.2", "maximum_version"
        assert names == ["elsewhere", "localhost", "elsewhere", "localhost"], f"SNI {names}"
    server.close()


CLIENTS = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kept = []
for _ in range(count):
    tls = context.wrap_socket(socket.create_connection((host, port)))
    tls.send(b"x")
    assert tls.recv(1) == b"x"
    kept.append(tls)
print("open", flush=True)
sys.stdin.read()
"""


def resident_kib() -> int:
    """Give the size of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


@lesson(
    "cpython#109534, uvloop#565",
    asyncio=Has("KiB for each"),
    uvloop=Skips("allocates as much, but leaves it untouched until a first large read"),
    rloop=Has("NotImplementedError"),
    zuvloop=Has("KiB for each"),
)
async def memory_of_an_idle_connection() -> None:
    """An idle TLS connection holds 256 KiB of buffers."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context())
    host, port = server.sockets[0].getsockname()

    def clients(count: int) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", CLIENTS, host, str(port), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        return child

    # The first ones fill caches.
    warm = await in_thread(lambda: clients(10))
    before = resident_kib()
    idle = await in_thread(lambda: clients(IDLE))
    each = (resident_kib() - before) / IDLE
    for child in (warm, idle):
        child.kill()
        child.communicate()
    server.close()
    assert each <= KIB_MAX, f"{each:.0f} KiB for each connection"

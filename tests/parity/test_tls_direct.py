"""OpenSSL's session called directly, or by Python's objects: the same connection either way."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import fcntl
import gc
import os
import socket
import ssl
import subprocess
import sys
import termios
import threading
from typing import Any

import pytest
from tlswire import (
    HOST,
    ROLES,
    authority,
    client_context,
    is_server,
    leaf,
    native_tls,
    only,
    server_context,
    tls_link,
    told,
)
from wire import BufferedRecorder, Recorder, io_turns, on_loop, until

import aioxide

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
roles = pytest.mark.parametrize("route", ROLES)
versions = pytest.mark.parametrize("version", [V12, V13], ids=lambda version: version.name)
#: Data goes through the session, or through Python's objects.
ways = pytest.mark.parametrize("direct", [True, False], ids=["direct", "by-objects"])
#: As `docs/design/tls.md` has it.
CAN_BE_DIRECT = (
    sys.platform == "linux"
    and ssl.OPENSSL_VERSION.startswith("OpenSSL 3.")
    and getattr(_ssl, "__file__", None) is not None
    and os.environ.get("AIOXIDE_DIRECT_TLS") != "0"
)
needs_direct = pytest.mark.skipif(
    not CAN_BE_DIRECT, reason="here OpenSSL is driven by Python's objects alone"
)


#: The kernel of a busy machine may take its time to hand data over.
ARRIVAL_TURNS = 1_000_000


def own(route: str, **settings: Any) -> ssl.SSLContext:
    """Give the context of the transport's side."""
    return server_context(**settings) if is_server(route) else client_context(**settings)


def steer(lib: Any, transport: Any, direct: bool) -> None:
    """Let the connection go on in one of the two ways; the stock loop has one."""
    if native_tls(lib):
        protocol = transport._ssl_protocol
        assert protocol._is_direct == CAN_BE_DIRECT
        if not direct:
            protocol._sslobj = protocol._sslobj
            assert not protocol._is_direct


# Each takes the ciphertext of two records and gives what is sent instead.
DAMAGE = {
    "flipped": lambda one, two: one[:-1] + bytes([one[-1] ^ 1]) + two,
    "flipped-second": lambda one, two: one + two[:-1] + bytes([two[-1] ^ 1]),
    "unknown-type": lambda one, two: b"\x63" + one[1:] + two,
    "wrong-version": lambda one, two: one[:1] + b"\x07\x07" + one[3:] + two,
    "too-long": lambda one, two: one[:3] + b"\xff\xff" + one[5:] + two,
    "empty": lambda one, two: one[:3] + b"\0\0" + two,
    "repeated": lambda one, two: one + one,
    "swapped": lambda one, two: two + one,
    "plain-alert": lambda one, two: b"\x15\x03\x03\0\2\2\x14" + two,
    "plain-text": lambda one, two: b"GET / HTTP/1.1\r\n\r\n" + two,
}


@roles
@versions
@ways
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder], ids=["data", "buffered"])
@on_loop
async def test_damage(
    lib: Any, route: str, version: Any, direct: bool, damage: str, kind: Any
) -> None:
    """A stream that is damaged: the same error in the same words, after the same data."""
    seen = lib.contexts(asyncio.get_running_loop())
    ours = own(route, **only(version))
    async with tls_link(kind, route, ours=ours) as (transport, protocol, peer):
        steer(lib, transport, direct)
        one, two = peer.records(b"first"), peer.records(b"second")
        peer.lower.send(DAMAGE[damage](one, two))
        await protocol.seen("CL")
        lib.note(protocol.grammar, protocol.data, protocol.lost_with, told(seen))
        transport.write(b"afterwards")
        await io_turns()
        lib.note(protocol.grammar, protocol.lost_with, told(seen))
        seen.clear()


@roles
@ways
@on_loop
async def test_farewell_amid_data(lib: Any, route: str, direct: bool) -> None:
    """Data and a goodbye in one read, and data of ours behind it."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        steer(lib, transport, direct)
        peer.lower.send(peer.records(b"data") + peer.farewell())
        await protocol.seen("CL")
        transport.write(b"more")
        lib.note(protocol.grammar, protocol.data, protocol.lost_with)


@roles
@ways
@pytest.mark.parametrize("size", [1, 2048, 4096, 16384, 16385, 70_000, 300_000, 1_000_000])
@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder], ids=["data", "buffered"])
@on_loop
async def test_sizes(lib: Any, route: str, direct: bool, size: int, kind: Any) -> None:
    """Data of any size arrives whole, both ways."""
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    async with tls_link(kind, route) as (transport, protocol, peer):
        steer(lib, transport, direct)
        transport.write(data)
        assert await peer.exactly(size) == data
        await peer.send_all(data)
        await protocol.when(lambda: len(protocol.data) == size)
        assert protocol.data == data


@roles
@on_loop
async def test_message_listener(lib: Any, route: str) -> None:
    """Who listens to messages may raise: the object's own methods deal with it."""
    ours = own(route)
    heard: list[Any] = []
    ours._msg_callback = lambda *args: heard.append(args[4])  # type: ignore[attr-defined]
    async with tls_link(Recorder, route, ours=ours) as (transport, protocol, peer):
        if native_tls(lib):
            assert not transport._ssl_protocol._is_direct
        peer.send(b"hello")
        await protocol.seen("DR")
        lib.note(protocol.data, len(heard) > 0)


@roles
@versions
@on_loop
async def test_keylog(lib: Any, route: str, version: Any, tmp_path: Any) -> None:
    """A log of keys may fail where they change: only the object's methods tell."""
    ours = own(route, keylog_filename=str(tmp_path / "keys"), **only(version))
    async with tls_link(Recorder, route, ours=ours) as (transport, protocol, peer):
        peer.send(b"hello")
        await protocol.seen("DR")
        transport.write(b"back")
        lib.note(protocol.data, await peer.exactly(4), (tmp_path / "keys").stat().st_size > 0)


@roles
@on_loop
async def test_objects_replaced(lib: Any, route: str) -> None:
    """Objects of others in place of the session's: they are what is driven."""
    async with tls_link(Recorder, route) as (transport, protocol, peer):
        below = transport._ssl_protocol
        below._incoming = below._incoming
        if native_tls(lib):
            assert not below._is_direct
        peer.send(b"hello")
        await protocol.seen("DR")
        below._sslobj = below._sslobj
        transport.write(b"back")
        lib.note(protocol.data, await peer.exactly(4))


@roles
@versions
@pytest.mark.parametrize("asked", ["_incoming", "_outgoing"])
@on_loop
async def test_buffers_asked_for(lib: Any, route: str, version: Any, asked: str) -> None:
    """Who asks for a buffer finds all that is on its way, and the connection goes on by it."""
    async with tls_link(Recorder, route, ours=own(route, **only(version))) as link:
        transport, protocol, peer = link
        below, stream = transport._ssl_protocol, peer.records(b"first") + peer.records(b"second")
        transport.pause_reading()
        for part in (stream[:3], stream[3:-4]):
            before = transport.get_read_buffer_size()
            peer.lower.send(part)
            await until(lambda: transport.get_read_buffer_size() > before, ARRIVAL_TURNS)
        below._sslobj.write(b"unsent ")
        waiting = transport.get_write_buffer_size()
        buffer = getattr(below, asked)
        if native_tls(lib):
            assert not below._is_direct
        lib.note(buffer.pending == (waiting if asked == "_outgoing" else len(stream) - 4))
        lib.note(transport.get_read_buffer_size(), transport.get_write_buffer_size() == waiting)
        transport.resume_reading()
        await protocol.seen("DR")
        peer.lower.send(stream[-4:])
        await protocol.when(lambda: len(protocol.data) == len("firstsecond"))
        transport.write(b"sent")
        lib.note(protocol.data, await peer.exactly(11))


@roles
@on_loop
async def test_object_outlives(lib: Any, route: str) -> None:
    """The session's object goes on when transport and protocol are gone, and has what was left."""
    async with tls_link(Recorder, route) as (transport, _protocol, peer):
        transport.pause_reading()
        peer.send(b"left behind")
        await until(transport.get_read_buffer_size, ARRIVAL_TURNS)
        kept = transport.get_extra_info("ssl_object")
        transport.abort()
    del transport, _protocol, peer
    await io_turns()
    gc.collect()
    lib.note(kept.read(4), kept.pending(), kept.write(b"to nobody"), kept.version())
    with pytest.raises(ssl.SSLWantReadError):
        kept.read(7), kept.read(1)


class Subclassed(ssl.SSLContext):
    """A context that wraps in two steps, and throws a session away."""

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin a session and forget it, then begin another."""
        super().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), *args[2:], **options)
        return super().wrap_bio(*args, **options)


class Elsewhere(ssl.SSLContext):
    """A context whose sessions read and write elsewhere, until somebody carries."""

    buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO]

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin a session with buffers of our own."""
        self.buffers = ssl.MemoryBIO(), ssl.MemoryBIO()
        return super().wrap_bio(*self.buffers, *args[2:], **options)


@on_loop
async def test_sessions_found(lib: Any) -> None:
    """The session is found by its object, not by its time; its buffers must be the ones given."""
    if not native_tls(lib):
        return
    for kind, direct in ((Subclassed, True), (Elsewhere, False)):
        context = kind(ssl.PROTOCOL_TLS_SERVER)
        leaf(HOST).configure_cert(context)
        protocol = aioxide._aioxide.TlsProtocol(
            asyncio.get_running_loop(), Recorder(), context, None, server_side=True
        )
        assert protocol._is_direct == (direct and CAN_BE_DIRECT), kind
        assert protocol._incoming.pending == protocol._outgoing.pending == 0
        protocol.connection_lost(None)


@needs_direct
@roles
@versions
@on_loop
async def test_stale_error(lib: Any, route: str, version: Any) -> None:
    """What somebody left in OpenSSL's queue of errors is no error of the connection's."""
    if not native_tls(lib):
        return
    library = ctypes.CDLL(_ssl.__file__)
    async with tls_link(Recorder, route, ours=own(route, **only(version))) as (t, protocol, peer):
        record, sock = peer.records(b"hello"), t.get_extra_info("socket").fileno()
        for part in (record[:9], record[9:]):
            library.ERR_new()
            library.ERR_set_error(20, 1, None)
            peer.lower.send(part)
            await until(lambda: not any(fcntl.ioctl(sock, termios.FIONREAD, bytes(4))))
        await protocol.seen("DR")
        t.write(b"back")
        assert (protocol.data, await peer.exactly(4)) == (b"hello", b"back")
        library.ERR_clear_error()


SCRIPT = """
import asyncio, socket, ssl, sys
import _ssl, aioxide, aioxide._aioxide
{prelude}
async def main():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    server, client = (ssl.SSLContext(k) for k in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    server.load_cert_chain(sys.argv[1])
    client.load_verify_locations(sys.argv[2])
    (reader, writer), (peer, back) = await asyncio.gather(
        asyncio.open_connection(sock=near, ssl=client, server_hostname="localhost"),
        serve(loop, far, server),
    )
    for size in (1, 5000, 200_000):
        writer.write(bytes(size))
        back.write(await peer.readexactly(size))
        assert await reader.readexactly(size) == bytes(size)
    print(writer.transport._ssl_protocol._is_direct)
    writer.close()
    back.close()
    await writer.wait_closed()

async def serve(loop, sock, context):
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=context)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

with asyncio.Runner(loop_factory=aioxide.new_event_loop) as runner:
    runner.run(main())
"""

#: The second session of the rehearsal is told something else.
ODD = """
wrap = ssl.SSLContext.wrap_bio
count = []
def odd(self, incoming, *args, **options):
    count.append(1)
    if len(count) == 2:
        incoming.write(b"?")
    return wrap(self, incoming, *args, **options)
ssl.SSLContext.wrap_bio = odd
"""

#: What is done before the first connection, and whether it may be direct then.
WORLDS = {
    "as-is": ("", True),
    "no-file": ("del _ssl.__file__", False),
    "not-loaded": ("_ssl.__file__ = '/nonexistent.so'", False),
    "not-a-library": ("_ssl.__file__ = __file__", False),
    "foreign-library": ("ssl.OPENSSL_VERSION = 'LibreSSL 4.1.0'", False),
    "next-library": ("ssl.OPENSSL_VERSION = 'OpenSSL 4.0.0 14 Apr 2026'", False),
    "other-words": (ODD, False),
}


def world(tmp_path: Any, prelude: str, **environment: str) -> str:
    """Run the script in a process of its own; give what it says."""
    certificate = leaf(HOST)
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority().cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "script.py").write_text(SCRIPT.format(prelude=prelude))
    kept = {k: v for k, v in os.environ.items() if k != "AIOXIDE_DIRECT_TLS"}
    done = subprocess.run(
        [sys.executable, "-P", "script.py", "server.pem", "ca.pem"],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@needs_direct
@pytest.mark.parametrize("name", WORLDS)
def test_worlds(name: str, tmp_path: Any) -> None:
    """Where the library is not what was rehearsed, everything goes by Python's objects."""
    prelude, direct = WORLDS[name]
    assert world(tmp_path, prelude) == str(direct)


def test_switched_off(tmp_path: Any) -> None:
    """A variable of the environment turns direct calls off."""
    assert world(tmp_path, "", AIOXIDE_DIRECT_TLS="0") == "False"


def test_threads() -> None:
    """Loops in many threads begin sessions at the same time: each finds its own."""
    failures: list[BaseException] = []

    async def connections() -> None:
        for _ in range(12):
            near, far = socket.socketpair()
            loop = asyncio.get_running_loop()
            (ours, _), (theirs, echo) = await asyncio.gather(
                loop.create_connection(
                    Recorder, sock=near, ssl=client_context(), server_hostname=HOST
                ),
                loop.connect_accepted_socket(Recorder, far, ssl=server_context()),
            )
            ours.write(b"hello")
            await echo.seen("DR")
            assert echo.data == b"hello"
            for transport in (ours, theirs):
                assert transport._ssl_protocol._is_direct == CAN_BE_DIRECT
                transport.abort()
            await asyncio.sleep(0)

    def body() -> None:
        try:
            with asyncio.Runner(loop_factory=aioxide.new_event_loop) as runner:
                runner.run(connections())
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=body) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

"""What the TLS tests share: certificates, contexts, a peer that speaks TLS by hand, routes.

A *route* is one way in which a program comes by a TLS transport; its role (client or server) is
decided by it. The peer of every route is a `TlsPeer`: a plain socket and an `ssl.SSLObject` that
the test drives itself, so that it decides which bytes leave when, and can say or leave out any part
of the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import trustme
from wire import Peer, Recorder, abstract_name, listening, tcp_pair, until

import aioxide.tls

HOST = "localhost"
CLIENT_ROUTES = ("connect", "connect-sock", "unix-connect", "start-client", "inner-client")
SERVER_ROUTES = ("served", "accepted", "unix-served", "start-server", "inner-server")
TLS_ROUTES = CLIENT_ROUTES + SERVER_ROUTES
#: One of each role, for what the way there does not matter to.
ROLES = ("connect-sock", "accepted")


@functools.cache
def authority() -> trustme.CA:
    """Give the authority that every good certificate here is signed by."""
    return trustme.CA()


@functools.cache
def leaf(*names: str) -> trustme.LeafCert:
    """Give a certificate for these names."""
    return authority().issue_cert(*names)


def server_context(*names: str, **settings: Any) -> ssl.SSLContext:
    """Give a server's context with a certificate for the names (localhost, if none)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf(*(names or (HOST,))).configure_cert(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def client_context(**settings: Any) -> ssl.SSLContext:
    """Give a client's context that trusts our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def only(version: ssl.TLSVersion) -> dict[str, Any]:
    """Give the settings of a context that speaks one version."""
    return {"minimum_version": version, "maximum_version": version}


class TlsPeer(Peer):
    """The other end of a TLS connection, driven by hand, over a plain peer or another TLS one."""

    def __init__(
        self,
        lower: Peer,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__(lower.sock)
        self.lower = lower
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side, server_hostname, session
        )
        #: The stream ended without a close_notify.
        self.cut = False

    async def flush(self) -> None:
        """Send the records that wait."""
        if self.outgoing.pending:
            await self.lower.send_all(self.outgoing.read())

    async def feed(self) -> None:
        """Receive some ciphertext, or the end."""
        data = await self.lower.some()
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    async def drive(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the TLS object until it has what it needs."""
        while True:
            try:
                return call(*args)
            except ssl.SSLWantReadError:
                await self.flush()
                await self.feed()
            finally:
                with contextlib.suppress(OSError):
                    await self.flush()

    async def handshake(self) -> None:
        """Shake hands."""
        await self.drive(self.tls.do_handshake)

    def records(self, data: bytes) -> bytes:
        """Encrypt without sending."""
        for start in range(0, len(data), 1 << 14):
            self.tls.write(data[start : start + (1 << 14)])
        return self.outgoing.read()

    def send(self, data: bytes) -> None:
        """Send a text that fits the socket's buffer."""
        self.lower.send(self.records(data))

    async def send_all(self, data: bytes) -> None:
        """Send any amount."""
        for start in range(0, len(data), 1 << 16):
            await self.lower.send_all(self.records(data[start : start + (1 << 16)]))

    async def some(self) -> bytes:
        """Receive some plaintext; nothing at the end, with `cut` set if nobody said goodbye."""
        try:
            data: bytes = await self.drive(self.tls.read, 1 << 16)
        except ssl.SSLZeroReturnError:
            return b""
        except (ssl.SSLEOFError, ConnectionError):
            self.cut = True
            return b""
        return data

    async def exactly(self, size: int) -> bytes:
        """Receive exactly so many bytes, or what came until the end."""
        got = bytearray()
        while len(got) < size:
            try:
                data = await self.drive(self.tls.read, min(size - len(got), 1 << 16))
            except ssl.SSLZeroReturnError:
                break
            except (ssl.SSLEOFError, ConnectionError):
                self.cut = True
                break
            if not data:
                break
            got += data
        return bytes(got)

    def farewell(self) -> bytes:
        """Give the record that says close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def goodbye(self) -> None:
        """Send close_notify, in each layer; wait for nothing."""
        self.lower.send(self.farewell())
        if isinstance(self.lower, TlsPeer):
            self.lower.goodbye()

    async def part(self) -> None:
        """End in the orderly way: close_notify both ways, then the end of stream."""
        await self.drive(self.tls.unwrap)
        self.sock.close()


def peer_of(
    sock: socket.socket | Peer,
    *,
    serves: bool,
    context: ssl.SSLContext | None = None,
    hostname: str | None = HOST,
    session: ssl.SSLSession | None = None,
) -> TlsPeer:
    """Give a TLS peer that has not shaken hands yet."""
    lower = sock if isinstance(sock, Peer) else Peer(sock)
    if serves:
        return TlsPeer(lower, context or server_context(), server_side=True)
    context = context or client_context()
    return TlsPeer(lower, context, server_side=False, server_hostname=hostname, session=session)


async def both(opening: Any, peer: TlsPeer) -> Any:
    """Let a transport and its peer shake hands; give what the opening gives."""
    opened, _ = await asyncio.gather(opening, peer.handshake())
    return opened


def is_server(route: str) -> bool:
    """Tell whether the transport of this route is the server of its connection."""
    return route in SERVER_ROUTES


async def _connect(factory: Any, context: Any, unix: bool, options: Any) -> tuple[Any, TlsPeer]:
    loop = asyncio.get_running_loop()
    theirs = options.pop("theirs")
    if unix:
        listener, name = socket.socket(socket.AF_UNIX), abstract_name()
        listener.bind(name)
        listener.listen()
        listener.setblocking(False)
        opening = loop.create_unix_connection(
            factory, name, ssl=context, server_hostname=HOST, **options
        )
    else:
        listener = listening()
        opening = loop.create_connection(
            factory, *listener.getsockname(), ssl=context, server_hostname=HOST, **options
        )
    with listener:
        task = asyncio.ensure_future(opening)
        sock, _ = await loop.sock_accept(listener)
    peer = peer_of(sock, serves=True, context=theirs)
    return await both(task, peer), peer


async def _serve(factory: Any, context: Any, unix: bool, options: Any) -> tuple[Any, TlsPeer]:
    loop = asyncio.get_running_loop()
    theirs = options.pop("theirs")
    made: asyncio.Future[Any] = loop.create_future()

    def remember() -> Any:
        protocol = factory()
        made.set_result(protocol)
        return protocol

    if unix:
        name = abstract_name()
        server: Any = await loop.create_unix_server(remember, name, ssl=context, **options)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(name)
    else:
        server = await loop.create_server(remember, "127.0.0.1", 0, ssl=context, **options)
        sock = socket.create_connection(server.sockets[0].getsockname())
    peer = peer_of(sock, serves=False, context=theirs)
    await peer.handshake()
    protocol = await made
    server.close()
    await protocol.seen("CM")
    return (protocol.transport, protocol), peer


async def _start(
    factory: Any, context: Any, served: bool, inner: bool, options: Any
) -> tuple[Any, TlsPeer]:
    loop = asyncio.get_running_loop()
    theirs = options.pop("theirs")
    ours, sock = tcp_pair()
    lower: Peer = Peer(sock)
    if inner:
        outer = peer_of(lower, serves=True)
        opening = loop.create_connection(
            factory, sock=ours, ssl=client_context(), server_hostname=HOST
        )
        transport, protocol = await both(opening, outer)
        lower = outer
    else:
        transport, protocol = await loop.create_connection(factory, sock=ours)
    options.setdefault("server_hostname", None if served else HOST)
    peer = peer_of(lower, serves=not served, context=theirs)
    upgrading = loop.start_tls(transport, protocol, context, server_side=served, **options)
    protocol.transport = await both(upgrading, peer)
    return (protocol.transport, protocol), peer


async def tls_join(
    factory: Any = Recorder,
    route: str = "connect-sock",
    *,
    ours: ssl.SSLContext | None = None,
    theirs: ssl.SSLContext | None = None,
    **options: Any,
) -> tuple[Any, Any, TlsPeer]:
    """Make a TLS transport by a route; give it with its protocol and its peer."""
    loop = asyncio.get_running_loop()
    served = is_server(route)
    ours = ours or (server_context() if served else client_context())
    options["theirs"] = theirs
    if route in ("connect", "unix-connect"):
        made, peer = await _connect(factory, ours, route != "connect", options)
    elif route in ("served", "unix-served"):
        made, peer = await _serve(factory, ours, route != "served", options)
    elif route.startswith(("start", "inner")):
        made, peer = await _start(factory, ours, served, route.startswith("inner"), options)
    else:
        del options["theirs"]
        near, far = tcp_pair()
        peer = peer_of(far, serves=not served, context=theirs)
        if served:
            opening = loop.connect_accepted_socket(factory, near, ssl=ours, **options)
        else:
            options.setdefault("server_hostname", HOST)
            opening = loop.create_connection(factory, sock=near, ssl=ours, **options)
        made = await both(opening, peer)
    return *made, peer


@contextlib.asynccontextmanager
async def tls_link(
    factory: Any = Recorder, route: str = "connect-sock", **options: Any
) -> AsyncIterator[tuple[Any, Any, TlsPeer]]:
    """Give a TLS transport, its protocol and its peer; take all down afterwards."""
    transport, protocol, peer = await tls_join(factory, route, **options)
    sock = transport.get_extra_info("socket")
    try:
        yield transport, protocol, peer
    finally:
        peer.close()
        if sock.fileno() != -1:
            transport.abort()
        await until(lambda: sock.fileno() == -1)


async def gone(transport: Any) -> None:
    """Wait until the transport's descriptor is closed."""
    sock = transport.get_extra_info("socket") if not isinstance(transport, socket.socket) else None
    if sock is not None:
        await until(lambda: sock.fileno() == -1)


async def outcome(lib: Any, awaitable: Any) -> BaseException | None:
    """Await; note the error that comes, or that none comes."""
    try:
        await awaitable
    except (Exception, asyncio.CancelledError) as exc:
        lib.note("raised", exc)
        return exc
    lib.note("no error")
    return None


def native_tls(lib: Any) -> bool:
    """Tell whether the TLS layer is this loop's own, and not the standard library's."""
    return bool(lib.native_loop) and not hasattr(aioxide.tls, "sslproto")


def stock_leaks(lib: Any) -> None:
    """Forgive the stock loop the descriptors that it leaves to the garbage collector."""
    gc.collect()
    if not lib.native_loop:
        lib.warnings_taken()


def told(contexts: list[dict[str, Any]]) -> list[Any]:
    """Give a comparable picture of what the exception handler was told.

    The layer that reports is the standard library's there and not here, so of the objects only
    their presence counts.
    """
    return [[c["message"], sorted(c), c.get("exception")] for c in contexts]

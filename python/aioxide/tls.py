"""TLS: the native TLS protocol over the native stream transport, or over any other.

An `ssl.SSLContext` is obeyed exactly: it is OpenSSL, driven through Python's own objects.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from asyncio import selector_events
from collections.abc import Callable

from . import _aioxide
from ._room import Room

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl as ssl_module
    from typing import Any

    from .server import Server

try:
    import ssl
except ImportError:  # a Python without OpenSSL
    ssl = None  # type: ignore[assignment]


#: asyncio's own transport of a stream socket.
_selector_events: Any = selector_events
STOCK_TRANSPORT: Any = _selector_events._SelectorSocketTransport


def _context_argument(context: contextvars.Context | None) -> dict[str, Any]:
    """Return the keyword that tells a native transport its context, if it is to have one."""
    return {} if context is None else {"context": context}


# What asyncio's stream transports call of a socket when they use it.
_USED = ("recv", "recv_into", "send", "sendmsg", "shutdown", "setsockopt")


def _is_asked(sock: socket.socket) -> bool:
    """Return whether `sock` has its own of what a transport calls, so that it has to be called."""
    if type(sock) is socket.socket:
        return False
    own, stock = getattr(sock, "__dict__", ()), socket.SocketType
    return any(
        name in own or getattr(type(sock), name, None) is not getattr(stock, name) for name in _USED
    )


def _open(
    loop: Tls,
    sock: socket.socket,
    protocol: asyncio.BaseProtocol,
    waiter: asyncio.Future[None] | None,
    extra: dict[str, Any] | None,
    server: asyncio.Server | None,
    context: contextvars.Context | None,
) -> asyncio.Transport:
    """Return a native transport or, over a socket that must be asked, asyncio's own."""
    if _is_asked(sock):
        # Before 3.15 it takes no context, and runs everything in the one that it is made in.
        run = contextvars.copy_context().run if context is None else context.run
        made: asyncio.Transport = run(STOCK_TRANSPORT, loop, sock, protocol, waiter, extra, server)
        return made
    return _aioxide.StreamTransport(
        loop, sock, protocol, waiter, extra, server, **_context_argument(context)
    )


class Tls(Room):
    """Transports, with and without TLS. *Source*: `asyncio.selector_events`."""

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        """Return a transport, the owner of `sock` from now on."""
        self._ensure_fd_no_transport(sock)
        return _open(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl_module.SSLContext | None,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        """Return a TLS transport over a plain one, the owner of `rawsock` from now on."""
        self._ensure_fd_no_transport(rawsock)
        ssl_protocol = _aioxide.TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        _open(self, rawsock, ssl_protocol, None, extra, server, context)
        return ssl_protocol._get_app_transport()

    def _accept_ssl(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sslcontext: ssl_module.SSLContext,
        server: Server | None = None,
        handshake_timeout: float | None = None,
        shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """Begin TLS on the accepted non-blocking `sock`, of which this is the owner.

        The native accept calls this; errors go where those of an accept go. Times in seconds.
        """
        if context is None:
            context = contextvars.copy_context()
        begin = self._begin_ssl(
            sock, protocol_factory, sslcontext, server, handshake_timeout, shutdown_timeout, context
        )
        self.create_task(begin, context=context)

    async def _begin_ssl(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sslcontext: ssl_module.SSLContext,
        server: Server | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        context: contextvars.Context | None,
    ) -> None:
        """Handshake of one accepted connection; failures are told to debug mode only."""
        protocol: asyncio.BaseProtocol | None = None
        transport: asyncio.Transport | None = None
        waiter: asyncio.Future[None] | None
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self._make_ssl_transport(
                sock,
                protocol,
                sslcontext,
                waiter,
                server_side=True,
                server=server,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
                context=context,
            )
            try:
                await waiter
            except BaseException:
                transport.close()
                waiter = None  # its exception refers to this frame
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if transport is None:
                sock.close()
            if self._debug:
                report: dict[str, Any] = {
                    "message": "Error on transport creation for incoming connection",
                    "exception": error,
                }
                if protocol is not None:
                    report["protocol"] = protocol
                if transport is not None:
                    report["transport"] = transport
                self.call_exception_handler(report)

    async def start_tls(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl_module.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Upgrade `transport` to TLS; return the transport that `protocol` uses from now on.

        Bytes that a server's StreamReader has already buffered are the handshake's. Times are in
        seconds. Raises TypeError for transports and contexts that cannot do this.
        """
        if ssl is None:
            raise RuntimeError("Python ssl module is not available")
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")

        upgraded: Any = transport
        waiter: asyncio.Future[None] | None = self.create_future()
        ssl_protocol = _aioxide.TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        result = ssl_protocol._get_app_transport()
        # No byte may come to the TLS protocol before its connection_made().
        upgraded.pause_reading()
        if server_side:
            _move_buffered(protocol, ssl_protocol)
        upgraded.set_protocol(ssl_protocol)
        made = self.call_soon(ssl_protocol.connection_made, upgraded)
        resumed = self.call_soon(upgraded.resume_reading)
        try:
            assert waiter is not None
            await waiter
        except BaseException:
            upgraded.close()
            made.cancel()
            resumed.cancel()
            waiter = None  # its exception refers to this frame
            raise
        return result


def _move_buffered(protocol: asyncio.BaseProtocol, ssl_protocol: _aioxide.TlsProtocol) -> None:
    """Hand what a stream reader received before the upgrade to the TLS protocol."""
    if not isinstance(protocol, asyncio.StreamReaderProtocol):
        return
    reader: Any = getattr(protocol, "_stream_reader", None)
    if reader is not None and reader._buffer:
        ssl_protocol._incoming.write(reader._buffer)
        reader._buffer.clear()

"""Every setting of an ssl.SSLContext is obeyed: names, ALPN, client certificates, sessions."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from tlswire import (
    HOST,
    ROLES,
    authority,
    both,
    client_context,
    is_server,
    leaf,
    only,
    outcome,
    peer_of,
    server_context,
    tls_join,
    tls_link,
)
from wire import Recorder, on_loop, tcp_pair

roles = pytest.mark.parametrize("route", ROLES)
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
versions = pytest.mark.parametrize("version", [V12, V13])


def own(route: str, **settings: Any) -> ssl.SSLContext:
    """Give a context for the transport's role."""
    return (server_context if is_server(route) else client_context)(**settings)


def other(route: str, **settings: Any) -> ssl.SSLContext:
    """Give a context for the peer's role."""
    return (client_context if is_server(route) else server_context)(**settings)


async def fails(lib: Any, route: str, **options: Any) -> None:
    """Shake hands in vain; note the error on our side and on the peer's."""
    seen = lib.contexts(asyncio.get_running_loop())
    ours, theirs = tcp_pair()
    loop = asyncio.get_running_loop()
    context = options.pop("ours", None) or own(route)
    peer = peer_of(theirs, serves=not is_server(route), **options)
    if is_server(route):
        opening = loop.connect_accepted_socket(Recorder, ours, ssl=context)
    else:
        opening = loop.create_connection(Recorder, sock=ours, ssl=context, server_hostname=HOST)
    opened, shaken = await asyncio.gather(opening, ends(peer), return_exceptions=True)
    assert isinstance(opened, Exception)
    lib.note(opened, shaken)
    lib.note([[c["message"], c["exception"]] for c in seen])
    seen.clear()
    peer.close()
    ours.close()


async def ends(peer: Any) -> Any:
    """Shake hands and read to the end; give the error that comes, if one does."""
    try:
        await peer.handshake()
        return await peer.rest()
    except ConnectionError as exc:
        return type(exc).__name__
    finally:
        peer.close()


@roles
@versions
@on_loop
async def test_versions(lib: Any, route: str, version: Any) -> None:
    """The only version that the context speaks is spoken."""
    async with tls_link(Recorder, route, ours=own(route, **only(version))) as (t, protocol, peer):
        lib.note(t.get_extra_info("ssl_object").version(), t.get_extra_info("cipher"))
        peer.send(b"in it")
        await protocol.has(5)
        t.write(b"too")
        assert await peer.exactly(3) == b"too"


@roles
@on_loop
async def test_no_common_version(lib: Any, route: str) -> None:
    """Neither speaks what the other does."""
    await fails(lib, route, ours=own(route, **only(V12)), context=other(route, **only(V13)))
    await fails(lib, route, ours=own(route, **only(V13)), context=other(route, **only(V12)))


@roles
@on_loop
async def test_ciphers(lib: Any, route: str) -> None:
    """set_ciphers is obeyed; without a common one there is no connection."""
    ours = own(route, **only(V12))
    ours.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    async with tls_link(Recorder, route, ours=ours) as (transport, _, peer):
        lib.note(transport.get_extra_info("cipher"))
        assert transport.get_extra_info("cipher") == peer.tls.cipher()
    theirs = other(route, **only(V12))
    theirs.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    await fails(lib, route, ours=ours, context=theirs)


@roles
@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["http/1.1"], ["spdy"], None])
@on_loop
async def test_alpn(lib: Any, route: str, offered: Any) -> None:
    """The protocol is agreed on, or is None where nothing is in common."""
    ours, theirs = own(route), other(route)
    ours.set_alpn_protocols(["h2", "http/1.1"])
    if offered:
        theirs.set_alpn_protocols(offered)
    async with tls_link(Recorder, route, ours=ours, theirs=theirs) as (transport, _, peer):
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        lib.note(chosen)
        assert chosen == peer.tls.selected_alpn_protocol()


@pytest.mark.parametrize("route", ["accepted", "served", "start-server"])
@on_loop
async def test_sni_callback_switches_contexts(lib: Any, route: str) -> None:
    """The callback gets the object, the name and the context, and may put another in place."""
    calls: list[Any] = []
    first, second = server_context("first.example"), server_context(HOST)

    def choose(tls: Any, name: str | None, context: ssl.SSLContext) -> None:
        calls.append((type(tls).__name__, name, context is first))
        tls.context = second

    first.sni_callback = choose
    async with tls_link(Recorder, route, ours=first) as (transport, protocol, peer):
        lib.note(calls, peer.tls.getpeercert()["subjectAltName"])
        tls = transport.get_extra_info("ssl_object")
        assert tls.context is second and transport.get_extra_info("sslcontext") is first
        peer.send(b"ok")
        await protocol.has(2)


@pytest.mark.parametrize(
    "answer", [None, ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME, "nonsense"], ids=str
)
@on_loop
async def test_sni_callback_answers(lib: Any, answer: Any) -> None:
    """None goes on; an alert's number or nonsense ends the handshake."""
    ours = server_context()
    ours.sni_callback = lambda *_: answer
    if answer is None:
        async with tls_link(Recorder, "accepted", ours=ours) as (_, protocol, peer):
            peer.send(b"ok")
            await protocol.has(2)
    else:
        await fails(lib, "accepted", ours=ours)
        lib.note(lib.unraisable_taken())


@on_loop
async def test_sni_callback_raises(lib: Any) -> None:
    """The exception goes to the unraisable hook, an alert to the client."""
    ours = server_context()

    def refuse(*_: Any) -> None:
        raise ZeroDivisionError("as asked")

    ours.sni_callback = refuse
    await fails(lib, "accepted", ours=ours)
    lib.note(lib.unraisable_taken())


@on_loop
async def test_no_name_no_sni(lib: Any) -> None:
    """A client without a name to verify sends none; the callback hears None."""
    names: list[Any] = []
    ours = server_context()
    ours.sni_callback = lambda tls, name, context: names.append(name)
    near, far = tcp_pair()
    peer = peer_of(
        far,
        serves=False,
        context=client_context(check_hostname=False),
        hostname=None,
    )
    loop = asyncio.get_running_loop()
    transport, _ = await both(loop.connect_accepted_socket(Recorder, near, ssl=ours), peer)
    lib.note(names)
    transport.abort()
    peer.close()


@pytest.mark.parametrize("route", ["accepted", "served", "start-server"])
@versions
@on_loop
async def test_client_certificate(lib: Any, route: str, version: Any) -> None:
    """A required certificate that is there: the server sees it."""
    ours, theirs = server_context(**only(version)), client_context()
    ours.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(ours)
    leaf("client@example.org").configure_cert(theirs)
    async with tls_link(Recorder, route, ours=ours, theirs=theirs) as (transport, _, _peer):
        lib.note(transport.get_extra_info("peercert")["subjectAltName"])


@on_loop
async def test_client_sends_its_certificate(lib: Any) -> None:
    """The same from the other side."""
    theirs, ours = server_context(verify_mode=ssl.CERT_REQUIRED), client_context()
    authority().configure_trust(theirs)
    leaf("client@example.org").configure_cert(ours)
    async with tls_link(Recorder, "connect", ours=ours, theirs=theirs) as (_, _protocol, peer):
        lib.note(peer.tls.getpeercert()["subjectAltName"])


@versions
@pytest.mark.parametrize("given", ["none", "stranger"])
@on_loop
async def test_client_certificate_refused(lib: Any, version: Any, given: str) -> None:
    """No certificate, or one of an unknown authority: the server refuses, both hear of it."""
    ours, theirs = server_context(**only(version)), client_context()
    ours.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(ours)
    if given == "stranger":
        stranger = trustme.CA()
        stranger.issue_cert("client@example.org").configure_cert(theirs)
    await fails(lib, "accepted", ours=ours, context=theirs)


@on_loop
async def test_optional_client_certificate(lib: Any) -> None:
    """Without one: an absent peercert."""
    ours = server_context(verify_mode=ssl.CERT_OPTIONAL)
    authority().configure_trust(ours)
    async with tls_link(Recorder, "accepted", ours=ours) as (transport, _, _peer):
        lib.note(transport.get_extra_info("peercert"))


@on_loop
async def test_unverified_client(lib: Any) -> None:
    """CERT_NONE: the connection is made, and what is known of the certificate is empty."""
    ours = client_context(check_hostname=False)
    ours.verify_mode = ssl.CERT_NONE
    theirs = server_context("elsewhere.example")
    async with tls_link(Recorder, "connect", ours=ours, theirs=theirs) as (transport, _, _peer):
        lib.note(transport.get_extra_info("peercert"))
        assert transport.get_extra_info("ssl_object").getpeercert(True)


@on_loop
async def test_refused_server_certificates(lib: Any) -> None:
    """Another name, another authority, out of date."""
    await fails(lib, "connect-sock", context=server_context("elsewhere.example"))
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(stranger)
    await fails(lib, "connect-sock", context=stranger)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    long_ago = datetime.datetime(2001, 1, 1)
    authority().issue_cert(
        HOST, not_before=long_ago, not_after=long_ago.replace(year=2002)
    ).configure_cert(old)
    await fails(lib, "connect-sock", context=old)


@versions
@on_loop
async def test_session_reuse_by_a_client(lib: Any, version: Any) -> None:
    """The session of the first connection resumes in one made by hand, and the object tells."""
    ours, theirs = client_context(**only(version)), server_context()
    async with tls_link(Recorder, "connect", ours=ours, theirs=theirs) as (one, protocol, peer):
        peer.send(b"ticket and data")
        await protocol.has(15)
        first = one.get_extra_info("ssl_object")
        session = first.session
        lib.note(first.session_reused, session is not None, session.has_ticket)
    near, far = tcp_pair()
    served = peer_of(far, serves=True, context=theirs)
    client = peer_of(near, serves=False, context=ours, session=session)
    await asyncio.gather(client.handshake(), served.handshake())
    lib.note(client.tls.session_reused, served.tls.session_reused)
    client.close()
    served.close()


@versions
@on_loop
async def test_session_reuse_at_a_server(lib: Any, version: Any) -> None:
    """A server of the loop resumes the client's session."""
    loop = asyncio.get_running_loop()
    ours, theirs = server_context(**only(version)), client_context()
    session = None
    for _ in range(3):
        near, far = tcp_pair()
        peer = peer_of(far, serves=False, context=theirs, session=session)
        opening = loop.connect_accepted_socket(Recorder, near, ssl=ours)
        transport, protocol = await both(opening, peer)
        transport.write(b"x")
        assert await peer.exactly(1) == b"x"
        lib.note(transport.get_extra_info("ssl_object").session_reused, peer.tls.session_reused)
        session = peer.tls.session
        await peer.part()
        await protocol.seen("CL")
        lib.note(protocol.lost_with)


@roles
@on_loop
async def test_session_set_on_the_object(lib: Any, route: str) -> None:
    """A class of one's own for the objects is used; it can set a session before the handshake."""
    made: list[Any] = []

    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            made.append(self)
            super().do_handshake()

    ours = own(route)
    ours.sslobject_class = Watched
    async with tls_link(Recorder, route, ours=ours) as (transport, protocol, peer):
        tls = transport.get_extra_info("ssl_object")
        assert type(tls) is Watched and all(one is tls for one in made) and made
        peer.send(b"watched")
        await protocol.has(7)
        made.clear()
        del tls
    lib.note(True)


@roles
@versions
@on_loop
async def test_object_methods_are_called(lib: Any, route: str, version: Any) -> None:
    """Overridden read, write and unwrap see what goes through."""
    through: list[Any] = []

    class Counting(ssl.SSLObject):
        def read(self, *args: Any) -> Any:
            result = super().read(*args)
            through.append("read")
            return result

        def write(self, data: Any) -> int:
            through.append("write")
            return super().write(data)

        def unwrap(self) -> Any:
            through.append("unwrap")
            return super().unwrap()

    ours = own(route, **only(version))
    ours.sslobject_class = Counting
    async with tls_link(Recorder, route, ours=ours) as (transport, protocol, peer):
        peer.send(b"in")
        await protocol.has(2)
        transport.write(b"out")
        assert await peer.exactly(3) == b"out"
        transport.close()
        peer.goodbye()
        await protocol.seen("CL")
        lib.note(sorted(set(through)))


@roles
@on_loop
async def test_keylog_file(lib: Any, route: str, tmp_path: Path) -> None:
    """keylog_filename is written to."""
    path = tmp_path / f"{lib.kind}.log"
    ours = own(route)
    ours.keylog_filename = str(path)
    async with tls_link(Recorder, route, ours=ours) as (_, protocol, peer):
        peer.send(b"x")
        await protocol.has(1)
    labels = {line.split()[0] for line in path.read_text().splitlines() if line[0] != "#"}
    lib.note(sorted(labels))
    assert "CLIENT_TRAFFIC_SECRET_0" in labels


@roles
@on_loop
async def test_message_callback(lib: Any, route: str) -> None:
    """The context's (private) message callback sees the handshake."""
    messages: list[Any] = []
    ours = own(route, **only(V12))
    ours._msg_callback = lambda conn, way, version, content, kind, data: messages.append(
        (type(conn).__name__, way, getattr(kind, "name", kind))
    )
    async with tls_link(Recorder, route, ours=ours) as (transport, _, peer):
        transport.write(b"x")
        assert await peer.exactly(1) == b"x"
        lib.note([m for m in messages if m[2] != "HEADER"])
    messages.clear()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="PSK callbacks are new in 3.13")
@roles
@on_loop
async def test_psk_callbacks(lib: Any, route: str) -> None:
    """A shared key instead of certificates, given by callbacks on both sides."""
    asked: list[Any] = []
    contexts = {}
    for side in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        context = contexts[side] = ssl.SSLContext(side)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = V12
        context.set_ciphers("PSK")
    contexts[ssl.PROTOCOL_TLS_CLIENT].set_psk_client_callback(
        lambda hint: asked.append(("client", hint)) or ("me", b"secret")
    )
    contexts[ssl.PROTOCOL_TLS_SERVER].set_psk_server_callback(
        lambda name: asked.append(("server", name)) or b"secret", "the hint"
    )
    client, server = contexts.values()
    ours, theirs = (server, client) if is_server(route) else (client, server)
    async with tls_link(Recorder, route, ours=ours, theirs=theirs) as (transport, _, _peer):
        lib.note(asked, transport.get_extra_info("cipher"), transport.get_extra_info("peercert"))
    asked.clear()


@roles
@on_loop
async def test_post_handshake_authentication(lib: Any, route: str) -> None:
    """TLS 1.3: the server asks for the certificate when the connection has long been made."""
    ours, theirs = own(route, post_handshake_auth=True), other(route, post_handshake_auth=True)
    server, client = (ours, theirs) if is_server(route) else (theirs, ours)
    server.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(server)
    leaf("client@example.org").configure_cert(client)
    async with tls_link(Recorder, route, ours=ours, theirs=theirs) as (transport, protocol, peer):
        served = transport.get_extra_info("ssl_object") if is_server(route) else peer.tls
        lib.note(served.getpeercert())
        served.verify_client_post_handshake()
        if is_server(route):
            transport.write(b"who are you?")
            assert await peer.exactly(12) == b"who are you?"
            peer.send(b"me")
            await protocol.has(2)
        else:
            peer.send(b"who are you?")
            await protocol.has(12)
            transport.write(b"me")
            assert await peer.exactly(2) == b"me"
        lib.note(served.getpeercert()["subjectAltName"])


@roles
@on_loop
async def test_channel_binding(lib: Any, route: str) -> None:
    """The ssl_object is the connection's own: both ends agree on its binding."""
    ours = own(route, **only(V12))
    async with tls_link(Recorder, route, ours=ours) as (transport, _, peer):
        tls = transport.get_extra_info("ssl_object")
        assert tls.get_channel_binding() == peer.tls.get_channel_binding() is not None
        lib.note(len(tls.get_channel_binding()))


@on_loop
async def test_one_context_for_many(lib: Any) -> None:
    """Fifty connections at once on one pair of contexts."""
    ours, theirs = client_context(), server_context()

    async def one(number: int) -> bytes:
        transport, protocol, peer = await tls_join(Recorder, "connect", ours=ours, theirs=theirs)
        peer.send(b"%d" % number)
        await protocol.has(len(str(number)))
        transport.abort()
        await protocol.seen("CL")
        peer.close()
        return bytes(protocol.data)

    got = await asyncio.gather(*(one(n) for n in range(50)))
    assert got == [b"%d" % n for n in range(50)]


@on_loop
async def test_ssl_true(lib: Any) -> None:
    """ssl=True is the default context: our authority is not in it, so the handshake fails."""
    loop = asyncio.get_running_loop()
    near, far = tcp_pair()
    peer = peer_of(far, serves=True)
    opening = loop.create_connection(Recorder, sock=near, ssl=True, server_hostname=HOST)
    task = asyncio.ensure_future(ends(peer))
    await outcome(lib, opening)
    await asyncio.wait([task])
    lib.note(task.exception())
    near.close()

"""Datagram transports over Unix sockets: paths, abstract names, no names, large datagrams."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
from typing import Any

import pytest
from udp_ends import Catcher, emptied, endpoint, plain_unix
from wire import abstract_name, io_turns, on_loop, turns

UNIX = socket.AF_UNIX


@on_loop
async def test_paths(lib: Any, tmp_path: pathlib.Path) -> None:
    """A path as local and as remote address; the sender is a str."""
    server_path, client_path = str(tmp_path / "server"), str(tmp_path / "client")
    async with endpoint(family=UNIX, local_addr=server_path) as (server, heard):
        async with endpoint(family=UNIX, local_addr=client_path, remote_addr=server_path) as (
            client,
            protocol,
        ):
            client.sendto(b"ping")
            await heard.seen("DG")
            (data, sender) = heard.datagrams[0]
            assert sender == client_path
            server.sendto(b"pong", sender)
            await protocol.seen("DG")
            assert protocol.datagrams == [(b"pong", server_path)]
            lib.note(data, heard.calls, protocol.calls)
            assert client.get_extra_info("peername") == server_path
            assert client._address == server_path
            with pytest.raises(ValueError, match="Invalid address: must be None or "):
                client.sendto(b"x", "elsewhere")


@on_loop
async def test_paths_beyond_ascii(lib: Any, tmp_path: pathlib.Path) -> None:
    """Any path that os.fsencode takes, lone surrogates too; bytes work for sendto()."""
    path = str(tmp_path / "d\u00e9j\u00e0 \udc80")
    async with endpoint(family=UNIX, local_addr=path) as (_, heard):
        async with endpoint(family=UNIX, local_addr=abstract_name()) as (client, _):
            client.sendto(b"text", path)
            client.sendto(b"bytes", os.fsencode(path))
            client.sendto(b"view", memoryview(os.fsencode(path)))
            await heard.seen("DG", 3)
            lib.note(heard.data)


@on_loop
async def test_abstract_names(lib: Any) -> None:
    """Abstract names are given as str and come back as bytes, zeros within included."""
    name = abstract_name() + "\0more"
    async with endpoint(family=UNIX, local_addr=name) as (server, heard):
        sockname = server.get_extra_info("sockname")
        assert sockname == os.fsencode(name)
        own = abstract_name()
        async with endpoint(family=UNIX, local_addr=own, remote_addr=name) as (client, protocol):
            client.sendto(b"ping")
            await heard.seen("DG")
            assert heard.datagrams == [(b"ping", os.fsencode(own))]
            server.sendto(b"pong", heard.datagrams[0][1])
            await protocol.seen("DG")
            lib.note(heard.data, protocol.data)


@on_loop
async def test_sender_without_a_name(lib: Any) -> None:
    """A sender that is not bound has no address: None."""
    async with endpoint(family=UNIX, local_addr=abstract_name()) as (server, heard):
        with plain_unix(bound=False) as peer:
            for number in range(3):
                peer.sendto(b"%d" % number, server.get_extra_info("sockname"))
            await heard.seen("DG", 3)
            lib.note(heard.datagrams)


@on_loop
async def test_socketpair(lib: Any) -> None:
    """A pair has no names: it receives, and its sends are what asyncio makes of them."""
    ours, theirs = socket.socketpair(UNIX, socket.SOCK_DGRAM)
    contexts = lib.contexts()
    with theirs:
        theirs.setblocking(False)
        async with endpoint(sock=ours) as (transport, protocol):
            theirs.send(b"in")
            await protocol.seen("DG")
            lib.note(protocol.datagrams, transport.get_extra_info("peername"))
            transport.sendto(b"out")
            await io_turns()
            lib.note(protocol.calls, repr(protocol.lost_with), emptied(theirs))
            lib.note([(c["message"], repr(c["exception"])) for c in contexts])


@pytest.mark.parametrize("size", [1, 60_000, 65_536, 65_537, 150_000, 262_144, 262_145, 400_000])
@on_loop
async def test_large_datagrams(lib: Any, size: int) -> None:
    """Unix datagrams may be larger than UDP's; beyond 256 KiB asyncio cuts them off, so do we."""
    data = os.urandom(size)
    with plain_unix() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        limit = peer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        if size + 4096 > limit:
            pytest.skip("the kernel allows no such datagram (net.core.wmem_max)")
        async with endpoint(family=UNIX, local_addr=abstract_name()) as (server, heard):
            for count in range(1, 4):
                peer.sendto(data, server.get_extra_info("sockname"))
                await heard.seen("DG", count)
            assert heard.data == [data[: 256 * 1024]] * 3


@on_loop
async def test_sends_of_every_size(lib: Any) -> None:
    """What a Unix peer is sent arrives whole; too large is EMSGSIZE for the protocol."""
    with plain_unix() as peer:
        async with endpoint(family=UNIX, local_addr=abstract_name()) as (transport, protocol):
            for size in (1, 100_000, 1 << 26):
                transport.sendto(bytes(size), peer.getsockname())
                await turns(2)
                lib.note([len(data) for data in emptied(peer)])
            lib.note(protocol.calls, protocol.errors)


@on_loop
async def test_burst(lib: Any) -> None:
    """What waits in the kernel comes in order, and what a datagram wakes runs before the next."""
    loop = asyncio.get_running_loop()
    trace: list[Any] = []

    def received(_: Any, data: bytes, __: Any) -> None:
        trace.append(data)
        if int(data) % 3 == 0:
            loop.call_soon(trace.append, "soon")

    name = abstract_name()
    async with endpoint(
        lambda: Catcher(datagram_received=received), family=UNIX, local_addr=name
    ) as (_, heard):
        with plain_unix(bound=False) as peer:
            peer.setblocking(False)
            for start in range(0, 100, 5):
                for number in range(start, start + 5):
                    peer.sendto(b"%d" % number, name)
                await heard.seen("DG", start + 5)
        await turns(2)
        lib.note(trace)


@on_loop
async def test_no_addresses(lib: Any) -> None:
    """family=AF_UNIX alone makes an endpoint without a name, which sends."""
    with plain_unix() as peer:
        async with endpoint(family=UNIX) as (transport, _):
            transport.sendto(b"who am I", peer.getsockname())
            lib.note(peer.recvfrom(20), transport.get_extra_info("sockname"))


@pytest.mark.parametrize(
    "address", ["x" * 107, "x" * 108, "\0" + "x" * 107, "\0" + "x" * 108, "", b"", "\udfff", 5]
)
@on_loop
async def test_bad_names(lib: Any, address: Any) -> None:
    """Names that are too long, empty or of another type: as socket.sendto() has it."""
    contexts = lib.contexts()
    async with endpoint(family=UNIX, local_addr=abstract_name()) as (transport, protocol):
        transport.sendto(b"x", address)
        await io_turns()
        lib.note(protocol.calls, [repr(e) for e in protocol.errors], repr(protocol.lost_with))
        lib.note([(c["message"], repr(c["exception"])) for c in contexts])


@on_loop
async def test_peer_full_or_gone(lib: Any) -> None:
    """A refused peer is error_received(), for connected and unconnected endpoints."""
    with plain_unix() as peer:
        name = peer.getsockname()
        async with endpoint(family=UNIX, remote_addr=os.fsdecode(name)) as (transport, protocol):
            peer.close()
            transport.sendto(b"x")
            lib.note(protocol.errors, transport.is_closing())
        async with endpoint(family=UNIX, local_addr=abstract_name()) as (transport, protocol):
            transport.sendto(b"x", name)
            lib.note(protocol.errors, transport.is_closing())


@on_loop
async def test_seqpacket(lib: Any) -> None:
    """Sockets of other types are taken as the running version takes them."""
    ours, theirs = socket.socketpair(UNIX, socket.SOCK_SEQPACKET)
    loop = asyncio.get_running_loop()
    with ours, theirs:
        try:
            transport, protocol = await loop.create_datagram_endpoint(Catcher, sock=ours)
        except ValueError as error:
            lib.note(str(error).split(",")[0].replace(str(ours), ""))
            return
        theirs.send(b"one")
        await protocol.seen("DG")
        lib.note(protocol.datagrams)
        transport.abort()
        await protocol.seen("CL")

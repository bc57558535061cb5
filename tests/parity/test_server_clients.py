"""Which connections a server knows: all that it accepted, without keeping any alive."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import warnings
import weakref
from typing import Any

import pytest
from wire import Peer, Recorder, io_turns, on_loop, until

pytestmark = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")


class Thing:
    """Something that is no transport."""


async def accepted(count: int, **hooks: Any) -> tuple[Any, list[Recorder], list[Peer]]:
    """Make a server with so many connections: their protocols and the other ends."""
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder(**hooks))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    peers = []
    for _ in range(count):
        peers.append(Peer(socket.create_connection(server.sockets[0].getsockname())))
        await until(lambda: len(made) == len(peers) and made[-1].calls)
    return server, made, peers


async def stop(server: Any, peers: list[Peer]) -> None:
    """Stop a server, whoever has left it already."""
    server.close()
    for peer in peers:
        peer.close()
    await io_turns()
    await server.wait_closed()


@on_loop
async def test_they_leave_in_any_order(lib: Any) -> None:
    """The list holds exactly those that have not been lost yet."""
    server, made, peers = await accepted(7)
    clients = server._clients
    assert set(clients.copy()) == set(clients) == {protocol.transport for protocol in made}
    for leaver in (3, 0, 6, 5):
        made[leaver].transport.abort()
        await made[leaver].seen("CL")
        left = {protocol.transport for protocol in made if "CL" not in protocol.grammar}
        assert set(clients.copy()) == left
        lib.note(len(clients), type(clients.copy()).__name__)
    server.close()
    waiter = asyncio.ensure_future(server.wait_closed())
    server.abort_clients()
    await waiter
    lib.note(len(clients))
    await stop(server, peers)


@on_loop
async def test_what_else_is_added(lib: Any) -> None:
    """Anything may be added, twice or to two lists, and goes when it dies."""
    server, made, peers = await accepted(2)
    other, _, others = await accepted(0)
    thing = Thing()
    transport = made[0].transport
    for clients in (server._clients, other._clients, server._clients):
        clients.add(transport)
        clients.add(thing)
    lib.note(len(server._clients), len(other._clients))
    assert set(other._clients.copy()) == {transport, thing}
    other._clients.discard(transport)
    lib.note(len(server._clients), len(other._clients))
    del thing
    lib.note(len(server._clients), len(other._clients))
    server._clients.discard(Thing())
    other._clients.discard(made[1].transport)
    lib.note(len(server._clients), len(other._clients))
    server._clients.discard(transport)
    other._clients.add(transport)
    lib.note(len(server._clients), len(other._clients))
    server._clients.add(transport)
    other._clients.discard(transport)
    lib.note(len(server._clients), len(other._clients))
    await stop(other, others)
    transport.abort()
    await made[0].seen("CL")
    lib.note(len(server._clients))
    await stop(server, peers)


@on_loop
async def test_one_that_dies_open(lib: Any) -> None:
    """A transport that nobody keeps leaves the list before anybody could find it dead there."""
    server, made, peers = await accepted(3)
    found: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for protocol in made[:2]:
            transport = protocol.transport
            transport.pause_reading()
            weakref.finalize(transport, lambda: found.append(len(list(server._clients.copy()))))
            transport.set_protocol(asyncio.Protocol())
            protocol.transport = None
        del transport, protocol, made[:2]
        await io_turns()
        gc.collect()
    assert len(found) == 2
    lib.note(len(server._clients))
    await stop(server, peers)


@on_loop
async def test_one_that_was_added_by_hand(lib: Any) -> None:
    """A transport of another origin leaves when it dies, too."""
    server, made, peers = await accepted(1)
    address = server.sockets[0].getsockname()
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, *address)
    found: list[int] = []
    server._clients.add(transport)
    weakref.finalize(transport, lambda: found.append(len(list(server._clients.copy()))))
    await until(lambda: len(made) == 2)
    lib.note(len(server._clients))
    transport.abort()
    await protocol.seen("CL")
    await made[1].seen("CL")
    lib.note(len(server._clients))
    protocol.transport = None
    del transport
    await io_turns()
    gc.collect()
    lib.note(len(server._clients), found)
    server._clients.copy()
    await stop(server, peers)

"""TLS in storms: seeded random acts of both ends, over a wire that splits, delays and breaks.

Where the outcome is decided by the place of a single fault alone, it must be asyncio's.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest
from tlsstorm import VERSIONS, forgiven, storm
from tlswire import HOST, client_context, native_tls, only, server_context
from wire import Recorder, io_turns, on_loop, tcp_pair, until

SEEDS, AT_ONCE = 120, 30
#: Where a handshake is broken: all over the client's hello and the beginning of the answer.
PLACES = {0: (0, 1, 4, 5, 6, 9, 11, 43, 80, 150, 200), 1: (0, 1, 4, 5, 6, 9, 11, 43, 60, 76)}


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
@on_loop
async def test_storms(lib: Any, first: int) -> None:
    """The invariants hold in every storm, and nothing is reported that was not asked for."""
    loop = asyncio.get_running_loop()
    strict = native_tls(lib)
    strange: list[Any] = []

    def handler(loop: Any, context: dict[str, Any]) -> None:
        if not forgiven(context, strict):
            strange.append(context)

    loop.set_exception_handler(handler)
    for seed in range(first, first + AT_ONCE):
        await storm(seed, strict)
        assert not strange, (seed, strange)
    loop.set_exception_handler(None)
    lib.logged()


async def carry(source: socket.socket, target: socket.socket, fault: str | None, at: int) -> None:
    """Carry one direction, with a fault at a byte of it."""
    loop, carried = asyncio.get_running_loop(), 0
    try:
        while data := await loop.sock_recv(source, 1 << 16):
            if fault and carried + len(data) > at:
                cut = at - carried
                if fault == "corrupt":
                    data = data[:cut] + bytes([data[cut] ^ 0x80]) + data[cut + 1 :]
                    fault = None
                else:
                    await loop.sock_sendall(target, data[:cut])
                    break
            await loop.sock_sendall(target, data)
            carried += len(data)
        if fault == "reset":
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            target.close()
        else:
            target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.parametrize("fault", ["corrupt", "truncate"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)
@pytest.mark.parametrize("way", PLACES, ids=["to-server", "to-client"])
@on_loop
async def test_broken_handshakes(lib: Any, fault: str, version: Any, way: int) -> None:
    """A byte that is wrong, or missing with all that follow: who fails, and with which error."""
    loop = asyncio.get_running_loop()
    seen = lib.contexts(loop)
    for at in PLACES[way]:
        near, one = tcp_pair()
        far, two = tcp_pair()
        protocols = Recorder(), Recorder()
        faults = (fault, None) if way == 0 else (None, fault)
        wires = [
            asyncio.ensure_future(carry(one, two, faults[0], at)),
            asyncio.ensure_future(carry(two, one, faults[1], at)),
        ]
        # Where both wait for more, it is the server that gives up.
        client = loop.create_connection(
            lambda: protocols[0],
            sock=near,
            ssl=client_context(**only(version)),
            server_hostname=HOST,
        )
        server = loop.connect_accepted_socket(
            lambda: protocols[1],
            far,
            ssl=server_context(**only(version)),
            ssl_handshake_timeout=0.5,
        )
        results = await asyncio.gather(client, server, return_exceptions=True)
        for result in results:
            if not isinstance(result, BaseException):
                result[0].abort()
        await until(lambda: near.fileno() == far.fileno() == -1)
        await asyncio.wait(wires)
        one.close()
        two.close()
        lib.note(at, [r if isinstance(r, BaseException) else "made" for r in results])
        lib.note([p.calls for p in protocols], len(seen))
    seen.clear()
    await io_turns()

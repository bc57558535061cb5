"""What tests of held writes look at: busy turns, what has arrived, segments.

A *busy* turn has more to run behind the callback that writes.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Any

from wire import turns

# What is there takes no time to be seen; this is for the kernel of a busy machine.
SEEN_S_MAX = 10.0


def arrived(peer: Any) -> bytes:
    """Return what the peer has, in a callback: nothing that is held can come meanwhile."""
    ready, _, _ = select.select([peer.sock], [], [], SEEN_S_MAX)
    return peer.sock.recv(1 << 16) if ready else b"nothing came"


async def in_busy_turn(body: Callable[[], Any], behind: Callable[[], Any] = lambda: None) -> Any:
    """Call `body` and `behind` in one turn, in this order; give what `body` returned."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    loop.call_soon(lambda: done.set_result(body()))
    loop.call_soon(behind)
    result = await done
    await turns(2)
    return result


def segments_sent(transport: Any) -> int:
    """Return the data segments that a TCP connection has sent: `tcpi_data_segs_out`."""
    sock = transport.get_extra_info("socket")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int.from_bytes(info[156:160], "little")

"""How to make a transport call a given callback of its protocol, and what to note of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any

from wire import BufferedRecorder, Recorder, fill, io_turns, nameless

# Each callback, with the word that a recorder notes for it.
WORDS = {
    "connection_made": "CM",
    "data_received": "DR",
    "get_buffer": None,
    "buffer_updated": "DR",
    "eof_received": "ER",
    "pause_writing": "PW",
    "resume_writing": "RW",
    "connection_lost": "CL",
}
CALLBACKS = tuple(WORDS)


def recorder_for(callback: str, hook: Callable[..., Any]) -> Callable[[], Recorder]:
    """Give a factory of protocols that have this callback, with the hook in it."""
    if callback in ("get_buffer", "buffer_updated"):
        return lambda: BufferedRecorder(**{callback: hook})
    return lambda: Recorder(**{callback: hook})


async def provoke(callback: str, transport: Any, peer: Any) -> None:
    """Do what makes the transport call the callback."""
    if callback in ("data_received", "get_buffer", "buffer_updated"):
        peer.send(b"hello")
    elif callback == "eof_received":
        peer.shutdown()
    elif callback in ("pause_writing", "resume_writing"):
        transport.set_write_buffer_limits(high=0)
        fill(transport)
        if callback == "resume_writing":
            loop = asyncio.get_running_loop()
            with contextlib.suppress(ConnectionError):
                while transport.get_write_buffer_size():
                    await loop.sock_recv(peer.sock, 1 << 20)
    elif callback == "connection_lost":
        transport.close()


async def settled(callback: str, protocol: Any) -> None:
    """Wait until the callback was called and the loop has done all that follows from it."""
    word = WORDS[callback]
    if word:
        await protocol.seen(word)
    await io_turns()


def hears(peer: Any) -> str:
    """Tell what the peer hears of the connection now: data, end, reset, or nothing."""
    while True:
        try:
            if not peer.sock.recv(1 << 20):
                return "end"
        except BlockingIOError:
            return "open"
        except ConnectionError as exc:
            return type(exc).__name__


def told(context: dict[str, Any]) -> list[Any]:
    """Give a comparable picture of one call of the exception handler."""
    message = nameless(context["message"])
    message = re.sub(r"<wire\.(\w+) object at 0x>", r"<\1>", message)
    # The text of a long representation is cut in the middle, so its length matters too.
    message = re.sub(
        r"\(<(?:TRANSPORT|_SelectorSoc\.|StreamTransp\.)[^)]*\)", "(<TRANSPORT>)", message
    )
    return [
        message,
        sorted(context),
        type(context.get("exception")).__name__,
        type(context.get("protocol")).__name__,
        isinstance(context.get("transport"), asyncio.Transport),
        isinstance(context.get("handle"), asyncio.Handle),
    ]

"""What tests of stream types share: the classes of a kind, and a transport that notes."""

from __future__ import annotations

import asyncio
from typing import Any

import aioxide


def of(lib: Any) -> Any:
    """Give the module whose stream classes are under test."""
    return asyncio if lib.kind == "asyncio" else aioxide


def make(lib: Any, **options: Any) -> Any:
    """Make a reader on the running loop."""
    return of(lib).StreamReader(loop=asyncio.get_running_loop(), **options)


class Transport:
    """Notes what it is asked."""

    def __init__(self, lib: Any, *, refuses: type[BaseException] | None = None) -> None:
        self.lib = lib
        self.refuses = refuses
        self.closing = False
        self.extra: dict[str, Any] = {}

    def pause_reading(self) -> None:
        self.lib.note("pause_reading")
        if self.refuses is not None:
            raise self.refuses

    def resume_reading(self) -> None:
        self.lib.note("resume_reading")

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.lib.note("close")
        self.closing = True

    def abort(self) -> None:
        self.lib.note("abort")

    def write(self, data: bytes) -> str:
        self.lib.note("write", data)
        return "ignored"

    def writelines(self, data: list[bytes]) -> None:
        self.lib.note("writelines", data)

    def write_eof(self) -> str:
        return "eof"

    def can_write_eof(self) -> str:
        return "can"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.extra.get(name, default)

    def __repr__(self) -> str:
        return "<transport>"


async def outcome(lib: Any, awaitable: Any) -> Any:
    """Await, note what comes."""
    try:
        result = await awaitable
    except (Exception, asyncio.CancelledError) as exc:
        lib.note("raised", exc, exc.__context__)
        return exc
    lib.note("result", result)
    return result

"""The event loops that are measured: how to make one, and which version is installed.

Imported by the measuring subprocesses too, so it imports a loop's package only when asked.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import platform
from types import ModuleType

CONTROL = "asyncio"
SUBJECT = "aioxide"
PEERS = ("uvloop", "rloop", "zuvloop", "rsloop")
LOOPS = (CONTROL, *PEERS, SUBJECT)


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make a loop of the named package."""
    loop: asyncio.AbstractEventLoop
    if name == CONTROL:
        loop = asyncio.SelectorEventLoop()
    else:
        loop = importlib.import_module(name).new_event_loop()
    return loop


def library(name: str) -> ModuleType:
    """Return the module whose `sleep`, `gather`, ... belong to the loop; peers use asyncio's."""
    return importlib.import_module(SUBJECT) if name == SUBJECT else asyncio


def version(name: str) -> str | None:
    """Return the installed version, or None where the loop is not installed."""
    if name == CONTROL:
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # Installed for development, without metadata.
        return "unversioned" if importlib.util.find_spec(name) is not None else None

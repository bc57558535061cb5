"""The event loops that are measured: how to make one, and which version is installed.

Imported by the measuring subprocesses too, so it imports a loop's package only when asked.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import inspect
import platform
from types import ModuleType

CONTROL = "asyncio"
SUBJECT = "aioxide"
# Our loop with asyncio's own Lock, Queue, gather, ...: what the loop alone gives.
SUBJECT_LOOP = "aioxide-loop"
PEERS = ("uvloop", "rloop", "zuvloop", "rsloop")
LOOPS = (CONTROL, *PEERS, SUBJECT, SUBJECT_LOOP)
# Not a loop but other transports for one; measured where it says it is best.
FASTNET = "aiofastnet"
# Not a loop for programs: the least in C that a row's meaning asks for (`limit_loop.py`).
LIMIT = "c-limit"
OURS = (SUBJECT, SUBJECT_LOOP)


def package(name: str) -> str:
    """Return the package that a loop is from."""
    return SUBJECT if name == SUBJECT_LOOP else name


def prepare(name: str) -> None:
    """Do what a program does first of all, before it imports a library, to run on this loop."""
    if name == SUBJECT:
        importlib.import_module(SUBJECT).install()
    elif name == SUBJECT_LOOP:
        install = importlib.import_module(SUBJECT).install
        if "accelerate" in inspect.signature(install).parameters:
            install(accelerate=False)


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make a loop of the named package."""
    loop: asyncio.AbstractEventLoop
    if name == CONTROL:
        loop = asyncio.SelectorEventLoop()
    elif name == LIMIT:
        loop = importlib.import_module("limit_loop").new_event_loop()
    elif name == FASTNET:
        loop = importlib.import_module(FASTNET).loop_factory(
            importlib.import_module("uvloop").new_event_loop
        )()
    else:
        loop = importlib.import_module(package(name)).new_event_loop()
    return loop


def library(name: str) -> ModuleType:
    """Return the module whose `sleep`, `gather`, ... belong to the loop; peers use asyncio's."""
    if name == LIMIT:
        return importlib.import_module("limit_loop").native()
    return importlib.import_module(SUBJECT) if name == SUBJECT else asyncio


def version(name: str) -> str | None:
    """Return the installed version, or None where the loop is not installed."""
    if name == CONTROL:
        return platform.python_version()
    try:
        return importlib.metadata.version(package(name))
    except importlib.metadata.PackageNotFoundError:
        # Installed for development, without metadata.
        there = importlib.util.find_spec(package(name)) is not None
        return "unversioned" if there else None

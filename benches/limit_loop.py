"""The limit of the rows inside one process: a loop in C that does the least their meaning asks for.

`limit_calls.c` says what that is. It is compiled with `cc` for the running Python, whose headers
have to be there. Rows that have a limit run on it unchanged; it is no loop for anything else.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(__file__).parent / "limit_calls.c"
BUILD = Path(__file__).parent.parent / "target" / "benches"


def compiled() -> Path:
    """Return the extension module for this Python, compiled anew if it is older than its source."""
    target = BUILD / f"limit_calls{sysconfig.get_config_var('EXT_SUFFIX')}"
    if target.exists() and target.stat().st_mtime >= SOURCE.stat().st_mtime:
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    include = sysconfig.get_path("include")
    # Debian's headers refer to others from the folder above.
    headers = (f"-I{include}", "-idirafter", str(Path(include).parent))
    # Under a name of its own first: several processes may do this at once.
    unfinished = target.with_name(f"{os.getpid()}-{target.name}")
    command = ["cc", "-O3", "-DNDEBUG", "-shared", "-fPIC", *headers, "-o", str(unfinished)]
    done = subprocess.run([*command, str(SOURCE)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"cc cannot compile {SOURCE.name}: are Python's headers installed?")
    unfinished.replace(target)
    return target


@functools.cache
def native() -> ModuleType:
    """Return the compiled module."""
    loader = importlib.machinery.ExtensionFileLoader("limit_calls", str(compiled()))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def new_event_loop() -> Any:
    """Make the loop: what its module has, and what a measuring process asks for beside the row."""

    class Loop(native().Loop):  # type: ignore[misc]
        def run_until_complete(self, coroutine: Any) -> Any:
            asyncio._set_running_loop(self)
            hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)
            try:
                return super().run_until_complete(coroutine)
            finally:
                sys.set_asyncgen_hooks(*hooks)
                asyncio._set_running_loop(None)

        async def shutdown_default_executor(self) -> None:
            pass

        def close(self) -> None:
            pass

    return Loop()

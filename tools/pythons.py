"""Lists the CPython interpreters that aioxide supports on this machine, one for each version.

Looks at ``AIOXIDE_PYTHONS`` (paths, separated as in ``PATH``), then ``PATH``, then pyenv's
versions, and prints ``VERSION PATH`` lines, oldest first. The first usable interpreter of a
version wins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = tuple(f"3.{minor}" for minor in range(11, 16))

# Free-threaded builds are left out until aioxide says that it supports them; an interpreter without
# venv or ensurepip cannot be given an environment.
_PROBE = """
import ensurepip, sys, sysconfig, venv
free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
if sys.implementation.name == "cpython" and not free_threaded:
    print("%d.%d" % sys.version_info[:2])
"""


def candidates() -> Iterator[str]:
    """Yields paths that may be interpreters, the ones named by the user first."""
    yield from filter(None, os.environ.get("AIOXIDE_PYTHONS", "").split(os.pathsep))
    for name in ("python3", *(f"python{version}" for version in SUPPORTED)):
        for folder in os.get_exec_path():
            if found := shutil.which(name, path=folder):
                yield found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found_path in sorted(root.glob("versions/3.*/bin/python"), reverse=True):
        yield str(found_path)


def version_of(python: str) -> str | None:
    """Asks an interpreter for its version; ``None`` when it cannot be used."""
    try:
        answer = subprocess.run(
            [python, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = answer.stdout.strip()
    return version if answer.returncode == 0 and version in SUPPORTED else None


def main() -> None:
    """Prints what was found; complains when there is nothing to print."""
    found: dict[str, str] = {}
    for python in candidates():
        version = version_of(python)
        if version is not None:
            found.setdefault(version, python)
    if not found:
        sys.exit("no supported Python found (3.11 to 3.15)")
    for version in SUPPORTED:
        if version in found:
            print(version, found[version])


if __name__ == "__main__":
    main()

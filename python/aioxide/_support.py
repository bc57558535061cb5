"""What aioxide needs of the interpreter, said in words where it is missing.

Imported before anything else of the package, and by interpreters that can import nothing else of
it: this file and the package's `__init__` up to its import parse on every Python from 3.7 on.
"""

from __future__ import annotations

import sys

#: The oldest Python whose asyncio aioxide follows; also in `pyproject.toml`.
_OLDEST = (3, 11)


def _check() -> None:
    """Raise ImportError unless this interpreter can run aioxide."""
    running = "{}.{}".format(*sys.version_info[:2])
    name = sys.implementation.name
    if name != "cpython":
        raise ImportError(f"aioxide needs CPython; this is {name}")
    if sys.version_info[:2] < _OLDEST:
        raise ImportError(
            "aioxide needs Python {}.{} or later; this is {}".format(*_OLDEST, running)
        )
    if sys.platform != "linux":
        raise ImportError(f"aioxide needs Linux; this is {sys.platform}")
    try:
        from ._aioxide import Loop as _  # noqa: F401 - loaded is all it has to be
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}._aioxide":
            raise
        raise ImportError(
            f"aioxide has no native part for this interpreter ({sys.implementation.cache_tag}): "
            "it was installed for another one"
        ) from None


_check()

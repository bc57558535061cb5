"""What the sendfile tests share: a file of some megabytes, and how to look at positions.

A test module gets the fixtures by `pytest_plugins = ("sending",)`.
"""

from __future__ import annotations

import os
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

# More than any socket buffer holds, and no multiple of a round size.
CONTENT = random.Random(7).randbytes(5_000_011)


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Give a file of some megabytes."""
    path = tmp_path_factory.mktemp("sendfile") / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def file(path: pathlib.Path) -> Iterator[Any]:
    """Give the file, open."""
    with path.open("rb") as file:
        yield file


def positions(file: Any) -> tuple[int, int]:
    """Give a file's position as Python sees it, and as the kernel does."""
    return file.tell(), os.lseek(file.fileno(), 0, os.SEEK_CUR)

"""What watches a loop from outside: Sentry, aiomonitor, pytest-asyncio, each in its own process.

Each program runs on stock asyncio first and then, unchanged, by `python -m aioxide`; what it prints
must be the same but for the loop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Program

HERE = Path(__file__).parent
WAYS = {"asyncio": (), "aioxide": ("-m", "aioxide")}
LOOPS = {"asyncio": "asyncio.unix_events._UnixSelectorEventLoop", "aioxide": "aioxide.loop.Loop"}
every_way = pytest.mark.parametrize("kind", WAYS)


def answer_of(kind: str, program: str) -> dict[str, Any]:
    """Run a program to its end and give what it printed."""
    with Program(*WAYS[kind], program, cwd=HERE) as running:
        assert running.end() == 0, running.said()
        answer: dict[str, Any] = json.loads("".join(running.stdout))
    return answer


@every_way
def test_sentry(kind: str) -> None:
    """Spans for every task, one report for the one that failed, nothing lost on the way."""
    answer = answer_of(kind, "sentry_program.py")
    assert answer == {
        "loop": LOOPS[kind],
        "doubled": [0, 2, 4, 6, 8, 14, 16],
        "refused": ["refused -1", "late"],
        "spans": ["Event.wait", *["work"] * 9],
        "errors": [["refused -1", -1]],
    }


@every_way
def test_aiomonitor(kind: str) -> None:
    """The monitor's own loop too; a task is listed, traced and cancelled from its thread."""
    answer = answer_of(kind, "monitored_program.py")
    assert answer.pop("created").startswith("<cwd>/monitored_program.py:")
    assert answer == {
        "coroutine": "wait_forever()",
        "state": "PENDING",
        "traced": True,
        "cancelled": 200,
        "missing": 404,
        "loops": [LOOPS[kind]],
        "ended": True,
        "shown": True,
    }


# --- pytest-asyncio ------------------------------------------------------------------------------

TESTS = """
import asyncio
import pytest
import pytest_asyncio

LOOP = "{loop}"


def name(loop):
    return f"{{type(loop).__module__}}.{{type(loop).__qualname__}}"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server


@pytest.mark.asyncio(loop_scope="module")
async def test_module_loop(server):
    assert name(asyncio.get_running_loop()) == LOOP
    host, port = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(5))
async def test_own_loop(number):
    assert name(asyncio.get_running_loop()) == LOOP
    assert await asyncio.to_thread(pow, number, 2) == number**2


@pytest.mark.asyncio
async def test_that_fails():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        assert await asyncio.sleep(0, "this") == "that"


@pytest.mark.asyncio
async def test_that_is_late():
    async with asyncio.timeout(0.01):
        await asyncio.Event().wait()


async def leave_a_task():
    await asyncio.Event().wait()


@pytest.mark.asyncio
async def test_that_leaves_a_task():
    asyncio.create_task(leave_a_task())
    await asyncio.sleep(0)
"""
FACTORIES = """
import aioxide


def pytest_asyncio_loop_factories(config, item):
    return {"aioxide": aioxide.new_event_loop}
"""
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-rA", "-W", "error")


@pytest.mark.parametrize("kind", ["asyncio", "aioxide", "the plugin's factories"])
def test_pytest_asyncio(kind: str, tmp_path: Path) -> None:
    """Fixtures and tests on loops of their own and shared; failures are told as failures."""
    native = kind != "asyncio"
    loop = LOOPS["aioxide" if native else "asyncio"]
    (tmp_path / "test_loops.py").write_text(TESTS.format(loop=loop))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    )
    if kind == "the plugin's factories":
        (tmp_path / "conftest.py").write_text(FACTORIES)
    with Program(*WAYS.get(kind, ()), *PYTEST, str(tmp_path), cwd=tmp_path) as program:
        assert program.end() == 1, program.said()
        said = "".join(program.stdout)
    assert said.rstrip().splitlines()[-1].strip("= ").startswith("2 failed, 7 passed"), said
    for name in ("test_that_fails", "test_that_is_late"):
        assert f"FAILED test_loops.py::{name}" in said
    assert "was destroyed but it is pending" not in said
    assert program.stderr == [], program.said()

"""What the import of aioxide brings in, and what it leaves for the first use.

Every check of the import runs in a process of its own.
"""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import aioxide
from aioxide import parts


def output(program: str) -> list[str]:
    """Run a program text in an interpreter of its own; give the words that it prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


RUN = """
import sys, asyncio
before = set(sys.modules)
import aioxide
async def main(): pass
aioxide.run(main())
print(*sorted(set(sys.modules) - before))
"""


def test_a_program_imports_what_it_needs() -> None:
    imported = output(RUN)
    modules = {module for module, _ in parts.DOORS} | {*aioxide._LATER.values(), "thread_pool"}
    later = {f"aioxide.{module}" for module in modules}
    assert "aioxide.loop" in imported
    assert not later & set(imported)
    # Both cost next to nothing; `gc` is part of the interpreter.
    assert {name for name in imported if not name.startswith("aioxide")} <= {"__future__", "gc"}


@pytest.mark.parametrize("part", list(parts.DOORS), ids=lambda part: part[0])
def test_every_part_has_its_doors(part: tuple[str, str]) -> None:
    module, mixin = part
    found = vars(getattr(importlib.import_module(f"aioxide.{module}"), mixin))
    public = [name for name in found if not (name.startswith("__") and name.endswith("__"))]
    assert sorted(parts.DOORS[part]) == sorted(public)


def test_no_door_leads_to_two_parts() -> None:
    names = [name for doors in parts.DOORS.values() for name in doors]
    assert len(names) == len(set(names))


OPEN = """
import aioxide, inspect
from aioxide import parts
loop = aioxide.new_event_loop()
for doors in parts.DOORS.values():
    for name in doors:
        if not name.startswith("_"):
            assert inspect.isfunction(getattr(aioxide.Loop, name)), name
            assert getattr(loop, name).__func__ is getattr(aioxide.Loop, name), name
class Mine(aioxide.Loop):
    async def start_tls(self, *args):
        return super().start_tls
mine = Mine()
method = mine.run_until_complete(mine.start_tls())
print(method.__name__, method.__self__ is mine)
loop.close()
mine.close()
"""


def test_doors_open() -> None:
    assert output(OPEN) == ["start_tls", "True"]


PATCH = """
import aioxide
from unittest import mock
def mine(self): return "mine"
loop = aioxide.new_event_loop()
with mock.patch.object(aioxide.Loop, "create_server", mine):
    loop.create_unix_server
    print(loop.create_server())
print(loop.create_server.__name__)
aioxide.Loop.create_connection = mine
loop.create_unix_connection
print(loop.create_connection())
loop.close()
"""


def test_what_is_patched_before_its_part_is_read_stays_patched() -> None:
    assert output(PATCH) == ["mine", "create_server", "mine"]


LATE = """
import aioxide, sys
was_there = "typing" in sys.modules
import asyncio, typing
assert was_there == (sys.version_info < (3, 14))
@typing.runtime_checkable
class Named(typing.Protocol):
    def get_name(self) -> str: ...
class Task(aioxide.Task, Named): pass
loop = aioxide.new_event_loop()
stock = asyncio.Future(loop=loop)
print(isinstance(stock, aioxide.Future), isinstance(stock, Task), issubclass(Task, Named))
loop.close()
"""


INSTEAD = """
import asyncio, sys
import aioxide
asyncio.base_events.BaseEventLoop = aioxide.Loop
asyncio.unix_events.SelectorEventLoop = asyncio.SelectorEventLoop = aioxide.Loop
async def main():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=-1)
    print((await process.communicate())[0].decode())
aioxide.run(main())
from aioxide import sendfile
print(sendfile._SEEKS_ALWAYS)
"""


def test_parts_know_the_stock_loop_though_another_is_in_its_place() -> None:
    printed = output(INSTEAD)
    assert printed[0] == "1"
    assert printed[1] == output("from aioxide import sendfile; print(sendfile._SEEKS_ALWAYS)")[0]


LATER = """
import aioxide, asyncio, sys
for name, module in aioxide._LATER.items():
    found = getattr(aioxide, name, None)
    if found is None:
        assert name == "EventLoopPolicy" and sys.version_info >= (3, 16)
        continue
    assert found is getattr(sys.modules["aioxide." + module], name)
    assert found is not getattr(asyncio, name, None), name
    assert vars(aioxide)[name] is found is getattr(aioxide, name)
    assert name in dir(aioxide)
print("all")
"""


def test_names_that_are_read_later_are_ours() -> None:
    assert output(LATER) == ["all"]


def test_protocols_mix_with_native_types_also_if_typing_comes_later() -> None:
    assert output(LATE) == ["True", "False", "True"]


PATCHED_READER = """
import asyncio, sys
{way}
loop = asyncio.new_event_loop()
reader = lib.StreamReader(loop=loop)
protocol = lib.StreamReaderProtocol(reader, loop=loop)
protocol.data_received(b"first")
stock = lib.StreamReader.feed_data
def feed_data(self, data):
    print("fed", len(data))
    return stock(self, data)
lib.StreamReader.feed_data = feed_data
protocol.data_received(b"one more")
print(loop.run_until_complete(reader.read(100)).decode())
loop.close()
"""


@pytest.mark.parametrize("way", ["lib = asyncio", "import aioxide as lib; lib.install()"])
def test_a_method_patched_on_a_stream_class_is_called(way: str) -> None:
    expected = ["fed", "8", "firstone", "more"]
    assert output(PATCHED_READER.format(way=way)) == expected


PATCHED_TIMEOUT = """
import asyncio
{way}
def reschedule(self, when):
    print("moved")
async def main():
    async with lib.timeout(5):
        pass
    lib.Timeout._on_timeout = lambda self: print("expired") or self._task.cancel()
    try:
        async with lib.timeout(0.01):
            await lib.sleep(10)
    except asyncio.CancelledError:
        print("cancelled")
    except TimeoutError:
        print("timeout")
asyncio.run(main())
"""


def test_a_method_patched_on_the_timeout_class_is_called() -> None:
    stock = output(PATCHED_TIMEOUT.format(way="lib = asyncio"))
    native = output(PATCHED_TIMEOUT.format(way="import aioxide as lib; lib.install()"))
    assert stock == native
    assert stock[0] == "expired"


def test_native_types_answer_for_asyncio() -> None:
    import asyncio

    for name in ("Future", "Task", "Lock", "Queue", "StreamReader", "Timeout", "TaskGroup"):
        native, stock = getattr(aioxide, name), getattr(asyncio, name)
        assert issubclass(stock, native)
        assert issubclass(native, stock)
        assert not inspect.isabstract(native)
        derived = type("Derived", (native,), {})
        assert not issubclass(stock, derived)
        assert issubclass(derived, native)

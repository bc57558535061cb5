"""Instructions per operation of a row or application, counted by callgrind: repeatable, no noise.

`python benches/instructions.py sleep0 uvicorn --loops aioxide asyncio --top 15`. Each runs twice
in one process under valgrind with different counts; the difference of the instructions, divided by
the difference of the counts, is free of what beginning and ending cost. What comes before, and a
first few operations, are not counted. The garbage collector is off: when it runs depends on more
than the operations. `--top` shows where they are spent, for each operation.

Of the instructions, those in the loop's own library (a shared object) are said separately: where
the application itself is most of the cost, they are what the loop adds. asyncio's own are mostly
Python and cannot be told from the application's; the totals can always be compared. The kernel's
are not counted.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

# Also where Python was told to leave the script's folder out (`-P`).
sys.path.insert(0, str(Path(__file__).parent))

import application_rows
import applications
import cases
import load
import loops
import measure
import services

HERE = Path(__file__).parent
COUNTS = (2000, 12000)
# Requests to a server, or operations of an application's row.
APPLICATION_COUNTS = (200, 1000)
# Of operations of millions of instructions fewer are as telling, and take minutes less.
HEAVY_COUNTS = {
    "aiohttp-client": (100, 400),
    "asyncpg-rows": (20, 100),
    "httpx": (50, 150),
    "redis": (10, 50),
    "spawn": (20, 60),
    "spawn-output": (20, 60),
}
CONNECTIONS = 10
# Applications that are no servers. Not "spawn": valgrind 3.19 knows no pidfds, so that asyncio's,
# rloop's and our counts would be those of the threads that then wait for each child.
CLIENTS = ("aiohttp-client", "httpx", "asyncpg", "asyncpg-rows", "redis", "aiosqlite")
# Not these: the processes that the measured ones start.
SKIPPED = "/bin/true,/bin/echo"
# Who cannot be counted: a case in the suite would wait as long as it may.
UNANSWERED = {"rsloop": "gives no answer under callgrind"}
# Valgrind runs about fifty times slower.
RUN_S_MAX = 900.0
# Addresses and hashes decide about collisions in dictionaries: both are held still.
STILL = {"PYTHONHASHSEED": "0"}
# In callgrind's output: what is named by a number, and what was spent at a line.
NAMED = re.compile(r"(ob|fn|cob|cfn)=\((\d+)\)(?: (.*))?")
COST = re.compile(r"(?:[+-]?\d+|\*) (\d+)$")
# How each loop's own library is called in callgrind's output.
OBJECTS = {
    loops.CONTROL: r"_asyncio\.",
    "uvloop": r"/uvloop/",
    "rloop": r"/rloop/",
    "zuvloop": r"/zuvloop/",
    "rsloop": r"/rsloop/",
    loops.SUBJECT: r"_aioxide\.",
    loops.SUBJECT_LOOP: r"_aioxide\.",
    loops.LIMIT: r"limit_calls\.",
}
ALL = cases.Metric("all", "instructions, all", "instructions")
OWN = cases.Metric("own", "instructions in the loop's own library", "instructions")


class Watched:
    """A process under callgrind that counts nothing until it is told to."""

    def __init__(self, command: list[str], output: Path) -> None:
        for tool in ("valgrind", "callgrind_control"):
            if shutil.which(tool) is None:
                raise cases.Failure(f"{tool} is not installed")
        # Some Pythons are started by a wrapper, therefore with children.
        tool = ("valgrind", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no")
        tool += (f"--trace-children-skip={SKIPPED}",)
        self.output = output
        self.process = subprocess.Popen(
            ["setarch", "-R", *tool, f"--callgrind-out-file={output}", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **STILL},
        )

    def line(self) -> str:
        """Return the next line that it prints; a failure if it ends instead."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline().strip():
            return line
        errors = self.process.communicate()[1]
        raise cases.Failure(cases.last_line(errors) or "it ended")

    def go_on(self) -> None:
        """Say a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def control(self, *options: str) -> None:
        """Tell callgrind something."""
        command = ["callgrind_control", *options, str(self.process.pid)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_S_MAX, check=False
        )
        if done.returncode != 0 or "OK" not in done.stdout:
            raise cases.Failure(cases.last_line(done.stderr) or "callgrind_control failed")

    def spent(self, act: Callable[[], object]) -> Counter[tuple[str, str]]:
        """Do something, and return what this process has spent meanwhile."""
        self.control("-z")
        act()
        before = set(self.output.parent.iterdir())
        self.control("-d")
        (written,) = set(self.output.parent.iterdir()) - before
        return functions(written)

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


Spent: TypeAlias = tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]


def run_row(loop: str, name: str, few: int, many: int, output: Path) -> Spent:
    """Run a row a few times and many times under callgrind."""
    row = measure.find(name)
    if row.service:
        services.need(row.service)
    script = [sys.executable, str(HERE / "measure.py"), loop, name, "--stepwise"]
    watched = Watched([*script, "--count", *map(str, (few, few, many))], output)

    def step() -> None:
        watched.go_on()
        watched.line()

    try:
        watched.line()
        step()
        watched.control("-i", "on")
        return watched.spent(step), watched.spent(step)
    finally:
        watched.end()


def run_server(loop: str, name: str, few: int, many: int, output: Path) -> Spent:
    """Let an application answer a few requests and many under callgrind."""
    _, kind = applications.SERVERS[name]
    watched = Watched([*applications.server_command(name, loop), "--still"], output)

    def answer(count: int) -> None:
        what = load.Load(kind, CONNECTIONS, 1024, requests=count)
        load.apply(f"tcp:{port}", what, watched.process)

    try:
        port = watched.line()
        answer(few)
        watched.control("-i", "on")
        return watched.spent(partial(answer, few)), watched.spent(partial(answer, many))
    finally:
        watched.end()


def functions(output: Path) -> Counter[tuple[str, str]]:
    """Return the instructions of each (function, object) in callgrind's output, callees excluded.

    `callgrind_annotate` lists a function once for each source file that is inlined into it, and
    names the object in one of those lines alone. Source: valgrind's manual, callgrind's format.
    """
    spent: Counter[tuple[str, str]] = Counter()
    names: dict[str, str] = {}
    now = {"ob": "", "fn": ""}
    of_callee = False
    for line in output.read_text().splitlines():
        if match := NAMED.match(line):
            kind, number, name = match.groups()
            # Numbers of objects, and of functions, stand for names given once.
            key = f"{kind[-2:]} {number}"
            names[key] = name or names.get(key, "")
            if kind in now:
                now[kind] = names[key]
        elif line.startswith("calls="):
            of_callee = True
        elif match := COST.match(line):
            if not of_callee:
                spent[now["fn"], now["ob"]] += int(match[1])
            of_callee = False
    return spent


def count(loop: str, name: str, top: int = 0) -> tuple[float, float, str]:
    """Return instructions per operation, those in the loop's library, and the dearest functions."""
    is_server = name in applications.SERVERS
    is_application = is_server or name in application_rows.ROWS
    group = 1 if is_server else measure.find(name).group
    counts = HEAVY_COUNTS.get(name, APPLICATION_COUNTS if is_application else COUNTS)
    few, many = (-(-each // group) * group for each in counts)
    run = run_server if is_server else run_row
    with tempfile.TemporaryDirectory() as folder:
        at_first, later = run(loop, name, few, many, Path(folder) / "callgrind.out")
    difference = Counter(later)
    difference.subtract(at_first)
    own = re.compile(OBJECTS[loop])
    ours = sum(spent for (_, where), spent in difference.items() if own.search(where))
    listed = "\n".join(
        f"    {spent / (many - few):>12,.1f} {function} [{where}]"
        for (function, where), spent in difference.most_common(top)
    )
    return difference.total() / (many - few), ours / (many - few), listed


def measure_case(name: str, loop: str, effort: cases.Effort) -> cases.Samples:
    """Count for the suite."""
    if reason := UNANSWERED.get(loop):
        raise cases.Failure(reason)
    everything, own, _ = count(loop, name)
    return {"all": [everything], "own": [own]}


CASES = [
    cases.Case(
        f"instructions-{name}",
        f"instructions: {title}",
        (ALL, OWN),
        partial(measure_case, name),
        short=False,
        rounds_max=1,
        takes=lambda _: 9.0,
    )
    for name, title in (
        *((name, title) for name, (title, _) in applications.SERVERS.items()),
        *((name, application_rows.ROWS[name].title) for name in CLIENTS),
    )
]


def main() -> None:
    """Count what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="+", help="rows, or applications that serve")
    parser.add_argument("--loops", nargs="+", choices=tuple(OBJECTS), default=[loops.SUBJECT])
    parser.add_argument("--top", type=int, default=0, help="also list this many functions")
    options = parser.parse_args()
    print("| row | loop | instructions per operation | in the loop's library |")
    print("| --- | --- | --: | --: |")
    try:
        for name in options.rows:
            for loop in options.loops:
                try:
                    everything, own, listed = count(loop, name, options.top)
                except cases.Failure as error:
                    print(f"| {name} | {loop} | **failed** | {error} |", flush=True)
                    continue
                print(f"| {name} | {loop} | {everything:.0f} | {own:.0f} |", flush=True)
                if listed:
                    print(listed)
    finally:
        services.close()


if __name__ == "__main__":
    main()

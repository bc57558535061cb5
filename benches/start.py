"""Start: a process that imports the library, one that runs an empty coroutine, a run in a process.

`python start.py LOOP --count N` is the measured process of the last: N runs after one another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from typing import Any

import cases
import inside
import loops
import measure

BARE = "bare Python"
PROCESSES = 5
RUNS = 100
RUN_SAMPLES = 5
MILLISECONDS = cases.Metric("ms", "time of the process", "ms")
MICROSECONDS = cases.Metric("us", "time of a run", "µs")
IMPORT = "import {library}"
# What a library offers for a whole program, else what asyncio offers for a library.
RUN = """\
import {library} as library

async def main():
    pass

if hasattr(library, "run"):
    library.run(main())
else:
    import asyncio
    with asyncio.Runner(loop_factory=library.new_event_loop) as runner:
        runner.run(main())
"""


def process(program: str, entrant: str, effort: cases.Effort) -> cases.Samples:
    """Start processes with a program; the first is not counted, for it fills the kernel's cache."""
    text = "pass" if entrant == BARE else program.format(library=loops.package(entrant))
    took = []
    with cases.on_core(cases.cores()[1]):
        for _ in range(PROCESSES + 1):
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-P", "-c", text], capture_output=True, text=True, check=False
            )
            took.append((time.perf_counter() - begin) * 1000)
            if done.returncode:
                raise cases.Failure(cases.last_line(done.stderr))
    return {"ms": took[1:]}


def run(loop: str, effort: cases.Effort) -> cases.Samples:
    """Measure runs of an empty coroutine in one process."""
    command = [__file__, loop, "--count", str(RUNS), "--cpus", str(cases.cores()[1])]
    found: cases.Samples = json.loads(inside.run(*command))
    return found


CASES = [
    cases.Case(
        "start-import", "start: import", (MILLISECONDS,), partial(process, IMPORT), beside=(BARE,)
    ),
    cases.Case(
        "start-run",
        "start: run an empty coroutine",
        (MILLISECONDS,),
        partial(process, RUN),
        beside=(BARE,),
    ),
    cases.Case("start-again", "start: run() again in a process", (MICROSECONDS,), run),
]


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("--count", type=int, default=RUNS)
    parser.add_argument("--cpus", default="")
    options = parser.parse_args()
    measure.pin(options.cpus)
    namespace: dict[str, Any] = {}
    body = RUN[RUN.index("if hasattr") :].replace("\n", "\n    ")
    text = f"import asyncio\nimport {loops.package(options.loop)} as library\n"
    text += f"async def main():\n    pass\ndef once():\n    {body}\n"
    exec(compile(text, "run", "exec"), namespace)
    samples = []
    for _ in range(RUN_SAMPLES + 1):
        begin = time.perf_counter()
        for _ in range(options.count):
            namespace["once"]()
        samples.append((time.perf_counter() - begin) / options.count * 1e6)
    print(json.dumps({"us": samples[1:]}))


if __name__ == "__main__":
    main()

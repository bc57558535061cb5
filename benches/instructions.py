"""Instructions per operation of a row, counted by callgrind: repeatable where times are not.

`python benches/instructions.py sleep0 --loops aioxide asyncio --top 15`. A row runs twice under
valgrind with different counts; the difference of the instruction totals, divided by the
difference of the counts, is free of start-up and shut-down. `--top` shows where they are spent.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Also where Python was told to leave the script's folder out (`-P`).
sys.path.insert(0, str(Path(__file__).parent))

import cases
import inside
import loops
import measure

HERE = Path(__file__).parent
COUNTS = (2000, 12000)
# Valgrind runs about fifty times slower.
RUN_S_MAX = 300.0
# Addresses and hashes decide about collisions in dictionaries: both are held still.
STILL = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def count_instructions(loop: str, name: str, count: int, output: Path) -> int:
    """Run a row `count` times under callgrind and return all its instructions."""
    done = subprocess.run(
        [
            *("setarch", "-R", "valgrind", "--tool=callgrind"),
            # Some Pythons are started by a wrapper.
            *(f"--callgrind-out-file={output}", "--trace-children=yes"),
            *(sys.executable, str(HERE / "measure.py"), loop, name, "--count", str(count)),
        ],
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
        env={**os.environ, **STILL},
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"{loop}, {name}: {cases.last_line(done.stderr)}")
    return int(found[1])


def functions(output: Path, top: int) -> str:
    """Return the functions that took most, as callgrind_annotate lists them."""
    done = subprocess.run(
        ["callgrind_annotate", "--auto=no", "--threshold=99", str(output)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if re.match(r"\s*[\d,]+ \(", line)]
    return "\n".join(f"    {line.strip()}" for line in lines[1 : top + 1])


def main() -> None:
    """Count what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="+", choices=[*inside.rows.ROWS, *inside.primitive_rows.ROWS])
    parser.add_argument("--loops", nargs="+", choices=loops.LOOPS, default=[loops.SUBJECT])
    parser.add_argument("--top", type=int, default=0, help="also list this many functions")
    options = parser.parse_args()
    print("| row | loop | instructions per operation |\n| --- | --- | --: |")
    for name in options.rows:
        group = measure.find(name).group
        few, many = (-(-count // group) * group for count in COUNTS)
        for loop in options.loops:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "callgrind.out"
                first = count_instructions(loop, name, few, output)
                second = count_instructions(loop, name, many, output)
                print(f"| {name} | {loop} | {(second - first) / (many - few):.0f} |", flush=True)
                if options.top:
                    print(functions(output, options.top))


if __name__ == "__main__":
    main()

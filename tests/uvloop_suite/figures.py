"""Prints how aioxide does on uvloop's own tests, module by module, on the running Python.

`PYTHONPATH=tests python -P -m uvloop_suite.figures [MODULE ...]` from the root of the tree, or
`make figures`. Exit status 1 if anything unexpected happened.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from cpython import harness
from cpython.report import tabulate

from . import suite


def main(names: list[str]) -> int:
    """Run, judge and print; return the exit status."""
    source = suite.archive()
    if source is None:
        print("uvloop's tests: not run, its source distribution is not in this environment")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        suite.unpack(source, Path(folder))
        cases = [
            (kind, module)
            for module in suite.modules(Path(folder))
            for kind in suite.CONTROLS
            if not names or module in names
        ]
        with suite.Runs(Path(folder), cases) as runs:

            def judge(kind: harness.Suite, module: str) -> harness.Verdict:
                return runs.verdict(kind, module)

            return tabulate("uvloop's tests", cases, judge)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

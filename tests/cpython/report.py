"""Prints how aioxide does on CPython's asyncio tests, module by module, on the running Python.

`python -m tests.cpython.report [MODULE ...]` from the root of the tree, or `make cpython`.
Exit status 1 if anything unexpected happened.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from . import harness

WORKERS = 3


def main(names: list[str]) -> int:
    """Run, judge and print; return the exit status."""
    chosen = [(suite, module) for suite, module in harness.cases() if not names or module in names]
    expected = harness.load_expected()
    totals: dict[str, harness.Totals] = defaultdict(harness.Totals)
    totals_of_all = harness.Totals()
    status = 0
    begin = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        controls = {}
        runs = []
        for suite, module in chosen:
            if module not in controls:
                controls[module] = pool.submit(harness.run, harness.STOCK, module)
            runs.append((suite, module, pool.submit(harness.run, suite, module, (), expected)))
        print(f"{'module':34}{'suite':15}{'passed':>8}{'counted':>8}{'loops':>8}{'private':>8}")
        for suite, module, run in runs:
            verdict = harness.judge(
                suite, module, controls[module].result(), run.result(), expected
            )
            print(
                f"{module:34}{suite.name:15}{verdict.passed:8}{verdict.counted:8}"
                f"{verdict.exercised:8}{verdict.private:8}",
                flush=True,
            )
            if not verdict.good:
                status = 1
                print(verdict.report())
            totals[suite.name].add(verdict)
    for name, total in totals.items():
        totals_of_all.add(total)
        print(f"CPython {harness.PYTHON}, {name}: {total}")
    print(f"CPython {harness.PYTHON}: {totals_of_all} ({time.monotonic() - begin:.0f} s)")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Prints how aioxide does on CPython's asyncio tests, module by module, on the running Python.

`PYTHONPATH=tests python -P -m cpython.report [MODULE ...]` from the root of the tree, or
`make figures`. Exit status 1 if anything unexpected happened.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from . import harness

WORKERS = 3


def tabulate(
    title: str,
    cases: Iterable[tuple[harness.Suite, str]],
    judge: Callable[[harness.Suite, str], harness.Verdict],
) -> int:
    """Print a line for each case and the sums; return the exit status."""
    totals: dict[str, harness.Totals] = defaultdict(harness.Totals)
    status = 0
    print(f"{'module':34}{'suite':20}{'passed':>8}{'counted':>8}{'loops':>8}{'private':>8}")
    for suite, module in cases:
        verdict = judge(suite, module)
        print(
            f"{module:34}{suite.name:20}{verdict.passed:8}{verdict.counted:8}"
            f"{verdict.exercised:8}{verdict.private:8}",
            flush=True,
        )
        if not verdict.good:
            status = 1
            print(verdict.report())
        totals[suite.name].add(verdict)
    everything = harness.Totals()
    for total in totals.values():
        everything.add(total)
    for name, total in {**totals, "all": everything}.items():
        print(f"Python {harness.PYTHON}, {title}, {name}: {total}")
    return status


def main(names: list[str]) -> int:
    """Run, judge and print; return the exit status."""
    cases = [(suite, module) for suite, module in harness.cases() if not names or module in names]
    expected = harness.load_expected()
    with ThreadPoolExecutor(WORKERS) as pool:
        runs = {}
        for suite, module in cases:
            for wanted in (harness.STOCK, suite):
                if (wanted, module) not in runs:
                    runs[wanted, module] = pool.submit(harness.run, wanted, module, (), expected)

        def judge(suite: harness.Suite, module: str) -> harness.Verdict:
            control = runs[harness.STOCK, module].result()
            return harness.judge(suite, module, control, runs[suite, module].result(), expected)

        return tabulate("CPython's test_asyncio", cases, judge)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

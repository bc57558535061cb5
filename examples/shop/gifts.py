"""The CPU-bound part of the shop; imports nothing heavy, as every pool worker loads it."""

from collections.abc import Mapping
from itertools import combinations


def best_box(prices: Mapping[str, int], budget: int) -> list[str]:
    """Return the teas whose prices add up closest to `budget` without passing it.

    Tries every combination, 2 ** len(prices) of them: honest work for a process of its own.
    """
    best: tuple[str, ...] = ()
    best_sum = 0
    for size in range(1, len(prices) + 1):
        for box in combinations(prices, size):
            if best_sum < (total := sum(map(prices.__getitem__, box))) <= budget:
                best, best_sum = box, total
    return list(best)

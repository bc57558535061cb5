"""Sends TLS connections through storms for a while: `python fuzz/tls_stream.py [SECONDS [SEED]]`.

Each storm is one connection between two ends of one aioxide loop whose protocols act at random,
over a wire that splits, delays, truncates, corrupts and resets (`tests/parity/tlsstorm.py` says
what must hold). A storm is decided by its seed; a failure names it, and the second argument begins
with it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "parity"))

from tlsstorm import forgiven, storm

import aioxide.tls

# After so many storms the descriptors are counted, and garbage is collected where it shows.
CENSUS = 200


def descriptors() -> int:
    """Return the number of descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))


class Failure(Exception):
    """A storm broke a rule; its text says which."""


async def census(before: int, seed: int) -> None:
    """Check that the storms so far left nothing behind."""
    await asyncio.sleep(0)
    gc.collect()
    now = descriptors()
    if now > before:
        raise Failure(f"{now - before} descriptors left over before seed {seed}")


async def run(seconds: float, seed: int) -> int:
    """Go through storms, one after the other; return their number."""
    strict = not hasattr(aioxide.tls, "sslproto")
    strange: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _loop, context: forgiven(context, strict) or strange.append(context)
    )
    before, end, count = descriptors(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            await storm(seed + count, strict)
        except Exception as error:
            raise Failure(f"seed {seed + count}: {type(error).__name__}: {error}") from error
        if strange:
            raise Failure(f"seed {seed + count}: reported {strange[0]}")
        count += 1
        if count % CENSUS == 0:
            await census(before, seed + count)
    return count


def main() -> int:
    """Run for the seconds of the first argument; return the exit status."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 40)
    logging.disable(logging.WARNING)
    warnings.simplefilter("error", RuntimeWarning)
    try:
        with asyncio.Runner(loop_factory=aioxide.Loop) as runner:
            count = runner.run(run(seconds, seed))
    except Failure as failure:
        print(f"fuzz tls_stream: FAILED, {failure}", file=sys.stderr)
        return 1
    print(f"fuzz tls_stream: {count} storms from seed {seed} in {seconds:g} s, no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())

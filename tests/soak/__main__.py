"""The soak: `python -m soak --seconds 900`, in `tests`; `make soak` does that.

One process serves and asks at the same time, on an aioxide loop: HTTP, websockets, TLS, TCP, Unix
sockets, UDP, children, pipes, sendfile, threads, timers, tasks, names and signals; connections are
reset and half-closed, readers are slow, children are killed, callbacks raise, operations are
cancelled at random awaits, handshakes are nonsense and descriptors run out. Every so often
everything rests and is inspected. Ends with a table, and with status 1 if anything was wrong: a
byte, an error that nobody injected or a fault that nobody reported, a descriptor, task, thread or
child left over, or memory that grows.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import aioxide

from . import streams, system, tasks, web
from .health import Health
from .ledger import Ledger
from .stage import Load, Stage

LOOPS = {"aioxide": aioxide.new_event_loop, "asyncio": asyncio.SelectorEventLoop}
BREAKS = ("fd", "memory", "byte", "task", "error")
#: Inspections of a run, three at least; a short run has short phases.
INSPECTIONS = 30
PHASE_SECONDS_MIN = 0.5
#: Descriptors run out about so often, if there is time.
STARVE_EVERY_SECONDS = 10.0
#: A run that is so much longer than it should be hangs: every stack is printed.
HANG_SECONDS = 240.0


async def perform(arguments: argparse.Namespace, ledger: Ledger, folder: Path) -> Health:
    """Run the loads for the time that was asked for."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(ledger.handle_exception)  # type: ignore[arg-type]
    stage = Stage(ledger, arguments.seed, folder)
    servers = [one for room in (streams, web, system, tasks) for one in await room.start(stage)]
    if arguments.only:
        stage.loads = [load for load in stage.loads if load.name in arguments.only.split(",")]
    if arguments.broken:
        broken = tasks.Broken(stage, arguments.broken)
        stage.loads.append(Load("broken", broken.once, 1, cancels=False))
    health = Health(ledger)
    stage.start()
    rng = random.Random(arguments.seed)
    phase = max(PHASE_SECONDS_MIN, arguments.seconds / INSPECTIONS)
    end = time.monotonic() + arguments.seconds
    await health.inspect()
    while time.monotonic() < end:
        stage.go_on()
        await asyncio.sleep(phase / 2)
        if rng.random() < phase / STARVE_EVERY_SECONDS:
            await stage.starve(rng)
        await asyncio.sleep(phase / 2)
        async with stage.rest():
            await health.inspect()
            tell(health)
    await stage.end()
    for server in servers:
        server.close()
        await server.wait_closed()
    health.judge()
    if arguments.broken:
        for kept in broken.kept:
            if isinstance(kept, asyncio.Task):
                kept.cancel()
    return health


def tell(health: Health) -> None:
    """Print a line for each inspection."""
    moment, ledger = health.moments[-1], health.ledger
    print(
        f"{time.strftime('%H:%M:%S')} operations {sum(ledger.done.values())}"
        f" faults {sum(ledger.faults.values())} MiB {sum(ledger.bytes_checked.values()) >> 20}"
        f" resident {moment.resident_kib} KiB blocks {moment.blocks} objects {moment.objects}"
        f" violations {ledger.violations.total()}",
        flush=True,
    )


def table(ledger: Ledger, health: Health) -> None:
    """Print what was done."""
    for title, counts in (
        ("operations", ledger.done),
        ("bytes checked", ledger.bytes_checked),
        ("faults", ledger.faults),
    ):
        print(f"\n{title}")
        for name, count in sorted(counts.items()):
            print(f"  {name:<28}{count:>14,}")
    print("\ngrowth after warm-up")
    for name, rise in health.growth().items():
        print(f"  {name:<28}{rise:>14,.0f}")
    print(f"\nviolations: {ledger.violations.total()}")
    for text, count in ledger.violations.items():
        print(f"  {text}" + (f" ({count} times)" if count > 1 else ""))


def main() -> int:
    """Read the command line, soak, and give the status."""
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--loop", choices=LOOPS, default="aioxide", help="asyncio, to see what is its own fault"
    )
    parser.add_argument("--only", help="names of loads, with commas between them")
    parser.add_argument(
        "--break", dest="broken", choices=BREAKS, help="break something, which must be seen"
    )
    arguments = parser.parse_args()
    print(
        f"soak: seed {arguments.seed}, {arguments.seconds:.0f} s of {arguments.loop},"
        f" Python {sys.version.split()[0]}",
        flush=True,
    )
    faulthandler.dump_traceback_later(arguments.seconds * 2 + HANG_SECONDS, exit=True)
    ledger = Ledger()
    ledger.open_books()
    with tempfile.TemporaryDirectory() as folder:
        with asyncio.Runner(loop_factory=LOOPS[arguments.loop]) as runner:
            health = runner.run(perform(arguments, ledger, Path(folder)))
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            ledger.violation(f"thread: {thread.name} is left after the loop")
    table(ledger, health)
    return 1 if ledger.violations else 0


sys.exit(main())

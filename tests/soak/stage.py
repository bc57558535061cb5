"""The stage: runs the operations of each load side by side, cancels some, and makes them all rest.

One operation is a task: it is cancelled at a random await now and then, may take
`OPERATION_SECONDS_MAX`, and whatever it raises is in the books or a violation. While the stage
rests, nothing runs: that is when descriptors, tasks and memory are compared.
"""

from __future__ import annotations

import asyncio
import random
import resource
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from .ledger import Ledger

#: Longer than anything takes on a busy machine, the one-second retries of accept included.
OPERATION_SECONDS_MAX = 60.0
#: One operation in so many is cancelled.
CANCELLED_OF = 12
#: Random bytes that payloads are cut from.
NOISE_BYTES = 4 << 20
LOCAL = "127.0.0.1"


class Unlucky(Exception):
    """An operation ended as its own fault wanted; nothing is to be checked."""


@dataclass(frozen=True)
class Load:
    """A kind of work: how it is done once, and by how many at the same time."""

    name: str
    once: Callable[[random.Random], Awaitable[None]]
    workers: int = 2
    #: Drops what it keeps between operations.
    rest: Callable[[], Awaitable[None]] | None = None
    #: Whether operations may be cancelled from outside.
    cancels: bool = True


class Stage:
    """Everything that the loads share."""

    def __init__(self, ledger: Ledger, seed: int, folder: Path) -> None:
        self.ledger = ledger
        self.seed = seed
        self.folder = folder
        self.loop = asyncio.get_running_loop()
        self.noise = random.Random(seed).randbytes(NOISE_BYTES)
        self.loads: list[Load] = []
        self.flip_a_byte = False
        self._gate = asyncio.Event()
        self._busy = 0
        self._rested = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        authority = trustme.CA()
        self.server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self.server_tls)
        self.client_tls = ssl.create_default_context()
        authority.configure_trust(self.client_tls)

    def payload(self, rng: random.Random) -> bytes:
        """Cut some bytes from the noise: mostly few, seldom more than a socket's buffer holds."""
        largest = rng.choice((16, 1500, 1500, 20_000, 20_000, 150_000, 150_000, 1_000_000))
        size = rng.randrange(largest)
        start = rng.randrange(len(self.noise) - size)
        return self.noise[start : start + size]

    def echoed(self, data: bytes) -> bytes:
        """Give back what a server echoes: the same, unless the soak is asked to break."""
        if not (self.flip_a_byte and data):
            return data
        self.flip_a_byte = False
        return bytes((data[0] ^ 1,)) + data[1:]

    # --- work -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work, each worker with its own random numbers."""
        for load in self.loads:
            for number in range(load.workers):
                work = self._work(load, random.Random(f"{self.seed} {load.name} {number}"))
                self._workers.append(self.loop.create_task(work, name=f"{load.name} {number}"))

    async def _work(self, load: Load, rng: random.Random) -> None:
        while True:
            await self._gate.wait()
            self._busy += 1
            try:
                await self._operate(load, rng)
            finally:
                self._busy -= 1
                if self._busy == 0:
                    self._rested.set()

    async def _operate(self, load: Load, rng: random.Random) -> None:
        ledger = self.ledger
        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            task.cancel()

        async def once() -> None:
            async with asyncio.timeout(OPERATION_SECONDS_MAX):
                await load.once(rng)

        task = self.loop.create_task(once(), name=f"{load.name}: once")
        timer = None
        if load.cancels and rng.randrange(CANCELLED_OF) == 0:
            timer = self.loop.call_later(rng.expovariate(200), cancel)
        try:
            await task
            ledger.done[load.name] += 1
        except asyncio.CancelledError:
            if not cancelled:
                raise
            ledger.faults["operation cancelled"] += 1
        except Unlucky:
            ledger.done[load.name] += 1
        except Exception as error:
            if not ledger.settle(error):
                ledger.violation(f"error: {load.name}: {error!r}\n{_where(error)}")
        finally:
            if timer is not None:
                timer.cancel()

    @asynccontextmanager
    async def rest(self) -> AsyncIterator[None]:
        """Let every operation end and begin no new one inside the block."""
        self._gate.clear()
        if self._busy:
            self._rested.clear()
            await self._rested.wait()
        for load in self.loads:
            if load.rest is not None:
                await load.rest()
        yield

    def go_on(self) -> None:
        """Let the workers work again."""
        self._gate.set()

    async def end(self) -> None:
        """End the workers while they rest."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def starve(self, rng: random.Random) -> None:
        """Take the process's descriptors away for a moment."""
        seconds = rng.uniform(0.02, 0.2)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with tempfile.TemporaryFile() as file:
            lowest = file.fileno()
        self.ledger.starve(seconds)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + rng.randrange(4), hard))
        try:
            await asyncio.sleep(seconds)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _where(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)[-6:])

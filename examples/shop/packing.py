"""The packing room: one producer and a few consumers over an `asyncio.Queue`.

An order is first written to the database; the feeder reads new ones from there and queues them,
and the packers take them off the queue. So an order is never lost: what a shop that was killed had
not packed, the feeder finds at the next start.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from store import NEW, Order, Store

PACKERS = 3
QUEUE_ORDERS_MAX = 32  # a full queue holds the feeder back, never a customer

log = logging.getLogger("shop.packing")


class PackingRoom:
    """Packs orders in the background for as long as `open()` lasts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: asyncio.Queue[int] = asyncio.Queue(QUEUE_ORDERS_MAX)
        self._arrived = asyncio.Event()
        self._closing = False
        self._done: dict[int, asyncio.Event] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run the feeder and the packers; at the end, finish every order before they leave."""
        async with asyncio.TaskGroup() as staff:
            feeder = staff.create_task(self._feed(), name="feeder")
            packers = [staff.create_task(self._pack(), name=f"packer {n}") for n in range(PACKERS)]
            yield
            self._closing = True
            self._arrived.set()
            await feeder
            await self._queue.join()
            for packer in packers:
                packer.cancel()

    async def place(self, product_id: int, quantity: int) -> Order:
        """Accept an order."""
        order = await self._store.place(product_id, quantity)
        self._arrived.set()
        return order

    async def wait_done(self, order_id: int, seconds: float) -> Order | None:
        """Return the order as soon as it is no longer new, or after so many seconds."""
        done = self._done.setdefault(order_id, asyncio.Event())  # before looking: misses nothing
        order = await self._store.order(order_id)
        if order is None or order.status != NEW:
            self._finish(order_id)
            return order
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await done.wait()
        return await self._store.order(order_id)

    def _finish(self, order_id: int) -> None:
        if done := self._done.pop(order_id, None):
            done.set()

    async def _feed(self) -> None:
        last = 0
        while True:
            self._arrived.clear()
            closing = self._closing  # before looking: the last look sees every order
            for order_id in await self._store.new_orders(after=last):
                await self._queue.put(order_id)
                last = order_id
            if closing:
                return
            await self._arrived.wait()

    async def _pack(self) -> None:
        while True:
            order_id = await self._queue.get()
            try:
                await self._store.pack(order_id)
            except Exception:
                log.exception("order %d stays unpacked until the next start", order_id)
            finally:
                self._finish(order_id)
                self._queue.task_done()

"""The example shop's packing room, over a store that looks for as long as a test wants."""

from __future__ import annotations

import asyncio
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHOP = Path(__file__).parents[2] / "examples" / "shop"


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the shop's module, without a database under it, and forget it afterwards."""
    store = types.ModuleType("store")
    for name in ("NEW", "Order", "Store"):
        setattr(store, name, type(name, (), {}))
    monkeypatch.setitem(sys.modules, "store", store)
    monkeypatch.syspath_prepend(str(SHOP))
    assert "packing" not in sys.modules
    yield importlib.import_module("packing")
    del sys.modules["packing"]


class SlowStore:
    """Numbers for orders; what a look finds is known at its end, and was there at its beginning."""

    def __init__(self) -> None:
        self.orders: list[int] = []
        self.packed: list[int] = []
        self.looks = asyncio.Event()
        self.may_tell = asyncio.Event()

    async def new_orders(self, after: int) -> list[int]:
        found = [order for order in self.orders if order > after]
        self.looks.set()
        await self.may_tell.wait()
        return found

    async def place(self, product_id: int, quantity: int) -> int:
        self.orders.append(len(self.orders) + 1)
        return self.orders[-1]

    async def pack(self, order_id: int) -> None:
        self.packed.append(order_id)


def test_an_order_placed_while_the_feeder_looks_and_the_shop_closes(
    packing: Any, run: Callable[..., None]
) -> None:
    async def main() -> None:
        store = SlowStore()
        room = packing.PackingRoom(store)
        async with room.open():
            await store.looks.wait()
            await room.place(1, 1)
            # When the room closes, the look that cannot have found the order still goes on.
            asyncio.get_running_loop().call_soon(store.may_tell.set)
        assert store.packed == [1]

    run(main)


def test_orders_are_packed_once_each(packing: Any, run: Callable[..., None]) -> None:
    async def main() -> None:
        store = SlowStore()
        store.may_tell.set()
        room = packing.PackingRoom(store)
        async with room.open():
            for _ in range(packing.QUEUE_ORDERS_MAX * 2):
                await room.place(1, 1)
        assert sorted(store.packed) == store.orders

    run(main)

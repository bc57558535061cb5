"""The shop's client of its supplier, over HTTP.

The supplier is somebody else's service; here the shop plays that part itself (`/supplier/...`).
"""

import asyncio
from collections.abc import Iterable

import httpx
from pydantic import BaseModel

CALLS_MAX = 4  # what the supplier allows one customer to have open at a time


class Offer(BaseModel):
    """The supplier's answer about one tea."""

    product_id: int
    cents: int
    calls: int  # how many calls the supplier was serving when it answered


class Supplier:
    """Asks for offers, never more than `CALLS_MAX` at a time, whoever asks."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._gate = asyncio.Semaphore(CALLS_MAX)

    async def offer(self, base_url: str, product_id: int) -> Offer:
        """Ask for the price of one tea."""
        return Offer.model_validate_json(await self._ask(f"{base_url}/supplier/{product_id}"))

    async def delivery_days(self, base_url: str, product_id: int) -> int:
        """Ask how long one tea takes to arrive."""
        return int(await self._ask(f"{base_url}/supplier/{product_id}/delivery"))

    async def offers(self, base_url: str, product_ids: Iterable[int]) -> list[Offer]:
        """Ask for the prices of many teas; the answers come in the order of `product_ids`."""
        return await asyncio.gather(*(self.offer(base_url, tea) for tea in product_ids))

    async def _ask(self, url: str) -> bytes:
        async with self._gate:
            answer = await self._http.get(url)
        return answer.raise_for_status().content

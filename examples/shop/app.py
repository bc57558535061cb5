"""A tea shop: an ordinary FastAPI application on SQLAlchemy, httpx and asyncio.

Nothing here knows which event loop runs it. `$SHOP_DATA` names the folder of the database.
"""

import asyncio
import csv
import io
import os
import platform
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, pthread_sigmask
from typing import Annotated, TypedDict

import httpx
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response

from gifts import best_box
from packing import PackingRoom
from store import Product, Store
from supplier import Offer, Supplier
from views import Box, Id, NewOrder, OrderView, Page, ProductView

POOL_PROCESSES = 2
SUPPLIER_SECONDS = 0.01  # the supplier's distance


@dataclass
class Shop:
    """What the running application owns, from startup to shutdown."""

    store: Store
    room: PackingRoom
    supplier: Supplier
    pool: ProcessPoolExecutor
    supplier_calls: int = 0  # being answered right now, see `supplier_price`


class State(TypedDict):
    """What the lifespan hands to every request."""

    shop: Shop


def data_dir() -> Path:
    """Return the folder of the database: `$SHOP_DATA`, or one of the user's own."""
    if chosen := os.environ.get("SHOP_DATA"):
        return Path(chosen)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "tea-shop"


def start_pool() -> ProcessPoolExecutor:
    """Start the process pool; takes a while, so not in the loop's thread.

    Ctrl-C reaches every process of a terminal, but it is for this one to stop the others: they
    inherit that SIGINT is blocked. They are not forked from here, as this process has threads.
    """
    pool = ProcessPoolExecutor(POOL_PROCESSES, get_context("forkserver"))
    mask = pthread_sigmask(SIG_BLOCK, [SIGINT])
    try:
        pool.submit(int).result()
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
    return pool


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    """Open everything the shop owns, and close it again in the reverse order."""
    async with AsyncExitStack() as stack:
        store = Store(data_dir() / "shop.db")
        stack.push_async_callback(store.close)
        await store.open()
        pool = await asyncio.to_thread(start_pool)
        stack.push_async_callback(asyncio.to_thread, pool.shutdown, cancel_futures=True)
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        room = PackingRoom(store)
        await stack.enter_async_context(room.open())
        yield {"shop": Shop(store, room, Supplier(http), pool)}


async def open_shop(request: Request) -> Shop:
    """Find the shop that serves a request."""
    shop: Shop = request.state.shop
    return shop


async def base_url(request: Request) -> str:
    """Find the address this server listens on."""
    host, port = request.scope["server"]
    return f"http://{host}:{port}"


async def known_product(product_id: Id, shop: "TheShop") -> Product:
    """Find the tea named in the path."""
    if product := await shop.store.product(product_id):
        return product
    raise HTTPException(404, "no such tea")


TheShop = Annotated[Shop, Depends(open_shop)]
BaseUrl = Annotated[str, Depends(base_url)]
KnownProduct = Annotated[Product, Depends(known_product)]


app = FastAPI(title="Tea shop", lifespan=lifespan)


@app.get("/")
async def about(shop: TheShop) -> dict[str, str | int]:
    """Say what runs here, and on which event loop."""
    loop = type(asyncio.get_running_loop())
    return {
        "loop": f"{loop.__module__}.{loop.__qualname__}",
        "python": platform.python_version(),
        "database": str(shop.store.file),
    }


@app.get("/products")
async def products(shop: TheShop) -> list[ProductView]:
    """List the shelf."""
    return [ProductView.model_validate(product) for product in await shop.store.products()]


@app.get("/products/{product_id}")
async def product_page(
    product: KnownProduct,
    shop: TheShop,
    here: BaseUrl,
    within: Annotated[float, Query(ge=0, le=60)] = 2.0,
) -> Page:
    """Show all about one tea, if the supplier answers `within` so many seconds."""
    try:
        async with asyncio.timeout(within), asyncio.TaskGroup() as group:
            offer = group.create_task(shop.supplier.offer(here, product.id))
            days = group.create_task(shop.supplier.delivery_days(here, product.id))
    except TimeoutError:
        raise HTTPException(504, f"not within {within:g} seconds") from None
    return Page(
        product=ProductView.model_validate(product),
        sold=await shop.store.sold(product.id),
        offer=offer.result(),
        delivery_days=days.result(),
    )


@app.get("/offers")
async def offers(shop: TheShop, here: BaseUrl) -> list[Offer]:
    """Ask the supplier about every tea at once, a few calls at a time."""
    return await shop.supplier.offers(here, [tea.id for tea in await shop.store.products()])


@app.get("/gift")
async def gift(shop: TheShop, budget: Annotated[int, Query(gt=0)]) -> Box:
    """Find the gift box that comes closest to a budget (cents), on another core."""
    prices = {tea.name: tea.cents for tea in await shop.store.products()}
    loop = asyncio.get_running_loop()
    teas = await loop.run_in_executor(shop.pool, best_box, prices, budget)
    return Box(teas=teas, cents=sum(prices[tea] for tea in teas))


@app.get("/products.csv", response_class=Response)
def products_csv(shop: TheShop) -> Response:
    """Export the shelf; a plain function with blocking calls, so it runs in a thread."""
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    with closing(sqlite3.connect(shop.store.file)) as database:
        rows = database.execute("SELECT id, name, cents, stock FROM products ORDER BY id")
        writer.writerow(column[0] for column in rows.description)
        writer.writerows(rows)
    return Response(sheet.getvalue(), media_type="text/csv")


@app.post("/orders", status_code=202)
async def place_order(wanted: NewOrder, shop: TheShop) -> OrderView:
    """Accept an order; the packing room takes it from here."""
    if await shop.store.product(wanted.product_id) is None:
        raise HTTPException(404, "no such tea")
    return OrderView.model_validate(await shop.room.place(wanted.product_id, wanted.quantity))


@app.get("/orders")
async def orders(shop: TheShop) -> dict[str, int]:
    """Count the orders by status."""
    return await shop.store.tally()


@app.get("/orders/{order_id}")
async def order(
    order_id: Id, shop: TheShop, wait: Annotated[float, Query(ge=0, le=60)] = 0.0
) -> OrderView:
    """Show an order, waiting up to `wait` seconds for the packing room to deal with it."""
    if found := await shop.room.wait_done(order_id, wait):
        return OrderView.model_validate(found)
    raise HTTPException(404, "no such order")


@app.get("/supplier/{product_id}", include_in_schema=False)
async def supplier_price(product: KnownProduct, shop: TheShop) -> Offer:
    """Take the supplier's part: think a while, then offer the tea for three fifths of its price."""
    shop.supplier_calls += 1
    try:
        calls = shop.supplier_calls
        await asyncio.sleep(SUPPLIER_SECONDS)
    finally:
        shop.supplier_calls -= 1
    return Offer(product_id=product.id, cents=product.cents * 3 // 5, calls=calls)


@app.get("/supplier/{product_id}/delivery", include_in_schema=False)
async def supplier_delivery(product: KnownProduct) -> int:
    """Take the supplier's part: the name's length is as good a number of days as any."""
    await asyncio.sleep(SUPPLIER_SECONDS)
    return len(product.name)

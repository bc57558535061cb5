"""The shop's database: two tables in one SQLite file, behind SQLAlchemy's asyncio layer."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import ForeignKey, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NEW, PACKED, SOLD_OUT = "new", "packed", "sold out"

CONNECTIONS = 5  # each has a thread

STOCK = 1000  # packets of each tea on the shelf of a new shop
TEAS = {  # name: price in cents
    "Assam": 890,
    "Bai Mu Dan": 1640,
    "Ceylon": 770,
    "Darjeeling": 1390,
    "Earl Grey": 820,
    "Genmaicha": 1050,
    "Gyokuro": 3480,
    "Hojicha": 980,
    "Keemun": 1270,
    "Lapsang Souchong": 1130,
    "Oolong": 1510,
    "Pu-erh": 2260,
    "Rooibos": 640,
    "Sencha": 1190,
}


class Base(DeclarativeBase):
    """What SQLAlchemy collects the tables in."""


class Product(Base):
    """A tea on the shelf."""

    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    cents: Mapped[int]
    stock: Mapped[int]


class Order(Base):
    """What a customer asked for, and how far it got."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    quantity: Mapped[int]
    status: Mapped[str] = mapped_column(default=NEW, index=True)


class Store:
    """Every question the shop asks its database, one short transaction each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{file}", pool_size=CONNECTIONS, max_overflow=0
        )
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        # SQLite has one writer at a time: let coroutines queue here, not threads inside SQLite.
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Make the file, its tables and the first stock, unless they are there."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shelf = [{"name": name, "cents": cents, "stock": STOCK} for name, cents in TEAS.items()]
        async with self._engine.begin() as connection:
            await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(Product).on_conflict_do_nothing(), shelf)

    async def close(self) -> None:
        """Close every connection, and with the last one SQLite's journal."""
        await self._engine.dispose()

    async def products(self) -> Sequence[Product]:
        """Return the whole shelf."""
        async with self._sessions() as session:
            return (await session.scalars(select(Product).order_by(Product.id))).all()

    async def product(self, product_id: int) -> Product | None:
        """Return one tea."""
        async with self._sessions() as session:
            return await session.get(Product, product_id)

    async def sold(self, product_id: int) -> int:
        """Return how many packets of a tea have been packed so far."""
        query = select(func.coalesce(func.sum(Order.quantity), 0)).where(
            Order.product_id == product_id, Order.status == PACKED
        )
        async with self._sessions() as session:
            return (await session.scalars(query)).one()

    async def place(self, product_id: int, quantity: int) -> Order:
        """Write a new order down: from here on it survives a restart."""
        order = Order(product_id=product_id, quantity=quantity, status=NEW)
        async with self._writing, self._sessions.begin() as session:
            session.add(order)
        return order

    async def order(self, order_id: int) -> Order | None:
        """Return one order."""
        async with self._sessions() as session:
            return await session.get(Order, order_id)

    async def new_orders(self, after: int) -> Sequence[int]:
        """Return the ids of unpacked orders above `after`, oldest first."""
        query = select(Order.id).where(Order.status == NEW, Order.id > after).order_by(Order.id)
        async with self._sessions() as session:
            return (await session.scalars(query)).all()

    async def pack(self, order_id: int) -> None:
        """Take an order's packets off the shelf, once: an order that is not new is left alone."""
        claim = update(Order).where(Order.id == order_id, Order.status == NEW)
        async with self._writing, self._sessions.begin() as session:
            order = await session.scalar(claim.values(status=PACKED).returning(Order))
            if order is None:
                return
            shelf = update(Product).where(
                Product.id == order.product_id, Product.stock >= order.quantity
            )
            taken = shelf.values(stock=Product.stock - order.quantity).returning(Product.id)
            if await session.scalar(taken) is None:
                order.status = SOLD_OUT

    async def tally(self) -> dict[str, int]:
        """Return the number of orders in each status."""
        query = select(Order.status, func.count()).group_by(Order.status)
        async with self._sessions() as session:
            counted = dict((await session.execute(query)).all())
        return {status: counted.get(status, 0) for status in (NEW, PACKED, SOLD_OUT)}

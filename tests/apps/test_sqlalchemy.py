"""SQLAlchemy's async engine and `databases` over three drivers, on SQLite and a real PostgreSQL.

SQLAlchemy runs its own synchronous code in greenlets and awaits the driver from inside them;
`databases` keeps a connection for each task in context variables.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import databases
import psycopg
import pytest
import sqlalchemy
from servers import Postgres
from sqlalchemy import ForeignKey, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncAttrs,
    AsyncEngine,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

# Started before the first test, so that no test is told that it left it behind.
pytestmark = pytest.mark.usefixtures("postgres")

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
Address = Callable[[Postgres, Path], sqlalchemy.URL]


class Base(AsyncAttrs, DeclarativeBase):
    """The tables of these tests."""


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def postgres_address(driver: str) -> Address:
    """Give addresses of the PostgreSQL for a driver."""

    def address(server: Postgres, _: Path) -> sqlalchemy.URL:
        options = server.options()
        return sqlalchemy.URL.create(
            f"postgresql+{driver}",
            username=server.user,
            password=server.password,
            database=server.database,
            query={"host": str(options["host"]), "port": str(options["port"])},
        )

    return address


def sqlite_address(_: Postgres, folder: Path) -> sqlalchemy.URL:
    """Give the address of a file."""
    return sqlalchemy.URL.create("sqlite+aiosqlite", database=str(folder / "books.db"))


ADDRESSES = {
    "aiosqlite": sqlite_address,
    "asyncpg": postgres_address("asyncpg"),
    "psycopg": postgres_address("psycopg"),
}


@pytest.fixture(params=ADDRESSES)
def address(request: pytest.FixtureRequest, postgres: Postgres, tmp_path: Path) -> sqlalchemy.URL:
    """Give a database's address, for each driver."""
    return ADDRESSES[request.param](postgres, tmp_path)


@asynccontextmanager
async def library(address: sqlalchemy.URL, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Make an engine with empty tables."""
    engine = create_async_engine(address, **options)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
        yield engine
    finally:
        await engine.dispose()


def test_first_page(run: Run, address: sqlalchemy.URL) -> None:
    """Objects with relations, lazy and eager; a transaction undone; rows streamed."""

    async def main() -> None:
        async with library(address) as engine:
            sessions = async_sessionmaker(engine, expire_on_commit=False)
            async with sessions() as session, session.begin():
                session.add_all(
                    Author(name=f"author {n}", books=[Book(title=f"{n}.{m}") for m in range(3)])
                    for n in range(50)
                )
            async with sessions() as session:
                query = select(Author).options(selectinload(Author.books)).order_by(Author.id)
                authors = (await session.scalars(query)).all()
                titles = [[book.title for book in author.books] for author in authors]
                assert titles == [[f"{n}.{m}" for m in range(3)] for n in range(50)]
                book = (await session.scalars(select(Book).limit(1))).one()
                assert (await book.awaitable_attrs.author).name == f"author {book.title[0]}"
                streamed = await session.stream_scalars(select(Book.title).order_by(Book.id))
                assert [title async for title in streamed][:2] == ["0.0", "0.1"]
            with pytest.raises(IntegrityError):
                async with sessions() as session, session.begin():
                    session.add(Author(name="new"))
                    session.add(Author(name="author 1"))
            async with engine.connect() as connection:
                assert await connection.scalar(select(func.count(Author.id))) == 50

    run(main)


def test_pool_under_a_rush(run: Run, address: sqlalchemy.URL) -> None:
    """Forty tasks share three connections; a task that finds none in time says so."""

    async def main() -> None:
        options = {"pool_size": 3, "max_overflow": 0, "pool_timeout": 60}
        async with library(address, **options) as engine:

            async def ask(number: int) -> int:
                async with engine.connect() as connection:
                    row = await connection.execute(text(f"SELECT {number} * 2"))
                    await asyncio.sleep(0)
                    answer: int = row.scalar_one()
                    return answer

            assert await asyncio.gather(*map(ask, range(40))) == [2 * n for n in range(40)]
            waiting = asyncio.create_task(ask(0))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await asyncio.gather(*map(ask, range(10))) == [2 * n for n in range(10)]
        options["pool_timeout"] = 0.05
        async with library(address, **options) as engine:
            async with engine.connect(), engine.connect(), engine.connect():
                with pytest.raises(TimeoutError):
                    await engine.connect()

    run(main)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_cancelled_and_killed(run: Run, driver: str, postgres: Postgres, tmp_path: Path) -> None:
    """A cancelled query leaves the pool whole; a killed connection is noticed and replaced."""

    async def main() -> None:
        url = ADDRESSES[driver](postgres, tmp_path)
        engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_pre_ping=True)
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.1), engine.connect() as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
        with pytest.raises(DBAPIError):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 2")) == 2
        await engine.dispose()
        wrong = create_async_engine(url.set(password="wrong"))
        with pytest.raises(
            (psycopg.OperationalError, asyncpg.PostgresError, DBAPIError), match="password"
        ):
            async with wrong.connect():
                raise AssertionError("that is not the password")
        await wrong.dispose()

    run(main)


@pytest.mark.parametrize("driver", ["aiosqlite", "asyncpg"])
def test_databases(run: Run, driver: str, postgres: Postgres, tmp_path: Path) -> None:
    """encode's `databases`: queries, rows, a transaction undone, a connection for each task."""
    options: dict[str, Any] = {}
    url = ADDRESSES[driver](postgres, tmp_path)
    if driver == "asyncpg":
        options["ssl"] = ssl.create_default_context(cafile=postgres.certificates.authority)
        url = url.set(host="127.0.0.1", port=postgres.port, query={})

    async def main() -> None:
        address = url.render_as_string(hide_password=False)
        async with databases.Database(address, **options) as database:
            await database.execute("DROP TABLE IF EXISTS scores")
            await database.execute("CREATE TABLE scores (name VARCHAR(100) UNIQUE, score INTEGER)")
            query = "INSERT INTO scores (name, score) VALUES (:name, :score)"
            values = [{"name": f"player {n}", "score": n} for n in range(30)]
            await database.execute_many(query=query, values=values)
            rows = await database.fetch_all("SELECT name, score FROM scores ORDER BY score")
            assert [(row["name"], row["score"]) for row in rows] == [
                (f"player {n}", n) for n in range(30)
            ]
            with pytest.raises(ZeroDivisionError):
                async with database.transaction():
                    await database.execute("DELETE FROM scores")
                    raise ZeroDivisionError
            assert await database.fetch_val("SELECT count(*) FROM scores") == 30
            with pytest.raises(Exception, match=r"(?i)unique"):
                await database.execute(query=query, values={"name": "player 1", "score": 1})

            async def total(start: int) -> int:
                condition = "SELECT sum(score) FROM scores WHERE score >= :start"
                answer: int = await database.fetch_val(condition, {"start": start})
                return answer

            totals = await asyncio.gather(*map(total, range(10)))
            assert totals == [sum(range(start, 30)) for start in range(10)]
            numbers = database.iterate("SELECT score FROM scores ORDER BY score")
            assert [row["score"] async for row in numbers] == [*range(30)]
            await database.execute("DROP TABLE scores")

    run(main)

"""psycopg and its pool on a real PostgreSQL: the documentation's first pages, and failures.

psycopg lets libpq do the talking and only watches its descriptor, with `add_reader` and
`add_writer`, which it arms and disarms for each wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo
from servers import Postgres

# Started before the first test, so that no test is told that it left them behind.
pytestmark = pytest.mark.usefixtures("postgres")

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


def address(server: Postgres, host: str | None = None, **options: Any) -> str:
    """Give the connection string of the server's first database."""
    return make_conninfo(**{"dbname": server.database, **server.options(host), **options})


async def connect(server: Postgres, host: str | None = None, **options: Any) -> Connection:
    """Open a connection that commits by itself."""
    return await Connection.connect(address(server, host, **options), autocommit=True)


async def value(connection: Connection, query: Any, *arguments: Any) -> Any:
    """Give the first column of a query's first row."""
    row = await (await connection.execute(query, arguments)).fetchone()
    return None if row is None else row[0]


def test_first_page(run: Run, postgres: Postgres) -> None:
    """A table, rows, a transaction that is rolled back, a pipeline, a server-side cursor."""

    async def main() -> None:
        async with await Connection.connect(address(postgres)) as connection:
            async with connection.cursor() as cursor:
                await cursor.execute("CREATE TEMP TABLE test (id serial, num integer, data text)")
                await cursor.execute("INSERT INTO test (num, data) VALUES (%s, %s)", (100, "abc"))
                await cursor.execute("SELECT * FROM test")
                assert await cursor.fetchone() == (1, 100, "abc")
                with pytest.raises(psycopg.errors.DivisionByZero):
                    async with connection.transaction():
                        await cursor.execute("DELETE FROM test")
                        await cursor.execute("SELECT 1 / 0")
                await cursor.executemany(
                    "INSERT INTO test (num) VALUES (%s)", [(number,) for number in range(1000)]
                )
                assert await value(connection, "SELECT count(*) FROM test") == 1001
            async with connection.pipeline():
                cursors = [await connection.execute("SELECT %s::int", (n,)) for n in range(50)]
                assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(50)]
            async with connection.cursor("numbers") as named:
                await named.execute("SELECT generate_series(0, 999)")
                assert [row[0] async for row in named] == [*range(1000)]
            large = "é" * 3_000_000
            assert await value(connection, "SELECT %s::text", large) == large

    run(main)


def test_pool(run: Run, postgres: Postgres) -> None:
    """Sixty tasks share four connections; a dead one is replaced; a full pool says so."""

    async def main() -> None:
        async with psycopg_pool.AsyncConnectionPool(
            address(postgres), min_size=2, max_size=4, open=False, timeout=60
        ) as pool:
            await pool.wait()

            async def ask(number: int) -> int:
                async with pool.connection() as connection:
                    answer: int = await value(connection, "SELECT %s * 2", number)
                    return answer

            assert await asyncio.gather(*map(ask, range(60))) == [2 * n for n in range(60)]
            with pytest.raises(psycopg.OperationalError):
                async with pool.connection() as connection:
                    await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            assert await asyncio.gather(*map(ask, range(20))) == [2 * n for n in range(20)]
            taken = [await pool.getconn() for _ in range(4)]
            with pytest.raises(psycopg_pool.PoolTimeout):
                await pool.getconn(timeout=0.05)
            for connection in taken:
                await pool.putconn(connection)
            assert pool.get_stats()["requests_errors"] == 1

    run(main)


def test_listen_and_notify(run: Run, postgres: Postgres) -> None:
    async def main() -> None:
        async with await connect(postgres) as listener, await connect(postgres) as speaker:
            await listener.execute("LISTEN news")

            async def speak() -> None:
                for number in range(100):
                    await speaker.execute("SELECT pg_notify('news', %s)", (str(number),))

            heard = []
            async with asyncio.TaskGroup() as group:
                group.create_task(speak())
                async for notice in listener.notifies(stop_after=100, timeout=60):
                    heard.append(notice.payload)
            assert heard[:100] == [str(number) for number in range(100)]
            assert [notice async for notice in listener.notifies(timeout=0.05)] == []

    run(main)


def test_copy(run: Run, postgres: Postgres) -> None:
    async def main() -> None:
        async with await connect(postgres) as connection:
            await connection.execute("CREATE TEMP TABLE rows (id int, note text)")
            cursor = connection.cursor()
            async with cursor.copy("COPY rows FROM STDIN") as copy:
                for number in range(20_000):
                    await copy.write_row((number, "y" * 200))
            size = 0
            async with cursor.copy("COPY rows TO STDOUT") as copy:
                async for data in copy:
                    size += len(data)
            assert size > 20_000 * 200
            with pytest.raises(ValueError, match="seen enough"):
                async with cursor.copy("COPY rows TO STDOUT") as copy:
                    assert await copy.read_row() == ("0", "y" * 200)
                    raise ValueError("seen enough")
            with pytest.raises(ValueError, match="the source broke"):
                async with cursor.copy("COPY rows FROM STDIN") as copy:
                    await copy.write_row((1, "lost"))
                    raise ValueError("the source broke")
            with pytest.raises(psycopg.errors.BadCopyFileFormat):
                async with cursor.copy("COPY rows FROM STDIN") as copy:
                    await copy.write("one\ttwo\tthree\n")
            assert await value(connection, "SELECT count(*) FROM rows") == 20_000

    run(main)


def test_tls(run: Run, postgres: Postgres) -> None:
    files = postgres.certificates
    trusting = {"sslmode": "verify-full", "sslrootcert": files.authority}

    async def main() -> None:
        async with await connect(postgres, "127.0.0.1", **trusting) as connection:
            query = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert await value(connection, query) == "TLSv1.3"
            large = "x" * 2_000_000
            assert await value(connection, "SELECT %s::text", large) == large
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            wrong = {**trusting, "sslrootcert": files.client_cert}
            await connect(postgres, "127.0.0.1", **wrong)
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            await connect(postgres, "127.0.0.1", sslmode="disable")

    run(main)


def test_cancelled_queries(run: Run, postgres: Postgres) -> None:
    """A cancelled task cancels its query on the server and leaves a connection that works."""

    async def main() -> None:
        async with await connect(postgres) as connection, await connect(postgres) as watcher:
            pid = connection.info.backend_pid

            async def wait_state(state: str) -> None:
                query = "SELECT state FROM pg_stat_activity WHERE pid = %s"
                while await value(watcher, query, pid) != state:
                    pass

            query = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            await wait_state("active")
            query.cancel()
            with pytest.raises(asyncio.CancelledError):
                await query
            await wait_state("idle")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connection.execute("SELECT pg_sleep(60)")
            assert await value(connection, "SELECT 1") == 1

            query = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            await wait_state("active")
            await connection.cancel_safe()
            with pytest.raises(psycopg.errors.QueryCanceled):
                await query

    run(main)


def test_connections_that_fail(run: Run, postgres: Postgres) -> None:
    async def main() -> None:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await connect(postgres, password="wrong")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            await connect(postgres, dbname="nowhere")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            await connect(postgres, "127.0.0.1", port=1)

        async with await connect(postgres) as killer:
            victim = await connect(postgres)
            query = asyncio.create_task(victim.execute("SELECT pg_sleep(60)"))
            pid = victim.info.backend_pid
            while await value(killer, "SELECT pg_terminate_backend(%s)", pid):
                pass
            with pytest.raises(psycopg.OperationalError):
                await query
            assert victim.closed
            await victim.close()

    run(main)

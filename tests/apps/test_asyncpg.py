"""asyncpg on a real PostgreSQL: its documentation's first pages, and what goes wrong with servers.

asyncpg is a protocol of its own on `create_connection` and `create_unix_connection`, cancels by a
second connection and counts on `abort()`, `pause_writing` and wake-ups in the right order.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import asyncpg
import pytest
from servers import Postgres

# Started before the first test, so that no test is told that it left them behind.
pytestmark = pytest.mark.usefixtures("postgres")

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


async def connect(server: Postgres, host: str | None = None, **options: Any) -> Any:
    """Open a connection to the server's first database."""
    options = {"ssl": False, **server.options(host), **options}
    return await asyncpg.connect(database=server.database, **options)


async def wait_state(watcher: Any, pid: int, condition: str) -> None:
    """Ask the server until a backend is in a state, or gone when that is the condition."""
    while not await watcher.fetchval(
        f"SELECT {condition} FROM (SELECT 1) one"
        " LEFT JOIN pg_stat_activity activity ON activity.pid = $1",
        pid,
    ):
        pass


ACTIVE = "activity.state = 'active' AND activity.wait_event = 'PgSleep'"
IDLE = "activity.state LIKE 'idle%'"
GONE = "activity.pid IS NULL"


def test_first_page(run: Run, postgres: Postgres) -> None:
    """A table, a record, a transaction that is rolled back, a prepared statement, a cursor."""

    async def main() -> None:
        connection = await connect(postgres)
        await connection.execute(
            "CREATE TEMP TABLE users (id serial PRIMARY KEY, name text UNIQUE, born date)"
        )
        await connection.execute("INSERT INTO users (name) VALUES ($1)", "Bob")
        row = await connection.fetchrow("SELECT * FROM users WHERE name = $1", "Bob")
        assert dict(row) == {"id": 1, "name": "Bob", "born": None}
        with pytest.raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.execute("INSERT INTO users (name) VALUES ('Ann')")
                await connection.execute("INSERT INTO users (name) VALUES ('Bob')")
        assert await connection.fetchval("SELECT count(*) FROM users") == 1

        statement = await connection.prepare("SELECT 2 ^ $1")
        assert [await statement.fetchval(n) for n in range(10)] == [2.0**n for n in range(10)]
        async with connection.transaction():
            numbers = connection.cursor("SELECT generate_series(0, 999)", prefetch=50)
            assert [record[0] async for record in numbers] == [*range(1000)]
        await connection.executemany(
            "INSERT INTO users (name) VALUES ($1)", [(f"user {n}",) for n in range(2000)]
        )
        assert await connection.fetchval("SELECT count(*) FROM users") == 2001
        large = "é" * 3_000_000
        assert await connection.fetchval("SELECT $1::text", large) == large
        await connection.close()

    run(main)


def test_pool_under_a_rush(run: Run, postgres: Postgres) -> None:
    """Sixty tasks share five connections; a task that fails or is cancelled gives its one back."""

    async def main() -> None:
        options: dict[str, Any] = {**postgres.options(), "database": postgres.database}
        async with asyncpg.create_pool(min_size=2, max_size=5, ssl=False, **options) as pool:

            async def ask(number: int) -> int:
                async with pool.acquire() as connection, connection.transaction():
                    answer: int = await connection.fetchval("SELECT $1::int * 2", number)
                    return answer

            async def fail(_: int) -> None:
                async with pool.acquire() as connection:
                    await connection.execute("SELECT 1 / 0")

            answers = await asyncio.gather(*map(ask, range(60)))
            assert answers == [2 * number for number in range(60)]
            failures = await asyncio.gather(*map(fail, range(10)), return_exceptions=True)
            assert {type(failure) for failure in failures} == {asyncpg.DivisionByZeroError}
            waiting = [asyncio.create_task(pool.fetchval("SELECT pg_sleep(60)")) for _ in range(8)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.wait(waiting)
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout=0.05)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert all(task.cancelled() for task in waiting)
            assert await asyncio.gather(*map(ask, range(20))) == [2 * n for n in range(20)]

    run(main)


def test_listen_and_notify(run: Run, postgres: Postgres) -> None:
    async def main() -> None:
        listener, speaker = await connect(postgres), await connect(postgres)
        heard: asyncio.Queue[tuple[int, str, str]] = asyncio.Queue()

        def hear(_: Any, pid: int, channel: str, payload: str) -> None:
            heard.put_nowait((pid, channel, payload))

        await listener.add_listener("news", hear)
        for number in range(100):
            await speaker.execute("SELECT pg_notify('news', $1)", str(number))
        got = [await heard.get() for _ in range(100)]
        pid = speaker.get_server_pid()
        assert got == [(pid, "news", str(number)) for number in range(100)]
        await listener.remove_listener("news", hear)
        await speaker.execute("NOTIFY news")
        await listener.fetchval("SELECT 1")
        assert heard.empty()
        await listener.close()
        await speaker.close()

    run(main)


def test_copy(run: Run, postgres: Postgres) -> None:
    """Rows in from records, a file and a generator; rows out into a file and a slow consumer."""

    async def lines(count: int) -> AsyncIterator[bytes]:
        for number in range(count):
            yield f"{number}\tx{'y' * 200}\n".encode()

    async def main() -> None:
        connection = await connect(postgres)
        await connection.execute("CREATE TEMP TABLE rows (id int, note text)")
        records = [(number, "note") for number in range(5000)]
        await connection.copy_records_to_table("rows", records=records)
        await connection.copy_to_table("rows", source=io.BytesIO(b"5000\tlast\n"))
        await connection.copy_to_table("rows", source=lines(20_000))
        assert await connection.fetchval("SELECT count(*) FROM rows") == 25_001

        out = io.BytesIO()
        await connection.copy_from_table("rows", output=out)
        assert out.getvalue().count(b"\n") == 25_001
        size = 0

        async def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            await asyncio.sleep(0)

        await connection.copy_from_query("SELECT * FROM rows", output=take)
        assert size == len(out.getvalue())

        with pytest.raises(asyncpg.BadCopyFileFormatError):
            await connection.copy_to_table("rows", source=io.BytesIO(b"one\ttwo\tthree\n"))

        async def broken() -> AsyncIterator[bytes]:
            yield b"1\tone\n"
            raise ValueError("the source broke")

        with pytest.raises(ValueError, match="the source broke"):
            await connection.copy_to_table("rows", source=broken())
        assert await connection.fetchval("SELECT count(*) FROM rows") == 25_001
        await connection.close()

    run(main)


def test_tls(run: Run, postgres: Postgres) -> None:
    """By password over TLS, by client certificate, and the ways that must be refused."""
    files = postgres.certificates

    async def main() -> None:
        trusting = ssl.create_default_context(cafile=files.authority)
        connection = await connect(postgres, "127.0.0.1", ssl=trusting)
        query = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await connection.fetchval(query) == "TLSv1.3"
        large = bytes(range(256)) * 8000
        assert await connection.fetchval("SELECT $1::bytea", large) == large
        role = "SELECT 1 FROM pg_roles WHERE rolname = 'certified'"
        if not await connection.fetchval(role):
            await connection.execute("CREATE ROLE certified LOGIN")
        await connection.close()

        trusting.load_cert_chain(files.client_cert, files.client_key)
        connection = await connect(postgres, "127.0.0.1", ssl=trusting, user="certified")
        assert await connection.fetchval("SELECT current_user") == "certified"
        await connection.close()

        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(postgres, "127.0.0.1", ssl=ssl.create_default_context())
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await connect(postgres, "127.0.0.1", ssl=False)

    run(main)


def test_cancelled_and_late_queries(run: Run, postgres: Postgres) -> None:
    """A cancelled task, or a late answer, ends the query on the server too."""

    async def main() -> None:
        connection, watcher = await connect(postgres), await connect(postgres)
        pid = connection.get_server_pid()
        query = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await wait_state(watcher, pid, ACTIVE)
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query
        await wait_state(watcher, pid, IDLE)
        assert await connection.fetchval("SELECT 1") == 1

        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(60)", timeout=0.1)
        assert await connection.fetchval("SELECT 2") == 2
        with pytest.raises(asyncpg.InterfaceError, match="another operation is in progress"):
            await asyncio.gather(connection.fetchval("SELECT 1"), connection.fetchval("SELECT 2"))
        await wait_state(watcher, pid, IDLE)
        await connection.close()
        await watcher.close()

    run(main)


def test_connections_that_fail(run: Run, postgres: Postgres) -> None:
    """A bad password, no such database, a backend killed in a query, a connection aborted."""

    async def main() -> None:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await connect(postgres, password="wrong")
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(database="nowhere", ssl=False, **postgres.options())
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await connect(postgres, "127.0.0.1", port=1)

        victim, killer = await connect(postgres), await connect(postgres)
        ended = asyncio.Event()
        victim.add_termination_listener(lambda _: ended.set())
        query = asyncio.create_task(victim.execute("SELECT pg_sleep(60)"))
        pid = victim.get_server_pid()
        await wait_state(killer, pid, ACTIVE)
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await query
        await ended.wait()
        with pytest.raises(asyncpg.InterfaceError):
            await victim.fetchval("SELECT 1")
        assert victim.is_closed()

        dropped = await connect(postgres)
        pid = dropped.get_server_pid()
        dropped.terminate()
        await wait_state(killer, pid, GONE)
        await killer.close()

    run(main)

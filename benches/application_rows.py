"""Rows that are applications: clients of HTTP, PostgreSQL, Redis, SQLite, and child processes.

As `rows.py` has them, but with connections that are made before. Libraries are imported where
they are used: a row that lacks one fails alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import services
from rows import Body, Row

# Requests at a time.
FAN_OUT = 50
PIPELINE = 100
ROWS_READ = 1000
# httpx's own 5 s are over before its first requests are answered under valgrind.
PATIENCE_S = 300.0


@contextlib.asynccontextmanager
async def aiohttp_client(loop: asyncio.AbstractEventLoop, lib: Any) -> AsyncIterator[Body]:
    import aiohttp

    url = f"http://127.0.0.1:{services.where('http')['port']}/"

    async with aiohttp.ClientSession() as session:

        async def get() -> None:
            async with session.get(url) as response:
                await response.read()

        async def body(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
            for _ in itertools.repeat(None, count // FAN_OUT):
                await lib.gather(*[get() for _ in range(FAN_OUT)])

        yield body


@contextlib.asynccontextmanager
async def httpx_client(loop: asyncio.AbstractEventLoop, lib: Any) -> AsyncIterator[Body]:
    import httpx

    url = f"http://127.0.0.1:{services.where('http')['port']}/"

    # httpx's own, but for the time after which an idle connection is given up: 5 s are over while
    # valgrind runs, and how many connections are made anew would depend on its speed.
    limits = httpx.Limits(
        max_connections=100, max_keepalive_connections=20, keepalive_expiry=PATIENCE_S
    )
    async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as client:

        async def body(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
            for _ in itertools.repeat(None, count // FAN_OUT):
                for answer in await lib.gather(*[client.get(url) for _ in range(FAN_OUT)]):
                    answer.raise_for_status()

        yield body


@contextlib.asynccontextmanager
async def asyncpg_one(loop: asyncio.AbstractEventLoop, lib: Any) -> AsyncIterator[Body]:
    import asyncpg

    connection = await asyncpg.connect(**services.where("postgres"))

    async def body(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
        for _ in itertools.repeat(None, count):
            await connection.fetchval("SELECT 1")

    yield body
    await connection.close()


@contextlib.asynccontextmanager
async def asyncpg_many(loop: asyncio.AbstractEventLoop, lib: Any) -> AsyncIterator[Body]:
    import asyncpg

    connection = await asyncpg.connect(**services.where("postgres"))
    query = f"SELECT i, 'name ' || i AS name FROM generate_series(1, {ROWS_READ}) i"

    async def body(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
        for _ in itertools.repeat(None, count):
            await connection.fetch(query)

    yield body
    await connection.close()


@contextlib.asynccontextmanager
async def redis_pipeline(loop: asyncio.AbstractEventLoop, lib: Any) -> AsyncIterator[Body]:
    import redis.asyncio

    async with redis.asyncio.Redis(**services.where("redis")) as client:

        async def body(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
            for _ in itertools.repeat(None, count):
                async with client.pipeline(transaction=False) as pipeline:
                    for index in range(PIPELINE // 2):
                        pipeline.set(f"key{index}", index)
                        pipeline.get(f"key{index}")
                    await pipeline.execute()

        yield body


@contextlib.asynccontextmanager
async def sqlite(loop: asyncio.AbstractEventLoop, lib: Any) -> AsyncIterator[Body]:
    import aiosqlite

    async with aiosqlite.connect(":memory:") as database:
        await database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")

        async def body(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
            for _ in itertools.repeat(None, count):
                async with database.execute("SELECT count(*) FROM t") as cursor:
                    await cursor.fetchone()

        yield body


async def spawn(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    for _ in itertools.repeat(None, count):
        process = await lib.create_subprocess_exec("/bin/true")
        await process.wait()


async def spawn_output(loop: asyncio.AbstractEventLoop, lib: Any, count: int) -> None:
    pipe = lib.subprocess.PIPE
    for _ in itertools.repeat(None, count):
        process = await lib.create_subprocess_exec("/bin/echo", "hello", stdout=pipe)
        await process.communicate()


def client(title: str, prepared: Any, service: str = "", group: int = 1) -> Row:
    """Make a row of a library that waits for somebody."""
    return Row(
        title, None, group=group, waits=True, primitive=True, prepared=prepared, service=service
    )


ROWS = {
    "aiohttp-client": client(f"aiohttp client, {FAN_OUT} at once", aiohttp_client, "http", FAN_OUT),
    "httpx": client(f"httpx, {FAN_OUT} at once", httpx_client, "http", FAN_OUT),
    "asyncpg": client("asyncpg, `SELECT 1`", asyncpg_one, "postgres"),
    "asyncpg-rows": client(f"asyncpg, {ROWS_READ:,} rows", asyncpg_many, "postgres"),
    "redis": client(f"redis, pipeline of {PIPELINE}", redis_pipeline, "redis"),
    "aiosqlite": Row(
        "aiosqlite, one query", None, threads=True, waits=True, primitive=True, prepared=sqlite
    ),
    "spawn": Row("subprocess, wait", spawn, waits=True, primitive=True),
    "spawn-output": Row(
        "subprocess, communicate", spawn_output, waits=True, primitive=True, full_only=True
    ),
}

"""redis.asyncio on real servers: one Redis with a password, and a cluster of three on this machine.

The documentation's first pages (commands, pipelines, transactions, publish and subscribe, locks),
and what goes wrong: a bad password, a connection that is killed, a server that dies, no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis.asyncio as redis
import servers
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException

# Started before the first test, so that no test is told that it left them behind.
pytestmark = pytest.mark.usefixtures("redis_server", "redis_cluster")

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

TEXT: Any = {"decode_responses": True}


def client(server: servers.Redis, **options: Any) -> Any:
    """Make a client of the server; it connects when it is used."""
    options = {"password": server.password, **TEXT, **options}
    return redis.Redis(unix_socket_path=server.path, **options)


async def wait_command(watcher: Any, command: str, count: int) -> None:
    """Ask the server until a number of clients wait in a command."""
    while count != [other["cmd"] for other in await watcher.client_list()].count(command):
        pass


def test_first_page(run: Run, redis_server: servers.Redis) -> None:
    """Strings, lists, sets, streams, a large value, a script, a scan."""

    async def main() -> None:
        async with client(redis_server) as r:
            assert await r.ping()
            await r.set("foo", "bar", ex=60)
            assert await r.get("foo") == "bar"
            large = "é" * 2_000_000
            await r.set("large", large)
            assert await r.get("large") == large
            await r.rpush("list", *range(100))
            assert await r.lrange("list", 0, -1) == [str(number) for number in range(100)]
            await r.mset({f"key:{number}": number for number in range(500)})
            keys = [key async for key in r.scan_iter("key:*", count=50)]
            assert {*keys} == {f"key:{number}" for number in range(500)}
            for number in range(10):
                await r.xadd("stream", {"number": number})
            ((_, entries),) = await r.xread({"stream": "0"})
            assert [entry["number"] for _, entry in entries] == [str(n) for n in range(10)]
            assert await r.register_script("return ARGV[1] * 2")(args=[21]) == 42
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                await r.incr("list")
            await r.flushall()

    run(main)


def test_pipelines_and_transactions(run: Run, redis_server: servers.Redis) -> None:
    async def main() -> None:
        async with client(redis_server) as r:
            async with r.pipeline(transaction=False) as pipe:
                for number in range(1000):
                    pipe.incrby("sum", number)
                assert (await pipe.execute())[-1] == sum(range(1000))

            async def add(_: int) -> None:
                """Read, add and write; begin again when somebody else was faster."""
                async with r.pipeline() as pipe:
                    while True:
                        with contextlib.suppress(redis.WatchError):
                            await pipe.watch("account")
                            balance = int(await pipe.get("account") or 0)
                            pipe.multi()
                            pipe.set("account", balance + 1)
                            await pipe.execute()
                            return

            await asyncio.gather(*map(add, range(10)))
            assert await r.get("account") == "10"

            taken = []

            async def take(number: int) -> None:
                async with r.lock("lock", sleep=0.001):
                    taken.append(number)

            await asyncio.gather(*map(take, range(5)))
            assert sorted(taken) == [*range(5)]
            await r.flushall()

    run(main)


def test_publish_and_subscribe(run: Run, redis_server: servers.Redis) -> None:
    """Messages in order, patterns, and a subscription that outlives its connection."""

    async def main() -> None:
        async with (
            client(redis_server) as r,
            r.pubsub() as pubsub,
            contextlib.aclosing(pubsub.listen()) as messages,
        ):
            await pubsub.subscribe("news")
            await pubsub.psubscribe("log.*")
            kinds = {(await anext(messages))["type"], (await anext(messages))["type"]}
            assert kinds == {"subscribe", "psubscribe"}
            for number in range(100):
                assert await r.publish("news", number) == 1
            heard = [(await anext(messages))["data"] for _ in range(100)]
            assert heard == [str(number) for number in range(100)]
            await r.publish("log.error", "oh")
            message = await anext(messages)
            assert (message["channel"], message["pattern"]) == ("log.error", "log.*")
            assert await pubsub.get_message(timeout=0.02) is None

            waiting = asyncio.create_task(anext(messages))
            await asyncio.sleep(0)
            assert await r.client_kill_filter(_type="pubsub") == 1
            assert (await waiting)["type"] == "subscribe"  # it has come back by itself
            assert (await anext(messages))["type"] == "psubscribe"
            await r.publish("news", "again")
            assert (await anext(messages))["data"] == "again"

    run(main)


def test_blocked_cancelled_and_late(run: Run, redis_server: servers.Redis) -> None:
    """A cancelled or late command must not leave its answer to the next one."""

    async def main() -> None:
        async with client(redis_server, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as r:
            with pytest.raises(redis.TimeoutError):
                await r.blpop("nothing", timeout=0)
            assert await r.echo("mine") == "mine"
        pool = redis.BlockingConnectionPool.from_url(
            f"unix://{redis_server.path}", password=redis_server.password, max_connections=3
        )
        async with redis.Redis.from_pool(pool) as r:
            blocked = [asyncio.create_task(r.blpop("nothing")) for _ in range(3)]
            async with client(redis_server) as watcher:
                await wait_command(watcher, "blpop", 3)
            waiting = asyncio.create_task(r.echo("late"))
            await asyncio.sleep(0)
            for task in blocked:
                task.cancel()
            assert await waiting == b"late"
            await asyncio.gather(*blocked, return_exceptions=True)
            assert all(task.cancelled() for task in blocked)
            answers = await asyncio.gather(*(r.echo(str(number)) for number in range(50)))
            assert answers == [str(number).encode() for number in range(50)]

    run(main)


def test_connections_that_fail(run: Run, redis_server: servers.Redis) -> None:
    once = Retry(NoBackoff(), 0)

    async def main() -> None:
        async with client(redis_server, password="wrong", retry=once) as r:
            with pytest.raises(redis.ConnectionError, match="password"):
                await r.ping()
        async with client(redis_server, password=None, retry=once) as r:
            with pytest.raises(redis.ConnectionError, match="authenticated"):
                await r.ping()
        async with redis.Redis(unix_socket_path="/nowhere", retry=once) as r:
            with pytest.raises(redis.ConnectionError):
                await r.ping()

    run(main)


def test_server_that_dies(run: Run) -> None:
    """A blocked command fails as soon as its server is killed; the next one finds no server."""

    async def main() -> None:
        with servers.start_redis() as server:
            async with client(server, retry=Retry(NoBackoff(), 0)) as r:
                assert await r.ping()
                blocked = asyncio.create_task(r.blpop("nothing"))
                async with client(server) as watcher:
                    await wait_command(watcher, "blpop", 1)
                server.process.kill()
                with pytest.raises(redis.ConnectionError):
                    await blocked
                with pytest.raises(redis.ConnectionError):
                    await r.ping()

    run(main)


def test_cluster(run: Run, redis_cluster: list[int]) -> None:
    """Keys on all three masters, pipelines over them, and the commands that cannot work."""

    async def main() -> None:
        first = redis.RedisCluster(
            host="127.0.0.1", port=redis_cluster[0], max_connections=300, **TEXT
        )
        async with first as r:
            assert sorted(node.port for node in r.get_primaries()) == sorted(redis_cluster)
            await asyncio.gather(*(r.set(f"key:{number}", number) for number in range(90)))
            values = await asyncio.gather(*(r.get(f"key:{number}") for number in range(90)))
            assert values == [str(number) for number in range(90)]
            owners = {r.get_node_from_key(f"key:{number}").port for number in range(90)}
            assert owners == {*redis_cluster}
            sizes = await r.dbsize(target_nodes=redis.RedisCluster.PRIMARIES)
            assert sum(sizes.values()) if isinstance(sizes, dict) else sizes == 90
            async with r.pipeline() as pipe:
                for number in range(90):
                    pipe.incr(f"key:{number}")
                assert await pipe.execute() == [number + 1 for number in range(90)]
            with pytest.raises(RedisClusterException, match="same key slot"):
                await r.mget("key:1", "key:2")
            await r.flushall(target_nodes=redis.RedisCluster.PRIMARIES)

    run(main)


def test_cluster_node_out_of_reach(run: Run, redis_cluster: list[int]) -> None:
    """A connection that the node closes is replaced; a wrong first address is skipped."""

    async def main() -> None:
        nodes = [
            ClusterNode("127.0.0.1", 1),
            ClusterNode("127.0.0.1", redis_cluster[1]),
        ]
        async with redis.RedisCluster(startup_nodes=nodes, **TEXT) as r:
            await r.set("one", 1)
            for node in r.get_primaries():
                await r.client_kill_filter(_type="normal", skipme=True, target_nodes=node)
            assert await r.get("one") == "1"
            await r.flushall(target_nodes=redis.RedisCluster.PRIMARIES)
        with pytest.raises(RedisClusterException):
            async with redis.RedisCluster(host="127.0.0.1", port=1):
                raise AssertionError("nobody is there")

    run(main)

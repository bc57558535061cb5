"""HTTP by aiohttp on both ends, and websockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from .stage import LOCAL, Load, Stage


class Http:
    """An application and its client, which keeps connections alive between operations."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.port = 0
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """Give the application."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/echo", self._echo)
        app.router.add_get("/stream/{start}/{size}", self._stream)
        app.router.add_get("/fault", self._fault)
        app.router.add_get("/slow", self._slow)
        return app

    async def _echo(self, request: web.Request) -> web.Response:
        return web.Response(body=self.stage.echoed(await request.read()))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        start, size = int(request.match_info["start"]), int(request.match_info["size"])
        response = web.StreamResponse()
        # A client that was cancelled is gone before the end.
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(request)
            for offset in range(start, start + size, 10_000):
                await response.write(self.stage.noise[offset : min(offset + 10_000, start + size)])
        return response

    async def _fault(self, request: web.Request) -> web.Response:
        raise self.stage.ledger.inject("HTTP handler raises")

    async def _slow(self, request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        return web.Response(text="slow")

    async def once(self, rng: random.Random) -> None:
        """Send one request of some kind and check the answer."""
        if self._session is None:
            self._session = aiohttp.ClientSession(f"http://{LOCAL}:{self.port}")
        session, ledger = self._session, self.stage.ledger
        kind = rng.choices(("echo", "stream", "fault", "slow"), (10, 5, 1, 2))[0]
        if kind == "echo":
            payload = self.stage.payload(rng)
            async with session.post("/echo", data=payload) as answer:
                ledger.check("http echo", await answer.read(), payload)
        elif kind == "stream":
            size = rng.randrange(100_000)
            start = rng.randrange(len(self.stage.noise) - size)
            async with session.get(f"/stream/{start}/{size}") as answer:
                wanted = self.stage.noise[start : start + size]
                ledger.check("http stream", await answer.read(), wanted)
        elif kind == "fault":
            async with session.get("/fault") as answer:
                if answer.status != 500:
                    ledger.violation(f"error: http: {answer.status} for a handler that raises")
        else:
            timeout = aiohttp.ClientTimeout(total=rng.choice((0.005, None)))
            with contextlib.suppress(TimeoutError):
                async with session.get("/slow", timeout=timeout) as answer:
                    ledger.check("http slow", await answer.read(), b"slow")

    async def rest(self) -> None:
        """Close the connections that are kept alive."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _websockets(stage: Stage, port: Callable[[], int], quiet: logging.Logger) -> Any:
    async def once(rng: random.Random) -> None:
        """Connect, exchange some messages, and close or break off."""
        async with connect(f"ws://{LOCAL}:{port()}", max_size=None, logger=quiet) as client:
            for _ in range(rng.randrange(1, 6)):
                message = stage.payload(rng)
                await client.send(message)
                if rng.randrange(25) == 0:
                    stage.ledger.faults["websocket broken off"] += 1
                    client.transport.abort()
                    return
                stage.ledger.check("websockets", await client.recv(), message)

    return once


async def start(stage: Stage) -> list[Any]:
    """Start both servers; give what is to be closed at the end."""
    http = Http(stage)
    runner = web.AppRunner(http.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, LOCAL, 0)
    await site.start()
    http.port = runner.addresses[0][1]
    stage.loads.append(Load("http", http.once, 4, http.rest))

    # It logs every handshake that a cancelled client gives up.
    quiet = logging.getLogger("soak.websockets")
    quiet.setLevel(logging.CRITICAL)

    async def echo(connection: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(stage.echoed(message))

    server = await serve(echo, LOCAL, 0, max_size=None, logger=quiet, close_timeout=1)
    port = server.sockets[0].getsockname()[1]
    stage.loads.append(Load("websockets", _websockets(stage, lambda: port, quiet), 2))

    class Closing:
        """Gives the application's runner a server's two methods."""

        def close(self) -> None:
            self.task = stage.loop.create_task(runner.cleanup())

        async def wait_closed(self) -> None:
            await self.task

    return [server, Closing()]

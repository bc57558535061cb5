"""Applications that serve: `python application_servers.py LOOP APPLICATION` prints its port.

Each runs as its own documentation says, on a loop made by the named library, until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import loops
import measure
import serve

ANSWER = b"Hello, world!"


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer as an ASGI application without a framework."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


async def uvicorn_serve(application: Any, listener: socket.socket) -> None:
    """Serve an ASGI application."""
    import uvicorn

    config = uvicorn.Config(application, log_level="error", access_log=False, lifespan="off")
    await uvicorn.Server(config).serve(sockets=[listener])


async def serve_bare(listener: socket.socket) -> None:
    await uvicorn_serve(bare, listener)


async def serve_fastapi(listener: socket.socket) -> None:
    from fastapi import FastAPI

    application = FastAPI()

    @application.get("/")
    async def hello() -> dict[str, str]:
        return {"message": "Hello, world!"}

    await uvicorn_serve(application, listener)


async def serve_aiohttp(listener: socket.socket) -> None:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=ANSWER)

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.get_running_loop().create_future()


async def serve_websockets(listener: socket.socket) -> None:
    import websockets

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async with websockets.serve(echo, sock=listener):
        await asyncio.get_running_loop().create_future()


APPLICATIONS: dict[str, Callable[[socket.socket], Awaitable[None]]] = {
    "uvicorn": serve_bare,
    "fastapi": serve_fastapi,
    "aiohttp": serve_aiohttp,
    "websockets": serve_websockets,
}


def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("application", choices=list(APPLICATIONS))
    parser.add_argument("--cpus", default="")
    parser.add_argument("--still", action="store_true", help="without garbage collections")
    options = parser.parse_args()
    measure.pin(options.cpus)
    loops.prepare(options.loop)
    if options.still:
        gc.disable()
    with serve.listen("tcp") as listener:
        print(listener.getsockname()[1], flush=True)
        loop = loops.new_event_loop(options.loop)
        loop.run_until_complete(APPLICATIONS[options.application](listener))


if __name__ == "__main__":
    main()

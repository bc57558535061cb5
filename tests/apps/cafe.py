"""The application that the web servers serve in these tests: a café with async views.

It knows nothing of aioxide; `/loop` tells what it runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ProcessPoolExecutor

from starlette.requests import Request
from trattoria import Answer, App, HTTPError, Socket, before

app = App()
app.template(
    "menu.html", "<h1>{{ title }}</h1>{% for dish in dishes %}<p>{{ dish }}</p>{% endfor %}"
)

DISHES = {"soup": 450, "tapas": 800}
served: list[str] = []
left: asyncio.Queue[str] = asyncio.Queue()


@app.around
@contextlib.asynccontextmanager
async def opening_hours() -> AsyncIterator[None]:
    """Open when the server starts, close when it stops."""
    print("the café is open", flush=True)
    yield
    print("the café is closed", flush=True)


@app.route("/loop")
async def loop(req: Request, res: Answer) -> None:
    """Tell which loop this is, and in which process."""
    kind = type(asyncio.get_running_loop())
    res.json = {"loop": f"{kind.__module__}.{kind.__qualname__}", "pid": os.getpid()}


@app.route("/menu")
async def menu(req: Request, res: Answer) -> None:
    """Show the menu as a page."""
    res.html = await app.render("menu.html", title="Menu", dishes=[*DISHES, "<surprise>"])


@app.route("/hello/{name}")
def hello(req: Request, res: Answer, name: str) -> None:
    """Greet, from a thread: this view is no coroutine function."""
    res.text = f"Hello, {name}"


async def known(req: Request, res: Answer, name: str) -> None:
    """Know the dish, or say that there is none."""
    if name not in DISHES:
        raise HTTPError(404, f"no {name} today")


class Dish:
    """One dish: its price, and ordering it."""

    @staticmethod
    @before(known)
    async def get(req: Request, res: Answer, name: str) -> None:
        """Give the price."""
        res.json = {"name": name, "cents": DISHES[name]}

    async def post(self, req: Request, res: Answer, name: str) -> None:
        """Order a dish; the kitchen hears of it after the guest has been answered."""
        order = await req.json()
        if order["count"] > 10:
            raise ValueError("too hungry")

        async def cook() -> None:
            served.extend([name] * order["count"])

        res.background(cook)
        res.status, res.json = 202, {"ordered": order["count"]}


app.route("/dishes/{name}")(Dish)


@app.error_handler(ValueError)
async def refuse(req: Request, res: Answer, error: ValueError) -> None:
    """Turn a wrong value into an answer."""
    res.status, res.json = 422, {"error": str(error)}


@app.route("/served")
async def ready(req: Request, res: Answer) -> None:
    """Tell what the kitchen has made."""
    res.json = served


@app.route("/upload", methods=("post",))
async def upload(req: Request, res: Answer) -> None:
    """Digest a body piece by piece."""
    digest, size = hashlib.sha256(), 0
    async for piece in req.stream():
        digest.update(piece)
        size += len(piece)
    res.json = {"size": size, "sha256": digest.hexdigest()}


@app.route("/download/{count:int}")
async def download(req: Request, res: Answer, count: int) -> None:
    """Send pieces of 10,000 bytes; without end, and watched, if there are none to count."""

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            number = 0
            while number < count or count == 0:
                yield b"%08d" % number + b"." * 9992
                await asyncio.sleep(0)  # a server may take pieces for a guest who is gone
                number += 1
        finally:
            if count == 0:
                left.put_nowait("a download")

    res.stream = pieces()


@app.route("/hang")
async def hang(req: Request, res: Answer) -> None:
    """Tell that somebody waits, and wait for them to leave."""
    left.put_nowait("nobody yet")
    while (await req.receive())["type"] != "http.disconnect":
        continue
    left.put_nowait("a request")


@app.route("/left")
async def who_left(req: Request, res: Answer) -> None:
    """Tell who left without waiting for an answer, as soon as somebody has."""
    res.json = await asyncio.wait_for(left.get(), 60)


@app.route("/crash")
async def crash(req: Request, res: Answer) -> None:
    """Raise what nobody handles."""
    raise RuntimeError("the kitchen burns")


@app.route("/power/{number:int}")
async def power(req: Request, res: Answer, number: int) -> None:
    """Compute in another process."""
    with ProcessPoolExecutor(1) as pool:
        loop = asyncio.get_running_loop()
        res.json = await loop.run_in_executor(pool, pow, number, 2)


@app.websocket_route("/chat")
async def chat(socket: Socket) -> None:
    """Answer what is said, until somebody says bye."""
    async with socket:
        async for message in socket:
            if message == "bye":
                await socket.close(4001)
                return
            await socket.send(message.upper())
    left.put_nowait("a socket")

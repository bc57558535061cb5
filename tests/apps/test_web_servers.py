"""uvicorn, hypercorn and gunicorn as their users start them, with an application on each.

Every server runs on stock asyncio first, then on aioxide in each way that a user may choose, and
says which loop it is on. The guests are httpx and websockets, on the same kind of loop as the
server. What goes wrong: guests that leave, views that raise, workers that are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from program import Program
from servers import Certificates, folder, write_certificates
from websockets.asyncio.client import connect

import aioxide

HERE = Path(__file__).parent
ADDRESS = r"(https?://127\.0\.0\.1:\d+)"
UVICORN = ("-m", "uvicorn", "cafe:app", "--port", "0", "--log-level", "info")
HYPERCORN = ("-m", "hypercorn", "cafe:app", "--bind", "127.0.0.1:0")
GUNICORN = ("-m", "gunicorn", "cafe:app", "--bind", "127.0.0.1:0", "--no-control-socket")
WORKER = ("--worker-class", "uvicorn_worker.UvicornWorker")
NATIVE = ("-m", "aioxide")
FAST = ("--http", "httptools", "--ws", "websockets")


@dataclass
class Way:
    """How a user starts a server, and whether that is to run on aioxide."""

    arguments: tuple[str, ...]
    native: bool = True
    env: dict[str, str] = field(default_factory=dict)

    @property
    def loop(self) -> str:
        """Name the class of the loop that it must run on."""
        kind = aioxide.Loop if self.native else asyncio.SelectorEventLoop
        module = kind.__module__
        return f"{module}.{kind.__qualname__}"

    def run_guest(self, main: Any) -> None:
        """Run a guest's coroutine on the same kind of loop as the server."""
        factory: Any = aioxide.new_event_loop if self.native else asyncio.SelectorEventLoop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main)


WAYS = {
    "uvicorn": Way((*UVICORN, *FAST, "--loop", "asyncio"), native=False),
    "-m aioxide -m uvicorn": Way((*NATIVE, *UVICORN, *FAST)),
    "uvicorn --loop": Way((*UVICORN, *FAST, "--loop", "aioxide:new_event_loop")),
    "uvicorn h11 sansio": Way(
        (*NATIVE, *UVICORN, "--http", "h11", "--ws", "websockets-sansio", "--loop", "asyncio")
    ),
    "uvicorn wsproto": Way((*NATIVE, *UVICORN, "--ws", "wsproto")),
    "hypercorn": Way(HYPERCORN, native=False),
    "-m aioxide -m hypercorn": Way((*NATIVE, *HYPERCORN)),
    "gunicorn": Way((*GUNICORN, *WORKER), native=False),
    "-m aioxide -m gunicorn": Way((*NATIVE, *GUNICORN, *WORKER)),
    "gunicorn -k": Way((*GUNICORN, "--worker-class", "cafe_worker.AioxideWorker")),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@contextlib.contextmanager
def serving(way: Way, *arguments: str) -> Iterator[tuple[str, Program]]:
    """Serve the café in one of the ways; it must close well at the end."""
    with Program(*way.arguments, *arguments, cwd=HERE, env=way.env) as program:
        yield program.wait_line(ADDRESS)[1], program
        # uvicorn ends by the signal that it was stopped by, once everything is closed.
        status = -signal.SIGTERM if "uvicorn" in way.arguments else 0
        assert program.stop(signal.SIGTERM) == status, program.said()
        assert "the café is closed\n" in program.stdout, program.said()


def guest(url: str, **options: Any) -> httpx.AsyncClient:
    """Make a client that is patient and ignores the machine's proxies."""
    return httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, **options)


async def order_and_eat(url: str, way: Way) -> None:
    """Use every kind of view: plain, by class, hooked, rendered, in a thread, in the background."""
    async with guest(url) as http:
        assert (await http.get("/loop")).json()["loop"] == way.loop
        answer = await http.get("/menu")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text == "<h1>Menu</h1><p>soup</p><p>tapas</p><p>&lt;surprise&gt;</p>"
        names = [(await http.get(f"/hello/{number}")).text for number in range(20)]
        assert names == [f"Hello, {number}" for number in range(20)]

        assert (await http.get("/dishes/soup")).json() == {"name": "soup", "cents": 450}
        answer = await http.get("/dishes/fugu")
        assert (answer.status_code, answer.json()) == (404, {"error": "no fugu today"})
        orders = [http.post("/dishes/tapas", json={"count": 2}) for _ in range(20)]
        answers = await asyncio.gather(*orders)
        assert [(a.status_code, a.json()) for a in answers] == [(202, {"ordered": 2})] * 20
        while (made := (await http.get("/served")).json()) != ["tapas"] * 40:
            assert len(made) < 40
        answer = await http.post("/dishes/soup", json={"count": 11})
        assert (answer.status_code, answer.json()) == (422, {"error": "too hungry"})
        assert (await http.delete("/dishes/soup")).status_code == 405


async def carry_much(url: str) -> None:
    """Send and receive bodies larger than every buffer on the way, some at once."""
    body = os.urandom(1_000_000) * 3

    async def pieces() -> Any:
        for start in range(0, len(body), 70_001):
            yield body[start : start + 70_001]

    async with guest(url) as http:
        expected = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        assert (await http.post("/upload", content=body)).json() == expected
        assert (await http.post("/upload", content=pieces())).json() == expected
        answers = await asyncio.gather(*(http.get("/download/300") for _ in range(4)))
        for answer in answers:
            numbers = [answer.content[at : at + 8] for at in range(0, len(answer.content), 10_000)]
            assert numbers == [b"%08d" % number for number in range(300)]


async def chat(url: str, **options: Any) -> None:
    """Talk over websockets: short and long messages, many guests, the server's own close code."""
    address = url.replace("http", "ws", 1) + "/chat"

    async def talk(name: str) -> None:
        async with connect(address, max_size=None, proxy=None, **options) as socket:
            for number in range(20):
                await socket.send(f"{name} {number}")
                assert await socket.recv() == f"{name} {number}".upper()
            await socket.send("x" * 300_000)
            assert await socket.recv() == "X" * 300_000
            await socket.send("bye")
            with pytest.raises(websockets.ConnectionClosed) as caught:
                await socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4001

    await asyncio.gather(*(talk(f"guest {number}") for number in range(5)))


async def leave_early(url: str) -> None:
    """Leave in the middle of a download, a request and a chat: the server notices each time."""
    async with guest(url) as http, guest(url) as other:
        async with http.stream("GET", "/download/0") as answer:
            async for _ in answer.aiter_raw(10_000):
                break
        assert (await http.get("/left")).json() == "a download"

        waiting = asyncio.create_task(other.get("/hang"))
        assert (await http.get("/left")).json() == "nobody yet"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await http.get("/left")).json() == "a request"

        async with connect(url.replace("http", "ws", 1) + "/chat", proxy=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "HELLO"
            socket.transport.abort()
        assert (await http.get("/left")).json() == "a socket"

        assert (await other.get("/crash")).status_code == 500  # closes it
        assert (await http.get("/hello/again")).text == "Hello, again"


@every_way
def test_every_way_to_serve(way: Way) -> None:
    async def visit(url: str) -> None:
        await order_and_eat(url, way)
        await carry_much(url)
        await chat(url)
        await leave_early(url)

    with serving(way) as (url, program):
        way.run_guest(visit(url))
    assert program.stdout.count("the café is open\n") == 1, program.said()
    assert "the kitchen burns" in program.said()
    assert "Task exception was never retrieved" not in program.said(), program.said()


@pytest.mark.parametrize("name", ["uvicorn", "-m aioxide -m uvicorn", "-m aioxide -m gunicorn"])
def test_a_process_pool_in_a_view(name: str) -> None:
    async def visit(url: str) -> None:
        async with guest(url) as http:
            assert (await http.get("/power/12")).json() == 144

    with serving(WAYS[name]) as (url, _):
        WAYS[name].run_guest(visit(url))


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    """Make certificates for this module's servers."""
    with folder() as where:
        yield write_certificates(where, "guest")


TLS_WAYS = {
    "uvicorn": ("--ssl-certfile", "--ssl-keyfile"),
    "-m aioxide -m uvicorn": ("--ssl-certfile", "--ssl-keyfile"),
    "hypercorn": ("--certfile", "--keyfile"),
    "-m aioxide -m hypercorn": ("--certfile", "--keyfile"),
    "-m aioxide -m gunicorn": ("--certfile", "--keyfile"),
}


@pytest.mark.parametrize("name", TLS_WAYS)
def test_over_tls(name: str, certificates: Certificates) -> None:
    """HTTPS, websockets over TLS, HTTP/2 where the server speaks it, a guest without trust."""
    way, (cert, key) = WAYS[name], TLS_WAYS[name]
    # One for each kind of guest, for each says in it which protocols it speaks.
    trusting, talking = [
        ssl.create_default_context(cafile=certificates.authority) for _ in range(2)
    ]

    async def visit(url: str) -> None:
        async with guest(url, verify=trusting, http2="hypercorn" in name) as http:
            answer = await http.get("/loop")
            assert answer.json()["loop"] == way.loop
            assert answer.http_version == ("HTTP/2" if "hypercorn" in name else "HTTP/1.1")
            answers = await asyncio.gather(*(http.get("/download/100") for _ in range(3)))
            assert [len(answer.content) for answer in answers] == [1_000_000] * 3
            body = os.urandom(500_000)
            answer = await http.post("/upload", content=body)
            assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
        await chat(url, ssl=talking)
        async with guest(url) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get("/loop")

    options = (cert, certificates.server_cert, key, certificates.server_key)
    with serving(way, *options) as (url, _):
        way.run_guest(visit(url.replace("http:", "https:")))


@pytest.mark.parametrize("name", ["gunicorn", "-m aioxide -m gunicorn"])
def test_a_killed_worker_is_replaced(name: str) -> None:
    """gunicorn starts another worker for one that is killed; SIGHUP replaces both gently."""
    way = WAYS[name]

    async def pids(url: str, count: int) -> set[int]:
        found: set[int] = set()
        while len(found) < count:
            with contextlib.suppress(httpx.TransportError):  # the victim's last connections
                async with guest(url) as http:
                    answer = (await http.get("/loop")).json()
                    assert answer["loop"] == way.loop
                    found.add(answer["pid"])
        return found

    async def visit(url: str, program: Program) -> None:
        before = await pids(url, 2)
        os.kill(min(before), signal.SIGKILL)
        after = await pids(url, 3) if min(before) in await pids(url, 2) else await pids(url, 2)
        assert after - before

    with serving(way, "--workers", "2") as (url, program):
        for _ in range(2):
            program.wait_line("the café is open")
        way.run_guest(visit(url, program))

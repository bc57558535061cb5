"""A real nginx on both sides: before uvicorn on a Unix socket, and as the server of our clients.

nginx keeps its connections to the application open and uses them again, speaks TLS to the guests,
passes websockets on, and says 502 when the application is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import ssl
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import servers
from program import Program
from websockets.asyncio.client import connect

import aioxide

HERE = Path(__file__).parent
Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
LOOPS = {"asyncio": "asyncio.unix_events._UnixSelectorEventLoop", "aioxide": "aioxide.loop.Loop"}

PROXY = """\
upstream cafe {
  server unix:BASE/app.sock;
  keepalive 8;
}
server {
  listen 127.0.0.1:PORT ssl;
  ssl_certificate CERT;
  ssl_certificate_key KEY;
  client_max_body_size 0;
  location / {
    proxy_pass http://cafe;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_request_buffering off;
    proxy_buffering off;
    proxy_read_timeout 60s;
  }
  location /chat {
    proxy_pass http://cafe;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
  }
}
"""
FILES = """\
server {
  listen 127.0.0.1:PORT;
  root BASE/files;
  default_type application/octet-stream;
  types { text/plain txt; }
  keepalive_requests 40;
  gzip on;
  gzip_types text/plain;
  location /slow { limit_rate 64k; alias BASE/files/; }
}
"""


@contextlib.contextmanager
def cafe_behind_nginx(kind: str) -> Iterator[tuple[str, ssl.SSLContext, Program]]:
    """Serve the café by uvicorn on a Unix socket, with nginx before it; give the address."""
    way = () if kind == "asyncio" else ("-m", "aioxide")
    with servers.folder() as base:
        files = servers.write_certificates(base, "guest")
        site = PROXY.replace("BASE", str(base)).replace("CERT", files.server_cert)
        command = ("-m", "uvicorn", "cafe:app", "--uds", str(base / "app.sock"))
        command += ("--http", "httptools", "--ws", "websockets-sansio")
        with Program(*way, *command, cwd=HERE) as program:
            program.wait_line("Uvicorn running on unix socket")
            with servers.start_nginx(base, site.replace("KEY", files.server_key)) as port:
                trusting = ssl.create_default_context(cafile=files.authority)
                yield f"https://127.0.0.1:{port}", trusting, program
            if program.running():
                assert program.stop(signal.SIGTERM) == -signal.SIGTERM, program.said()


@pytest.fixture
def kind(loop_factory: Any) -> str:
    """Name the loop under test, for programs."""
    return "aioxide" if loop_factory is aioxide.new_event_loop else "asyncio"


def test_application_behind_nginx(run: Run, kind: str) -> None:
    """Many short requests over few connections, large bodies both ways, a websocket."""
    body = os.urandom(2_000_000)

    async def main(url: str, trusting: ssl.SSLContext) -> None:
        connector = aiohttp.TCPConnector(ssl=trusting, limit=10)
        async with aiohttp.ClientSession(url, connector=connector) as session:
            async with session.get("/loop") as answer:
                assert (await answer.json())["loop"] == LOOPS[kind]

            async def greet(number: int) -> str:
                async with session.get(f"/hello/{number}") as answer:
                    return await answer.text()

            assert await asyncio.gather(*map(greet, range(200))) == [
                f"Hello, {number}" for number in range(200)
            ]
            async with session.post("/upload", data=body) as answer:
                assert (await answer.json())["sha256"] == hashlib.sha256(body).hexdigest()
            async with session.get("/download/300") as answer:
                assert len(await answer.read()) == 3_000_000
            async with session.get("/download/0") as answer:
                await answer.content.readexactly(100_000)
            async with session.get("/left") as answer:
                assert await answer.json() == "a download"
            async with session.get("/crash") as answer:
                assert answer.status == 500
        address = url.replace("https", "wss") + "/chat"
        async with connect(address, ssl=trusting, proxy=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "HELLO"

    with cafe_behind_nginx(kind) as (url, trusting, _):
        run(lambda: main(url, trusting))


def test_application_that_dies_behind_nginx(run: Run, kind: str) -> None:
    """A download breaks off in the middle when the application is killed; then it is 502."""

    async def main(url: str, trusting: ssl.SSLContext, program: Program) -> None:
        async with httpx.AsyncClient(verify=trusting, trust_env=False, timeout=60) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                async with client.stream("GET", url + "/download/0") as answer:
                    async for piece in answer.aiter_raw():
                        assert piece
                        program.kill()
            assert (await client.get(url + "/loop")).status_code == 502

    with cafe_behind_nginx(kind) as (url, trusting, program):
        run(lambda: main(url, trusting, program))


def test_clients_of_nginx(run: Run) -> None:
    """Connections used again until nginx closes them, ranges, gzip, a download left half-way."""
    data = os.urandom(3_000_000)

    async def main(url: str) -> None:
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/data") as answer:
                assert await answer.read() == data
            sizes = []
            for _ in range(100):  # every fortieth answer ends its connection
                async with session.get("/data", headers={"Range": "bytes=1000-1999"}) as answer:
                    assert answer.status == 206
                    sizes.append(len(await answer.read()))
            assert sizes == [1000] * 100
            async with session.get("/text.txt") as answer:
                assert answer.headers["Content-Encoding"] == "gzip"
                assert await answer.text() == "tea " * 50_000
            async with session.get("/nowhere") as answer:
                assert answer.status == 404
            timeout = aiohttp.ClientTimeout(total=0.2)
            with pytest.raises(TimeoutError):
                async with session.get("/slow/data", timeout=timeout) as answer:
                    await answer.read()

        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            answers = await asyncio.gather(*(client.get("/data") for _ in range(10)))
            assert all(answer.content == data for answer in answers)
            async with client.stream("GET", "/slow/data") as streamed:
                async for piece in streamed.aiter_raw():
                    assert data.startswith(piece)
                    break
            assert (await client.get("/text.txt")).text == "tea " * 50_000

    with servers.folder() as base:
        (base / "files").mkdir()
        (base / "files" / "data").write_bytes(data)
        (base / "files" / "text.txt").write_text("tea " * 50_000)
        with servers.start_nginx(base, FILES.replace("BASE", str(base))) as port:
            run(lambda: main(f"http://127.0.0.1:{port}"))

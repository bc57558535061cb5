"""Real libraries on aioxide: the first page of each one's documentation, and a failure it handles.

Every body runs on stock asyncio first. The `run` fixture fails a body that leaves a task, a
descriptor or a thread behind, or that makes the loop call its exception handler.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiofiles
import aiohttp
import aiosqlite
import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import websockets
from aiohttp import web
from anyio.streams.stapled import MultiListener
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
Watched = tuple[Callable[[], asyncio.AbstractEventLoop], list[dict[str, Any]]]


# --- aiohttp -------------------------------------------------------------------------------------


async def start_site(*routes: web.RouteDef) -> tuple[web.AppRunner, str]:
    """Serve some routes with aiohttp and give the address."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    return runner, f"http://{host}:{port}"


def test_aiohttp_client_and_server(run: Run) -> None:
    async def greet(request: web.Request) -> web.Response:
        return web.Response(text=f"Hello, {request.match_info['name']}")

    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"size": len(await request.read())})

    async def count(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(100):
            await response.write(f"{number}\n".encode())
        await response.write_eof()
        return response

    async def chat(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data + "/answer")
        return socket

    async def main() -> None:
        runner, url = await start_site(
            web.get("/hello/{name}", greet),
            web.post("/echo", echo),
            web.get("/count", count),
            web.get("/chat", chat),
        )
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/hello/world") as response:
                assert (response.status, await response.text()) == (200, "Hello, world")
            async with session.post("/echo", data=b"x" * 300_000) as response:
                assert await response.json() == {"size": 300_000}
            async with session.get("/count") as response:
                assert [int(line) async for line in response.content] == [*range(100)]
            async with session.ws_connect("/chat") as socket:
                await socket.send_str("question")
                assert await socket.receive_str() == "question/answer"
        await runner.cleanup()

    run(main)


def test_aiohttp_fifty_requests_at_once(run: Run) -> None:
    async def square(request: web.Request) -> web.Response:
        return web.json_response(int(request.query["n"]) ** 2)

    async def main() -> None:
        runner, url = await start_site(web.get("/square", square))
        async with aiohttp.ClientSession(url) as session:

            async def ask(number: int) -> int:
                async with session.get("/square", params={"n": number}) as response:
                    answer: int = await response.json()
                return answer

            assert await asyncio.gather(*map(ask, range(50))) == [n**2 for n in range(50)]
        await runner.cleanup()

    run(main)


def test_aiohttp_failures(run: Run) -> None:
    begun: asyncio.Queue[None] = asyncio.Queue()
    cancelled: asyncio.Queue[None] = asyncio.Queue()

    async def hang(_: web.Request) -> web.Response:
        begun.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:  # the client is gone
            cancelled.put_nowait(None)
        raise AssertionError("nobody sets it")

    async def refuse(_: web.Request) -> web.Response:
        raise web.HTTPForbidden(text="no")

    async def main() -> None:
        runner, url = await start_site(web.get("/hang", hang), web.get("/refuse", refuse))
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/refuse") as response:
                assert (response.status, await response.text()) == (403, "no")
            with pytest.raises(TimeoutError):
                await session.get("/hang", timeout=aiohttp.ClientTimeout(total=0.05))
            request = asyncio.ensure_future(session.get("/hang"))
            await begun.get()
            await cancelled.get()
            await begun.get()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await cancelled.get()
        await runner.cleanup()
        async with aiohttp.ClientSession(url) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("/refuse")

    run(main)


# --- websockets ----------------------------------------------------------------------------------


def test_websockets_echo(run: Run) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}") as socket:
                await socket.send("Hello world!")
                assert await socket.recv() == "Hello world!"
                large = bytes(range(256)) * 2000
                await socket.send(large)
                assert await socket.recv() == large
                await (await socket.ping())

    run(main)


def test_websockets_refusal(run: Run) -> None:
    async def refuse(socket: ServerConnection) -> None:
        await socket.close(1008, "not you")

    async def main() -> None:
        async with serve(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with connect(f"ws://127.0.0.1:{port}") as socket:
                with pytest.raises(websockets.ConnectionClosedError) as caught:
                    await socket.recv()
                assert caught.value.rcvd is not None
                assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "not you")
        with pytest.raises(ConnectionRefusedError):
            await connect(f"ws://127.0.0.1:{port}", proxy=None)

    run(main)


# --- anyio ---------------------------------------------------------------------------------------


def anyio_run(watched: Watched, main: Callable[[], Awaitable[None]]) -> None:
    """Run on anyio's asyncio backend, on the loop under test."""
    factory, told = watched
    anyio.run(main, backend_options={"loop_factory": factory})
    assert not told, f"the exception handler was told: {told}"


def test_anyio_tasks_sockets_and_threads(watched: Watched) -> None:
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    async def main() -> None:
        listener: MultiListener[anyio.abc.SocketStream]
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            group.cancel_scope.cancel()

        name = await anyio.to_thread.run_sync(lambda: threading.current_thread().name)
        assert "AnyIO" in name

        send, receive = anyio.create_memory_object_stream[int](1)
        async with anyio.create_task_group() as group:

            async def produce() -> None:
                async with send:
                    for number in range(10):
                        await send.send(number)

            group.start_soon(produce)
            assert [number async for number in receive] == [*range(10)]
        receive.close()

    anyio_run(watched, main)


def test_anyio_closes_what_is_read(watched: Watched, tmp_path: Path) -> None:
    """anyio watches Unix sockets itself, and stops watching one after it has been closed."""

    async def receive(stream: anyio.abc.SocketStream, waiting: anyio.Event) -> None:
        waiting.set()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()

    async def main() -> None:
        path = tmp_path / "socket"
        async with await anyio.create_unix_listener(path):
            stream = await anyio.connect_unix(path)
            async with anyio.create_task_group() as group:
                waiting = anyio.Event()
                group.start_soon(receive, stream, waiting)
                await waiting.wait()
                await anyio.wait_all_tasks_blocked()
                await stream.aclose()

    anyio_run(watched, main)


def test_anyio_failures(watched: Watched) -> None:
    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("on purpose")

    async def main() -> None:
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            await anyio.sleep_forever()
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught

        with pytest.raises(ExceptionGroup) as caught:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                group.start_soon(fail)
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('on purpose')"]

        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            with pytest.raises(asyncio.CancelledError):
                await anyio.lowlevel.checkpoint()

    anyio_run(watched, main)


# --- httpx ---------------------------------------------------------------------------------------


async def answer_once(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes
) -> None:
    """Read a request's head and send fixed bytes back."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(answer)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_httpx(run: Run) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"hello": "world"}'
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        await answer_once(reader, writer, head.encode() + body)

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"http://{host}:{port}/")
            assert (response.status_code, response.json()) == (200, {"hello": "world"})
            async with client.stream("GET", f"http://{host}:{port}/") as streamed:
                assert b"".join([part async for part in streamed.aiter_bytes()]) == response.content

    run(main)


def test_httpx_failures(run: Run) -> None:
    async def truncate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        await answer_once(reader, writer, head + b"not a hundred")

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            server = await asyncio.start_server(truncate, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()
            async with server:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.get(f"http://{host}:{port}/")
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://{host}:{port}/")

            answering = asyncio.Event()

            async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await never(reader, writer)
                answering.set()

            server = await asyncio.start_server(note, "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()
            async with server:
                with pytest.raises(httpx.ReadTimeout):
                    await client.get(f"http://{host}:{port}/", timeout=0.05)
                await answering.wait()  # a client that gave up has closed its connection

    run(main)


# --- aiosqlite and aiofiles ----------------------------------------------------------------------


def test_aiosqlite(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with aiosqlite.connect(tmp_path / "numbers.db") as database:
            await database.execute("CREATE TABLE numbers (value INTEGER PRIMARY KEY)")
            await database.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(100)])
            await database.commit()
            async with database.execute("SELECT value FROM numbers ORDER BY value") as cursor:
                assert [row[0] async for row in cursor] == [*range(100)]
            with pytest.raises(sqlite3.IntegrityError):
                await database.execute("INSERT INTO numbers VALUES (1)")
            await database.rollback()
            with pytest.raises(sqlite3.OperationalError):
                await database.execute("SELECT value FROM letters")

    run(main)


def test_aiosqlite_cancelled_query(run: Run) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    async def main() -> None:
        async with aiosqlite.connect(":memory:") as database:
            query = asyncio.create_task(database.execute_fetchall(endless))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(query, 0.05)
            await database.interrupt()
            assert [tuple(row) for row in await database.execute_fetchall("SELECT 7")] == [(7,)]

    run(main)


def test_aiofiles(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "lines"
        async with aiofiles.open(path, "w") as file:
            await file.writelines(f"{number}\n" for number in range(1000))
        async with aiofiles.open(path) as file:
            assert [int(line) async for line in file] == [*range(1000)]
        with pytest.raises(FileNotFoundError):
            async with aiofiles.open(tmp_path / "missing"):
                raise AssertionError("there is no such file")

    run(main)


# --- starlette -----------------------------------------------------------------------------------


def test_starlette_threadpool(run: Run) -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")

    def work(left: int, *, right: int) -> tuple[int, str, bool]:
        return left + right, request_id.get(), threading.current_thread() is not loop_thread

    loop_thread = threading.current_thread()

    async def main() -> None:
        request_id.set("r1")
        assert await run_in_threadpool(work, 1, right=2) == (3, "r1", True)
        numbers = iterate_in_threadpool(iter(range(20)))
        assert [number async for number in numbers] == [*range(20)]
        many = await asyncio.gather(*(run_in_threadpool(work, n, right=n) for n in range(60)))
        assert [total for total, *_ in many] == [2 * n for n in range(60)]
        with pytest.raises(ZeroDivisionError):
            await run_in_threadpool(divmod, 1, 0)

    run(main)


# --- tracing -------------------------------------------------------------------------------------


class Tracer:
    """Wraps each task's coroutine, the way monitoring packages do it."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.errors: list[str] = []

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        before = loop.get_task_factory()

        def factory(
            loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
        ) -> asyncio.Future[Any]:
            async def traced() -> Any:
                self.spans.append(coro.__qualname__.rpartition(".")[2])
                try:
                    return await coro
                except Exception as error:
                    self.errors.append(repr(error))
                    raise

            if before is not None:
                return before(loop, traced(), **options)
            task = asyncio.Task(traced(), loop=loop, **options)
            if task._source_traceback:
                del task._source_traceback[-1]
            return task

        loop.set_task_factory(factory)


def test_tracing_task_factory(run: Run) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("traced")

    async def main() -> None:
        first, second = Tracer(), Tracer()
        first.install(asyncio.get_running_loop())
        second.install(asyncio.get_running_loop())

        assert await asyncio.gather(*map(double, range(5))) == [0, 2, 4, 6, 8]
        named = asyncio.create_task(double(1), name="named")
        assert named.get_name() == "named"
        assert await named == 2
        context = contextvars.copy_context()
        assert await asyncio.create_task(double(3), context=context) == 6
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(double(4))
        async with asyncio.timeout(60):
            assert await asyncio.wait_for(double(5), 60) == 10

        assert {*first.spans} == {"traced"}
        assert len(first.spans) == len(second.spans)
        assert second.spans.count("double") >= 8
        assert first.errors == second.errors == ["ValueError('traced')"]

    run(main)

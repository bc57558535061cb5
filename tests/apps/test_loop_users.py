"""Libraries that use a loop in less usual ways: by its descriptors, and from another thread.

tornado lays a loop of its own over asyncio's, pyzmq watches edge-triggered descriptors with
`add_reader`, aiosmtpd runs `run_forever` in a thread and stops it from outside. Every body runs on
stock asyncio first.
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
from collections.abc import Callable, Coroutine
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import tornado.gen
import tornado.httpclient
import tornado.httpserver
import tornado.ioloop
import tornado.locks
import tornado.netutil
import tornado.queues
import tornado.web
import zmq
import zmq.asyncio
from aiosmtpd.controller import UnixSocketController

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
Watched = tuple[Callable[[], asyncio.AbstractEventLoop], list[dict[str, Any]]]


# --- tornado -------------------------------------------------------------------------------------


class Hello(tornado.web.RequestHandler):
    """Greets, in two pieces and from a thread."""

    async def get(self) -> None:
        self.write("Hello, ")
        await self.flush()
        self.write(
            await tornado.ioloop.IOLoop.current().run_in_executor(None, self.get_argument, "name")
        )


def test_tornado_client_and_server(run: Run) -> None:
    async def main() -> None:
        server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Hello)]))
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"
        client = tornado.httpclient.AsyncHTTPClient(force_instance=True)

        answer = await client.fetch(url + "?name=world")
        assert (answer.code, answer.body) == (200, b"Hello, world")
        answers = await tornado.gen.multi([client.fetch(f"{url}?name={n}") for n in range(30)])
        assert [answer.body for answer in answers] == [b"Hello, %d" % n for n in range(30)]
        with pytest.raises(tornado.httpclient.HTTPClientError) as caught:
            await client.fetch(url + "nowhere")
        assert caught.value.code == 404

        client.close()
        server.stop()
        await server.close_all_connections()

    run(main)


def test_tornado_loop_and_queues(run: Run) -> None:
    async def main() -> None:
        loop = tornado.ioloop.IOLoop.current()
        queue: tornado.queues.Queue[int] = tornado.queues.Queue(maxsize=2)
        taken: list[int] = []

        async def consume() -> None:
            async for item in queue:
                taken.append(item)
                queue.task_done()

        consumer = asyncio.ensure_future(consume())
        for number in range(10):
            await queue.put(number)
        await queue.join()
        consumer.cancel()
        assert taken == [*range(10)]

        ticks = tornado.locks.Event()
        ticker = tornado.ioloop.PeriodicCallback(ticks.set, 1)
        ticker.start()
        await ticks.wait()
        ticker.stop()

        with pytest.raises(tornado.gen.TimeoutError):
            await tornado.gen.with_timeout(loop.time() + 0.01, asyncio.Future())
        added: asyncio.Future[str] = asyncio.Future()
        loop.add_callback(added.set_result, "called")
        assert await added == "called"

    run(main)


# --- pyzmq ---------------------------------------------------------------------------------------


def test_zmq_pipeline(run: Run) -> None:
    async def main() -> None:
        with zmq.asyncio.Context() as context, context.socket(zmq.PULL) as pull:
            port = pull.bind_to_random_port("tcp://127.0.0.1")
            with context.socket(zmq.PUSH) as push:
                push.connect(f"tcp://127.0.0.1:{port}")

                async def produce() -> None:
                    for number in range(2000):
                        await push.send(b"%d" % number)

                async with asyncio.TaskGroup() as group:
                    group.create_task(produce())
                    received = [int(await pull.recv()) for _ in range(2000)]
                assert received == [*range(2000)]

    run(main)


def test_zmq_request_and_timeout(run: Run) -> None:
    async def main() -> None:
        with zmq.asyncio.Context() as context, context.socket(zmq.REP) as server:
            port = server.bind_to_random_port("tcp://127.0.0.1")
            with context.socket(zmq.REQ) as client:
                client.linger = 0
                client.connect(f"tcp://127.0.0.1:{port}")

                async def answer() -> None:
                    for _ in range(20):
                        await server.send_multipart([b"echo", await server.recv()])

                answering = asyncio.create_task(answer())
                for number in range(20):
                    await client.send_string(str(number))
                    assert await client.recv_multipart() == [b"echo", str(number).encode()]
                await answering

                client.rcvtimeo = 20
                await client.send(b"nobody listens now")
                with pytest.raises(zmq.Again):
                    await client.recv()
                assert await server.poll(1000) == zmq.POLLIN
                assert await server.recv() == b"nobody listens now"

    run(main)


# --- aiosmtpd ------------------------------------------------------------------------------------


class UnixSmtp(smtplib.SMTP):
    """The standard library's blocking client, on a Unix socket."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(host)
        return connection


class Mailbox:
    """Keeps what the mail server accepts."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 not here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        lines = envelope.content.decode().splitlines()
        self.subjects += [line for line in lines if line.startswith("Subject:")]
        return "250 Message accepted for delivery"


def test_aiosmtpd_in_a_thread(watched: Watched, tmp_path: Path) -> None:
    factory, told = watched
    loop = factory()
    mailbox = Mailbox()
    path = tmp_path / "smtp"
    controller = UnixSocketController(mailbox, unix_socket=path, loop=loop)
    controller.start()
    try:
        message = EmailMessage()
        message["Subject"] = "A test"
        message.set_content("Body\n" * 5000)
        with UnixSmtp(timeout=60) as client:
            client.connect(str(path), 25)
            client.send_message(message, "a@example.com", ["b@example.com"])
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.send_message(message, "a@example.com", ["nobody@example.com"])
    finally:
        controller.stop()
        loop.close()
    assert mailbox.subjects == ["Subject: A test"]
    assert not told, f"the exception handler was told: {told}"

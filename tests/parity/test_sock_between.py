"""Between the event that a `sock_*` operation waits for and the next step of its task."""

from __future__ import annotations

import asyncio
import gc
import itertools
import select
import socket
from typing import Any

from test_sock import pair
from test_sock_ready import waiting_recv
from wire import io_turns, on_loop, turns, until


@on_loop
async def test_a_connection_that_was_accepted_in_vain(lib: Any) -> None:
    """Who is cancelled when the connection is there already leaves no connection open."""
    loop: Any = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        task = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(2)
        client = socket.create_connection(listener.getsockname(), timeout=30)

        def look(accepting: asyncio.Task[Any]) -> None:
            # Runs before what became ready in its turn.
            if select.select([listener], [], [], 0)[0]:
                loop.call_soon(look, accepting)
            else:
                lib.note(accepting.cancel())

        look(task)
        await asyncio.wait([task])
        lib.note(task.cancelled())
        del task
        gc.collect()
        with client:
            lib.note(client.recv(1))
    warned = lib.warnings_taken()
    # asyncio leaves it to the collector, which complains.
    assert lib.kind == "asyncio" or warned == []


@on_loop
async def test_an_operation_that_is_replaced_before_it_runs(lib: Any) -> None:
    """What is ready for it goes to who took its place, whatever was reported for it."""
    loop: Any = asyncio.get_running_loop()
    was_early = []
    for watched_first, sent_first in itertools.product((True, False), repeat=2):
        with pair() as (one, two), pair() as (three, four):

            def replace(one: socket.socket = one, three: socket.socket = three) -> None:
                loop.remove_reader(three)
                try:
                    was_early.append(bool(one.recv(10, socket.MSG_PEEK)))
                except BlockingIOError:
                    was_early.append(False)
                loop.add_reader(one, lambda: None)

            if watched_first:
                loop.add_reader(three, replace)
            task = await waiting_recv(loop, one)
            if not watched_first:
                loop.add_reader(three, replace)
            for sender in (two, four) if sent_first else (four, two):
                sender.send(b"data")
            count = len(was_early)
            await until(lambda count=count: len(was_early) > count)
            await io_turns()
            loop.remove_reader(one)
            assert task.done() is not was_early[-1]
            if was_early[-1]:
                assert one.recv(10) == b"data"
            task.cancel()
            await asyncio.wait([task])
    assert any(was_early)

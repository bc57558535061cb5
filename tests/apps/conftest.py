"""Fixtures of the application tests: one body over asyncio and aioxide, with nothing left behind.

The `run` fixture runs a body's main coroutine and then fails the test for any call of the loop's
exception handler, any task still pending and any descriptor or thread that was not there before.
Servers are started when the first test asks for them, and stopped at the end of the run.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import servers

import aioxide

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Main = Callable[[], Coroutine[Any, Any, None]]


def open_fds() -> dict[str, str]:
    """Give this process's descriptors and what they refer to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


@pytest.fixture(params=["asyncio", "aioxide"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    """Make an event loop of the kind under test."""
    if request.param == "asyncio":
        return asyncio.SelectorEventLoop
    factory: LoopFactory = aioxide.new_event_loop
    return factory


@pytest.fixture
def watched(loop_factory: LoopFactory) -> tuple[LoopFactory, list[dict[str, Any]]]:
    """Make the loop under test so that it keeps what its exception handler is told."""
    told: list[dict[str, Any]] = []

    def factory() -> asyncio.AbstractEventLoop:
        loop = loop_factory()
        assert isinstance(loop, aioxide.Loop) == (loop_factory is aioxide.new_event_loop)
        loop.set_exception_handler(lambda _, context: told.append(context))
        return loop

    return factory, told


@pytest.fixture
def run(watched: tuple[LoopFactory, list[dict[str, Any]]]) -> Callable[[Main], None]:
    """Run a main coroutine function on the loop under test, and look for leftovers."""
    factory, told = watched

    def run_main(main: Main) -> None:
        gc.collect()
        fds, threads = open_fds(), set(threading.enumerate())
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
            pending = asyncio.all_tasks(runner.get_loop())
            assert not pending, f"tasks still pending: {pending}"
        gc.collect()
        assert not told, f"the exception handler was told: {told}"
        assert open_fds() == fds, "descriptors left behind"
        for thread in set(threading.enumerate()) - threads:
            thread.join(10)  # one that has been told to end may need a moment
            assert not thread.is_alive(), f"a thread was left behind: {thread}"

    return run_main


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """Start PostgreSQL for the whole run."""
    with servers.start_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.Redis]:
    """Start Redis for the whole run."""
    with servers.start_redis() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[list[int]]:
    """Start three Redis masters for the whole run, and give their ports."""
    with servers.start_redis_cluster() as ports:
        yield ports

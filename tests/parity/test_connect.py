"""create_connection: addresses and their racing, options, refusals; whose socket gets closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from wire import (
    HAS_IPV6,
    Peer,
    Recorder,
    io_turns,
    listening,
    needs_ipv6,
    on_loop,
    stock_at,
    tcp_pair,
    turns,
    until,
)

# A port of loopback that nobody listens on: that of the port service multiplexer, unused today.
DEAD_PORT = 1


def info(host: str, port: int) -> tuple[Any, ...]:
    """Give one entry of a getaddrinfo() answer."""
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Answer getaddrinfo() from a table; other names go to the system."""
    table: dict[str, list[Any]] = {}
    system = socket.getaddrinfo

    def answer(host: Any, *args: Any, **options: Any) -> Any:
        return list(table[host]) if host in table else system(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return table


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    """Give a listening socket whose queue is full: a connect() to it neither succeeds nor fails."""
    with listening(0) as listener, contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener


async def connected(lib: Any, listener: socket.socket, *args: Any, **options: Any) -> Any:
    """Connect, note where to, close again."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(Recorder, *args, **options)
    conn, address = listener.accept()
    with conn:
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("peername") == listener.getsockname()
        lib.note(transport.get_extra_info("peername")[0], protocol.calls)
        transport.close()
        await protocol.seen("CL")
    return address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", b"127.0.0.1", b"localhost", "127.1"])
@pytest.mark.parametrize(
    "form", [int, str, lambda port: str(port).encode()], ids=["int", "str", "bytes"]
)
@on_loop
async def test_hosts_and_ports(lib: Any, host: Any, form: Any) -> None:
    """Names and numbers, as text, bytes or int."""
    with listening() as listener:
        port = form(listener.getsockname()[1])
        await connected(lib, listener, host, port, family=socket.AF_INET)


@needs_ipv6
@on_loop
async def test_ipv6(lib: Any) -> None:
    """An IPv6 address, bare and with what family and proto allow."""
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        await connected(lib, listener, "::1", port)
        await connected(lib, listener, "::1", port, family=socket.AF_INET6, proto=6)
        with pytest.raises(OSError) as caught:
            await asyncio.get_running_loop().create_connection(
                Recorder, "::1", port, family=socket.AF_INET
            )
        lib.note(caught.value)


@on_loop
async def test_refused(lib: Any) -> None:
    """Nobody listens: ConnectionRefusedError with the address in its text."""
    loop = asyncio.get_running_loop()
    for host in ("127.0.0.1", "::1") if HAS_IPV6 else ("127.0.0.1",):
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, host, DEAD_PORT)
        lib.note(caught.value, caught.value.errno, str(caught.value))


@on_loop
async def test_the_next_address(lib: Any, names: Any) -> None:
    """Addresses are tried in order until one answers; the failed sockets are closed."""
    with listening() as listener:
        port = listener.getsockname()[1]
        names["many"] = [
            info("127.0.0.2", DEAD_PORT),
            info("::1", DEAD_PORT),
            info("127.0.0.1", port),
        ]
        await connected(lib, listener, "many", port)


@pytest.mark.parametrize("interleave", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("delay", [None, 10.0])
@on_loop
async def test_order_of_attempts(lib: Any, names: Any, interleave: Any, delay: Any) -> None:
    """interleave mixes the families; every error is told in order."""
    names["many"] = [
        *(info(f"127.0.0.{n}", DEAD_PORT) for n in range(1, 5)),
        *(info("::1", DEAD_PORT + n) for n in range(2)),
    ]
    with pytest.raises(OSError) as caught:
        await asyncio.get_running_loop().create_connection(
            Recorder, "many", 5, interleave=interleave, happy_eyeballs_delay=delay
        )
    lib.note(type(caught.value), str(caught.value))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors is new in 3.12")
@on_loop
async def test_all_errors(lib: Any, names: Any) -> None:
    """all_errors=True raises every error in one group."""
    names["many"] = [info(f"127.0.0.{n}", DEAD_PORT) for n in range(1, 4)]
    names["one"] = names["many"][:1]
    loop = asyncio.get_running_loop()
    for name in ("many", "one"):
        for delay in (None, 10.0):
            with pytest.raises(ExceptionGroup) as caught:
                await loop.create_connection(
                    Recorder, name, 5, all_errors=True, happy_eyeballs_delay=delay
                )
            lib.note(caught.value)


@on_loop
async def test_equal_errors_are_told_once(lib: Any, names: Any) -> None:
    """Errors of one text are one error."""
    names["same"] = [info("127.0.0.1", DEAD_PORT)] * 3
    with pytest.raises(ConnectionRefusedError) as caught:
        await asyncio.get_running_loop().create_connection(Recorder, "same", 5)
    lib.note(caught.value)


@on_loop
async def test_happy_eyeballs(lib: Any, names: Any) -> None:
    """A silent address is given the delay, then the next is tried too; the first to answer wins."""
    with listening() as listener, silent() as mute:
        port = listener.getsockname()[1]
        names["race"] = [info("127.0.0.1", mute.getsockname()[1]), info("127.0.0.1", port)]
        await connected(lib, listener, "race", port, happy_eyeballs_delay=0.01)


@on_loop
async def test_happy_eyeballs_does_not_wait_for_failures(lib: Any, names: Any) -> None:
    """An address that fails makes room for the next at once, not after the delay."""
    with listening() as listener:
        port = listener.getsockname()[1]
        names["race"] = [info("127.0.0.1", DEAD_PORT), info("127.0.0.1", port)]
        await connected(lib, listener, "race", port, happy_eyeballs_delay=3600)


@on_loop
async def test_happy_eyeballs_cancelled(lib: Any, names: Any) -> None:
    """Cancelling the race closes every socket in it."""
    with silent() as one, silent() as two:
        names["race"] = [info("127.0.0.1", s.getsockname()[1]) for s in (one, two)]
        task = asyncio.ensure_future(
            asyncio.get_running_loop().create_connection(
                Recorder, "race", 5, happy_eyeballs_delay=0.001
            )
        )
        await asyncio.wait([task], timeout=0.05)
        lib.note(task.cancel())
        with pytest.raises(asyncio.CancelledError):
            await task


@on_loop
async def test_local_addr(lib: Any) -> None:
    """The socket is bound first."""
    with listening() as listener:
        port = listener.getsockname()[1]
        address = await connected(lib, listener, "127.0.0.1", port, local_addr=("127.0.0.3", 0))
        assert address[0] == "127.0.0.3"
        address = await connected(lib, listener, "127.0.0.1", port, local_addr=("localhost", 0))
        lib.note(address[0])


@on_loop
async def test_local_addr_refused(lib: Any) -> None:
    """An address that is taken, foreign or of another family: the error says which."""
    loop = asyncio.get_running_loop()
    with listening() as listener, listening() as other:
        port = listener.getsockname()[1]
        for local in (("192.0.2.1", 0), ("::1", 0), other.getsockname()):
            with pytest.raises(OSError) as caught:
                await loop.create_connection(Recorder, "127.0.0.1", port, local_addr=local)
            text = str(caught.value).replace(str(other.getsockname()[1]), "PORT")
            lib.note(type(caught.value), caught.value.errno, text)


@on_loop
async def test_contradictions(lib: Any) -> None:
    """Options that exclude each other are refused, the socket stays open and the caller's."""
    loop = asyncio.get_running_loop()
    one, two = tcp_pair()
    with one, two, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        for options in (
            {},
            {"host": "127.0.0.1", "port": 5, "sock": one},
            {"port": 5, "sock": one},
            {"host": "127.0.0.1", "sock": one},
            {"sock": one, "server_hostname": "name"},
            {"sock": one, "ssl_handshake_timeout": 1},
            {"sock": one, "ssl_shutdown_timeout": 1},
            {"sock": one, "ssl": True},
            {"host": "", "port": 5, "ssl": True},
        ):
            with pytest.raises(ValueError) as caught:
                await loop.create_connection(Recorder, **options)
            lib.note(sorted(options), caught.value)
        with pytest.raises(ValueError) as caught:
            await loop.create_connection(Recorder, sock=datagram)
        lib.note(str(caught.value).partition("<")[0])
        one.send(b"still open")
        assert await loop.sock_recv(two, 20) == b"still open"


@on_loop
async def test_bad_addresses(lib: Any, names: Any) -> None:
    """Hosts that do not resolve and ports that are none."""
    loop = asyncio.get_running_loop()
    names["nobody"] = []
    numeric = {"flags": socket.AI_NUMERICHOST}
    for host, port, options in (
        ("nobody", 5, {}),
        ("not a number", 5, numeric),
        ("127.0.0.1", "no such service!", numeric),
        ("127.0.0.1", 70000, {}),
        ("127.0.0.1", -1, {}),
        ("x" * 300, 5, numeric),
        ("nul\0byte", 5, numeric),
        (5, 5, {}),
        ("127.0.0.1", 5.5, {}),
    ):
        try:
            await loop.create_connection(Recorder, host, port, **options)
        except Exception as exc:
            lib.note(host, port, type(exc), str(exc))
        else:
            raise AssertionError(f"connected to {host!r} {port!r}")


@on_loop
async def test_given_socket(lib: Any) -> None:
    """A connected socket of the caller is made non-blocking and used."""
    loop = asyncio.get_running_loop()
    for pair in (tcp_pair(), socket.socketpair()):
        ours, theirs = pair
        ours.setblocking(True)
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        lib.note(ours.gettimeout(), protocol.calls)
        assert transport.get_extra_info("socket").fileno() == ours.fileno()
        theirs.send(b"x")
        await protocol.has(1)
        transport.close()
        await protocol.seen("CL")
        await until(lambda ours=ours: ours.fileno() == -1)
        theirs.close()


@on_loop
async def test_unconnected_socket(lib: Any) -> None:
    """A socket that is not connected makes a transport that is lost at its first use."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(Recorder, sock=socket.socket())
    lib.note(transport.get_extra_info("peername"))
    await protocol.seen("CL")
    lib.note(protocol.grammar, type(protocol.lost_with))


@on_loop
async def test_closed_socket(lib: Any) -> None:
    """A closed socket is refused with an error, not an abort."""
    sock = socket.socket()
    sock.close()
    with pytest.raises((OSError, ValueError)) as caught:
        await asyncio.get_running_loop().create_connection(Recorder, sock=sock)
    lib.note(type(caught.value))


def identity(fd: int) -> tuple[int, int]:
    """Tell one open file from another."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


@pytest.mark.parametrize("waits", range(6))
@on_loop
async def test_cancelled_with_a_given_socket(lib: Any, waits: int) -> None:
    """The descriptor number of a cancelled create_connection(sock=) may soon be another's."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    fd = ours.fileno()
    task = asyncio.ensure_future(loop.create_connection(Recorder, sock=ours))
    await turns(waits)
    task.cancel()
    results = await asyncio.gather(task, return_exceptions=True)
    await io_turns()
    lib.note([type(r) for r in results])
    if isinstance(results[0], tuple):
        results[0][0].abort()
        await io_turns()
    if ours.fileno() != -1:
        ours.close()
    opened = [os.open("/dev/null", os.O_RDONLY)]
    while fd not in opened:
        opened.append(os.open("/dev/null", os.O_RDONLY))
    before = identity(fd)
    del task, results, ours
    gc.collect()
    await io_turns()
    assert identity(fd) == before
    for fd in opened:
        os.close(fd)
    theirs.close()


@pytest.mark.parametrize("waits", range(8))
@on_loop
async def test_cancelled_by_address(lib: Any, waits: int) -> None:
    """A create_connection cancelled at any turn closes its own socket, once, and no other."""
    loop = asyncio.get_running_loop()
    with listening() as listener:
        host, port = listener.getsockname()
        task = asyncio.ensure_future(loop.create_connection(Recorder, host, port))
        await turns(waits)
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
        before = [identity(fd) for fd in opened]
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, tuple):
            result[0].abort()
        more = [os.open("/dev/zero", os.O_RDONLY) for _ in range(4)]
        after = [identity(fd) for fd in more]
        del task, result
        await io_turns()
        gc.collect()
        assert [identity(fd) for fd in opened] == before
        assert [identity(fd) for fd in more] == after
        for fd in opened + more:
            os.close(fd)
        with contextlib.suppress(BlockingIOError):
            listener.accept()[0].close()


@on_loop
async def test_cancelled_sock_connect_leaves_the_socket(lib: Any) -> None:
    """sock_connect() that is cancelled leaves the caller's socket open."""
    loop = asyncio.get_running_loop()
    with silent() as mute, socket.socket() as sock:
        sock.setblocking(False)
        before = identity(sock.fileno())
        task = asyncio.ensure_future(loop.sock_connect(sock, mute.getsockname()))
        await io_turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await io_turns()
        assert identity(sock.fileno()) == before
        lib.note(loop.remove_writer(sock))


@on_loop
async def test_a_factory_that_raises(lib: Any) -> None:
    """The factory's error comes out, and the socket is closed."""
    if stock_at(lib, (3, 11), (3, 14)):
        return  # Stock asyncio left the socket to the garbage collector.
    loop = asyncio.get_running_loop()
    with listening() as listener:
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(lambda: 1 // 0, *listener.getsockname())
        with Peer(listener.accept()[0]).sock as conn:
            assert await loop.sock_recv(conn, 1) == b""


@on_loop
async def test_one_protocol_for_two_transports(lib: Any) -> None:
    """A protocol object may be used again: each transport calls it."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    pairs = [tcp_pair() for _ in range(2)]
    transports = []
    for ours, theirs in pairs:
        transport, same = await loop.create_connection(lambda: protocol, sock=ours)
        assert same is protocol
        transports.append(transport)
        theirs.send(b"x")
    await protocol.has(2)
    for transport in transports:
        transport.close()
    await protocol.seen("CL", 2)
    for _, theirs in pairs:
        theirs.close()
    lib.note(protocol.calls)


@on_loop
async def test_a_hundred_at_once(lib: Any) -> None:
    """Many connections in flight at the same time."""
    loop = asyncio.get_running_loop()
    with listening(200) as listener:
        address = listener.getsockname()
        made = await asyncio.gather(
            *(loop.create_connection(Recorder, *address) for _ in range(100))
        )
        conns = [listener.accept()[0] for _ in made]
        for conn in conns:
            conn.send(b"hello")
            conn.close()
        for transport, protocol in made:
            await protocol.seen("CL")
            assert protocol.data == b"hello" and transport.is_closing()
        lib.note({p.grammar for _, p in made})

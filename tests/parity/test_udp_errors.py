"""Datagram transports when sends and receives fail, and when the program does."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from typing import Any

import pytest
from udp_ends import LOOPBACK, Catcher, emptied, endpoint, nameless, plain_udp
from wire import io_turns, on_loop, turns

TOO_LONG = bytes(70_000)


def _name(transport: Any) -> Any:
    return transport.get_extra_info("sockname")


def _refusing() -> Any:
    """Give an address of which nobody listens."""
    with plain_udp() as sock:
        return sock.getsockname()


@on_loop
async def test_refused_by_icmp(lib: Any) -> None:
    """Nobody listens there: error_received() is told, and the transport stays usable."""
    async with endpoint(remote_addr=_refusing()) as (transport, protocol):
        for count in range(1, 4):
            transport.sendto(b"anybody?")
            await protocol.seen("ER", count)
        lib.note(protocol.errors, protocol.calls, transport.is_closing())
        with plain_udp() as late:
            late.close()


@on_loop
async def test_refused_shows_in_a_send(lib: Any) -> None:
    """A refusal that is pending when the next datagram is sent is told by that send."""
    async with endpoint(remote_addr=_refusing()) as (transport, protocol):
        transport.pause_reading()
        transport.sendto(b"one")
        await turns(1)
        transport.sendto(b"two")
        await turns(1)
        lib.note(protocol.errors, transport.is_closing(), transport.get_write_buffer_size())


@on_loop
async def test_refusal_does_not_stop_others(lib: Any) -> None:
    """An unconnected endpoint never hears of refusals, and goes on to serve others."""
    async with endpoint() as (server, protocol):
        with plain_udp() as peer:
            for _ in range(3):
                server.sendto(b"lost", _refusing())
                server.sendto(b"found", peer.getsockname())
                await io_turns()
            lib.note(emptied(peer), protocol.calls)


@on_loop
async def test_too_long(lib: Any) -> None:
    """EMSGSIZE is error_received() within sendto(); nothing else is lost, nothing closes."""
    async with endpoint() as (transport, protocol):
        with plain_udp() as peer:
            transport.sendto(TOO_LONG, peer.getsockname())
            lib.note(protocol.errors, protocol.calls)
            assert protocol.errors[0].errno == errno.EMSGSIZE  # type: ignore[attr-defined]
            transport.sendto(b"fine", peer.getsockname())
            await io_turns()
            lib.note(emptied(peer), protocol.calls, transport.is_closing())


@pytest.mark.parametrize("remote", [True, False])
@on_loop
async def test_failures_among_the_sends_of_a_turn(lib: Any, remote: bool) -> None:
    """Each failed datagram is told, every other one arrives, in order."""
    with plain_udp() as peer:
        to = () if remote else (peer.getsockname(),)
        options = {"remote_addr": peer.getsockname()} if remote else {"local_addr": LOOPBACK}
        async with endpoint(**options) as (transport, protocol):
            for number in range(60):
                transport.sendto(TOO_LONG if number % 7 == 3 else b"%d" % number, *to)
            await io_turns()
            got = [int(data) for data in emptied(peer)]
            lib.note(got, protocol.calls, len(protocol.errors), transport.is_closing())
            assert got == [number for number in range(60) if number % 7 != 3]


@pytest.mark.parametrize(
    "address",
    [
        ("127.0.0.1", 0),
        ("255.255.255.255", 9),
        ("no such name.invalid", 9),
        ("::1", 9),
        ("127.0.0.1", 65536),
        ("127.0.0.1", -1),
        ("127.0.0.1", "9"),
        ("127.0.0.1", 9.0),
        ("127.0.0.1",),
        ("127.0.0.1", 9, 0),
        ["127.0.0.1", 9],
        "127.0.0.1",
        b"127.0.0.1",
        17,
        None,
        ("127.0.0.1\0", 9),
        ("\udc80", 9),
    ],
    ids=repr,
)
@on_loop
async def test_bad_destinations(lib: Any, address: Any) -> None:
    """What the kernel refuses is told to the protocol; what is no address ends the transport."""
    contexts = lib.contexts()
    async with endpoint() as (transport, protocol):
        transport.sendto(b"x", address)
        lib.note([repr(e) for e in protocol.errors], transport.is_closing())
        await io_turns()
        lib.note(protocol.calls, repr(protocol.lost_with))
        lib.note([(c["message"], repr(c["exception"]), sorted(c)) for c in contexts])


@pytest.mark.parametrize("bad", ["text", 17, None, [b"x"], object], ids=repr)
@on_loop
async def test_data_of_other_types(lib: Any, bad: Any) -> None:
    """Data that is not bytes-like is a TypeError, and nothing happens."""
    async with endpoint() as (transport, protocol):
        lib.catch(transport.sendto, bad, ("127.0.0.1", 9))
        for args, options in [((), {}), ((b"x", None, 3), {}), ((b"x",), {"address": 3})]:
            with pytest.raises(TypeError):
                transport.sendto(*args, **options)
        lib.note(protocol.calls, transport.is_closing())


def test_arguments_by_name(lib: Any) -> None:
    """data and addr are names."""

    async def main() -> None:
        async with endpoint() as (transport, _):
            with plain_udp() as peer:
                transport.sendto(data=b"one", addr=peer.getsockname())
                await turns(1)
                transport.sendto(b"two", addr=peer.getsockname())
                lib.note(peer.recv(9), peer.recv(9))

    lib.run(main)


@on_loop
async def test_views(lib: Any) -> None:
    """Views of any item size and subclasses of bytes are sent; a view with gaps is fatal."""

    class Mine(bytes):
        pass

    contexts = lib.contexts()
    async with endpoint() as (transport, protocol):
        with plain_udp() as peer:
            to = peer.getsockname()
            for data in (Mine(b"mine"), memoryview(b"abcd").cast("I"), memoryview(b"abcd")[1:3]):
                transport.sendto(data, to)
                lib.note(peer.recv(100))
            transport.sendto(memoryview(b"abcd")[::2], to)
            await io_turns()
            lib.note(protocol.calls, repr(protocol.lost_with))
            lib.note([(c["message"], repr(c["exception"])) for c in contexts])


@on_loop
async def test_other_address_than_the_remote_one(lib: Any) -> None:
    """With a remote address another one is a ValueError, and an equal one is not."""
    with plain_udp() as peer:
        name = peer.getsockname()
        async with endpoint(remote_addr=name) as (transport, protocol):
            transport.sendto(b"same", (*name,))
            with pytest.raises(ValueError) as refused:
                transport.sendto(b"x", ("127.0.0.1", 1))
            lib.note(nameless(str(refused.value)))
            with pytest.raises(ValueError):
                transport.sendto(b"x", list(name))
            lib.note(peer.recv(9), protocol.calls)


@on_loop
async def test_sends_after_close(lib: Any) -> None:
    """Sends of a closed endpoint with a remote address are ignored, the fifth with a warning."""
    with plain_udp() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            transport.close()
            for _ in range(3):
                transport.sendto(b"ignored")
            lib.note(lib.logged(), transport._conn_lost)
            await protocol.seen("CL")
            for _ in range(4):
                transport.sendto(b"ignored")
            lib.note(lib.logged(), transport._conn_lost)
            lib.note(emptied(peer), protocol.calls)


@on_loop
async def test_sends_between_close_and_loss(lib: Any) -> None:
    """Without a remote address asyncio still sends until the socket is gone."""
    with plain_udp() as peer:
        async with endpoint() as (transport, protocol):
            transport.close()
            transport.sendto(b"late", peer.getsockname())
            lib.note(peer.recv(9))
            await protocol.seen("CL")
            lib.note(protocol.calls)
        if lib.native_loop:
            # asyncio raises an AttributeError of its own making here.
            for _ in range(6):
                transport.sendto(b"ignored", peer.getsockname())
            assert len(lib.logged()) == 2


@pytest.mark.parametrize("callback", ["datagram_received", "error_received"])
@on_loop
async def test_callbacks_that_raise(lib: Any, callback: str) -> None:
    """The exception handler hears of each, and the transport lives on."""
    contexts = lib.contexts()

    def fail(protocol: Catcher, *_: Any) -> None:
        raise ZeroDivisionError(len(protocol.calls))

    if callback == "error_received":
        factory, options = lambda: Catcher(error_received=fail), {"remote_addr": _refusing()}
    else:
        factory, options = lambda: Catcher(datagram_received=fail), {"local_addr": LOOPBACK}
    async with endpoint(factory, **options) as (transport, protocol):
        for count in range(1, 4):
            if callback == "error_received":
                transport.sendto(b"x")
                await protocol.seen("ER", count)
            else:
                with plain_udp() as peer:
                    peer.sendto(b"x", _name(transport))
                await protocol.seen("DG", count)
            await io_turns()
        lib.note(protocol.calls, transport.is_closing())
        lib.note([repr(c["exception"]) for c in contexts])
        assert all("message" in c for c in contexts)


@on_loop
async def test_error_received_raises_in_sendto(lib: Any) -> None:
    """What error_received() raises within sendto() comes out of sendto()."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    async with endpoint(lambda: Catcher(error_received=fail)) as (transport, protocol):
        lib.catch(transport.sendto, TOO_LONG, ("127.0.0.1", 9))
        lib.note(protocol.calls, transport.is_closing())


def test_exits_leave_the_loop(lib: Any) -> None:
    """KeyboardInterrupt and SystemExit leave run_forever(); the rest of a burst comes later."""
    loop = lib.loop
    exits = {b"2": KeyboardInterrupt("two"), b"5": SystemExit(5)}

    def leave(_: Any, data: bytes, __: Any) -> None:
        if data in exits:
            raise exits[data]

    transport, heard = loop.run_until_complete(
        loop.create_datagram_endpoint(lambda: Catcher(datagram_received=leave), local_addr=LOOPBACK)
    )
    with plain_udp() as peer:
        for number in range(10):
            peer.sendto(b"%d" % number, _name(transport))
    for _ in range(2):
        lib.catch(loop.run_forever)
        lib.note(heard.data)
    loop.run_until_complete(heard.seen("DG", 10))
    lib.note(heard.data)
    transport.close()
    lib.turns(3)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("callback", ["connection_made", "error_received", "connection_lost"])
@on_loop
async def test_closing_from_callbacks(lib: Any, callback: str, how: str) -> None:
    """Each callback may close or abort; connection_lost() comes once."""

    def stop(protocol: Catcher, *_: Any) -> None:
        getattr(protocol.transport, how)()

    options = {"remote_addr": _refusing()}
    async with endpoint(lambda: Catcher(**{callback: stop}), **options) as (transport, protocol):
        transport.sendto(b"x")
        if callback == "connection_lost":
            transport.close()
        await protocol.seen("CL")
        await io_turns()
        lib.note(protocol.calls, protocol.lost_with, transport.is_closing())


@on_loop
async def test_sending_from_error_received(lib: Any) -> None:
    """error_received() may send; what it sends and what came before and after arrives."""
    with plain_udp() as peer:
        name = peer.getsockname()

        def report(protocol: Catcher, _: Any) -> None:
            protocol.transport.sendto(b"report", name)

        async with endpoint(lambda: Catcher(error_received=report)) as (transport, protocol):
            for data in (b"one", TOO_LONG, b"two", TOO_LONG, b"three"):
                transport.sendto(data, name)
            await io_turns()
            lib.note(sorted(emptied(peer)), protocol.calls)


@on_loop
async def test_closing_from_error_received_in_a_burst(lib: Any) -> None:
    """close() from error_received(): what was sent arrives, later sends are ignored."""
    with plain_udp() as peer:
        name = peer.getsockname()

        def stop(protocol: Catcher, _: Any) -> None:
            protocol.transport.close()

        async with endpoint(lambda: Catcher(error_received=stop), remote_addr=name) as (t, p):
            t.sendto(TOO_LONG)
            t.sendto(b"ignored")
            await p.seen("CL")
            lib.note(emptied(peer), p.calls, p.lost_with)


@on_loop
async def test_fatal_error(lib: Any) -> None:
    """_fatal_error() reports what is no OSError, and closes with the exception."""
    contexts = lib.contexts()
    for exc in (ValueError("odd"), OSError(errno.EIO, "usual")):
        async with endpoint() as (transport, protocol):
            transport._fatal_error(exc, "what happened")
            await protocol.seen("CL")
            lib.note(protocol.calls, repr(protocol.lost_with))
            lib.note([(c["message"], repr(c["exception"]), sorted(c)) for c in contexts])
            contexts.clear()


@on_loop
async def test_force_close(lib: Any) -> None:
    """_force_close() closes with the exception, once, and reports nothing."""
    async with endpoint() as (transport, protocol):
        exc = ValueError("odd")
        transport._force_close(exc)
        transport._force_close(OSError("second"))
        transport.abort()
        await protocol.seen("CL")
        await io_turns()
        lib.note(protocol.calls, repr(protocol.lost_with))


@on_loop
async def test_socket_closed_behind_the_transport(lib: Any) -> None:
    """A socket that somebody else closed: sends are error_received(), and closing works."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(LOOPBACK)
    async with endpoint(sock=sock) as (transport, protocol):
        transport.pause_reading()
        sock.close()
        transport.sendto(b"x", ("127.0.0.1", 9))
        lib.note([repr(e) for e in protocol.errors])
        transport.abort()
        await protocol.seen("CL")
        lib.note(protocol.calls, protocol.lost_with)


@on_loop
async def test_unclosed_is_a_warning(lib: Any) -> None:
    """A transport that is dropped open warns and closes its socket."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Catcher, local_addr=LOOPBACK)
    sock = transport.get_extra_info("socket")
    transport.pause_reading()
    await turns(2)
    transport.get_protocol().transport = None
    del transport
    await turns(2)
    import gc

    gc.collect()
    warned = [(kind, nameless(text)) for kind, text in lib.warnings_taken()]
    lib.note([line for line in warned if "transport" in line[1]], sock.fileno())


def test_debug_log(lib: Any) -> None:
    """Debug mode logs the endpoint, pausing, and everyday fatal errors."""

    async def main() -> None:
        logging.getLogger("asyncio").setLevel(logging.DEBUG)
        lib.logged(logging.DEBUG)
        async with endpoint() as (transport, protocol):
            transport.pause_reading()
            transport.resume_reading()
            transport._fatal_error(OSError(errno.EIO, "usual"), "what happened")
            await protocol.seen("CL")
        async with endpoint(remote_addr=_refusing()):
            pass
        lines = [nameless(line) for line in lib.logged(logging.DEBUG)]
        lib.note([line.replace("_refusing", "") for line in lines])

    level = logging.getLogger("asyncio").level
    try:
        lib.run(main, debug=True)
    finally:
        logging.getLogger("asyncio").setLevel(level)


@pytest.mark.skipif(sys.platform != "linux", reason="MSG_ERRQUEUE and abstract names are Linux's")
@on_loop
async def test_audit(lib: Any) -> None:
    """Audit hooks hear of each unconnected send, as from socket.sendto()."""
    heard: list[Any] = []
    active = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if active[0] and event == "socket.sendto":
            heard.append((type(args[0]).__name__, args[1][0]))

    sys.addaudithook(hook)
    try:
        async with endpoint() as (transport, _):
            with plain_udp() as peer:
                for _ in range(3):
                    transport.sendto(b"x", peer.getsockname())
                await turns(1)
            lib.note(heard)
    finally:
        active[0] = False

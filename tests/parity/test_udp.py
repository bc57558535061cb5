"""Datagram transports over IPv4 and IPv6: what comes and goes, in which order, and closing."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import threading
from typing import Any

import pytest
from udp_ends import LOOPBACK, Catcher, emptied, endpoint, nameless, plain_udp
from wire import io_turns, on_loop, turns

EMPTY_IS_SENT = sys.version_info >= (3, 13)


def has_ipv6() -> bool:
    """Tell whether this machine can bind to ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback on this machine")


@on_loop
async def test_there_and_back(lib: Any) -> None:
    """A datagram comes as bytes, with its sender's address as socket shows it."""
    async with endpoint() as (server, heard), endpoint(remote_addr=_name(server)) as (client, p):
        client.sendto(b"ping")
        await heard.seen("DG")
        data, sender = heard.datagrams[0]
        assert (type(data), type(sender)) == (bytes, tuple)
        assert sender == _name(client)
        server.sendto(b"pong", sender)
        await p.seen("DG")
        assert p.datagrams == [(b"pong", _name(server))]
        lib.note(heard.calls, p.calls, data)


def _name(transport: Any) -> Any:
    return transport.get_extra_info("sockname")


@needs_ipv6
@on_loop
async def test_ipv6(lib: Any) -> None:
    """IPv6 addresses have four parts; two, three or four may be given."""
    async with endpoint(local_addr=("::1", 0)) as (server, heard):
        async with endpoint(local_addr=("::1", 0)) as (client, _):
            name = _name(server)
            assert len(name) == 4
            for count in (2, 3, 4):
                client.sendto(b"%d" % count, name[:count])
            await heard.seen("DG", 3)
            lib.note(heard.data)
            assert [sender for _, sender in heard.datagrams] == [_name(client)] * 3


@needs_ipv6
@on_loop
async def test_ipv6_flow_and_scope(lib: Any) -> None:
    """Flow information and scope that are out of range are refused as socket refuses them."""
    async with endpoint(local_addr=("::1", 0)) as (server, _):
        contexts = lib.contexts()
        port = _name(server)[1]
        for address in [("::1", port, 1 << 20, 0), ("::1", port, -1, 0), ("::1", port, 0, -1)]:
            async with endpoint(local_addr=("::1", 0)) as (client, protocol):
                client.sendto(b"x", address)
                await io_turns()
                lib.note([str(c["exception"]) for c in contexts], protocol.calls)
                contexts.clear()


@pytest.mark.parametrize("size", [1, 1024, 1472, 8192, 65507])
@on_loop
async def test_sizes(lib: Any, size: int) -> None:
    """Every size that UDP can carry arrives whole, in both directions."""
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    async with endpoint() as (server, heard), endpoint(remote_addr=_name(server)) as (client, p):
        client.sendto(data)
        await heard.seen("DG")
        server.sendto(memoryview(data), _name(client))
        await p.seen("DG")
        assert heard.data == p.data == [data]


@on_loop
async def test_empty_datagrams(lib: Any) -> None:
    """An empty datagram is one, too, from 3.13 on; before, asyncio sends none. Both receive it."""
    async with endpoint() as (server, heard):
        with plain_udp() as peer:
            peer.sendto(b"", _name(server))
            await heard.seen("DG")
            lib.note(heard.data)
            for data in (b"", bytearray(), memoryview(b"")):
                server.sendto(data, peer.getsockname())
            server.sendto(b"end", peer.getsockname())
            await io_turns()
            got = emptied(peer)
        assert got == ([b""] * 3 if EMPTY_IS_SENT else []) + [b"end"]


@pytest.mark.parametrize("remote", [True, False])
@on_loop
async def test_burst_keeps_order(lib: Any, remote: bool) -> None:
    """1,000 datagrams arrive in order, none twice, each one sent when sendto() returns."""
    options: dict[str, Any] = {}
    with plain_udp() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        options = {"remote_addr": peer.getsockname()} if remote else {"local_addr": LOOPBACK}
        to = () if remote else (peer.getsockname(),)
        async with endpoint(**options) as (transport, protocol):
            for start in range(0, 1000, 100):
                for number in range(start, start + 100):
                    transport.sendto(b"%d" % number, *to)
                got = [peer.recv(100) for _ in range(100)]
                assert got == [b"%d" % number for number in range(start, start + 100)]
            lib.note(protocol.calls, transport.get_write_buffer_size())


@on_loop
async def test_received_burst_keeps_order(lib: Any) -> None:
    """What waits in the kernel is delivered in order, each datagram once, with its own sender."""
    async with endpoint() as (server, heard):
        server.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        with plain_udp() as one, plain_udp() as two:
            for number in range(1000):
                (one if number % 3 else two).sendto(b"%d" % number, _name(server))
            await heard.seen("DG", 1000)
            assert heard.data == [b"%d" % number for number in range(1000)]
            senders = {one.getsockname(): 1, two.getsockname(): 0}
            assert all(senders[who] == bool(int(d) % 3) for d, who in heard.datagrams)
            lib.note(len(heard.data), heard.grammar)


@on_loop
async def test_woken_task_runs_before_the_next_datagram(lib: Any) -> None:
    """A task that a datagram wakes sees it before the next one is delivered, as in asyncio."""
    loop = asyncio.get_running_loop()
    trace: list[Any] = []
    waiting: list[Any] = []

    def received(_: Any, data: bytes, __: Any) -> None:
        trace.append(data)
        if waiting and not waiting[0].done():
            waiting[0].set_result(data)
        else:
            trace.append("nobody waits")

    async def reader() -> None:
        for _ in range(40):
            waiting[:] = [loop.create_future()]
            trace.append(("task", await waiting[0]))

    async with endpoint(lambda: Catcher(datagram_received=received)) as (server, _):
        task = loop.create_task(reader())
        await turns(2)
        with plain_udp() as peer:
            for number in range(40):
                peer.sendto(b"%d" % number, _name(server))
        await task
        lib.note(trace)
        assert "nobody waits" not in trace


@on_loop
async def test_call_soon_runs_before_the_next_datagram(lib: Any) -> None:
    """What a datagram schedules runs before the next datagram, a timer that is due soon after."""
    loop = asyncio.get_running_loop()
    trace: list[Any] = []

    def received(_: Any, data: bytes, __: Any) -> None:
        trace.append(data)
        if int(data) % 5 == 0:
            loop.call_soon(trace.append, "soon")

    async with endpoint(lambda: Catcher(datagram_received=received)) as (server, heard):
        with plain_udp() as peer:
            for number in range(30):
                peer.sendto(b"%d" % number, _name(server))
        await heard.seen("DG", 30)
        await turns(2)
        lib.note(trace)


@on_loop
async def test_timers_run_during_a_flood(lib: Any) -> None:
    """A flood that refills itself does not keep timers and other callbacks from running."""
    loop = asyncio.get_running_loop()
    ran = loop.create_future()

    def again(protocol: Catcher, data: bytes, sender: Any) -> None:
        if not ran.done():
            protocol.transport.sendto(data, sender)

    async with endpoint(lambda: Catcher(datagram_received=again)) as (one, _):
        async with endpoint(lambda: Catcher(datagram_received=again)) as (two, heard):
            for _ in range(64):
                one.sendto(b"ball", _name(two))
            await heard.seen("DG", 64)
            loop.call_later(0.001, ran.set_result, None)
            await ran
            lib.note("ran")


@on_loop
async def test_broadcast(lib: Any) -> None:
    """allow_broadcast sets the option, and does not connect to the remote address."""
    with plain_udp() as peer, plain_udp() as other:
        name = peer.getsockname()
        async with endpoint(remote_addr=name, allow_broadcast=True) as (transport, protocol):
            sock = transport.get_extra_info("socket")
            lib.note(bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)))
            lib.note(transport.get_extra_info("peername"), transport._address == name)
            transport.sendto(b"one")
            transport.sendto(b"two", name)
            (one, sender), (two, _) = peer.recvfrom(10), peer.recvfrom(10)
            lib.note(one, two)
            # Anybody may answer an endpoint that is not connected.
            other.sendto(b"hello", sender)
            await protocol.seen("DG")
            lib.note(protocol.data)
            with pytest.raises(ValueError) as refused:
                transport.sendto(b"x", other.getsockname())
            lib.note(nameless(str(refused.value)))


@on_loop
async def test_reuse_port(lib: Any) -> None:
    """Two endpoints share a port."""
    async with endpoint(local_addr=LOOPBACK, reuse_port=True) as (one, _):
        async with endpoint(local_addr=_name(one), reuse_port=True) as (two, _):
            lib.note(_name(one) == _name(two))


@on_loop
async def test_callers_socket(lib: Any) -> None:
    """A socket that is handed in is used and closed with the transport."""
    with plain_udp() as peer:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        async with endpoint(sock=sock) as (transport, _):
            transport.sendto(b"hello", peer.getsockname())
            lib.note(peer.recv(10), sock.getblocking(), transport._address)
            assert transport.get_extra_info("socket").fileno() == sock.fileno()
        assert sock.fileno() == -1


@on_loop
async def test_connected_callers_socket(lib: Any) -> None:
    """A connected socket sends to its peer whatever address is given: asyncio ignores it."""
    with plain_udp() as peer, plain_udp() as other:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        async with endpoint(sock=sock) as (transport, _):
            transport.sendto(b"one")
            transport.sendto(b"two", other.getsockname())
            lib.note(peer.recv(10), peer.recv(10))


@on_loop
async def test_multicast(lib: Any) -> None:
    """A member of a group on the loopback interface hears what is sent to the group."""
    group = "239.255.77.77"
    local = socket.inet_aton("127.0.0.1")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.close()
    member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    member.bind((group, port))
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + local)
    async with endpoint(sock=member) as (_, heard), endpoint() as (sender, _):
        sock = sender.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, struct.pack("b", 1))
        sender.sendto(b"all", (group, port))
        await heard.seen("DG")
        lib.note(heard.data)


@on_loop
async def test_names_are_looked_up(lib: Any) -> None:
    """A host name is resolved by each sendto(), as socket does."""
    with plain_udp() as peer:
        port = peer.getsockname()[1]
        async with endpoint() as (transport, protocol):
            for host in ("localhost", "127.0.0.1", "", "127.1"):
                transport.sendto(host.encode() or b"any", (host, port))
                lib.note(peer.recv(20))
            lib.note(protocol.calls)


@on_loop
async def test_order_with_names_between(lib: Any) -> None:
    """What needs the socket's own method keeps its place among what does not."""
    with plain_udp() as peer:
        port = peer.getsockname()[1]
        async with endpoint() as (transport, _):
            for number in range(30):
                host = "localhost" if number % 4 == 3 else "127.0.0.1"
                transport.sendto(b"%d" % number, (host, port))
            got = [int(peer.recv(10)) for _ in range(30)]
            lib.note(got)
            assert got == list(range(30))


@on_loop
async def test_mutable_data_may_change(lib: Any) -> None:
    """A bytearray may be changed after sendto(), also when it has not left yet."""
    async with endpoint() as (server, heard), endpoint(remote_addr=_name(server)) as (client, _):
        data = bytearray(b"a")
        for letter in b"abcdef":
            data[0] = letter
            client.sendto(data)
        data[0] = 0
        await heard.seen("DG", 6)
        lib.note(heard.data)


@on_loop
async def test_pause_and_resume_reading(lib: Any) -> None:
    """A paused transport delivers nothing; resumed, everything, in order, whatever was received."""

    def pause_at_3(protocol: Catcher, data: bytes, _: Any) -> None:
        if data == b"3":
            protocol.transport.pause_reading()

    async with endpoint(lambda: Catcher(datagram_received=pause_at_3)) as (server, heard):
        with plain_udp() as peer:
            for number in range(10):
                peer.sendto(b"%d" % number, _name(server))
            await heard.when(lambda: b"3" in heard.data)
            await io_turns()
            lib.note(heard.data, server.is_reading(), nameless(repr(server)))
            server.pause_reading()
            server.resume_reading()
            server.resume_reading()
            await heard.seen("DG", 10)
            server.pause_reading()
            peer.sendto(b"late", _name(server))
            await io_turns()
            lib.note(heard.data)
            server.resume_reading()
            await heard.seen("DG", 11)
            lib.note(heard.data, server.is_reading())


@pytest.mark.parametrize("how", ["close", "abort"])
@on_loop
async def test_nothing_comes_after_closing(lib: Any, how: str) -> None:
    """close() or abort() in the middle of a burst: nothing more is delivered."""

    def stop(protocol: Catcher, data: bytes, _: Any) -> None:
        if data == b"3":
            getattr(protocol.transport, how)()

    async with endpoint(lambda: Catcher(datagram_received=stop)) as (server, heard):
        with plain_udp() as peer:
            for number in range(10):
                peer.sendto(b"%d" % number, _name(server))
            await heard.seen("CL")
            lib.note(heard.data, heard.calls, heard.lost_with)


@on_loop
async def test_protocol_replaced_within_a_burst(lib: Any) -> None:
    """The rest of a burst goes to the protocol that is set by then."""
    second = Catcher()

    def replace(protocol: Catcher, data: bytes, _: Any) -> None:
        if data == b"3":
            protocol.transport.set_protocol(second)

    async with endpoint(lambda: Catcher(datagram_received=replace)) as (server, heard):
        with plain_udp() as peer:
            for number in range(10):
                peer.sendto(b"%d" % number, _name(server))
        await second.seen("DG", 6)
        lib.note(heard.data, second.data, server.get_protocol() is second)


def test_stop_within_a_burst(lib: Any) -> None:
    """loop.stop() in the middle of a burst: the rest comes when the loop runs again."""
    loop = lib.loop

    def stop(_: Any, data: bytes, __: Any) -> None:
        if data in (b"3", b"7"):
            loop.stop()

    transport, heard = loop.run_until_complete(
        loop.create_datagram_endpoint(lambda: Catcher(datagram_received=stop), local_addr=LOOPBACK)
    )
    with plain_udp() as peer:
        for number in range(10):
            peer.sendto(b"%d" % number, _name(transport))
    loop.run_forever()
    lib.note(heard.data)
    loop.run_forever()
    lib.note(heard.data)
    loop.run_until_complete(heard.seen("DG", 10))
    lib.note(heard.data)
    transport.close()
    lib.turns(3)


@pytest.mark.parametrize("where", ["the loop's thread", "another thread"])
def test_a_call_from_a_thread_within_a_burst(lib: Any, where: str) -> None:
    """What call_soon_threadsafe schedules runs before the next datagram."""
    loop = lib.loop

    def call(_: Any, data: bytes, __: Any) -> None:
        lib.note("datagram", data)
        args = lib.note, "called after", data
        if where == "another thread":
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=args)
            thread.start()
            thread.join()
        else:
            loop.call_soon_threadsafe(*args)

    transport, heard = loop.run_until_complete(
        loop.create_datagram_endpoint(lambda: Catcher(datagram_received=call), local_addr=LOOPBACK)
    )
    with plain_udp() as peer:
        for number in range(5):
            peer.sendto(b"%d" % number, _name(transport))
    loop.run_until_complete(heard.seen("DG", 5))
    transport.close()
    lib.turns(3)


def test_loop_closed_within_a_burst(lib: Any) -> None:
    """A loop that is closed with half a burst undelivered leaves no descriptor behind."""
    loop = lib.loop
    transport, heard = loop.run_until_complete(
        loop.create_datagram_endpoint(
            lambda: Catcher(datagram_received=lambda *_: loop.stop()), local_addr=LOOPBACK
        )
    )
    with plain_udp() as peer:
        for number in range(5):
            peer.sendto(b"%d" % number, _name(transport))
    loop.run_forever()
    transport.close()
    lib.turns(3)
    loop.close()
    lib.note(heard.calls)


@on_loop
async def test_close_sends_what_was_collected(lib: Any) -> None:
    """close() right after a burst of sends: all of it leaves, and connection_lost(None) is told."""
    with plain_udp() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            for number in range(20):
                transport.sendto(b"%d" % number)
            transport.close()
            transport.close()
            lib.note(transport.is_closing(), protocol.calls)
            await protocol.seen("CL")
            lib.note([peer.recv(10) for _ in range(20)], protocol.calls, protocol.lost_with)


@on_loop
async def test_abort_after_sends(lib: Any) -> None:
    """What asyncio had sent before abort() arrives."""
    with plain_udp() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            for number in range(20):
                transport.sendto(b"%d" % number)
            transport.abort()
            await protocol.seen("CL")
            lib.note([peer.recv(10) for _ in range(20)], protocol.calls, protocol.lost_with)


@on_loop
async def test_to_itself(lib: Any) -> None:
    """An endpoint may send to its own address, from its callback too."""

    def once_more(protocol: Catcher, data: bytes, sender: Any) -> None:
        if len(data) < 5:
            protocol.transport.sendto(data + b"x", sender)

    async with endpoint(lambda: Catcher(datagram_received=once_more)) as (transport, heard):
        transport.sendto(b"x", _name(transport))
        await heard.seen("DG", 5)
        lib.note(heard.data)

"""getaddrinfo and getnameinfo against socket's own, over thousands of questions.

No question leaves the machine: a host that is no literal is asked for with AI_NUMERICHOST only.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from typing import Any

import pytest
from wire import on_loop


class Text(str):
    """A str of another class."""

    __slots__ = ()


class Octets(bytes):
    """A bytes of another class."""

    __slots__ = ()


LITERALS = [
    None,
    "127.0.0.1",
    "0.0.0.0",  # noqa: S104
    "255.255.255.255",
    "127.1",
    "0x7f.1",
    "0177.0.0.1",
    "1",
    "0xffffffff",
    "::",
    "::1",
    "::ffff:1.2.3.4",
    "::1.2.3.4",
    "2001:DB8:0:0::00ff",
    "fe80::1%lo",
    "fe80::1%1",
    "FE80::1%1",
    "fe80::1%99999",
    "ff02::1%lo",
    b"127.0.0.1",
    b"::1",
    b"fe80::1%lo",
    Text("127.0.0.1"),
    Octets(b"::1"),
    bytearray(b"127.0.0.1"),
    "１２７.0.0.1",  # noqa: RUF001 - IDNA makes it a literal
]
#: Not literals, or no hosts at all.
OTHERS: list[Any] = [
    "",
    b"",
    "x" * 300,
    "x" * 63 + ".example",
    "x" * 64 + ".example",
    "münchen.example",
    b"m\xfcnchen",
    "localhost",
    "127.0.0.1 ",
    " 127.0.0.1",
    "127.0.0.1\n",
    "127.0.0.1\0",
    "127.0.0.1.",
    "127.0.0.1%lo",
    "256.1.1.1",
    "1.2.3.4.5",
    "1.2.3.0x100",
    "08.1.1.1",
    "4294967296",
    "1..2",
    ":::",
    "1:2:3:4:5:6:7:8:9",
    "::1%",
    "::1%lo",
    "::1%nosuch",
    "fe80::1%",
    "fe80::1%nosuch",
    "fe80::1%1%1",
    "fe80::1%4294967296",
    "fe80::1%-1",
    "fe80::1%0x1",
    "2001:db8::1%lo",
    "2001:db8::1%1",
    "%lo",
    "beef",
    "0x",
    "*",
    "\ud800",
    5,
    1.5,
    True,
    object(),
    ("127.0.0.1",),
]
PORTS: list[Any] = [80, None, "80", b"80", 0, 65535, True]
ODD_PORTS: list[Any] = [
    -1,
    65536,
    70000,
    2**31,
    2**40,
    2**70,
    -(2**70),
    "",
    b"",
    "http",
    b"http",
    "domain",
    "no-such-service",
    "080",
    " 80",
    "80 ",
    "+80",
    "-1",
    "0x50",
    "65536",
    "99999",
    "99999999999999999999999",
    "80\0",
    "٨٠",
    "²",
    Text("80"),
    Octets(b"80"),
    bytearray(b"80"),
    5.5,
    "\ud800",
    [80],
]
FAMILIES = [0, socket.AF_INET, socket.AF_INET6]
ODD_FAMILIES = [socket.AF_UNIX, 99, -1, 2**31, 2**70, "AF_INET", None, 2.0, True]
TYPES = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM]
ODD_TYPES = [socket.SOCK_RAW, socket.SOCK_SEQPACKET, 99, -1, 2**70, "x", None, 2**11 | 1]
PROTOS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP]
ODD_PROTOS = [socket.IPPROTO_ICMP, 132, 255, 256, -1, 2**70, None]
FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_NUMERICHOST,
    socket.AI_NUMERICSERV,
    socket.AI_CANONNAME,
    socket.AI_CANONNAME | socket.AI_NUMERICHOST,
    socket.AI_ADDRCONFIG,
    socket.AI_V4MAPPED,
    socket.AI_V4MAPPED | socket.AI_ALL,
    socket.AI_PASSIVE | socket.AI_ADDRCONFIG | socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
]
ODD_FLAGS = [1 << 20, -1, 0x40, 0x80 | socket.AI_CANONNAME, 2**70, "x", None, True]


def outcome(found: Any) -> Any:
    """Give what a question came to, with every type in it."""
    if isinstance(found, BaseException):
        return type(found), found.args, getattr(found, "errno", None), str(found)
    return [
        [(type(part), part) for part in answer[:4]] + [[(type(p), p) for p in answer[4]]]
        for answer in found
    ]


async def same(questions: list[tuple[Any, ...]]) -> None:
    """Ask the loop and socket; fail for the first answers that differ."""
    loop = asyncio.get_running_loop()
    for host, port, family, type_, proto, flags in questions:
        found: list[Any] = []
        try:
            found.append(
                await loop.getaddrinfo(
                    host, port, family=family, type=type_, proto=proto, flags=flags
                )
            )
        except Exception as exc:
            found.append(exc)
        try:
            found.append(socket.getaddrinfo(host, port, family, type_, proto, flags))
        except Exception as exc:
            found.append(exc)
        ours, theirs = map(outcome, found)
        assert ours == theirs, (host, port, family, type_, proto, flags)


def test_there_are_thousands_of_questions() -> None:
    """The tables below are as large as they claim."""
    regular = len(LITERALS) * len(PORTS) * len(FAMILIES) * len(TYPES)
    assert regular * 3 > 4000


@on_loop
async def test_literals(lib: Any) -> None:
    """Every literal with every ordinary port, family and type; three sets of flags each."""
    chosen = random.Random(3)
    await same(
        [
            (*question, 0, flags)
            for question in itertools.product(LITERALS, PORTS, FAMILIES, TYPES)
            for flags in chosen.sample(FLAGS, 3)
        ]
    )


@on_loop
async def test_literals_with_every_flag(lib: Any) -> None:
    """Every literal with every flag and protocol."""
    await same(
        [
            (host, 80, family, type_, proto, flags)
            for host, family, proto, flags in itertools.product(LITERALS, FAMILIES, PROTOS, FLAGS)
            for type_ in (0, socket.SOCK_STREAM)
        ]
    )


@on_loop
async def test_hosts_that_are_no_literals(lib: Any) -> None:
    """Names, near misses and other objects."""
    numeric = socket.AI_NUMERICHOST
    await same(
        [
            (host, port, family, type_, 0, numeric | flags)
            for host, port, family, type_ in itertools.product(
                OTHERS, (80, "80", None, "http"), FAMILIES, (0, socket.SOCK_STREAM)
            )
            for flags in (0, socket.AI_CANONNAME)
        ]
    )


@on_loop
async def test_odd_ports(lib: Any) -> None:
    """Services, ports out of range, and other objects."""
    hosts = [None, "127.0.0.1", "::1", b"127.0.0.1", "fe80::1%lo"]
    flags = [0, socket.AI_NUMERICSERV, socket.AI_PASSIVE]
    await same(
        [
            (host, port, family, type_, 0, flag)
            for host, port, family, type_, flag in itertools.product(
                hosts, ODD_PORTS, FAMILIES, TYPES, flags
            )
        ]
    )


@pytest.mark.parametrize("odd", ["family", "type", "proto", "flags", "all"])
@on_loop
async def test_odd_numbers(lib: Any, odd: str) -> None:
    """Families, types, protocols and flags that do not exist, or are no numbers."""
    hosts = ["127.0.0.1", "::1", None]
    tables: dict[str, list[Any]] = {
        "family": [0, socket.AF_INET],
        "type": [0, socket.SOCK_STREAM],
        "proto": [0, socket.IPPROTO_TCP],
        "flags": [0, socket.AI_PASSIVE],
    }
    oddities: dict[str, list[Any]] = {
        "family": ODD_FAMILIES,
        "type": ODD_TYPES,
        "proto": ODD_PROTOS,
        "flags": ODD_FLAGS,
    }
    if odd == "all":
        chosen = random.Random(5)
        questions = [
            (chosen.choice(hosts), chosen.choice(PORTS + ODD_PORTS))
            + tuple(chosen.choice(tables[name] + oddities[name]) for name in tables)
            for _ in range(2000)
        ]
    else:
        tables[odd] = oddities[odd]
        questions = list(itertools.product(hosts, PORTS[:4], *tables.values()))
    # Some flags (AI_IDN and above) make the C library look at names: a literal has none.
    await same(questions)


@on_loop
async def test_names_of_addresses(lib: Any) -> None:
    """getnameinfo with numeric flags, and its errors."""
    loop = asyncio.get_running_loop()
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    addresses: list[Any] = [
        ("127.0.0.1", 80),
        ("127.0.0.1", 80, 0),
        ("::1", 80),
        ("::1", 80, 0, 0),
        ("fe80::1", 80, 0, 1),
        ("fe80::1%lo", 80),
        ("fe80::1%lo", 80, 5, 1),
        ("127.1", 80),
        ("no number", 80),
        ("", 80),
        ("127.0.0.1",),
        ("127.0.0.1", 80, 0, 0, 0),
        ("127.0.0.1", "80"),
        ("127.0.0.1", -1),
        ("127.0.0.1", 70000),
        ("::1", 80, 2**21),
        (b"127.0.0.1", 80),
        (None, 80),
        "127.0.0.1",
        ["127.0.0.1", 80],
        None,
        5,
    ]
    for address, flags in itertools.product(
        addresses,
        (numeric, numeric | socket.NI_DGRAM, numeric | socket.NI_NAMEREQD, numeric | 1 << 20, True),
    ):
        if flags is True and address not in addresses[:1]:
            continue  # NI_NUMERICHOST alone: a list of services is asked
        found: list[Any] = []
        try:
            found.append(await loop.getnameinfo(address, flags))
        except Exception as exc:
            found.append((type(exc), exc.args))
        try:
            found.append(socket.getnameinfo(address, flags))
        except Exception as exc:
            found.append((type(exc), exc.args))
        assert found[0] == found[1], (address, flags)

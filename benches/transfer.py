"""Bulk transfer, connections made and ended, TLS handshakes."""

from __future__ import annotations

from functools import partial

import cases
import echo
import load
import loops

BULK = (cases.Metric("gigabytes", "bulk transfer", "GB/s", higher_is_better=True),)
CHURN = (
    cases.Metric("rate", "connections, with one request each", "connections/s", True),
    cases.Metric("p99_us", "p99 from connecting to the answer", "µs"),
    cases.Metric("server_cpu_us", "server CPU per connection", "µs"),
)
# Connections at a time.
CHURN_CONNECTIONS = 16
CHURN_BYTES = 64


def bulk(
    mode: str, transport: str, style: str, entrant: str, effort: cases.Effort
) -> cases.Samples:
    """Let one connection send or receive as fast as it goes; return 10^9 bytes per second."""
    kind = "send" if mode == "sink" else "receive"
    what = load.Load(kind, 1, 1, effort.load_ms)
    counts = load.measure(entrant, transport, mode, what, style)
    return {
        "gigabytes": [counts["bytes"] / counts["seconds"] / 1e9],
        "server_cpu": [counts["server_cpu"]],
    }


def churn(
    transport: str, style: str, entrant: str, effort: cases.Effort, key: str = load.ECDSA
) -> cases.Samples:
    """Make connections, each for one request, as fast as it goes."""
    what = load.Load("churn", CHURN_CONNECTIONS, CHURN_BYTES, effort.load_ms)
    return echo.samples(load.measure(entrant, transport, "echo", what, style, key), what)


def certificate_case(name: str, title: str, key: str) -> cases.Case:
    """Make a case of handshakes with a certificate of one kind."""
    return cases.Case(
        name,
        f"handshakes: {title}",
        CHURN,
        partial(churn, "tls", "protocol", key=key),
        beside=(load.LIMIT, load.NODE),
        also=(loops.FASTNET,),
        takes=load.takes_s,
    )


def bulk_case(name: str, title: str, mode: str, transport: str, style: str) -> cases.Case:
    """Make a case of bulk transfer."""
    return cases.Case(
        name,
        title,
        BULK,
        partial(bulk, mode, transport, style),
        # The C server does not pour over TLS.
        beside=(load.NODE,) if transport == "tls" else (load.LIMIT, load.NODE),
        also=(loops.FASTNET,) if transport == "tls" else (),
        short=(transport, style) == ("tcp", "protocol"),
        primitives=style == "streams",
        takes=load.takes_s,
    )


def churn_case(name: str, title: str, transport: str, style: str) -> cases.Case:
    """Make a case of connections that come and go."""
    return cases.Case(
        name,
        title,
        CHURN,
        partial(churn, transport, style),
        beside=(load.LIMIT, load.NODE),
        short=style == "protocol",
        primitives=style == "streams",
        takes=load.takes_s,
    )


CASES = [
    bulk_case("bulk-in", "bulk: received by a Protocol", "sink", "tcp", "protocol"),
    bulk_case("bulk-in-streams", "bulk: received by a StreamReader", "sink", "tcp", "streams"),
    bulk_case("bulk-out", "bulk: sent by a transport", "source", "tcp", "protocol"),
    bulk_case("bulk-out-streams", "bulk: sent by a StreamWriter", "source", "tcp", "streams"),
    bulk_case("bulk-in-tls", "bulk: received over TLS", "sink", "tls", "protocol"),
    bulk_case("bulk-out-tls", "bulk: sent over TLS", "source", "tls", "protocol"),
    churn_case("churn", "connections: TCP, Protocol", "tcp", "protocol"),
    churn_case("churn-streams", "connections: TCP, streams", "tcp", "streams"),
    certificate_case("handshakes", "ECDSA P-256", load.ECDSA),
    certificate_case("handshakes-rsa", "RSA 2048", load.RSA),
]

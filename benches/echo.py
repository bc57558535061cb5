"""Echo: protocols, streams, `sock_*`, Unix, UDP, TLS, beside a C server and Node.js."""

from __future__ import annotations

import dataclasses
from functools import partial

import cases
import load
import loops

SIZES = {64: "64 B", 1024: "1 KiB", 10 * 1024: "10 KiB", 100 * 1024: "100 KiB"}
MANY = 1000
CONNECTIONS = (1, 50, MANY)
# Datagrams in flight must fit into the kernel's default buffers, or the kernel drops them.
UDP_BYTES_IN_FLIGHT_MAX = 128 * 1024
# The largest of IPv4.
DATAGRAM_BYTES_MAX = 65507
TYPICAL = (1024, 50)
# A pause of the machine hits a thousand connections at once and is then a round's p99: of the same
# time, more and shorter rounds tell better what is usual. One connection needs no more.
BRIEF_MS = 200
METRICS = (
    cases.Metric("rate", "throughput", "requests/s", higher_is_better=True),
    cases.Metric("p50_us", "p50", "µs"),
    cases.Metric("p99_us", "p99", "µs", aim=True),
    cases.Metric("p999_us", "p99.9", "µs"),
    cases.Metric("server_cpu_us", "server CPU per request", "µs"),
)
# Name, transport, style of the server, and what it is called.
KINDS = (
    ("protocol", "tcp", "protocol", "Protocol"),
    ("buffered", "tcp", "buffered", "BufferedProtocol"),
    ("streams", "tcp", "streams", "streams"),
    ("sock", "tcp", "sock", "`sock_*`"),
    ("unix", "unix", "protocol", "Unix, Protocol"),
    ("udp", "udp", "protocol", "UDP"),
    ("tls", "tls", "protocol", "TLS, Protocol"),
    ("tls-streams", "tls", "streams", "TLS, streams"),
)
# In the short form beside the typical load of every kind.
SHORT = {("protocol", 100 * 1024, 50)}


def samples(counts: dict[str, float], load_put: load.Load) -> cases.Samples:
    """Turn what the clients counted into numbers."""
    seconds = counts["seconds"]
    whole = seconds + load_put.warmup_ms / 1000
    return {
        "rate": [counts["requests"] / seconds],
        "p50_us": [counts["p50_us"]],
        "p99_us": [counts["p99_us"]],
        "p999_us": [counts["p999_us"]],
        "server_cpu_us": [counts["server_cpu"] / counts["all"] * 1e6],
        "server_busy": [counts["server_cpu"] / whole],
        "client_busy": [counts["client_cpu"] / whole],
        "lost": [counts["lost"]],
        "pause_us": [counts["pause_us"]],
    }


def measure(
    transport: str, style: str, size: int, connections: int, entrant: str, effort: cases.Effort
) -> cases.Samples:
    """Measure one entrant once."""
    what = load.Load("echo", connections, size, load_ms(connections, effort))
    return samples(load.measure(entrant, transport, "echo", what, style), what)


def load_ms(connections: int, effort: cases.Effort) -> int:
    """Return how long the load lasts."""
    return effort.load_ms if connections == TYPICAL[1] else min(effort.load_ms, BRIEF_MS)


def takes(transport: str, connections: int, effort: cases.Effort) -> float:
    """Return about how long one entrant takes: a thousand have to be made first."""
    setting_up = (0.8 if transport == "tls" else 0.2) if connections >= MANY else 0.0
    brief = dataclasses.replace(effort, load_ms=load_ms(connections, effort))
    return load.takes_s(brief) + setting_up


def make() -> list[cases.Case]:
    """Make a case of every kind, size and number of connections."""
    made = []
    for name, transport, style, title in KINDS:
        for size, size_title in SIZES.items():
            for connections in CONNECTIONS:
                in_flight = size * connections
                if transport == "udp" and (
                    size > DATAGRAM_BYTES_MAX or in_flight > UDP_BYTES_IN_FLIGHT_MAX
                ):
                    continue
                made.append(
                    cases.Case(
                        f"echo-{name}-{size_title.replace(' ', '')}-{connections}",
                        f"echo: {title}, {size_title}, {connections} conn.",
                        METRICS,
                        partial(measure, transport, style, size, connections),
                        beside=(load.LIMIT, load.NODE),
                        once=(load.NODE,),
                        also=(loops.FASTNET,) if transport == "tls" else (),
                        short=((size, connections) == TYPICAL and name != "tls-streams")
                        or (name, size, connections) in SHORT,
                        primitives=style == "streams",
                        full_rounds=2 if connections == 1 else None,
                        takes=partial(takes, transport, connections),
                    )
                )
    return made


CASES = make()

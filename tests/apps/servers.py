"""The servers that the applications talk to, started for the tests: PostgreSQL, Redis, nginx.

Each lives in a folder of its own and listens on a Unix socket there, and on a loopback port where
its clients need one. It dies with the process that runs the tests, however that ends. Where a
server is not installed, the tests that need it say so and are skipped.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from program import WAIT_SECONDS_MAX, Process

# A port that was free a moment ago may be taken by the time the server asks for it.
PORT_ATTEMPTS_MAX = 5
CLUSTER_SLOTS = 16384
CLUSTER_ATTEMPTS_MAX = 2
CLUSTER_SECONDS_MAX = 30.0  # nodes tell each other of a new state every 0.1 s
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find(name: str) -> str:
    """Give the path of a server's program, or skip the test because there is none."""
    newest_first = sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    for path in (os.environ.get("PATH", ""), *newest_first, *_SYSTEM_FOLDERS):
        if found := shutil.which(name, path=path):
            return found
    pytest.skip(f"{name} is not installed (`make servers` installs it where it may)")


def free_ports(count: int) -> list[int]:
    """Give ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(probe.getsockname()[1])
        return found


@contextlib.contextmanager
def folder(user: str | None = None) -> Iterator[Path]:
    """Make a folder with a name short enough for Unix sockets, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="aioxide-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        if user is not None:
            shutil.chown(name, user)
        yield Path(name)


def guarded(*command: str, user: str | None = None) -> list[str]:
    """Give a command line that ends with this process, and runs as another user if need be."""
    setpriv = find("setpriv")
    if user is None:
        return [setpriv, "--pdeathsig", "KILL", *command]
    entry = pwd.getpwnam(user)
    identity = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return [setpriv, *identity, "--pdeathsig", "KILL", *command]


@dataclass
class Certificates:
    """An authority of our own, a server's certificate and a client's, as files."""

    authority: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str


def write_certificates(where: Path, client: str) -> Certificates:
    """Make certificates for 127.0.0.1 and localhost, and for a client of a name."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(where / "authority.pem")
    names = {"authority": str(where / "authority.pem")}
    for role, certificate in (
        ("server", authority.issue_cert("127.0.0.1", "localhost")),
        ("client", authority.issue_cert(common_name=client)),
    ):
        certificate.cert_chain_pems[0].write_to_path(where / f"{role}.pem")
        certificate.private_key_pem.write_to_path(where / f"{role}.key")
        (where / f"{role}.key").chmod(0o600)
        names |= {f"{role}_cert": str(where / f"{role}.pem")}
        names |= {f"{role}_key": str(where / f"{role}.key")}
    return Certificates(**names)


# --- PostgreSQL ----------------------------------------------------------------------------------


@dataclass
class Postgres:
    """A running PostgreSQL with one superuser, reached by its Unix socket or over TLS."""

    socket_folder: str
    port: int
    certificates: Certificates
    user: str = "tester"
    database: str = "postgres"
    password: str = field(default_factory=lambda: secrets.token_hex(8))

    def options(self, host: str | None = None) -> dict[str, str | int]:
        """Give the connection's options as both drivers spell them, but for the database."""
        return {
            "host": host or self.socket_folder,
            "port": self.port,
            "user": self.user,
            "password": self.password,
        }


_POSTGRES_ACCESS = """\
local all all scram-sha-256
hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
"""
_POSTGRES_SETTINGS = """\
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 60
log_destination = stderr
logging_collector = off
ssl = on
"""


@contextlib.contextmanager
def start_postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL cluster of its own; it refuses to run as root and runs as another then."""
    initdb, postgres = find("initdb"), find("postgres")
    user = None if os.geteuid() else "postgres"
    with folder(user) as base, contextlib.ExitStack() as stack:
        certificates = write_certificates(base, "certified")
        server = Postgres(str(base), 0, certificates)
        data = base / "data"
        (base / "password").write_text(server.password)
        for name in base.iterdir():
            shutil.chown(name, user or os.geteuid())
        subprocess.run(
            guarded(
                *(initdb, "--pgdata", str(data), "--username", server.user, "--auth=scram-sha-256"),
                *("--pwfile", str(base / "password"), "--no-sync", "--encoding=UTF8", "--locale=C"),
                user=user,
            ),
            check=True,
            capture_output=True,
            cwd=base,
            timeout=WAIT_SECONDS_MAX,
        )
        (data / "pg_hba.conf").write_text(_POSTGRES_ACCESS)
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(_POSTGRES_SETTINGS)
            settings.write(f"ssl_cert_file = '{certificates.server_cert}'\n")
            settings.write(f"ssl_key_file = '{certificates.server_key}'\n")
            settings.write(f"ssl_ca_file = '{certificates.authority}'\n")
        for attempt in range(PORT_ATTEMPTS_MAX):
            (server.port,) = free_ports(1)
            command = (postgres, "-D", str(data), "-p", str(server.port), "-k", str(base))
            command += ("-c", "listen_addresses=127.0.0.1")
            process = stack.enter_context(Process(*guarded(*command, user=user), cwd=base))
            outcome = process.wait_line("ready to accept connections|could not bind|FATAL")
            if "ready" in outcome[0]:
                break
            assert "bind" in outcome[0] or attempt < PORT_ATTEMPTS_MAX - 1, process.said()
        yield server
        assert process.stop(signal.SIGINT) == 0, process.said()


# --- Redis ---------------------------------------------------------------------------------------


@dataclass
class Redis:
    """A running Redis, reached by its Unix socket; killing it is a test's good right."""

    path: str
    password: str
    process: Process


@contextlib.contextmanager
def start_redis() -> Iterator[Redis]:
    """Start a Redis that asks for a password and keeps nothing."""
    server = find("redis-server")
    with folder() as base:
        path, password = str(base / "redis.sock"), secrets.token_hex(8)
        command = (server, "--port", "0", "--unixsocket", path, "--save", "", "--dir", str(base))
        with Process(*guarded(*command, "--requirepass", password), cwd=base) as process:
            process.wait_line("eady to accept connections")
            yield Redis(path, password, process)


def ask_redis(port: int, command: bytes) -> bytes:
    """Give the answer to a command that needs no more than a packet."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(65536)


@contextlib.contextmanager
def start_redis_cluster() -> Iterator[list[int]]:
    """Start three Redis masters that share the slots, and give their ports."""
    find("redis-server")
    find("redis-cli")
    with contextlib.ExitStack() as stack:
        for attempt in range(CLUSTER_ATTEMPTS_MAX):
            with contextlib.ExitStack() as nodes:
                base = nodes.enter_context(folder())
                ports = _start_cluster_nodes(base, nodes)
                if problem := _join_cluster(ports):
                    assert attempt < CLUSTER_ATTEMPTS_MAX - 1, problem
                    continue
                stack.enter_context(nodes.pop_all())
                break
        yield ports


def _start_cluster_nodes(base: Path, stack: contextlib.ExitStack) -> list[int]:
    """Start three Redis servers that know nothing of each other yet, and give their ports."""
    server = find("redis-server")
    ports: list[int] = []
    for attempt in range(PORT_ATTEMPTS_MAX * 3):
        port, bus = free_ports(2)
        home = base / str(attempt)
        home.mkdir()
        process = stack.enter_context(
            Process(
                *guarded(server, "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
                *("--cluster-enabled", "yes", "--cluster-port", str(bus), "--dir", str(home)),
                cwd=home,
            )
        )
        if "eady" in process.wait_line("eady to accept connections|in use|Failed|FATAL")[0]:
            ports.append(port)
        if len(ports) == 3:
            break
    return ports


def _join_cluster(ports: list[int]) -> str | None:
    """Make a cluster of servers; give what went wrong, if anything did."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    command = [find("redis-cli"), "--cluster", "create", *addresses, "--cluster-yes"]
    try:
        # It asks for ever when a greeting between two servers got lost.
        made = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=CLUSTER_SECONDS_MAX
        )
    except subprocess.TimeoutExpired as error:
        return f"the servers do not find each other: {error.stdout!r}"
    if f"All {CLUSTER_SLOTS} slots covered" not in made.stdout:
        return made.stdout + made.stderr
    deadline = time.monotonic() + CLUSTER_SECONDS_MAX
    while not all(b"cluster_state:ok" in ask_redis(port, b"CLUSTER INFO") for port in ports):
        if time.monotonic() > deadline:
            return "the cluster does not come up"
    return None


# --- nginx ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_nginx(base: Path, site: str) -> Iterator[int]:
    """Start nginx with a `server` block's contents, `PORT` in it standing for a free port."""
    nginx = find("nginx")
    base.joinpath("temporary").mkdir(exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {base}/temporary/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    with contextlib.ExitStack() as stack:
        for attempt in range(PORT_ATTEMPTS_MAX):
            (port,) = free_ports(1)
            (base / "nginx.conf").write_text(
                f"{user}daemon off;\nmaster_process on;\nworker_processes 1;\n"
                f"pid {base}/nginx.pid;\nerror_log stderr notice;\n"
                "events { worker_connections 512; }\n"
                f"http {{\naccess_log off;\n{paths}{site.replace('PORT', str(port))}\n}}\n"
            )
            command = (nginx, "-p", str(base), "-e", "stderr", "-c", str(base / "nginx.conf"))
            process = stack.enter_context(Process(*guarded(*command), cwd=base))
            outcome = process.wait_line("start worker process |emerg")
            if "worker" in outcome[0]:
                break
            assert attempt < PORT_ATTEMPTS_MAX - 1, process.said()
        yield port
        assert process.stop(signal.SIGTERM) == 0, process.said()

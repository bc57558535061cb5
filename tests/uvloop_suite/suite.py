"""Runs uvloop's test modules on aioxide and judges the outcome; see `uvloop_worker.py`.

The tests come from uvloop's source distribution, which `make test` puts into the environment
(`uvloop-suite` in it). Nothing of it is in this tree. May start processes and write below the
folder that it is given.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cpython import harness

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.toml"
# A worker mostly sleeps, so that these fit on two cores.
WORKERS = 3
#: The classes that expect what asyncio does, and those that expect what uvloop does: each on
#: asyncio (the control) and on aioxide. A test counts when it passes on asyncio.
AIO = harness.Suite("asyncio's classes", loop="aioxide:Loop")
AIO_CONTROL = harness.Suite("asyncio's classes")
UV = harness.Suite("uvloop's classes", loop="aioxide:Loop")
UV_CONTROL = harness.Suite("uvloop's classes")
CONTROLS = {AIO: AIO_CONTROL, UV: UV_CONTROL}
#: About uvloop's sources, its C library and its Cython interface.
LEFT_OUT = {
    "test_cython": "a coroutine compiled into uvloop",
    "test_fs_event": "file system events, which asyncio does not have",
    "test_libuv_api": "pointers of libuv",
    "test_sourcecode": "flake8 and mypy over uvloop's sources",
}
#: Tests that hang on asyncio, which does not do what they wait for.
HANGS = {
    "test_sockets.TestUVSockets.test_socket_connect_and_close": "an operation on a closed socket",
    "test_tcp.Test_UV_TCPSSL.test_shutdown_timeout_handler_not_set": "eof_received() under TLS",
}


def archive() -> Path | None:
    """Return uvloop's source distribution, if the environment has it."""
    found = sorted(Path(sys.prefix, "uvloop-suite").glob("uvloop-*.tar.gz"))
    return found[-1] if found else None


def unpack(source: Path, target: Path) -> None:
    """Lay out below `target` uvloop's tests and the `uvloop` that they are to import."""
    with tarfile.open(source) as tar:
        top = source.name.removesuffix(".tar.gz")
        wanted = [
            member
            for member in tar.getmembers()
            if member.name.startswith(f"{top}/tests/")
            or member.name == f"{top}/uvloop/_testbase.py"
        ]
        tar.extractall(target, wanted, filter="data")
    (target / top / "tests").rename(target / "tests")
    (target / top / "uvloop").rename(target / "uvloop")
    shutil.copy(HERE / "stub.py", target / "uvloop" / "__init__.py")


def chosen(names: Iterable[str]) -> list[str]:
    """Return the test modules to run among the files in `names`."""
    stems = {Path(name).stem for name in names if Path(name).match("tests/test_*.py")}
    return sorted(stems - set(LEFT_OUT))


def modules(tree: Path) -> list[str]:
    """Return the test modules to run of those that were unpacked."""
    return chosen(str(path) for path in (tree / "tests").iterdir())


def run(suite: harness.Suite, module: str, tree: Path) -> harness.Outcome:
    """Run one module's classes of one suite."""
    request: dict[str, object] = {
        "module": f"tests.{module}",
        "classes": suite.name.partition("'")[0],
        "loop": suite.loop,
        "leave_out": list(HANGS),
    }
    return harness.run_request(HERE / "uvloop_worker.py", request, [str(tree)])


class Runs:
    """Runs each case and its control once, several side by side. Use it in a `with`."""

    def __init__(self, tree: Path, cases: Iterable[tuple[harness.Suite, str]]) -> None:
        self._expected = harness.load_expected(EXPECTED)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="uvloop-suite")
        self._outcomes: dict[tuple[harness.Suite, str], Future[harness.Outcome]] = {
            (wanted, module): self._pool.submit(run, wanted, module, tree)
            for suite, module in cases
            for wanted in (CONTROLS[suite], suite)
        }

    def verdict(self, suite: harness.Suite, module: str) -> harness.Verdict:
        """Judge a module, as soon as it has run."""
        control = self._outcomes[CONTROLS[suite], module].result()
        subject = self._outcomes[suite, module].result()
        return harness.judge(suite, module, control, subject, self._expected)

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)

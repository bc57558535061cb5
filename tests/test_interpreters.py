"""Which interpreters take aioxide, and what the others are told; no warning comes from aioxide.

Every check runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

PACKAGE = Path(__file__).parent.parent / "python"
SECONDS_MAX = 60


def run(
    program: str, *options: str, python: str = sys.executable, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a program text in an interpreter of its own."""
    return subprocess.run(
        [python, *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        env={**os.environ, **env},
        check=False,
    )


def good(result: subprocess.CompletedProcess[str]) -> str:
    """Give the output of a program that must have ended well and said nothing wrong."""
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


# ---- interpreters that are refused --------------------------------------------------------------

REFUSED = """
import sys, types
{patch}
try:
    import aioxide
except ImportError as error:
    print(type(error).__name__, error)
else:
    print("taken")
"""


PYPY = """
known = {**vars(sys.implementation), 'name': 'pypy'}
sys.implementation = types.SimpleNamespace(**known)
"""


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ("sys.platform = 'darwin'", "aioxide needs Linux; this is darwin"),
        ("sys.platform = 'win32'", "aioxide needs Linux; this is win32"),
        (
            PYPY,
            "aioxide needs CPython; this is pypy",
        ),
        (
            "sys.version_info = (3, 10, 4, 'final', 0)",
            "aioxide needs Python 3.11 or later; this is 3.10",
        ),
    ],
)
def test_unsupported(patch: str, told: str) -> None:
    """Other platforms, implementations and versions get an ImportError that says so."""
    assert good(run(REFUSED.format(patch=patch))) == f"ImportError {told}\n"


def test_no_native_part(tmp_path: Path) -> None:
    """A package without the extension of this interpreter says that, and what it was."""
    shutil.copytree(
        PACKAGE / "aioxide", tmp_path / "aioxide", ignore=shutil.ignore_patterns("*.so", "__py*")
    )
    told = good(run(REFUSED.format(patch=f"sys.path.insert(0, {str(tmp_path)!r})"), "-P"))
    assert told.startswith("ImportError aioxide has no native part for this interpreter (cpython-")


def test_an_extension_that_fails_says_why(tmp_path: Path) -> None:
    """Any other failure of the native part's import comes out as it is."""
    shutil.copytree(
        PACKAGE / "aioxide", tmp_path / "aioxide", ignore=shutil.ignore_patterns("*.so", "__py*")
    )
    (tmp_path / "aioxide" / "_aioxide.py").write_text("import no_such_module_of_ours\n")
    told = good(run(REFUSED.format(patch=f"sys.path.insert(0, {str(tmp_path)!r})"), "-P"))
    assert told == "ModuleNotFoundError No module named 'no_such_module_of_ours'\n"


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10"])
def test_old_pythons(version: str) -> None:
    """A Python that is too old can read as far as the reason."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(
        str(p) for p in Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python")
    )
    for python in filter(None, candidates):
        probe = run("import sys; print(sys.version_info[:2])", python=python)
        if probe.returncode == 0:
            break
    else:
        pytest.skip(f"no Python {version} here")
    told = good(run(REFUSED.format(patch=""), python=python, PYTHONPATH=str(PACKAGE)))
    assert told == f"ImportError aioxide needs Python 3.11 or later; this is {version}\n"


# ---- subinterpreters ----------------------------------------------------------------------------

INSIDE = """
import sys
try:
    import aioxide
except ImportError as error:
    assert 'subinterpreters' in str(error), error
    print('refused', flush=True)
else:
    print('taken', flush=True)
print('goes on', flush=True)
"""

SUBINTERPRETERS = """
import importlib, sys
inside = {inside!r}

def by_module(**options):
    try:
        import _interpreters as low
    except ImportError:
        import _xxsubinterpreters as low
    made = low.create(**options)
    interp = made[0] if isinstance(made, tuple) else made
    failed = (low.exec if hasattr(low, 'exec') else low.run_string)(interp, inside)
    assert failed is None, failed
    low.destroy(interp)

def isolated():
    if sys.version_info < (3, 13):
        by_module(isolated=True)
    else:
        import _interpreters as low
        interp = low.create('isolated')
        assert low.exec(interp, inside) is None
        low.destroy(interp)

def legacy():
    if sys.version_info < (3, 13):
        import _testcapi
        assert _testcapi.run_in_subinterp(inside) == 0
    else:
        import _interpreters as low
        interp = low.create('legacy')
        assert low.exec(interp, inside) is None
        low.destroy(interp)

def use():
    import aioxide
    async def main():
        server = await aioxide.start_server(lambda r, w: w.close(), '127.0.0.1', 0)
        reader, writer = await aioxide.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b''
        writer.close()
        server.close()
        return type(aioxide.get_running_loop()) is aioxide.Loop
    assert aioxide.run(main())
    print('used', flush=True)

for step in {steps!r}.split():
    globals()[step]()
"""


@pytest.mark.parametrize(
    "steps",
    [
        "isolated",
        "legacy",
        "use isolated use",
        "use legacy use",
        "legacy use legacy use",
        "isolated use isolated isolated legacy use",
    ],
)
def test_subinterpreters(steps: str) -> None:
    """A subinterpreter, with or without a GIL of its own, is refused; the main one works on."""
    if "legacy" in steps and sys.version_info < (3, 13):
        pytest.importorskip("_testcapi")
    told = good(run(SUBINTERPRETERS.format(inside=INSIDE, steps=steps))).split("\n")
    expected = []
    for step in steps.split():
        expected += ["used"] if step == "use" else ["refused", "goes on"]
    assert told[:-1] == expected


# ---- warnings -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a file with a key and a certificate for localhost."""
    path = tmp_path_factory.mktemp("warnings") / "localhost.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    return str(path)


BROAD = Path(__file__).parent / "broad.py"


@pytest.mark.parametrize("ways", [["-W", "error"], ["-W", "error", "-X", "dev"]])
def test_a_broad_program_without_a_warning(
    ways: list[str], certificate: str, tmp_path: Path
) -> None:
    """No warning of any kind comes from aioxide, its compilation included."""
    result = subprocess.run(
        [sys.executable, *ways, str(BROAD), certificate],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        env={**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)},
        check=False,
    )
    assert good(result).splitlines()[-1] == "all done"


@pytest.mark.parametrize("name", ["install", "policy", "module", "star"])
def test_ways_in_without_a_warning(name: str, tmp_path: Path) -> None:
    """Installing, the policy, `python -m aioxide` and `import *` warn of nothing themselves."""
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio\n"
        "async def main():\n    return type(asyncio.get_running_loop()).__module__\n"
        "print(asyncio.run(main()))\n"
    )
    programs = {
        "install": f"import aioxide, pathlib\naioxide.install()\n"
        f"exec(pathlib.Path({str(script)!r}).read_text())",
        "policy": "import aioxide, warnings\n"
        "policy = aioxide.EventLoopPolicy()\n"
        "loop = policy.new_event_loop()\nprint(type(loop).__module__)\nloop.close()",
        "module": "import runpy, sys\n"
        f"sys.argv = ['aioxide', {str(script)!r}]\n"
        "runpy.run_module('aioxide', run_name='__main__', alter_sys=True)",
        "star": "from aioxide import *\nimport aioxide\n[getattr(aioxide, n) for n in dir(aioxide)"
        " if 'olicy' not in n and n != 'iscoroutinefunction']\nprint('aioxide.loop')",
    }
    assert good(run(programs[name], "-W", "error")) == "aioxide.loop\n"

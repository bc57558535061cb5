"""What stands around the code: the finder of interpreters, the verbs of make, the CI script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def find_pythons(tmp_path: Path, *named: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the finder where there is no other interpreter than the ones named."""
    env = {
        "AIOXIDE_PYTHONS": os.pathsep.join(map(str, named)),
        "PATH": str(tmp_path),
        "PYENV_ROOT": str(tmp_path),
    }
    command = [sys.executable, "-I", str(ROOT / "tools" / "pythons.py")]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=200
    )


def script(path: Path, text: str) -> Path:
    """Writes a program that stands for an interpreter."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_finder_finds_this_interpreter_once(tmp_path: Path) -> None:
    found = find_pythons(tmp_path, sys.executable, tmp_path / "absent", sys.executable)
    assert found.stdout == f"{VERSION} {sys.executable}\n"
    assert found.returncode == 0


def test_finder_leaves_out_what_it_cannot_use(tmp_path: Path) -> None:
    old = script(tmp_path / "old", "echo 3.10")
    broken = script(tmp_path / "broken", f"echo {VERSION}; exit 1")
    found = find_pythons(tmp_path, old, broken)
    assert found.stdout == ""
    assert found.returncode == 1
    assert "no supported Python" in found.stderr


def test_finder_sorts_by_version(tmp_path: Path) -> None:
    newer = script(tmp_path / "newer", "echo 3.15")
    older = script(tmp_path / "older", "echo 3.11")
    found = find_pythons(tmp_path, newer, older)
    assert found.stdout.splitlines() == [f"3.11 {older}", f"3.15 {newer}"]


def test_servers_are_no_condition(tmp_path: Path) -> None:
    """Where nothing is installed and nothing can be, the verb says so and the build goes on."""
    script(tmp_path / "id", "echo 1000")
    command = ["/bin/sh", str(ROOT / "tools" / "servers")]
    # Its own folders are looked at too, so what is missing depends on the machine.
    said = subprocess.run(
        command,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert said.stdout == "" or "their tests will be skipped" in said.stdout
    assert said.stderr == ""


RUSTC = """case $1 in
  --print) echo "$PWD/sysroot";;
  -vV) printf 'rustc 1.0.0\\nhost: here\\nLLVM version: 22.1.2\\n';;
esac"""
PROFDATA = "sysroot/lib/rustlib/here/bin/llvm-profdata"


@pytest.mark.parametrize(
    ("programs", "answer", "words"),
    [
        pytest.param({PROFDATA: ""}, "1", "", id="with the toolchain"),
        pytest.param(
            {"bin/rustup": f'[ "$*" = "component add llvm-tools" ] && ln -s /bin/true {PROFDATA}'},
            "1",
            "asking rustup",
            id="fetched",
        ),
        pytest.param(
            {"bin/rustup": "exit 1"}, "0", "no llvm-profdata of LLVM 22", id="not to be had"
        ),
        pytest.param(
            {"bin/llvm-profdata": "echo '  LLVM version 22.9'"}, "1", "", id="of the system"
        ),
        pytest.param(
            {"bin/llvm-profdata": "echo '  LLVM version 14.0.6'"}, "0", "of LLVM 22", id="too old"
        ),
        pytest.param({}, "0", "rustup component add llvm-tools", id="nothing"),
    ],
)
def test_profile_is_no_condition(
    tmp_path: Path, programs: dict[str, str], answer: str, words: str
) -> None:
    """Where a profile cannot be made, the verb says so and the build goes on without."""
    (tmp_path / PROFDATA).parent.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("sed", "head", "timeout", "ln"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    for name, text in {"bin/rustc": RUSTC, **programs}.items():
        script(tmp_path / name, text)
    said = subprocess.run(
        ["/bin/sh", str(ROOT / "tools" / "profile")],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert said.stdout == f"{answer}\n"
    assert words in said.stderr
    assert bool(words) == bool(said.stderr)


def test_training_runs_every_part() -> None:
    """What a build with a profile runs ends by itself, here with little of everything."""
    few = "train.ROUNDS = 200; net.MESSAGES = {64: 3, 100_000: 2}; net.DATAGRAMS = net.LINES = 10"
    code = f"import train, train_network as net; {few}; train.main()"
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_make_alone_lists_the_verbs() -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    listed = subprocess.run(
        ["make"], cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=200
    )
    verbs = set(re.findall(r"^  ([a-z-]+) +\S", listed.stdout, re.MULTILINE))
    promised = {"dev", "demo", "test", "test-all", "lint", "miri", "loom", "fuzz", "bench", "docs"}
    assert promised <= verbs


def test_ci_calls_the_verbs_of_the_makefile() -> None:
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert "make lint test" in ci.read_text()

"""Whole runs of the benchmark suite, also stopped ones that go on, and the load that it puts on."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import cases
import collect
import environment
import families
import further
import load
import loops
import run
import store

BENCHES = Path(store.__file__).parent
EFFORT = cases.Effort("quick", 3, 0.001, 20)


def case(measure: Callable[[str, cases.Effort], cases.Samples]) -> cases.Case:
    """A case by the name of `a`."""
    return cases.Case("a", "a", (cases.Metric("wall", "time", "ns"),), measure)


# --- what is kept ---


def test_what_is_there_is_not_measured_again() -> None:
    calls: list[str] = []

    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        calls.append(entrant)
        return {"wall": [1.0]}

    cells = {
        ("a", "whole"): collect.Cell([{"wall": [2.0]}] * EFFORT.rounds),
        ("a", "begun"): collect.Cell([{"wall": [2.0]}]),
        ("a", "bad"): collect.Cell([], "it broke"),
    }
    collect.collect([case(measure)], ["whole", "begun", "bad", "new"], EFFORT, cells=cells)
    assert calls.count("begun") == EFFORT.rounds - 1
    assert calls.count("new") == EFFORT.rounds
    assert set(calls) == {"begun", "new"}
    assert {len(cell.rounds) for cell in cells.values()} == {0, EFFORT.rounds}


def test_a_run_is_kept_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WRITE_S_MIN", 0.0)
    made = store.Run({"python": "3"}, EFFORT, {}, ["a"], ["x", "y"])
    keeper = store.Keeper(tmp_path / "it", made)
    seen: list[int] = []

    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        if keeper.path.with_suffix(".json").exists():
            kept = store.read(tmp_path / "it.json")
            seen.append(sum(len(cell.rounds) for cell in kept.cells.values()))
        if entrant == "y":
            raise cases.Failure("it broke")
        return {"wall": [1.0]}

    chosen = [case(measure)]
    collect.collect(chosen, made.here, EFFORT, cells=made.cells, keep=keeper.keep)
    assert seen == [1, 1, 2]
    kept = store.read(tmp_path / "it.json")
    # Times are rounded in the file.
    for cell in (*made.cells.values(), *kept.cells.values()):
        cell.seconds = 0.0
    assert kept == made
    assert [each.name for each in tmp_path.iterdir()] == ["it.json"]


def test_sittings_of_one_run_have_one_environment() -> None:
    before = {"cpu": "x", "python": "3.14", "versions": {"uvloop": "1"}, "load_at_start": 0.5}
    assert store.differences(before, {**before, "load_at_start": 1.5}) == ""
    told = store.differences(before, {**before, "versions": {"uvloop": "2"}})
    assert told == "versions: {'uvloop': '1'} then, {'uvloop': '2'} now"


def test_how_long_it_takes_is_told() -> None:
    told = dataclasses.replace(case(lambda *_: {}), takes=lambda effort: 7.0 * effort.samples)
    planned = list(collect.schedule([told], ["x", "y", "bad"], EFFORT))
    assert collect.expected_s(planned, EFFORT, {}) == 7.0 * EFFORT.samples * EFFORT.rounds * 3
    # What was measured says more than what was expected; what is there takes nothing.
    cells = {
        ("a", "x"): collect.Cell([{"wall": [1.0]}] * 2, seconds=120.0),
        ("a", "y"): collect.Cell([{"wall": [1.0]}] * EFFORT.rounds, seconds=120.0),
        ("a", "bad"): collect.Cell([], "it broke", 60.0),
    }
    assert collect.expected_s(planned, EFFORT, cells) == 60.0


def test_the_full_form_is_run_in_one_sitting() -> None:
    """By what its parts say that they take at most with every loop of ours and others'."""
    effort = cases.EFFORTS["full"]
    planned = list(collect.schedule(run.choose([], "full"), loops.LOOPS, effort))
    assert collect.expected_s(planned, effort, {}) + effort.further_s < 50 * 60
    # Whatever differs from round to round has a median and a spread.
    once = {each.name for each in run.choose([], "full") if each.rounds(effort) == 1}
    assert all(name.startswith(("instructions-", "memory-")) for name in once)


def test_a_plan_measures_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "run.py"), "--plan", "--results", str(tmp_path)]
    asked = ["--only", "sleep0", "start-again", "--loops", "asyncio"]
    done = subprocess.run([*command, *asked], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    # The limit takes part in the first.
    assert "| scheduling | 1 | 6 | 0.0 min |" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("| all | 2 | 9 |")
    assert not list(tmp_path.iterdir())


def test_further_rounds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run whose loops were as fast as each other, by a clock that says otherwise at random."""
    walls = {"asyncio": iter("355" + "4" * 6), "aioxide": iter("246" + "3" * 6)}

    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        return {"wall": [float(next(walls[entrant]))]}

    chosen = [case(measure)]
    family = families.Family("a", "a", "a", chosen)
    monkeypatch.setattr(families, "FAMILIES", (family,))
    record = environment.record([loops.CONTROL])
    environment.finish(record, 0.0, {})
    effort = dataclasses.replace(EFFORT, further_s=10.0)
    made = store.Run(record, effort, {}, ["a"], ["asyncio", "aioxide"])
    collect.collect(chosen, made.here, effort, cells=made.cells)
    assert "have more" not in run.text("wall", chosen, made)
    assert "open: 1" in run.text("wall", chosen, made)
    further.collect_further(chosen, effort, made.cells)
    assert [len(cell.rounds) for cell in made.cells.values()] == [further.ROUNDS_MAX] * 2
    told = run.text("wall", chosen, made)
    assert "Of 1 cases that were open" in told
    assert "ahead: 1: a (1.33x asyncio)" in told


# --- the whole ---


def test_a_run_leaves_all_samples_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "run.py"), "--results", str(tmp_path)]
    asked = ["--only", "sleep0", "--loops", "asyncio,aioxide", "--seconds", "0.001"]
    done = subprocess.run(
        [*command, *asked, "--rounds", "1", "--save", "it"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "it.json"
    saved = json.loads(path.read_text())
    assert [cell["entrant"] for cell in saved["cells"]] == ["asyncio", "aioxide", "c-limit"]
    assert all(len(cell["rounds"]) == 1 for cell in saved["cells"])
    assert saved["environment"]["kernel"]
    assert saved["environment"]["libraries"]["httpx"] == importlib.metadata.version("httpx")
    assert (tmp_path / "it.md").read_text() in done.stdout
    # Without matplotlib a run has no picture, and says so.
    drawn = {"it.svg", "it.png"} if importlib.util.find_spec("matplotlib") else set()
    assert {each.name for each in tmp_path.iterdir()} == {"it.json", "it.md"} | drawn

    lost = saved["cells"].pop(0)["entrant"]
    saved["effort"]["rounds"] = 2
    path.write_text(json.dumps(saved))
    done = subprocess.run([*command, "--resume", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "in 2 sittings" in done.stdout
    later = json.loads(path.read_text())
    rounds = {cell["entrant"]: cell["rounds"] for cell in later["cells"]}
    assert [len(each) for each in rounds.values()] == [2, 2, 2]
    kept = {cell["entrant"]: cell["rounds"][0] for cell in saved["cells"]}
    assert kept == {name: each[0] for name, each in rounds.items() if name != lost}


def test_a_run_goes_on_in_its_environment_only(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    record = environment.record([loops.CONTROL])
    assert record["build"] in ("debug", "release", "release, with a profile")
    store.write(path.with_suffix(""), store.Run(record, EFFORT, {}, ["sleep0"], [loops.CONTROL]))
    options = argparse.Namespace(resume=path)
    assert run.start(options).record["sittings"] == 2
    before = {**record, "cpu": "another"}
    store.write(path.with_suffix(""), store.Run(before, EFFORT, {}, ["sleep0"], [loops.CONTROL]))
    with pytest.raises(SystemExit, match="cpu: another then"):
        run.start(options)


def test_ctrl_c_ends_a_run_that_can_go_on(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "run.py"), "--results", str(tmp_path)]
    command += ["--only", "sleep0", "--loops", "asyncio", "--rounds", "100000", "--save", "it"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("1/100000 sleep0 asyncio")
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"--resume {tmp_path}/it.json goes on" in errors
    assert printed.startswith("# Benchmark")
    assert json.loads((tmp_path / "it.json").read_text())["asked"]["cases"] == ["sleep0"]


# --- the load ---


@pytest.mark.parametrize("kind", ["echo", "churn"])
def test_load_reaches_the_limit(kind: str) -> None:
    counts = load.measure(load.LIMIT, "tcp", "echo", load.Load(kind, 2, 100, requests=50))
    assert counts["all"] == 50
    assert counts["server_cpu"] > 0


def test_load_waits_for_an_answer_on_each_connection() -> None:
    what = load.Load("echo", 50, 100 * 1024, measure_ms=1, warmup_ms=0)
    counts = load.measure(load.LIMIT, "tcp", "echo", what)
    assert counts["requests"] >= 50
    assert counts["seconds"] > 0.001


def test_load_does_not_exceed_its_time_otherwise() -> None:
    what = load.Load("echo", 1, 10, measure_ms=50, warmup_ms=0)
    counts = load.measure(load.LIMIT, "tcp", "echo", what)
    # On a machine that stood still meanwhile the one answer it has to have is all it has.
    assert counts["seconds"] == 0.05 or counts["requests"] == 1


def test_what_comes_with_the_first_line_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"requests": 1, "bytes": 0}
    both = f"ready\n{json.dumps(counts)}\n".encode()
    client = [sys.executable, "-c", f"import os; os.write(1, {both!r})"]
    monkeypatch.setattr(load, "client_command", lambda *_: client)
    with load.running([sys.executable, "-c", "print(0, flush=True); input()"]) as (server, _):
        assert load.apply("tcp:0", load.Load(), server).items() >= counts.items()


def lie(listener: socket.socket) -> None:
    """Answers one message with another of its length."""
    client, _ = listener.accept()
    with client:
        client.sendall(bytes(len(client.recv(100))))


def test_load_takes_no_wrong_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=partial(lie, listener))
        server.start()
        target = f"tcp:{listener.getsockname()[1]}"
        command = load.client_command(target, load.Load("echo", 1, 10, 1000))
        done = subprocess.run(command, capture_output=True, text=True)
        server.join()
    assert done.returncode == 1
    assert "the answer is wrong" in done.stderr

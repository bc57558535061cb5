"""The benchmark suite's own logic: order, statistics, what the report says. Never speed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

import cases
import chart
import collect
import echo
import families
import inside
import instructions
import limit_loop
import lines
import load
import loops
import pending
import primitive_rows
import rows
import run
import store
import tables

BENCHES = Path(tables.__file__).parent
ROW_MODULES = (rows, primitive_rows)

RATE = cases.Metric("rate", "throughput", "requests/s", higher_is_better=True)
TIME = cases.Metric("wall", "time", "ns")
EFFORT = cases.Effort("quick", 3, 0.001, 20)
TWO = cases.Effort("full", 2, 0.001, 20)


def line(metric: cases.Metric = TIME, beside: tuple[str, ...] = (), **medians: float) -> lines.Line:
    """A line with one round of one sample for each entrant."""
    samples = {name.replace("_", "-"): [value] for name, value in medians.items()}
    return lines.Line("case", "title", metric, samples, {}, beside)


def case(name: str, measure: object = None, **options: object) -> cases.Case:
    """A case that gives 1.0, if it gives anything."""
    give = measure or (lambda entrant, effort: {"wall": [1.0]})
    return cases.Case(name, name, (TIME,), give, **options)  # type: ignore[arg-type]


# --- order ---


def test_rounds_interleave_and_rotate() -> None:
    order = [
        (turn, each.name, entrant)
        for turn, each, entrant in collect.schedule([case("a"), case("b")], ["x", "y", "z"], TWO)
    ]
    first = [(0, name, loop) for name in "ab" for loop in "xyz"]
    second = [(1, name, loop) for name in "ab" for loop in "yzx"]
    assert order == first + second


def test_a_case_may_want_fewer_rounds() -> None:
    chosen = [case("a", short_rounds=1), case("b")]
    order = [(turn, each.name) for turn, each, _ in collect.schedule(chosen, ["x"], EFFORT)]
    assert order == [(0, "a"), (0, "b"), (1, "b"), (2, "b")]


def test_our_loop_alone_takes_part_where_it_may_differ() -> None:
    here = [loops.CONTROL, loops.SUBJECT, loops.SUBJECT_LOOP]
    assert collect.entrants(case("a", beside=("limit",)), here) == [*here[:2], "limit"]
    assert collect.entrants(case("a", primitives=True), here) == here


def test_what_does_not_vary_is_counted_once() -> None:
    chosen = [case("a", rounds_max=1, short_rounds=2), case("b", short_rounds=1)]
    order = [(turn, each.name) for turn, each, _ in collect.schedule(chosen, ["x"], TWO)]
    assert order == [(0, "a"), (0, "b"), (1, "b")]
    limited = case("a", rounds_max=2, short_rounds=1)
    assert (limited.rounds(EFFORT), limited.rounds(TWO)) == (1, 2)


def test_each_form_has_its_cases() -> None:
    chosen = {form: {each.name for each in run.choose([], form)} for form in ("short", "full")}
    assert chosen["short"] - chosen["full"] == {"pending"}
    assert chosen["full"] >= {"pending-all", "pending-timers", "memory-tls-streams", "churn"}


def test_every_case_has_a_name_of_its_own() -> None:
    names = [each.name for each in families.CASES]
    assert len(names) == len(set(names))
    short = {family.name for family in families.FAMILIES if any(c.short for c in family.cases)}
    # Callgrind takes longer than the short form may.
    assert short == {family.name for family in families.FAMILIES} - {"instructions"}


# --- failures ---


def test_what_went_wrong_is_not_said_by_valgrind() -> None:
    text = "Error: it broke\n==12== for lists of errors\n--12-- it at http\n"
    assert cases.last_line(text) == "Error: it broke"
    assert cases.last_line("==12== only that") == ""


def test_a_failure_is_kept_and_the_others_go_on() -> None:
    calls: list[str] = []

    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        calls.append(entrant)
        if entrant == "bad":
            raise cases.Failure("it broke")
        return {"wall": [1.0]}

    cells = collect.collect([case("a", measure)], ["good", "bad"], EFFORT)
    assert sorted(calls) == ["bad", "good", "good", "good"]
    assert cells["a", "bad"].failure == "it broke"
    made = lines.make(case("a"), TIME, cells)
    assert "**failed**" in tables.table([made])
    assert tables.failures([made]) == "- bad, a: it broke"


def test_a_mistake_of_ours_loses_no_other_number() -> None:
    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        return {"wall": [1 / int(entrant)]}

    cells = collect.collect([case("a", measure)], ["0", "1"], EFFORT)
    assert cells["a", "0"].failure.startswith("the benchmark itself: ZeroDivisionError")
    assert len(cells["a", "1"].rounds) == EFFORT.rounds


def test_who_is_stuck_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "CELL_S_MAX", 0.05)

    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        if entrant == "stuck":
            threading.Event().wait()
        return {"wall": [1.0]}

    cells = collect.collect([case("a", measure)], ["stuck", "well"], EFFORT)
    assert cells["a", "stuck"].failure == "no result within 0.05 s"
    assert len(cells["a", "well"].rounds) == EFFORT.rounds


def test_what_was_measured_before_a_stop_is_kept() -> None:
    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        if entrant == "stopped":
            raise KeyboardInterrupt
        return {"wall": [1.0]}

    cells: collect.Cells = {}
    with pytest.raises(KeyboardInterrupt):
        collect.collect([case("a", measure)], ["well", "stopped"], EFFORT, cells=cells)
    assert cells["a", "well"].rounds == [{"wall": [1.0]}]
    assert tables.table([lines.make(case("a"), TIME, cells)])


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
    collect.collect([case("a", measure)], ["whole", "begun", "bad", "new"], EFFORT, cells=cells)
    assert calls.count("begun") == EFFORT.rounds - 1
    assert calls.count("new") == EFFORT.rounds
    assert set(calls) == {"begun", "new"}
    assert {len(cell.rounds) for cell in cells.values()} == {0, EFFORT.rounds}


def test_a_run_is_kept_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WRITE_S_MIN", 0.0)
    run = store.Run({"python": "3"}, EFFORT, {}, ["a"], ["x", "y"])
    keeper = store.Keeper(tmp_path / "it", run)
    seen: list[int] = []

    def measure(entrant: str, effort: cases.Effort) -> cases.Samples:
        if keeper.path.with_suffix(".json").exists():
            kept = store.read(tmp_path / "it.json")
            seen.append(sum(len(cell.rounds) for cell in kept.cells.values()))
        if entrant == "y":
            raise cases.Failure("it broke")
        return {"wall": [1.0]}

    chosen = [case("a", measure)]
    collect.collect(chosen, run.here, EFFORT, cells=run.cells, keep=keeper.keep)
    assert seen == [1, 1, 2]
    # Times are rounded in the file.
    for cell in run.cells.values():
        cell.seconds = 0.0
    assert store.read(tmp_path / "it.json") == run
    assert [each.name for each in tmp_path.iterdir()] == ["it.json"]


def test_sittings_of_one_run_have_one_environment() -> None:
    before = {"cpu": "x", "python": "3.14", "versions": {"uvloop": "1"}, "load_at_start": 0.5}
    assert store.differences(before, {**before, "load_at_start": 1.5}) == ""
    told = store.differences(before, {**before, "versions": {"uvloop": "2"}})
    assert told == "versions: {'uvloop': '1'} then, {'uvloop': '2'} now"


def test_how_long_it_takes_is_told_when_it_is_known() -> None:
    cells = {
        ("a", "x"): collect.Cell([{"wall": [1.0]}] * 2, seconds=120.0),
        ("a", "y"): collect.Cell([], "it broke", 60.0),
    }
    assert collect.left([("a", "x"), ("a", "y")], cells) == ", about 1 min left"
    assert collect.left([("a", "x"), ("a", "z")], cells) == ""


def test_a_late_failure_hides_no_number() -> None:
    cells = {("a", "x"): collect.Cell([{"wall": [2.0]}, {"wall": [4.0]}], "later")}
    text = tables.table([lines.make(case("a"), TIME, cells)])
    assert "3 <sub>2..4</sub> **(failed later)**" in text


def test_a_loop_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(cases.Failure, match="invalid choice: 'nosuchloop'"):
        inside.measure(rows.ROWS["sleep0"], "sleep0", "nosuchloop", EFFORT)


# --- the limit inside one process ---


LIMITED = [name for module in ROW_MODULES for name, row in module.ROWS.items() if row.limited]


@pytest.mark.parametrize("name", LIMITED)
def test_a_row_with_a_limit_runs_there(name: str) -> None:
    try:
        limit_loop.compiled()
    except SystemExit as missing:
        pytest.skip(str(missing))
    command = [sys.executable, str(BENCHES / "measure.py"), loops.LIMIT, name, "--count", "2500"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_limit_is_measured_beside_the_loops() -> None:
    named = {case.name: case.beside for case in (*inside.SCHEDULING, *inside.PRIMITIVES)}
    assert {name for name, beside in named.items() if beside == (loops.LIMIT,)} == set(LIMITED)


# --- statistics ---


def test_a_round_is_the_median_of_its_samples() -> None:
    cell = collect.Cell([{"wall": [9.0, 1.0, 2.0]}, {"wall": [4.0]}, {"cpu": [7.0]}])
    assert lines.numbers(cell, "wall") == [2.0, 4.0]
    assert lines.numbers(collect.Cell([{"wall": [9.0, 1.0, 2.0]}]), "wall") == [9.0, 1.0, 2.0]
    assert lines.numbers(collect.Cell(), "wall") == []


@pytest.mark.parametrize(
    ("metric", "ratio", "best"), [(TIME, 2.0, "uvloop"), (RATE, 0.25, "rloop")]
)
def test_ratios_say_how_many_times_better(metric: cases.Metric, ratio: float, best: str) -> None:
    made = line(metric, asyncio=400, uvloop=200, rloop=800, aioxide=100 if metric is TIME else 200)
    assert made.best_peer() == best
    assert made.advantage("aioxide", best) == ratio


def test_who_does_not_compete_is_no_peer() -> None:
    made = line(beside=("c-epoll", "node"), c_epoll=1, node=2, aioxide_loop=3, asyncio=9, aioxide=4)
    assert made.best_peer() == "asyncio"
    assert made.limit() == "c-epoll"


@pytest.mark.parametrize(
    ("ours", "side", "shown"),
    [(50, "ahead", "2.00x uvloop"), (101, "level", "0.99x uvloop"), (200, "behind", "**0.50x")],
)
def test_losses_are_as_plain_as_wins(ours: float, side: str, shown: str) -> None:
    made = line(uvloop=100, aioxide=ours)
    assert made.side() == side
    assert tables.verdict(made).startswith(shown)
    assert f"- {side}: 1: title" in tables.summary([made])


def test_a_case_without_our_number_is_counted() -> None:
    made = lines.Line("case", "title", TIME, {"uvloop": [1.0], "aioxide": []}, {"aioxide": "no"})
    assert "- no number: 1: title" in tables.summary([made])
    assert tables.verdict(made) == ""


def test_table_has_a_column_for_each_entrant() -> None:
    table = tables.table([line(RATE, ("c-epoll",), aioxide=90, asyncio=30, c_epoll=100)])
    head, _, row = table.splitlines()
    assert head == "|  | asyncio | aioxide | c-epoll | of limit | to asyncio | to best peer |"
    assert row == "| title (requests/s) | 30 | 90 | 100 | 0.90 | 3.00x | 3.00x asyncio |"


# --- the picture ---


def test_picture_is_relative_to_the_control() -> None:
    made = lines.Line("a", "b", TIME, {"asyncio": [2.0], "aioxide": [1.0]}, {"rloop": "no"})
    assert chart.relative(made, "aioxide") == 2.0
    assert chart.relative(made, "rloop") is None
    lasting = lines.Line("a", "b", TIME, {"asyncio": [4.0], "aioxide": [1.0, 2.0, 4.0]}, {})
    assert chart.spread(lasting, "aioxide") == (1.0, 4.0)


def test_growth_is_told_where_it_is_too_much() -> None:
    def cells(ratio: float) -> collect.Cells:
        grown = {pending.growth_key(row): [ratio] for row in pending.SHORT_ROWS}
        return {("pending", loops.SUBJECT): collect.Cell([grown])}

    assert pending.remarks(cells(pending.GROWTH_MAX)).endswith("none.")
    assert "call_later + cancel" in pending.remarks(cells(pending.GROWTH_MAX + 0.1))


def test_no_datagram_is_larger_than_the_network_allows() -> None:
    names = {each.name for each in echo.CASES if each.name.startswith("echo-udp-")}
    assert "echo-udp-10KiB-1" in names
    assert "echo-udp-100KiB-1" not in names


def test_either_clock_has_its_own_metrics() -> None:
    several = next(each for each in pending.CASES if each.name == "pending-all")
    for clock in ("wall", "cpu"):
        told = run.shown(several, clock)
        assert len(told.metrics) == len(several.metrics) / 2
        assert [metric.title for metric in told.compared] == [
            f"{row.title}, {pending.TO:,} pending" for row in rows.ROWS.values()
        ]
        grown = {pending.growth_key(row, clock): [9.0] for row in rows.ROWS}
        cells = {("pending-all", loops.SUBJECT): collect.Cell([grown])}
        assert pending.remarks(cells, clock).count("9.00x") == len(rows.ROWS)


CALLGRIND = """\
positions: line
events: Ir
summary: 190
ob=(1) /lib/python
fn=(1) evaluate
10 40
+2 30
cob=(2) /site/_aioxide.so
cfi=(9) task.rs
cfn=(2) step
calls=1 5
* 120
fi=(3) other.c
-1 5
ob=(2)
fl=(9)
fn=(2)
5 50
fi=(4) inlined.rs
7 60
* 5
"""


def test_instructions_are_counted_where_they_are_spent(tmp_path: Path) -> None:
    output = tmp_path / "callgrind.out"
    output.write_text(CALLGRIND)
    spent = instructions.functions(output)
    assert spent == {("evaluate", "/lib/python"): 75, ("step", "/site/_aioxide.so"): 115}


@pytest.mark.skipif(
    not (shutil.which("valgrind") and shutil.which("callgrind_control")),
    reason="valgrind is not installed",
)
def test_instructions_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "COUNTS", (100, 300))
    everything, own, listed = instructions.count(loops.SUBJECT, "lock", top=3)
    assert 0 < own < everything
    assert listed.count("\n") == 2


# --- the whole ---


def test_a_run_leaves_all_samples(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "run.py"), "--only", "sleep0", "--rounds", "2"]
    command += ["--loops", "asyncio,aioxide", "--seconds", "0.001", "--results", str(tmp_path)]
    done = subprocess.run([*command, "--save", "it"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "it.json").read_text())
    entrants = {cell["entrant"] for cell in saved["cells"]}
    assert entrants == {"asyncio", "aioxide", "c-limit"}
    assert all(len(cell["rounds"]) == 2 for cell in saved["cells"])
    assert saved["environment"]["kernel"]
    assert (tmp_path / "it.md").read_text() in done.stdout
    assert saved["environment"]["libraries"]["httpx"] == importlib.metadata.version("httpx")
    # Without matplotlib a run has no picture, and says so.
    drawn = {"it.svg", "it.png"} if importlib.util.find_spec("matplotlib") else set()
    assert {each.name for each in tmp_path.iterdir()} == {"it.json", "it.md"} | drawn


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "run.py"), "--results", str(tmp_path)]
    asked = ["--only", "sleep0", "--loops", "asyncio,aioxide", "--seconds", "0.001", "--save", "it"]
    subprocess.run([*command, *asked, "--rounds", "1"], capture_output=True, check=True)
    path = tmp_path / "it.json"
    saved = json.loads(path.read_text())
    first = saved["cells"].pop(0)
    saved["effort"]["rounds"] = 2
    path.write_text(json.dumps(saved))
    done = subprocess.run([*command, "--resume", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    later = json.loads(path.read_text())
    assert later["environment"]["sittings"] == 2
    assert "in 2 sittings" in done.stdout
    rounds = {cell["entrant"]: cell["rounds"] for cell in later["cells"]}
    assert [len(each) for each in rounds.values()] == [2, 2, 2]
    kept = {cell["entrant"]: cell["rounds"][0] for cell in saved["cells"]}
    assert kept == {name: each[0] for name, each in rounds.items() if name != first["entrant"]}
    # What was measured elsewhere is not mixed with it.
    later["environment"]["cpu"] = "another"
    path.write_text(json.dumps(later))
    done = subprocess.run([*command, "--resume", str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cpu: another then" in done.stderr


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

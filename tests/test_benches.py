"""The benchmark suite's own logic: order, statistics, what the report says. Never speed."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cases
import chart
import collect
import echo
import families
import further
import inside
import instructions
import limit_loop
import lines
import load
import loops
import memory
import pending
import primitive_rows
import rows
import run
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
    limited = case("a", short_rounds=2, full_rounds=1)
    assert (limited.rounds(EFFORT), limited.rounds(TWO)) == (2, 1)


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


def test_a_late_failure_hides_no_number() -> None:
    cells = {("a", "x"): collect.Cell([{"wall": [2.0]}, {"wall": [4.0]}], "later")}
    text = tables.table([lines.make(case("a"), TIME, cells)])
    assert "3 <sub>2..4</sub> **(failed later)**" in text


def test_who_cannot_be_counted_says_so_at_once() -> None:
    (name,) = instructions.UNANSWERED
    with pytest.raises(cases.Failure, match="no answer under callgrind"):
        instructions.measure_case("uvicorn", name, EFFORT)


def test_connections_that_nobody_makes_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "HOLD_S_MAX", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"tcp:{silent.getsockname()[1]}"
        with (
            load.running([sys.executable, "-c", "print(0, flush=True); input()"]) as (server, _),
            pytest.raises(cases.Failure, match=r"could not be made within 0\.05 s"),
        ):
            memory.held(server, target, 1)


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


# --- further rounds ---


def test_one_round_is_enough_for_what_nothing_is_compared_with() -> None:
    chosen = [case("a", beside=("limit", "other"), once=("other",))]
    order = [(turn, entrant) for turn, _, entrant in collect.schedule(chosen, ["x"], TWO)]
    assert order == [(0, "x"), (0, "limit"), (0, "other"), (1, "limit"), (1, "x")]


TAIL = cases.Metric("p99_us", "p99", "µs", aim=True)


def rounds(wall: str, tail: str = "11111") -> collect.Cell:
    """A cell with a round for each digit, each of which took a second."""
    both = zip(wall, tail, strict=False)
    made: list[cases.Samples] = [{"wall": [float(a)], "p99_us": [float(b)]} for a, b in both]
    return collect.Cell(made, seconds=float(len(made)))


def open_cells(**peers: collect.Cell) -> collect.Cells:
    return {("a", name): cell for name, cell in peers.items()}


def further_plan(cells: collect.Cells, further_s: float = 100.0) -> list[tuple[int, str]]:
    chosen = [dataclasses.replace(case("a"), metrics=(TIME, TAIL))]
    effort = dataclasses.replace(EFFORT, further_s=further_s)
    return [(turn, name) for turn, _, name in further.schedule(chosen, effort, cells)]


def test_what_is_open_has_further_rounds() -> None:
    cells = open_cells(aioxide=rounds("246"), uvloop=rounds("355"), asyncio=rounds("999"))
    plan = further_plan(cells)
    # Who is surely behind us has none. Nobody is always the first.
    assert plan[:4] == [(3, "uvloop"), (3, "aioxide"), (4, "aioxide"), (4, "uvloop")]
    assert len(plan) == 2 * (further.ROUNDS_MAX - 3)
    # Wins that are not sure have as many as losses that are not.
    turned = open_cells(uvloop=rounds("246"), aioxide=rounds("355"), asyncio=rounds("999"))
    assert sorted(further_plan(turned)) == sorted(plan)
    for name in ("aioxide", "uvloop"):
        cells["a", name].rounds += rounds("9" * 4).rounds
    # What is there of them changes nothing: the plan is made by the first rounds alone.
    assert further_plan(cells) == plan


@pytest.mark.parametrize("peer", ["255", "111", "246"])
def test_what_is_sure_has_no_further_rounds(peer: str) -> None:
    assert further_plan(open_cells(aioxide=rounds("244"), uvloop=rounds(peer))) == []


def test_what_is_aimed_at_has_further_rounds_too() -> None:
    cells = open_cells(aioxide=rounds("111", "246"), uvloop=rounds("222", "355"))
    assert len(further_plan(cells)) == 2 * (further.ROUNDS_MAX - 3)


def test_further_rounds_end_in_time() -> None:
    cells = open_cells(aioxide=rounds("246"), uvloop=rounds("355"))
    one, two = [(3, "uvloop"), (3, "aioxide")], [(4, "aioxide"), (4, "uvloop")]
    assert further_plan(cells, further_s=4.5) == [*one, *two]
    assert further_plan(cells, further_s=0.0) == []


def test_who_failed_is_asked_no_more() -> None:
    cells = open_cells(aioxide=rounds("246"), uvloop=rounds("355"))
    cells["a", "uvloop"].failure = "it broke"
    assert further_plan(cells) == []


# --- statistics ---


def test_few_rounds_have_to_agree() -> None:
    assert [lines.dissenters_max(count) for count in range(1, 13)] == [0] * 8 + [1] * 3 + [2]


def several(**entrants: str) -> lines.Line:
    """A line with a round for each digit, of which more is better."""
    samples = {name: [float(digit) for digit in digits] for name, digits in entrants.items()}
    return lines.Line("case", "title", RATE, samples, {})


@pytest.mark.parametrize(
    ("ours", "theirs", "side"),
    [
        ("555", "444", "ahead"),
        ("545", "433", "ahead"),
        ("554", "444", "ahead"),
        ("553", "444", "open"),
        ("444", "553", "open"),
        ("444", "555", "behind"),
        ("445", "444", "level"),
        ("555555553", "444444444", "ahead"),
        ("555555533", "444444444", "open"),
        ("444444444", "555555553", "behind"),
        # The medians say one thing, the rounds another.
        ("195", "289", "open"),
    ],
)
def test_who_is_ahead_is_said_where_the_rounds_agree(ours: str, theirs: str, side: str) -> None:
    made = several(aioxide=ours, uvloop=theirs)
    assert made.side() == side
    assert f"- {side}: 1: title" in tables.summary([made])


def test_a_sure_loss_is_one_beside_an_unsure_one() -> None:
    made = several(aioxide="444", uvloop="393", rsloop="555", zuvloop="939")
    assert made.best_peer() == "zuvloop"
    assert made.side() == "behind"


def test_a_win_is_one_over_everybody() -> None:
    assert several(aioxide="555", uvloop="444", rsloop="933").side() == "open"
    assert several(aioxide="555", uvloop="555", rsloop="944").side() == "level"


def test_rounds_are_shown_where_they_do_not_agree() -> None:
    made = several(aioxide="448", uvloop="555")
    assert tables.verdict(made) == "**0.80x uvloop, open (0.80..1.60)**"
    assert tables.verdict(several(aioxide="553", uvloop="444")) == "1.25x uvloop, open (0.75..1.25)"
    told = tables.others([made])
    assert told == (
        "- throughput: ahead 0, level 0, open 1, behind 0: "
        "title (**0.80x uvloop, open (0.80..1.60)**)"
    )


def test_who_has_fewer_rounds_is_compared_in_those() -> None:
    made = several(aioxide="555999", uvloop="444")
    assert made.advantage("aioxide", "uvloop") == 1.25
    assert made.ratios("aioxide", "uvloop") == [1.25] * 3


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


def test_losses_by_other_metrics_are_named() -> None:
    tail = cases.Metric("p99_us", "p99", "µs")
    chosen = [dataclasses.replace(case(name), metrics=(TIME, tail)) for name in "ab"]
    given = {
        ("a", "uvloop"): 1.0,
        ("a", "aioxide"): 2.0,
        ("b", "uvloop"): 2.0,
        ("b", "aioxide"): 1.0,
    }
    cells = {
        key: collect.Cell([{"wall": [1.0], "p99_us": [value]}]) for key, value in given.items()
    }
    told = tables.others(lines.others(chosen, cells))
    assert told == "- p99: ahead 1, level 0, open 0, behind 1: a (**0.50x uvloop**)"
    assert tables.others(lines.others([case("a")], cells)) == ""


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

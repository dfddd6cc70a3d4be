"""The guard of the hot path's cost: what it compares, what it says, what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.guard import __main__ as guard
from bench.guard.dumps import FunctionCost, read_dump
from bench.guard.profile import plain_name, profile
from bench.guard.verdicts import (
    DRIFT,
    GROWTH,
    TOLERANCE,
    WIDE_TOLERANCE,
    Growth,
    Verdict,
    choose_yardstick,
    compare,
    grown,
    table,
)
from bench.workloads import REFERENCE, WORKLOADS

KEY = "cpython-3.11-x86_64-gcc-12"
FEW, MANY = GROWTH[0][1], GROWTH[0][0]


def figures(**changes: int) -> dict[str, int]:
    """100,000 for every workload, but for some."""
    return {**dict.fromkeys(WORKLOADS, 100_000), **changes}


def verdict(before: int, after: int, tolerance: float = TOLERANCE) -> Verdict:
    (one,) = compare({"a": before}, {"a": after}, tolerance)
    return one.verdict


# Comparing.


def test_the_same_is_all_right() -> None:
    assert verdict(1000, 1000) is Verdict.OK


def test_within_the_tolerance_both_ways() -> None:
    assert verdict(100_000, round(100_000 * (1 + TOLERANCE))) is Verdict.OK
    assert verdict(100_000, round(100_000 * (1 - TOLERANCE))) is Verdict.OK


def test_beyond_the_tolerance() -> None:
    assert verdict(100_000, round(100_000 * (1 + TOLERANCE)) + 1) is Verdict.DEARER
    assert verdict(100_000, round(100_000 * (1 - TOLERANCE)) - 1) is Verdict.CHEAPER


def test_workloads_of_only_one_side() -> None:
    new, gone = compare({"old": 5}, {"young": 7}, TOLERANCE)
    assert (new.name, new.verdict, new.change) == ("young", Verdict.NEW, None)
    assert (gone.name, gone.verdict, gone.change) == ("old", Verdict.GONE, None)


def test_the_change_is_a_share_of_the_baseline() -> None:
    (one,) = compare({"a": 200}, {"a": 250}, TOLERANCE)
    assert one.change == pytest.approx(0.25)


# Which baseline.


def choose(keys: list[str], key: str, *, reference: int = 1000) -> tuple[str, float] | None:
    chosen = choose_yardstick(
        {known: {REFERENCE: 1000} for known in keys}, key, {REFERENCE: reference}, REFERENCE
    )
    return None if chosen is None else (chosen.key, chosen.tolerance)


def test_a_platform_has_its_own_baseline() -> None:
    keys = ["cpython-3.10-x86_64-gcc-12", KEY, "cpython-3.11-x86_64-gcc-9"]
    assert choose(keys, KEY) == (KEY, TOLERANCE)


def test_another_compiler_is_compared_widely() -> None:
    keys = ["cpython-3.10-x86_64-gcc-13", "cpython-3.11-aarch64-gcc-13", KEY]
    assert choose(keys, "cpython-3.11-x86_64-gcc-13") == (KEY, WIDE_TOLERANCE)


def test_another_python_is_compared_widely() -> None:
    assert choose([KEY], "cpython-3.12-x86_64-gcc-12") == (KEY, WIDE_TOLERANCE)


def test_no_baseline_of_the_same_machine() -> None:
    assert choose([KEY], "cpython-3.11-aarch64-gcc-12") is None
    assert choose([], KEY) is None


@pytest.mark.parametrize("side", [1, -1])
def test_another_build_of_python_shows_by_the_reference(side: int) -> None:
    at_most = round(1000 * DRIFT)
    assert choose([KEY], KEY, reference=1000 + side * at_most) == (KEY, TOLERANCE)
    assert choose([KEY], KEY, reference=1000 + side * (at_most + 1)) == (KEY, WIDE_TOLERANCE)


# Growth.


def test_growth_is_a_quotient_with_a_limit() -> None:
    growth = grown(figures(**{FEW: 100_000, MANY: 119_000}))[0]
    assert growth.quotient == pytest.approx(1.19)
    assert growth.is_ok
    assert not grown(figures(**{MANY: 121_000}))[0].is_ok


def test_what_must_not_grow_is_measured() -> None:
    assert {name for one in GROWTH for name in one[:2]} <= set(WORKLOADS)


# What is printed, and the exit status.


def test_the_table() -> None:
    comparisons = compare({"a": 1000, "b": 1000, "c": 1}, {"a": 1100, "b": 1000, "d": 2}, 0.03)
    text = table(comparisons, [Growth("e", 1.5, 1.2)]).splitlines()
    assert text[1].split() == ["a", "1,000", "1,100", "+10.0", "%", "DEARER"]
    assert text[2].split() == ["b", "1,000", "1,000", "+0.0", "%", "ok"]
    assert text[3].split() == ["d", "-", "2", "-", "no", "baseline"]
    assert text[4].split() == ["c", "1", "-", "-", "gone"]
    assert text[-1].split() == ["e", "1.20", "1.500", "GROWS"]


@pytest.fixture
def baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "baselines.json"
    path.write_text(json.dumps({KEY: figures()}))
    monkeypatch.setattr(guard, "BASELINES", path)
    return path


def look(now: dict[str, int], key: str = KEY, **options: bool) -> int:
    return guard.look(now, key, **{"update": False, "as_json": False, **options})


@pytest.mark.usefixtures("baselines")
def test_dearer_fails_and_names_the_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert look(figures()) == 0
    assert "all is well, within 3%" in capsys.readouterr().err
    assert look(figures(**{"connector GET 1 KiB": 110_000})) == 1
    assert "dearer by more than 3%: connector GET 1 KiB" in capsys.readouterr().err


@pytest.mark.usefixtures("baselines")
def test_cheaper_is_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert look(figures(**{"connector GET 1 KiB": 50_000})) == 0
    assert "1 cheaper by more than 3%" in capsys.readouterr().err


@pytest.mark.usefixtures("baselines")
def test_growth_fails_without_a_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    other = "cpython-3.11-aarch64-clang-16"
    assert look(figures(), other) == 0
    assert f"no baseline for {other}: only growth was judged" in capsys.readouterr().err
    assert look(figures(**{MANY: 200_000}), other) == 1
    assert f"grows more than 1.2 times: {MANY}" in capsys.readouterr().err


@pytest.mark.usefixtures("baselines")
def test_another_build_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    now = {name: round(count * 1.2) for name, count in figures().items()}
    assert look(now) == 0
    assert "within 25% instead of 3%" in capsys.readouterr().err


def test_update_keeps_other_platforms(baselines: Path) -> None:
    other = "cpython-3.12-x86_64-gcc-12"
    assert look(figures(**{FEW: 7}), other, update=True) == 0
    assert json.loads(baselines.read_text()) == {KEY: figures(), other: figures(**{FEW: 7})}


def test_marks_of_a_merge_are_told(baselines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baselines.write_text("<<<<<<< HEAD\n{}")
    assert look(figures(), update=True) == 1
    assert "is no JSON" in capsys.readouterr().err


@pytest.mark.usefixtures("baselines")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    look(figures(**{"connector GET 1 KiB": 110_000}), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["platform"], told["baseline"], told["tolerance"]) == (KEY, KEY, TOLERANCE)
    one = next(one for one in told["workloads"] if one["name"] == "connector GET 1 KiB")
    assert one["verdict"] == "DEARER"
    assert one["change"] == pytest.approx(0.1)
    assert [growth["ok"] for growth in told["growth"]] == [True] * len(GROWTH)


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("false", 0), ("", 0)])
def test_without_valgrind(
    ci: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "why_not", lambda: "valgrind is not installed")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("sys.argv", ["bench-guard"])
    monkeypatch.setenv("CI", ci)
    assert guard.main() == status
    assert "valgrind is not installed" in capsys.readouterr().err


def test_the_committed_baselines_know_every_workload() -> None:
    for known in json.loads(guard.BASELINES.read_text()).values():
        assert list(known) == list(WORKLOADS)


# What callgrind writes.

DUMP = """\
# callgrind format
desc: Trigger: Client Request: some work
positions: line
events: Ir
summary: 115
fl=(1) a.c
fn=(1) outer
1 10
+2 5
cfn=(2) inner
calls=3 7
* 90
fn=(2)
7 88
8
cfn=(2)
calls=1 7
8 40
fn=(3) __pyx_f_8underpass_4core_2h2_12H2Connection_on_frame
3 12
totals: 115
"""


def test_a_dump() -> None:
    dump = read_dump(DUMP.splitlines(keepends=True))
    assert (dump.name, dump.total) == ("some work", 115)
    assert dump.functions["outer"] == FunctionCost(own=15, inclusive=105)
    # What a function spends in itself, called by itself, counts once.
    assert dump.functions["inner"] == FunctionCost(own=88, inclusive=88)


def test_a_profile() -> None:
    text = profile(read_dump(DUMP.splitlines()), 5).splitlines()
    assert text[0] == "some work: 23 instructions"
    assert text[3].split() == ["17", "76.5", "%", "inner"]


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("llhttp__internal__run", "llhttp__internal__run"),
        ("__pyx_f_9underpass_4core_6fields_token_of", "underpass.core.fields.token_of"),
        (
            "__pyx_f_9underpass_4core_2h2_12H2Connection_on_frame",
            "underpass.core.h2.H2Connection.on_frame",
        ),
        (
            "__pyx_pw_9underpass_4core_8endpoint_8Endpoint_11buffer_updated",
            "underpass.core.endpoint.Endpoint.buffer_updated",
        ),
        (
            "__pyx_f_9underpass_4core_11headerblock_write_base64.isra.0",
            "underpass.core.headerblock.write_base64.isra.0",
        ),
    ],
)
def test_names(symbol: str, name: str) -> None:
    assert plain_name(symbol) == name


# The workloads.


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_work_again_and_again(name: str) -> None:
    work = WORKLOADS[name].make()
    for _ in range(20):
        work()

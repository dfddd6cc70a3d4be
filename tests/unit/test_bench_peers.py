"""The benchmark of peers: its arithmetic, its verdicts, what it writes and what it would run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("resource", reason="bench.peers reads the accounts of Unix")

from bench.peers import h2load
from bench.peers.__main__ import _estimate
from bench.peers.budgets import BUDGETS, OURS, Budget, Verdict
from bench.peers.figures import Spread, latencies, percentile, ratios
from bench.peers.loads import HTTP1, MANY, TUNNELS, Load, all_loads
from bench.peers.peers import Kind, Running
from bench.peers.publish import BEGIN, END, MAIN, PLOTS, check, publish
from bench.peers.report import COLUMNS, number, report
from bench.peers.samples import Document, Sample


def of_rounds(peer: str, load: str, metric: str, *values: float) -> list[Sample]:
    """One sample a round, of rounds 1, 2, …; none where the value is negative."""
    return [
        Sample(peer, at, load, {metric: value}) for at, value in enumerate(values, 1) if value >= 0
    ]


def document(*samples: Sample) -> Document:
    return Document({"date": "2026-01-02", "versions": {"nginx": "1.22"}, "rounds": 2}, samples)


class TestFigures:
    @pytest.mark.parametrize(
        ("part", "expected"),
        [(0.0, 1), (0.5, 5), (0.51, 6), (0.9, 9), (0.99, 10), (1.0, 10)],
    )
    def test_a_percentile_is_one_of_the_values(self, part: float, expected: int) -> None:
        assert percentile(range(1, 11), part) == expected

    def test_a_percentile_of_one_value(self) -> None:
        assert percentile([7.0], 0.999) == 7.0

    def test_a_percentile_of_nothing(self) -> None:
        with pytest.raises(ValueError, match="of nothing"):
            percentile([], 0.5)

    def test_latencies_are_milliseconds_in_any_order(self) -> None:
        found = latencies([at / 1000 for at in range(1000, 0, -1)])
        assert found == pytest.approx(
            {"p50_ms": 500.0, "p90_ms": 900.0, "p99_ms": 990.0, "p999_ms": 999.0}
        )

    def test_latencies_of_nothing_are_not_made_up(self) -> None:
        assert latencies([]) == {}

    def test_a_spread(self) -> None:
        assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
        assert Spread.of([1.0, 2.0]).median == 1.5

    def test_ratios_are_of_rounds_that_have_both(self) -> None:
        assert ratios({1: 10.0, 2: 30.0, 4: 9.0}, {1: 5.0, 2: 10.0, 3: 1.0}) == [2.0, 3.0]

    def test_ratios_leave_out_what_nothing_can_be_divided_by(self) -> None:
        assert ratios({1: 10.0, 2: 10.0}, {1: 0.0, 2: 5.0}) == [2.0]

    @pytest.mark.parametrize(
        ("value", "text"),
        [(12345.6, "12,346"), (100.4, "100"), (99.44, "99.4"), (0.01234, "0.0123"), (0.0, "0")],
    )
    def test_three_digits_that_matter(self, value: float, text: str) -> None:
        assert number(value) == text


class TestBudgets:
    BUDGET = Budget("work", "load", "cpu_us", "cloudflared", 0.5)

    def verdict(self, budget: Budget, *samples: Sample) -> Verdict:
        return budget.verdict(document(*samples))[0]

    def both(self, ours: float, theirs: float) -> list[Sample]:
        return [
            *of_rounds(OURS, "load", "cpu_us", ours),
            *of_rounds("cloudflared", "load", "cpu_us", theirs),
        ]

    def test_met_at_the_goal(self) -> None:
        assert self.verdict(self.BUDGET, *self.both(5, 10)) is Verdict.MET

    def test_missed(self) -> None:
        assert self.verdict(self.BUDGET, *self.both(6, 10)) is Verdict.MISSED

    def test_more_is_better(self) -> None:
        budget = Budget("work", "load", "cpu_us", "cloudflared", 2.0, more_is_better=True)
        assert self.verdict(budget, *self.both(20, 10)) is Verdict.MET
        assert self.verdict(budget, *self.both(19, 10)) is Verdict.MISSED

    def test_not_measured(self) -> None:
        ours_only = of_rounds(OURS, "load", "cpu_us", 1, 2)
        assert self.BUDGET.verdict(document(*ours_only)) == (Verdict.UNKNOWN, None)

    def test_pair_by_pair(self) -> None:
        """A quiet round and a busy one have the same ratio; the medians' quotient is another."""
        found = self.BUDGET.verdict(
            document(
                *of_rounds(OURS, "load", "cpu_us", 1, 40, 3, -1),
                *of_rounds("cloudflared", "load", "cpu_us", 10, 100, -1, 1),
            )
        )
        assert found == (Verdict.MET, Spread(0.25, 0.1, 0.4))

    def test_against_itself(self) -> None:
        budget = Budget("growth", "many", "cpu_us", OURS, 1.2, baseline="few")
        few = of_rounds(OURS, "few", "cpu_us", 10)
        others = of_rounds("cloudflared", "few", "cpu_us", 1)
        many = of_rounds(OURS, "many", "cpu_us", 12)
        assert self.verdict(budget, *few, *others, *many) is Verdict.MET
        more = of_rounds(OURS, "many", "cpu_us", 13)
        assert self.verdict(budget, *few, *others, *more) is Verdict.MISSED

    def test_what_is_promised_is_measured(self) -> None:
        """Of loads that are one reading, whose names say what budgets can ask for."""
        names = {load.name for load in all_loads()}
        grown = ("idle WebSockets", "open streams")
        for budget in BUDGETS:
            for load in filter(None, (budget.load, budget.baseline)):
                assert load in names or any(curve in load for curve in grown), load
            assert budget.metric in COLUMNS


RUN = document(
    *of_rounds("nginx", "GET 1 KiB x64", "cpu_us", 20, 22),
    *of_rounds("cloudflared", "GET 1 KiB x64", "cpu_us", 100, 110),
    *of_rounds(OURS, "GET 1 KiB x64", "cpu_us", 20, 33),
    Sample(OURS, 1, "start, one link", {"start_ms": 123.0}, retried=True),
    Sample("nginx", 2, "GET 16 KiB x64", error="it said no"),
    Sample(OURS, 1, "GET 1 KiB x64, 5 header fields", {"cpu_us": 1.0}, "header fields", 5),
)


class TestReport:
    def test_budgets(self) -> None:
        lines = report(RUN).splitlines()
        work = "GET 1 KiB, 64 concurrent: CPU a request"
        assert f"| {work} | cloudflared | 0.25 | 0.20–0.30 | ≤ 0.25 | met |" in lines
        assert f"| {work} | nginx | 1.25 | 1.00–1.50 | ≤ 1.7 | met |" in lines
        missing = [line for line in lines if line.endswith("| not measured |")]
        assert len(missing) == len(BUDGETS) - 2

    def test_failures(self) -> None:
        text = report(RUN)
        assert "- round 2, nginx, GET 16 KiB x64: **failed**: it said no" in text
        assert f"- round 1, {OURS}, start, one link: at the second attempt" in text
        assert "## Failures\n\nNone.\n" in report(document(*RUN.samples[:3]))

    def test_loads_have_the_columns_that_something_is_in(self) -> None:
        text = report(RUN)
        assert "### GET 1 KiB x64\n\n| peer | CPU µs/req |\n| --- | --- |\n| nginx | 21 |" in text
        assert (
            f"### start, one link\n\n| peer | start ms |\n| --- | --- |\n| {OURS} | 123 |" in text
        )
        assert "### GET 16 KiB x64" not in text

    def test_what_the_run_was(self) -> None:
        text = report(Document({**RUN.about, "workers": 2, "connector flags": []}, RUN.samples))
        assert "- versions: nginx: 1.22\n- rounds: 2\n- workers: 2\n" in text
        assert "connector flags" not in text


class TestPublishing:
    def page(self, directory: Path, text: str) -> Path:
        page = directory / "page.md"
        page.write_text(text)
        return page

    def test_what_is_between_the_comments_is_made_anew(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, f"# Before\n\n{BEGIN}\nold\n{END}\n\n## After\n")
        plots = [tmp_path / "page" / "latency.svg"]
        publish(RUN, page, plots)
        text = page.read_text()
        assert text.startswith(f"# Before\n\n{BEGIN}\n\n- date: 2026-01-02\n")
        assert text.endswith(f"\n\n{END}\n\n## After\n")
        assert "old" not in text
        assert "![Response times at fixed rates](page/latency.svg)" in text
        assert "**failed**: it said no" in text
        publish(RUN, page, plots)
        assert page.read_text() == text

    def test_the_main_table_has_a_row_for_what_was_measured(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, f"{BEGIN}{END}")
        publish(RUN, page, [])
        table = page.read_text().partition("### Figures")[2].splitlines()
        assert [line for line in table if line.startswith("|")] == [
            f"| load |  | nginx | cloudflared | {OURS} |",
            "| --- | --- | --- | --- | --- |",
            "| GET 1 KiB x64 | CPU µs/req | 21 | 105 | 26.5 |",
            "| start, one link | start ms |  |  | 123 |",
        ]

    @pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + END + BEGIN + END])
    def test_a_page_without_a_place(self, tmp_path: Path, text: str) -> None:
        page = self.page(tmp_path, text)
        with pytest.raises(ValueError, match=r"page\.md needs one line"):
            check(page)
        with pytest.raises(ValueError, match=r"page\.md needs one line"):
            publish(RUN, page, [])
        assert page.read_text() == text

    def test_the_documentation_has_a_place(self) -> None:
        check(Path(__file__).parents[2] / "docs" / "performance.md")

    def test_the_main_table_is_of_what_is_measured(self) -> None:
        names = {load.name for load in all_loads()}
        assert {load for load in MAIN if load not in names} == {"idle WebSockets x5000"}
        assert {metric for metrics in MAIN.values() for metric in metrics} <= COLUMNS.keys()


class TestPlots:
    def test_every_plot_with_figures_is_drawn_the_same_each_time(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from bench.peers.plots import draw

        run = document(
            *RUN.samples,
            *of_rounds(OURS, "download x1", "cpu_s_per_gib", 1, 2),
            *of_rounds("start", "start, one link", "idle_rss_mib", 30),
            Sample(OURS, 1, "GET 1 KiB, open loop 1000/s", {"p50_ms": 0.5, "p99_ms": 3.0}),
        )
        first = list(draw(run, tmp_path / "first"))
        second = list(draw(run, tmp_path / "second"))
        assert [path.stem for path in first] == list(PLOTS)
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes()
            assert b"<text" in one.read_bytes()

    def test_nothing_is_drawn_of_nothing(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from bench.peers.plots import draw

        assert list(draw(document(), tmp_path)) == []


class TestSamples:
    def test_they_come_back_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "run.json"
        RUN.write(path)
        assert Document.read(path) == Document(RUN.about, list(RUN.samples))
        assert json.loads(path.read_text())["samples"][-1]["at"] == 5

    def test_values_are_by_round_and_of_one_load(self) -> None:
        assert RUN.values(OURS, "GET 1 KiB x64", "cpu_us") == {1: 20, 2: 33}
        assert RUN.values(OURS, "GET 1 KiB x64", "p50_ms") == {}
        assert RUN.peers() == ["nginx", "cloudflared", OURS]


class TestCommandLines:
    def running(self, kind: Kind) -> Running:
        return Running("some", kind, "127.0.0.1:99", "name.localhost:99", cast(Any, None))

    @pytest.mark.parametrize("kind", [Kind.TUNNEL, Kind.FORWARDER])
    def test_connections_of_http1(self, kind: Kind) -> None:
        assert h2load.command(self.running(kind), "/1k", concurrent=64) == [
            "h2load", "-t1", "--h1", "-c64", "--connect-to=127.0.0.1:99",
            "http://name.localhost:99/1k",
        ]  # fmt: skip

    def test_streams_on_one_connection_to_a_proxy(self) -> None:
        assert h2load.command(self.running(Kind.PROXY), "/1k", concurrent=64) == [
            "h2load", "-t1", "-c1", "-m64", "https://127.0.0.1:99/1k",
        ]  # fmt: skip

    def test_what_may_be_added(self) -> None:
        command = h2load.command(
            self.running(Kind.TUNNEL),
            "/",
            concurrent=1,
            body=Path("/body"),
            headers=["a: b", "c: d"],
            rate=1000,
        )
        assert command[2:6] == ["-Ha: b", "-Hc: d", "-d/body", "--rps=1000"]


class TestEstimate:
    def load(self, kinds: frozenset[Kind], rounds: int = 1000) -> Load:
        return Load("some", lambda session, peer: iter(()), kinds, 10.0, rounds)

    def peers(self, *kinds: Kind) -> Any:
        return [cast(Any, type("Peer", (), {"kind": kind})) for kind in kinds]

    def test_a_load_counts_for_the_peers_it_is_for(self) -> None:
        peers = self.peers(Kind.TUNNEL, Kind.TUNNEL, Kind.PROXY, Kind.FORWARDER)
        assert _estimate([self.load(TUNNELS), self.load(HTTP1)], peers, 1, False) == 50

    def test_a_load_may_want_fewer_rounds(self) -> None:
        peers = self.peers(Kind.TUNNEL)
        assert _estimate([self.load(TUNNELS, 3), self.load(TUNNELS)], peers, 5, False) == 80

    def test_a_quick_run_takes_less(self) -> None:
        peers = self.peers(Kind.TUNNEL)
        assert 0 < _estimate([self.load(TUNNELS)], peers, 1, True) < 10


def test_no_two_loads_have_a_name() -> None:
    names = [load.name for load in all_loads()]
    assert len(set(names)) == len(names)
    assert f"{MANY} slow requests" in names

"""The performance instrument's arithmetic: what a run's figures become."""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from bench.peers import delay
from bench.peers.budgets import BUDGETS, Budget, Verdict
from bench.peers.figures import Spread, latencies, percentile, ratios
from bench.peers.report import COLUMNS, report
from bench.peers.samples import Document, Sample

LOAD = "GET 1 KiB x64"


def document(**figures: list[float | None]) -> Document:
    """A run of one load in which each peer's CPU was so much, round by round; None is a failure."""
    samples = [
        Sample(peer, number, LOAD, error="it broke")
        if value is None
        else Sample(peer, number, LOAD, {"cpu_us": value})
        for peer, values in figures.items()
        for number, value in enumerate(values, 1)
    ]
    return Document({"cpu": "abacus", "versions": {"nginx": "1.22"}}, samples)


class TestPercentile:
    @pytest.mark.parametrize(
        ("part", "expected"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)]
    )
    def test_is_the_value_that_so_many_do_not_exceed(self, part: float, expected: int) -> None:
        assert percentile(list(range(1, 101)), part) == expected

    def test_of_one_value_is_that_value(self) -> None:
        assert percentile([7.0], 0.999) == 7.0

    def test_of_nothing_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="nothing"):
            percentile([], 0.5)

    def test_what_one_in_two_hundred_had_to_wait_is_in_p999_only(self) -> None:
        found = latencies([0.001] * 995 + [0.5] * 5)
        assert found == {"p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0, "p999_ms": 500.0}

    def test_without_times_there_are_no_percentiles(self) -> None:
        assert latencies([]) == {}


class TestRatios:
    def test_are_made_within_each_round(self) -> None:
        assert ratios({1: 10, 2: 30}, {1: 100, 2: 60}) == [0.1, 0.5]

    def test_leave_out_rounds_that_only_one_has(self) -> None:
        assert ratios({1: 10, 2: 30, 3: 5}, {2: 60, 3: 0, 4: 1}) == [0.5]

    def test_spread(self) -> None:
        assert Spread.of([0.4, 0.2, 0.9]) == Spread(0.4, 0.2, 0.9)


class TestBudget:
    budget = Budget("work", LOAD, "cpu_us", "nginx", 2.0)

    def test_is_judged_by_the_median_of_the_ratios(self) -> None:
        # The ratio of the medians would be 3.
        run = document(underpass=[30, 30, 90], nginx=[10, 30, 90])
        verdict, spread = self.budget.verdict(run)
        assert (verdict, spread) == (Verdict.MET, Spread(1.0, 1.0, 3.0))

    @pytest.mark.parametrize(("ours", "verdict"), [(20.0, Verdict.MET), (20.1, Verdict.MISSED)])
    def test_is_met_up_to_the_goal(self, ours: float, verdict: Verdict) -> None:
        assert self.budget.verdict(document(underpass=[ours], nginx=[10]))[0] is verdict

    @pytest.mark.parametrize(("ours", "verdict"), [(5.0, Verdict.MET), (4.9, Verdict.MISSED)])
    def test_where_more_is_better_the_goal_is_the_least(
        self, ours: float, verdict: Verdict
    ) -> None:
        budget = Budget("work", LOAD, "cpu_us", "nginx", 5.0, more_is_better=True)
        assert budget.verdict(document(underpass=[ours], nginx=[1]))[0] is verdict

    def test_a_failed_load_is_not_a_budget_met(self) -> None:
        verdict, spread = self.budget.verdict(document(underpass=[None], nginx=[10]))
        assert (verdict, spread) == (Verdict.UNKNOWN, None)

    def test_can_compare_two_loads_of_our_own(self) -> None:
        budget = Budget("work", "many", "cpu_us", "underpass", 1.2, baseline="few")
        samples = [
            Sample("underpass", 1, "few", {"cpu_us": 10}),
            Sample("underpass", 1, "many", {"cpu_us": 13}),
        ]
        assert budget.verdict(Document({}, samples)) == (Verdict.MISSED, Spread(1.3, 1.3, 1.3))

    def test_each_is_about_a_metric_that_is_shown(self) -> None:
        assert {budget.metric for budget in BUDGETS} <= set(COLUMNS)


class TestReport:
    def test_survives_a_file(self, tmp_path: Path) -> None:
        run = document(underpass=[10, None], cloudflared=[100, 80])
        run.write(tmp_path / "run.json")
        assert Document.read(tmp_path / "run.json") == run

    def test_says_what_was_measured_and_what_became_of_the_budgets(self) -> None:
        text = report(document(underpass=[20, 16], cloudflared=[100, 80], nginx=[8, 8]))
        work = "GET 1 KiB, 64 concurrent: CPU a request"
        assert f"| {work} | cloudflared | 0.20 | 0.20 to 0.20 | ≤ 0.25 | met |" in text
        assert f"| {work} | nginx | 2.25 | 2.00 to 2.50 | ≤ 1.7 | **missed** |" in text
        assert "| RSS idle, one link | cloudflared |  |  | ≤ 0.85 | not measured |" in text
        assert "- versions: nginx 1.22" in text

    def test_shows_medians_and_leaves_out_columns_without_figures(self) -> None:
        text = report(document(underpass=[20, 1600, 18], nginx=[8, 8, 8]))
        table = text.partition(f"### {LOAD}\n\n")[2]
        assert table.splitlines() == [
            "| peer | CPU µs/req |",
            "| --- | --- |",
            "| underpass | 20 |",
            "| nginx | 8 |",
        ]

    def test_names_what_failed_and_what_had_to_be_tried_twice(self) -> None:
        run = document(underpass=[None])
        again = Sample("nginx", 1, LOAD, {"cpu_us": 1}, retried=True)
        text = report(Document(run.about, [*run.samples, again]))
        assert f"- round 1, underpass, {LOAD}: **failed**: it broke" in text
        assert f"- round 1, nginx, {LOAD}: at the second attempt" in text

    def test_without_failures_says_so(self) -> None:
        assert "## Failures\n\nNone.\n" in report(document(underpass=[1]))


@pytest.mark.skipif(sys.platform != "linux", reason="the instrument reads Linux's accounts")
class TestAccounts:
    def test_count_a_process_and_its_children(self, tmp_path: Path) -> None:
        from bench.peers.processes import started, tree, usage

        # Two processes, each of which uses a tenth of a second and then waits to be ended.
        script = tmp_path / "burn.py"
        script.write_text(
            "import signal, subprocess, sys, time\n"
            "while time.process_time() < 0.1: pass\n"
            "if sys.argv[1:]: print('burnt', flush=True)\n"
            "else: subprocess.run([sys.executable, __file__, 'child'])\n"
            "signal.pause()\n"
        )
        with started("burn", [sys.executable, script], tmp_path / "log", "burnt") as child:
            members = tree(child.pid)
            both, one = usage([child.pid]), usage(members[1:])
        assert len(members) == 2
        assert both.cpu >= 0.2
        assert 0.1 <= one.cpu < both.cpu
        assert both.rss > one.rss > 0
        assert both.peak_rss >= both.rss
        assert both.voluntary > 0
        assert usage([child.pid]).cpu == 0, "it is gone"

    def test_a_child_that_ends_at_once_is_reported_with_what_it_said(self, tmp_path: Path) -> None:
        from bench.peers.processes import started

        command = [sys.executable, "-c", "raise SystemExit('no such option')"]
        with (
            pytest.raises(RuntimeError, match=r"(?s)ended with 1.*no such option"),
            started("child", command, tmp_path / "log", "ready"),
        ):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="the generator waits with epoll")
class TestOpenLoop:
    def test_every_peer_gets_the_same_schedule_at_the_rate_asked_for(self) -> None:
        from bench.peers.open_loop import poisson

        schedule = poisson(1000, 10)
        assert schedule == poisson(1000, 10)
        assert schedule == sorted(schedule)
        assert schedule[0] > 0
        assert schedule[-1] < 10
        assert 9500 < len(schedule) < 10500

    def test_time_in_line_counts(self) -> None:
        """A server that answers nothing until it has been asked by all makes the first wait for
        the last, however little the generator itself had to wait."""
        from bench.peers.open_loop import CONNECTIONS, OpenLoop

        gathered: list[socket.socket] = []
        listener = socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS)
        wanted = 3
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

        def serve() -> None:
            connections = [listener.accept()[0] for _ in range(CONNECTIONS)]
            with selectors.DefaultSelector() as selector:
                for connection in connections:
                    selector.register(connection, selectors.EVENT_READ)
                while len(gathered) < wanted:
                    for key, _ in selector.select():
                        connection = cast("socket.socket", key.fileobj)
                        assert connection.recv(4096).startswith(b"GET / HTTP/1.1")
                        gathered.append(connection)
            for connection in gathered:
                connection.sendall(answer)
            for connection in connections:
                assert connection.recv(4096) == b""
                connection.close()

        with listener, ThreadPoolExecutor() as pool:
            served = pool.submit(serve)
            request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            with closing(OpenLoop(listener.getsockname(), request)) as loop:
                loop.run([0.0, 0.05, 0.1])
            served.result()
        first, second, third = sorted(loop.times, reverse=True)
        assert first >= 0.1
        assert second >= 0.05
        assert third > 0

    def test_an_answer_other_than_200_is_a_failure(self) -> None:
        from bench.peers.open_loop import Connection

        listener = socket.create_server(("127.0.0.1", 0))
        with listener:
            connection = Connection(listener.getsockname())
            peer, _ = listener.accept()
            with peer, connection.socket:
                peer.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                select.select([connection.socket], [], [])
                with pytest.raises(RuntimeError, match="502"):
                    connection.receive()


class Clock:
    """A loop's timers, which go off when the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now + seconds, callback))

    def advance(self, to: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= to]:
            at, callback = min(due, key=lambda timer: timer[0])
            self.timers.remove((at, callback))
            self.now = at
            callback()
        self.now = to


class Transport:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class TestDelay:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr(delay, "time", clock)
        monkeypatch.setattr(delay.asyncio, "get_running_loop", lambda: clock)
        return clock

    @pytest.fixture
    def ends(self, clock: Clock) -> tuple[delay.End, delay.End]:
        here, there = delay.End(0.05), delay.End(0.05)
        here.other, there.other = there, here
        for end in (here, there):
            end.connection_made(cast("asyncio.Transport", Transport()))
        return here, there

    @staticmethod
    def read(end: delay.End, content: bytes) -> None:
        end.get_buffer(-1)[: len(content)] = content
        end.buffer_updated(len(content))

    def test_each_byte_goes_on_when_its_time_has_come(
        self, clock: Clock, ends: tuple[delay.End, delay.End]
    ) -> None:
        here, there = ends
        far = cast("Transport", there.transport)
        self.read(here, b"first ")
        clock.advance(0.03)
        self.read(here, b"second")
        clock.advance(0.049)
        assert far.written == b""
        clock.advance(0.06)
        assert far.written == b"first "
        clock.advance(0.09)
        assert far.written == b"first second"
        assert cast("Transport", here.transport).written == b""

    def test_the_end_comes_after_what_was_said_before_it(
        self, clock: Clock, ends: tuple[delay.End, delay.End]
    ) -> None:
        here, there = ends
        far = cast("Transport", there.transport)
        self.read(here, b"last words")
        clock.advance(0.01)
        here.eof_received()
        here.connection_lost(None)
        clock.advance(0.055)
        assert (far.written, far.closed) == (b"last words", False)
        clock.advance(0.07)
        assert far.closed

    def test_holds_no_more_than_its_bound(
        self,
        clock: Clock,
        ends: tuple[delay.End, delay.End],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(delay, "MAX_HELD", 1000)
        here, _ = ends
        self.read(here, bytes(1000))
        assert not cast("Transport", here.transport).aborted
        self.read(here, b"x")
        assert cast("Transport", here.transport).aborted

"""What the project has promised itself: ratios of figures of one run.

The goals are those of the design; a change here is a decision, not a repair.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bench.peers.figures import Spread, ratios
from bench.peers.samples import Document

OURS = "underpass"


class Verdict(Enum):
    MET = "met"
    MISSED = "**missed**"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Budget:
    """`metric` of `load`, ours over that of the peer `versus`, shall be at most `goal`, or at
    least, if more is better. With `baseline` both figures are ours, of two loads."""

    work: str
    load: str
    metric: str
    versus: str
    goal: float
    more_is_better: bool = False
    baseline: str = ""

    def ratios(self, document: Document) -> list[float]:
        """Pair by pair, one for each round that has both."""
        below = document.values(self.versus, self.baseline or self.load, self.metric)
        return ratios(document.values(OURS, self.load, self.metric), below)

    def verdict(self, document: Document) -> tuple[Verdict, Spread | None]:
        """By the median of the ratios."""
        found = self.ratios(document)
        if not found:
            return Verdict.UNKNOWN, None
        spread = Spread.of(found)
        met = spread.median >= self.goal if self.more_is_better else spread.median <= self.goal
        return Verdict.MET if met else Verdict.MISSED, spread


def _against(
    work: str, load: str, metric: str, cloudflared: float | None, **others: float
) -> list[Budget]:
    goals = {**({} if cloudflared is None else {"cloudflared": cloudflared}), **others}
    return [Budget(work, load, metric, versus, goal) for versus, goal in goals.items()]


BUDGETS: tuple[Budget, ...] = (
    *_against(
        "GET 1 KiB, 64 concurrent: CPU a request", "GET 1 KiB x64", "cpu_us", 0.25, nginx=1.7
    ),
    Budget(
        "requests/s, everything on the same cores",
        "GET 1 KiB x64",
        "per_second",
        "cloudflared",
        2.5,
        more_is_better=True,
    ),
    *_against("GET 1 KiB, one at a time: CPU a request", "GET 1 KiB x1", "cpu_us", 0.5, nginx=2.0),
    *_against(
        "GET 1 KiB, 256 concurrent: CPU a request", "GET 1 KiB x256", "cpu_us", 0.25, haproxy=2.2
    ),
    *_against(
        "GET 1 KiB, open loop 1,000/s: CPU a request", "GET 1 KiB, open loop 1000/s", "cpu_us", 0.3
    ),
    *_against(
        "GET 1 KiB, open loop 4,000/s: CPU a request", "GET 1 KiB, open loop 4000/s", "cpu_us", 0.3
    ),
    *_against(
        "POST 1 KiB, 64 concurrent: CPU a request", "POST 1 KiB x64", "cpu_us", 0.25, nginx=1.0
    ),
    *_against("p99 at half load", "GET 1 KiB, open loop at half load", "p99_ms", 0.5),
    *_against("download x1: CPU per GiB", "download x1", "cpu_s_per_gib", 0.5, nginx=1.2),
    *_against("download x8: CPU per GiB", "download x8", "cpu_s_per_gib", 0.5, nginx=1.2),
    *_against("upload x1: CPU per GiB", "upload x1", "cpu_s_per_gib", 0.55, nginx=1.0),
    *_against("upload x8: CPU per GiB", "upload x8", "cpu_s_per_gib", 0.55, nginx=1.0),
    *_against("RSS idle, one link", "start, one link", "idle_rss_mib", 0.85),
    *_against("RSS per idle WebSocket (5,000)", "idle WebSockets x5000", "kib_per_socket", 0.25),
    Budget(
        "CPU a request at 10,000 open streams ÷ at 100",
        "GET 1 KiB x64, 10000 open streams",
        "cpu_us",
        OURS,
        1.2,
        baseline="GET 1 KiB x64, 100 open streams",
    ),
    *_against("process start to first link registered", "start, one link", "start_ms", 1.5),
    Budget(
        "one upload stream at 100 ms RTT",
        "upload, 100 ms round trip",
        "mbit_s",
        "cloudflared",
        5.0,
        more_is_better=True,
    ),
)

"""A run as pictures: SVG, for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.peers.figures import PERCENTILES, Spread
from bench.peers.samples import Document

mpl.rcParams["svg.hashsalt"] = "bench"  # the same run gives the same file
COLORS = {
    "underpass": "#2f6fb3",
    "cloudflared": "#e08a2e",
    "nginx": "#3d9155",
    "haproxy": "#8a8f98",
    "frp": "#b04a8f",
    "chisel": "#a8873c",
    "rathole": "#a14040",
    "ssh": "#5f5fa8",
}
PER_REQUEST = (
    "GET 1 KiB x1",
    "GET 1 KiB x64",
    "GET 1 KiB x256",
    "GET 1 KiB x1024",
    "GET 1 KiB, open loop 1000/s",
    "GET 1 KiB, open loop 4000/s",
    "POST 1 KiB x64",
    "GET 16 KiB x64",
    "WebSocket echo x64",
)
PER_GIB = ("download x1", "download x8", "upload x1", "upload x8")
OPEN_LOOPS = (
    "GET 1 KiB, open loop 1000/s",
    "GET 1 KiB, open loop 4000/s",
    "GET 1 KiB, open loop at half load",
)


def draw(document: Document, directory: Path) -> list[Path]:
    """Write all pictures for which there are figures; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {
        "cpu-per-request": _bars(document, PER_REQUEST, "cpu_us", "CPU time a request, µs"),
        "cpu-per-gib": _bars(document, PER_GIB, "cpu_s_per_gib", "CPU time per GiB, s"),
        "growth": _growth(document),
        "latency": _latency(document),
    }
    written = []
    for name, picture in pictures.items():
        if picture is not None:
            path = directory / f"{name}.svg"
            picture.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
            written.append(path)
    return written


def _bars(document: Document, loads: Sequence[str], metric: str, title: str) -> Figure | None:
    present = [load for load in loads if any(document.values(p, load, metric) for p in COLORS)]
    peers = [p for p in document.peers() if any(document.values(p, one, metric) for one in present)]
    if not present:
        return None
    picture = Figure(figsize=(9, 0.6 + 0.2 * len(present) * (len(peers) + 1)))
    axes = picture.add_subplot()
    height = 0.8 / len(peers)
    for number, peer in enumerate(sorted(peers, key=list(COLORS).index)):
        for place, load in enumerate(present):
            values = list(document.values(peer, load, metric).values())
            if not values:
                continue
            spread = Spread.of(values)
            at = place + (number - (len(peers) - 1) / 2) * height
            around = [[spread.median - spread.low], [spread.high - spread.median]]
            axes.barh(
                at, spread.median, height * 0.9, color=COLORS[peer],
                xerr=around, error_kw={"lw": 0.8, "ecolor": "#444"},
            )  # fmt: skip
            axes.text(spread.high, at, f" {spread.median:.3g}", va="center", fontsize=7)
        axes.barh(0, 0, color=COLORS[peer], label=peer)
    axes.set_yticks(range(len(present)), present)
    axes.invert_yaxis()
    axes.set_title(f"{title} (median, lowest and highest)", loc="left", fontsize=10)
    _finish(axes)
    return picture


def _growth(document: Document) -> Figure | None:
    curves = list(
        dict.fromkeys(s.curve for s in document.samples if s.curve and "cpu_us" in s.metrics)
    )
    if not curves:
        return None
    rows = (len(curves) + 1) // 2
    picture = Figure(figsize=(9, 3.2 * rows))
    for number, curve in enumerate(curves):
        axes = picture.add_subplot(rows, 2, number + 1)
        for peer in sorted(document.peers(), key=list(COLORS).index):
            points: dict[float, list[float]] = {}
            for sample in document.samples:
                if (sample.curve, sample.peer) == (curve, peer):
                    points.setdefault(sample.at, []).append(sample.metrics["cpu_us"])
            if points:
                places = sorted(points)
                axes.plot(
                    places, [Spread.of(points[at]).median for at in places],
                    "o-", color=COLORS[peer], label=peer, ms=4,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(curve)
        axes.set_ylabel("CPU time a request, µs")
        _finish(axes)
    picture.tight_layout()
    return picture


def _latency(document: Document) -> Figure | None:
    present = [
        load for load in OPEN_LOOPS if any(document.values(p, load, "p99_ms") for p in COLORS)
    ]
    if not present:
        return None
    picture = Figure(figsize=(9, 3))
    names = [metric.removesuffix("_ms").replace("p999", "p99.9") for metric in PERCENTILES]
    first: Axes | None = None
    for number, load in enumerate(present):
        axes = picture.add_subplot(1, len(present), number + 1, sharey=first)
        first = first or axes
        for peer in sorted(document.peers(), key=list(COLORS).index):
            values = [list(document.values(peer, load, metric).values()) for metric in PERCENTILES]
            if all(values):
                axes.plot(
                    names, [Spread.of(found).median for found in values],
                    "o-", color=COLORS[peer], label=peer, ms=4,
                )  # fmt: skip
        axes.set_yscale("log")
        axes.set_title(load.removeprefix("GET 1 KiB, "), fontsize=9)
        if number == 0:
            axes.set_ylabel("response time, ms")
        _finish(axes)
    picture.tight_layout()
    return picture


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False)

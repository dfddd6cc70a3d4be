"""The way to the edge, as traceroute sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from msgspec import Struct

from underpass.operations.diagnosis.tools import ToolError, run_tool

__all__ = ["CLOUDFLARE", "Trace", "parse_hops", "trace_all"]

CLOUDFLARE: Final = ("region1.v2.argotunnel.com", "region2.v2.argotunnel.com")
"""Where an edge is that was not given."""

HOPS: Final = "5"
WAIT_SECONDS: Final = "5"
MAX_HOSTS: Final = 4


class Trace(Struct, frozen=True):
    """One way: `raw` is what the tool said, "" if it failed with `error`."""

    raw: str = ""
    error: str = ""

    @property
    def hops(self) -> list[dict[str, Any]] | None:
        return parse_hops(self.raw) if self.raw else None


Tool = Callable[[Sequence[str], float], str]


def trace_all(hosts: Sequence[str], seconds: float, run: Tool = run_tool) -> dict[str, Trace]:
    """Traces to the first hosts, over both families, at the same time: `HOST-v4`, `HOST-v6`."""
    ways = [(host, family) for host in hosts[:MAX_HOSTS] for family in (4, 6)]
    with ThreadPoolExecutor(len(ways)) as pool:
        traces = list(pool.map(lambda way: _trace(way[0], way[1], seconds, run), ways))
    names = [f"{host}-v{family}" for host, family in ways]
    return dict(zip(names, traces, strict=True))


def _trace(host: str, family: int, seconds: float, run: Tool) -> Trace:
    if sys.platform == "win32":
        command = ["tracert", f"-{family}", "-w", "5000", "-h", HOPS, host]
    else:
        tool = "traceroute" if family == 4 else "traceroute6"
        command = [tool, "-I", "-w", WAIT_SECONDS, "-m", HOPS, host]
    try:
        return Trace(run(command, seconds))
    except ToolError as error:
        return Trace(error=str(error))


def parse_hops(text: str) -> list[dict[str, Any]]:
    """The hops in what traceroute or tracert prints; times in microseconds.

    Lines of another form, as there are at the beginning and the end, are passed over.
    """
    hops = []
    for line in text.splitlines():
        number, *parts = [part for part in line.split() if part not in ("*", "ms")] or [""]
        if not number.isdigit():
            continue
        times = [round(float(part.lstrip("<")) * 1000) for part in parts if _is_time(part)]
        domain = " ".join(part for part in parts if not _is_time(part))
        hop: dict[str, Any] = {"hop": int(number), "domain": domain or "*"}
        if times:
            hop["rtts"] = times
        hops.append(hop)
    return hops


def _is_time(part: str) -> bool:
    return part.lstrip("<").replace(".", "", 1).isdigit()

"""Closed loops through h2load."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.figures import latencies
from bench.peers.peers import Kind, Running
from bench.peers.processes import end

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True)
class Outcome:
    """Requests that succeeded, and how fast."""

    requests: int
    seconds: float
    latency: dict[str, float]


def command(
    running: Running,
    path: str,
    *,
    concurrent: int,
    body: Path | None = None,
    headers: Sequence[str] = (),
) -> list[str]:
    """h2load for a peer: connections of HTTP/1.1, or streams on one connection to a proxy."""
    if running.kind is Kind.PROXY:
        drive = ["-c1", f"-m{concurrent}", f"https://{running.address}{path}"]
    else:
        drive = [
            "--h1", f"-c{concurrent}", f"--connect-to={running.address}",
            f"http://{running.host}{path}",
        ]  # fmt: skip
    extra = [f"-H{header}" for header in headers]
    if body is not None:
        extra.append(f"-d{body}")
    return ["h2load", "-t1", *extra, *drive]


def run(
    running: Running,
    path: str,
    *,
    requests: int,
    concurrent: int,
    log: Path,
    body: Path | None = None,
    headers: Sequence[str] = (),
) -> Outcome:
    """So many requests, `concurrent` at a time.

    Raises:
        RuntimeError: a request failed.
    """
    base = command(running, path, concurrent=concurrent, body=body, headers=headers)
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [*base, f"-n{requests}", f"--log-file={log}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    codes = re.search(r"status codes: (\d+) 2xx", done.stdout)
    finished = re.search(r"finished in ([\d.]+)(us|ms|s|m)\b", done.stdout)
    if not (found and codes and finished) or not int(found[1]) == int(codes[1]) == requests:
        lines = re.findall(r"^(?:requests|status codes):.*$", done.stdout, re.MULTILINE)
        raise RuntimeError(f"h2load: {'; '.join(lines) or done.stdout + done.stderr}")
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[finished[2]]
    times = [int(line.split("\t")[2]) / 1e6 for line in log.read_text().splitlines()]
    return Outcome(requests, float(finished[1]) * unit, latencies(times))


@contextmanager
def background(
    running: Running, path: str, *, concurrent: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Requests without end, while the block lasts. They are cut off at its end."""
    process = subprocess.Popen(
        [*command(running, path, concurrent=concurrent), f"-D{TIMEOUT_SECONDS:.0f}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)

"""Child processes: starting, ending, and what the kernel has counted for them (Linux)."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30.0
"""Longest wait for a child to say that it is ready."""
END_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""
POLL_SECONDS = 0.001
"""Between looks at a log; also the resolution of start times."""


@dataclass(frozen=True)
class Child:
    """A running process: what it said until it was ready, and how many seconds that took."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    said: str
    ready_after: float

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@dataclass(frozen=True)
class Usage:
    """Sums over a process and its descendants. CPU in seconds, memory in bytes."""

    cpu: float = 0.0
    rss: int = 0
    peak_rss: int = 0
    voluntary: int = 0
    involuntary: int = 0


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """A port that nobody listens on. For programs that cannot choose one and say which."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    ready: str | int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    """A child, from when it is ready until the block is left.

    Args:
        ready: a regular expression for the line of its output that says so, or the port of
            127.0.0.1 on which it will accept connections.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """
    with log.open("wb") as sink:
        begun = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**_usual_environment(), **(environment or {})},
        )
    try:
        said = _wait_until_ready(name, process, log, ready, begun + START_SECONDS)
        yield Child(name, process, log, said, time.monotonic() - begun)
    finally:
        end(process)


def _usual_environment() -> dict[str, str]:
    """Ours, but with compiled modules kept, as an installed program has them."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _wait_until_ready(
    name: str, process: subprocess.Popen[bytes], log: Path, ready: str | int, deadline: float
) -> str:
    while True:
        said = log.read_text(errors="replace")
        if isinstance(ready, str):
            if re.search(ready, said):
                return said
        elif _accepts(ready):
            return said
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}:\n{said[-2000:]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} was not ready in {START_SECONDS:.0f} s:\n{said[-2000:]}")
        time.sleep(POLL_SECONDS)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a child, and what is left of its session after that."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, ()))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads a process has or had, to the nanosecond.

    The kernel's clock of the process: /proc/PID/stat has the same in whole ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | 2)


def usage(pids: Sequence[int]) -> Usage:
    """What the processes and their descendants have used so far. Those that are gone count 0."""
    cpu, rss, peak, voluntary, involuntary = 0.0, 0, 0, 0, 0
    for pid in dict.fromkeys(member for root in pids for member in tree(root)):
        with contextlib.suppress(OSError):
            cpu += cpu_seconds(pid)
            rss += _status(pid, "VmRSS") * 1024
            peak += _status(pid, "VmHWM") * 1024
            for thread in (Path("/proc") / str(pid) / "task").iterdir():
                voluntary += _status(f"{pid}/task/{thread.name}", "voluntary_ctxt_switches")
                involuntary += _status(f"{pid}/task/{thread.name}", "nonvoluntary_ctxt_switches")
    return Usage(cpu, rss, peak, voluntary, involuntary)


def forget_peak(pids: Sequence[int]) -> None:
    """Have the peaks of resident memory counted from now."""
    for pid in (member for root in pids for member in tree(root)):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(process: int | str, field: str) -> int:
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0

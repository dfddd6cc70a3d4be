"""What a connector costs before its first request: time to its first link, and memory when idle.

    python -m bench.startup [--starts N] [--idles N] [--mode token|config] [--json FILE]

Starts an edge, then one connector at a time with one HTTP/2 link to it. From exec to "Registered
tunnel connection": wall clock time, and CPU time (user + system, of all threads). Then, some
seconds after that line and without any request: resident memory (RSS), and the same with shared
pages divided among those that share them (PSS). Linux only.

With UNDERPASS_CLOUDFLARED set, starts of a stock cloudflared against the same edge alternate with
them, and the ratios of the medians are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.end_to_end import Bench, EdgeProcess
from underpass.connector.quick import request_quick_tunnel_blocking
from underpass.wire.credentials import write_credentials_file

REGISTERED = b"Registered tunnel connection"
IDLE_SECONDS = 3.0
"""From the registration to the look at the memory: initial work has ended by then."""
KIB = 1024


@dataclass
class Sample:
    """One start. Milliseconds and MiB; memory is 0 where it was not looked at."""

    connector: str
    wall_ms: float
    cpu_ms: float
    rss_mib: float = 0.0
    pss_mib: float = 0.0


@dataclass(frozen=True)
class Program:
    """A connector to compare: what to start, and in which environment."""

    name: str
    command: list[str]
    environment: dict[str, str]


def programs(edge: EdgeProcess, files: Path, mode: str) -> list[Program]:
    """The connectors, each with one link to `edge`, one tunnel, and no configuration but ours."""
    quick = request_quick_tunnel_blocking(f"http://{edge.api}")
    environment = {"PATH": os.environ["PATH"], "HOME": str(files)}
    flags = [
        "tunnel", "--no-autoupdate", "--protocol=http2", "--ha-connections=1",
        f"--edge={edge.tunnel}", f"--edge={edge.tunnel}", f"--cacert={edge.cacert}",
    ]  # fmt: skip
    if mode == "token":
        environment["TUNNEL_TOKEN"] = quick.credentials.to_token()
        flags += ["--url=http://127.0.0.1:9", "run"]
    else:
        credentials = files / "credentials.json"
        write_credentials_file(credentials, quick.credentials)
        config = files / "config.yml"
        config.write_text(
            f"tunnel: {quick.credentials.tunnel_id}\n"
            f"credentials-file: {credentials}\n"
            "ingress:\n"
            "  - hostname: app.example.com\n    service: http://127.0.0.1:9\n"
            "  - service: http_status:404\n"
        )
        flags += [f"--config={config}", "run"]
    found = [Program("underpass", [str(Path(sys.executable).with_name("underpass"))], environment)]
    if cloudflared := os.environ.get("UNDERPASS_CLOUDFLARED"):
        found.append(Program("cloudflared", [cloudflared], environment))
    return [Program(each.name, each.command + flags, each.environment) for each in found]


def start(program: Program, *, look_at_memory: bool) -> Sample:
    """Start `program`, wait for its link, look, and kill it, so that stopping costs nothing."""
    began = time.perf_counter()
    child = subprocess.Popen(
        program.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=program.environment,
    )
    assert child.stderr is not None
    log = b""
    while REGISTERED not in log:
        chunk = child.stderr.read1()  # type: ignore[attr-defined]
        if not chunk:
            raise RuntimeError(f"{program.name} ended with {child.wait()}:\n{log.decode()}")
        log += chunk
    wall = time.perf_counter() - began
    rss = pss = 0.0
    if look_at_memory:
        time.sleep(IDLE_SECONDS)
        if child.poll() is not None:
            log += child.stderr.read()
            raise RuntimeError(f"{program.name} ended with {child.returncode}:\n{log.decode()}")
        rss, pss = memory(child.pid)
    child.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    cpu = usage.ru_utime + usage.ru_stime
    return Sample(program.name, wall * 1e3, cpu * 1e3, rss, pss)


def memory(pid: int) -> tuple[float, float]:
    """RSS and PSS in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = [re.search(rf"^{name}: +(\d+) kB", text, re.MULTILINE) for name in ("Rss", "Pss")]
    rss, pss = (int(match[1]) / KIB if match else 0.0 for match in found)
    return rss, pss


def report(samples: list[Sample]) -> None:
    """Medians with the quartiles, and the ratios to cloudflared."""
    names = list(dict.fromkeys(sample.connector for sample in samples))
    measures = {
        "start, wall ms": [s for s in samples if not s.rss_mib],
        "start, CPU ms": [s for s in samples if not s.rss_mib],
        "idle RSS, MiB": [s for s in samples if s.rss_mib],
        "idle PSS, MiB": [s for s in samples if s.rss_mib],
    }
    fields = ("wall_ms", "cpu_ms", "rss_mib", "pss_mib")
    print(f"{'':15}", *(f"{name:>24}" for name in names), f"{'ratio':>7}")
    for (measure, chosen), field in zip(measures.items(), fields, strict=True):
        medians, cells = [], []
        for name in names:
            values = [getattr(sample, field) for sample in chosen if sample.connector == name]
            low, middle, high = statistics.quantiles(values, n=4)
            medians.append(middle)
            cells.append(f"{middle:8.1f} [{low:.1f} .. {high:.1f}]")
        ratio = f"{medians[0] / medians[1]:.2f}" if len(medians) > 1 else ""
        print(f"{measure:15}", *(f"{cell:>24}" for cell in cells), f"{ratio:>7}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=20, help="of each connector, timed")
    parser.add_argument("--idles", type=int, default=3, help="of each, looked at when idle")
    parser.add_argument("--mode", choices=("token", "config"), default="token")
    parser.add_argument("--json", type=Path, help="where to write every sample")
    arguments = parser.parse_args()
    if arguments.starts < 2 or arguments.idles < 2:
        parser.error("a spread takes two of each")
    samples: list[Sample] = []
    with ExitStack() as stack:
        bench = Bench(stack)
        edge = bench.start_edge()
        compared = programs(edge, bench.files, arguments.mode)
        for program in compared:
            start(program, look_at_memory=False)  # fills the caches of files and of byte code
        for number in range(arguments.starts + arguments.idles):
            idle = number >= arguments.starts
            samples += [start(program, look_at_memory=idle) for program in compared]
    report(samples)
    if arguments.json:
        machine = {"machine": platform.platform(), "python": platform.python_version()}
        document = {**machine, "samples": [asdict(sample) for sample in samples]}
        arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()

"""What a request and a gibibyte cost each process, end to end on this machine.

    python -m bench.end_to_end [--rounds N] [--requests N] [--json FILE]

Starts nginx as the origin, an edge and a connector as processes of their own, and drives the edge's
plain listener with h2load. Reports, as medians over the rounds: requests per second, p50 and p99 of
the response time, and the CPU time (user + system, from the operating system's accounting) of the
connector and of the edge, per request and per GiB. CPU figures are the ones to trust on a busy
machine; rates are not.

With UNDERPASS_CLOUDFLARED set, the same loads run interleaved through a stock cloudflared on the
same edge.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30
BULK = 256 << 20
"""Bytes of one bulk transfer."""
ORIGIN_PORT = 19080
"""Where nginx listens; the sink has the next one."""


@dataclass
class Sample:
    """One load through one connector. CPU figures are microseconds per request, or seconds per GiB
    for bulk loads."""

    connector: str
    load: str
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    connector_cpu: float
    edge_cpu: float


@dataclass(frozen=True)
class Load:
    """What h2load is told, and what the result is divided by."""

    name: str
    path: str
    requests: int
    clients: int
    body: int = 0
    bulk_bytes: int = 0


def loads(requests: int) -> list[Load]:
    """The loads, sized so that each takes a few seconds."""
    return [
        Load("GET 1 KiB x1", "/1k", max(requests // 10, 200), 1),
        Load("GET 1 KiB x64", "/1k", requests, 64),
        Load("GET 1 KiB x256", "/1k", requests, 256),
        Load("POST 1 KiB x64", "/sink", requests // 2, 64, body=1024),
        Load("download x1", "/bulk", 4, 1, bulk_bytes=4 * BULK),
        Load("download x8", "/bulk", 8, 8, bulk_bytes=8 * BULK),
        Load("upload x1", "/sink", 4, 1, body=BULK, bulk_bytes=4 * BULK),
        Load("upload x8", "/sink", 8, 8, body=BULK, bulk_bytes=8 * BULK),
    ]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def process(
    command: list[str], log: Path, wanted: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A child and its log's text, once a line of it matches `wanted`; ended on leaving."""
    with log.open("wb") as sink:
        child = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        with log.open("r", errors="replace") as source:
            text = ""
            while not re.search(wanted, text):
                if child.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended with {child.returncode}:\n{text}")
                text += source.readline()
        yield child, text
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def nginx_config(directory: Path, port: int) -> str:
    return f"""
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr notice;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000000; client_max_body_size 0;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {directory}/www;
  }}
}}
"""


def run_load(
    load: Load, url: str, connect_to: str, body: Path | None, log: Path
) -> tuple[float, list[float]]:
    """Requests per second and the response times in milliseconds."""
    log.unlink(missing_ok=True)
    command = [
        "h2load", "--h1", f"-n{load.requests}", f"-c{load.clients}", "-t1",
        f"--connect-to={connect_to}", f"--log-file={log}",
    ]  # fmt: skip
    if body is not None:
        command.append(f"-d{body}")
    report = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", report)
    if done is None or int(done[1]) != load.requests:
        raise RuntimeError(f"{load.name}: not every request succeeded:\n{report}")
    rate = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", report)
    times = sorted(int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines())
    return float(rate[1]) if rate else 0.0, times


def measure(
    load: Load, name: str, host: str, address: str, connector: int, edge: int, files: Path
) -> Sample:
    body = None
    if load.body:
        body = files / f"body-{load.body}"
        if not body.exists():
            body.write_bytes(os.urandom(load.body))
    url = f"http://{host}{load.path}"
    before = cpu_seconds(connector), cpu_seconds(edge)
    rate, times = run_load(load, url, address, body, files / "h2load.log")
    spent = cpu_seconds(connector) - before[0], cpu_seconds(edge) - before[1]
    scale = GIB / load.bulk_bytes if load.bulk_bytes else 1e6 / load.requests
    return Sample(
        name,
        load.name,
        rate,
        times[len(times) // 2],
        times[min(len(times) - 1, len(times) * 99 // 100)],
        spent[0] * scale,
        spent[1] * scale,
    )


@dataclass(frozen=True)
class EdgeProcess:
    """A running edge and where it listens."""

    pid: int
    http: str
    tunnel: str
    api: str
    cacert: Path


class Bench:
    """The processes of one run, and what they read and write."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.files = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="underpass-bench-"))
        )
        self._program = [sys.executable, "-m", "underpass"]

    def _start(self, command: list[str], name: str, wanted: str) -> tuple[int, str]:
        child, text = self._stack.enter_context(
            process(command, self.files / f"{name}.log", wanted)
        )
        return child.pid, text

    def start_origins(self) -> Path:
        """nginx for what is fetched, the sink for what is sent; returns the ingress rules."""
        site = self.files / "www"
        site.mkdir()
        (site / "1k").write_bytes(os.urandom(1024))
        (site / "bulk").write_bytes(os.urandom(BULK))
        # nginx's workers run as nobody, and read these.
        for path in (self.files, *self.files.rglob("*")):
            path.chmod(0o755)
        config = self.files / "nginx.conf"
        config.write_text(nginx_config(self.files, ORIGIN_PORT))
        self._start(["nginx", "-e", "stderr", "-c", str(config)], "nginx", "start worker process")
        sink = [sys.executable, "-m", "bench.sink", str(ORIGIN_PORT + 1)]
        self._start(sink, "sink", "listening")
        rules = self.files / "config.yml"
        rules.write_text(
            "ingress:\n"
            f"  - path: ^/sink$\n    service: http://127.0.0.1:{ORIGIN_PORT + 1}\n"
            f"  - service: http://127.0.0.1:{ORIGIN_PORT}\n"
        )
        return rules

    def start_edge(self) -> EdgeProcess:
        """An edge with a data directory of its own."""
        data = self.files / "edge"
        addresses = [f"--{name}=127.0.0.1:0" for name in ("https", "http", "tunnel", "api")]
        pid, text = self._start(
            [*self._program, "edge", "run", f"--data-dir={data}", *addresses], "edge", r"API: .*\n"
        )
        found = [
            re.search(pattern, text)
            for pattern in (r"  http://(\S+)", r"Connectors: (\S+)", r"API: +http://(\S+)")
        ]
        http, tunnel, api = (match[1] if match else "" for match in found)
        return EdgeProcess(pid, http, tunnel, api, data / "ca.pem")

    def start_connectors(self, edge: EdgeProcess, rules: Path) -> dict[str, tuple[str, int]]:
        """Hostname and process of each connector that is compared."""
        programs = {"underpass": self._program}
        if os.environ.get("UNDERPASS_CLOUDFLARED"):
            programs["cloudflared"] = [os.environ["UNDERPASS_CLOUDFLARED"]]
        flags = [
            "tunnel", "--no-autoupdate", "--protocol=http2", f"--edge={edge.tunnel}",
            f"--edge={edge.tunnel}", f"--cacert={edge.cacert}", f"--config={rules}",
            f"--quick-service=http://{edge.api}", f"--url=http://127.0.0.1:{ORIGIN_PORT}",
        ]  # fmt: skip
        running = {}
        for name, program in programs.items():
            pid, text = self._start([*program, *flags], name, "Registered tunnel connection")
            host = re.search(r"https://([a-z0-9.-]+\.localhost)", text)
            running[name] = (host[1] if host else "", pid)
        return running


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20000, help="of the small loads, each")
    parser.add_argument("--only", default="", help="a regular expression over load names")
    parser.add_argument("--json", type=Path, help="where to write every sample")
    arguments = parser.parse_args()
    for tool in ("nginx", "h2load"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed (Debian: nginx-light, nghttp2-client)")
    chosen = [load for load in loads(arguments.requests) if re.search(arguments.only, load.name)]
    samples: list[Sample] = []
    with ExitStack() as stack:
        bench = Bench(stack)
        rules = bench.start_origins()
        edge = bench.start_edge()
        connectors = bench.start_connectors(edge, rules)
        for round_number in range(arguments.rounds):
            for load in chosen:
                for name, (host, pid) in connectors.items():
                    sample = measure(load, name, host, edge.http, pid, edge.pid, bench.files)
                    samples.append(sample)
                    print(f"round {round_number + 1}  {sample}", file=sys.stderr)
    report(samples)
    if arguments.json:
        machine = {"machine": platform.platform(), "python": platform.python_version()}
        document = {**machine, "samples": [asdict(sample) for sample in samples]}
        arguments.json.write_text(json.dumps(document, indent=1))


def report(samples: list[Sample]) -> None:
    """Medians as a table."""
    print(
        f"{'load':16} {'connector':12} {'req/s':>8} {'p50 ms':>9} {'p99 ms':>9} "
        f"{'connector CPU':>16} {'edge CPU':>9}"
    )
    for load, name in dict.fromkeys((sample.load, sample.connector) for sample in samples):
        group = [s for s in samples if (s.load, s.connector) == (load, name)]

        def median(field: str, group: list[Sample] = group) -> float:
            return statistics.median(getattr(sample, field) for sample in group)

        unit = "s/GiB" if "load x" in load else "us/req"
        print(
            f"{load:16} {name:12} {median('requests_per_second'):8.0f} {median('p50_ms'):9.2f} "
            f"{median('p99_ms'):9.2f} {median('connector_cpu'):9.2f} {unit:6} "
            f"{median('edge_cpu'):9.2f}"
        )


if __name__ == "__main__":
    main()

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
def process(command: list[str], log: Path, wanted: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
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


def run_load(load: Load, url: str, connect_to: str, body: Path | None, log: Path) -> tuple[float, list[float]]:
    """Requests per second and the response times in milliseconds."""
    log.unlink(missing_ok=True)
    command = [
        "h2load", "--h1", f"-n{load.requests}", f"-c{load.clients}", f"-t1",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="underpass-bench-")))
        (directory / "www").mkdir()
        (directory / "www" / "1k").write_bytes(os.urandom(1024))
        (directory / "www" / "bulk").write_bytes(os.urandom(BULK))
        # nginx workers run as nobody; they read these.
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755)
        origin_port = 19080
        (directory / "nginx.conf").write_text(nginx_config(directory, origin_port))
        stack.enter_context(
            process(["nginx", "-e", "stderr", "-c", str(directory / "nginx.conf")], directory / "nginx.log", "start worker process")
        )
        sink_port = origin_port + 1
        stack.enter_context(
            process([sys.executable, "-m", "bench.sink", str(sink_port)], directory / "sink.log", "listening")
        )
        program = [sys.executable, "-m", "underpass"]
        data = directory / "edge"
        edge, text = stack.enter_context(
            process(
                [*program, "edge", "run", f"--data-dir={data}", "--https=127.0.0.1:0",
                 "--http=127.0.0.1:0", "--tunnel=127.0.0.1:0", "--api=127.0.0.1:0"],
                directory / "edge.log", r"API: .*\n",
            )
        )  # fmt: skip
        https = re.search(r"https://(\S+)  http://(\S+)", text)
        tunnel = re.search(r"Connectors: (\S+)", text)
        api = re.search(r"API: +http://(\S+)", text)
        assert https and tunnel and api
        config = directory / "config.yml"
        config.write_text(
            "ingress:\n"
            f"  - path: ^/sink$\n    service: http://127.0.0.1:{sink_port}\n"
            f"  - service: http://127.0.0.1:{origin_port}\n"
        )
        flags = [
            "tunnel", "--no-autoupdate", "--protocol=http2", f"--edge={tunnel[1]}",
            f"--edge={tunnel[1]}", f"--cacert={data}/ca.pem", f"--quick-service=http://{api[1]}",
            f"--config={config}", f"--url=http://127.0.0.1:{origin_port}",
        ]  # fmt: skip
        peers = {"underpass": program}
        if os.environ.get("UNDERPASS_CLOUDFLARED"):
            peers["cloudflared"] = [os.environ["UNDERPASS_CLOUDFLARED"]]
        running = {}
        for name, command in peers.items():
            child, text = stack.enter_context(
                process([*command, *flags], directory / f"{name}.log", "Registered tunnel connection")
            )
            host = re.search(r"https://([a-z0-9.-]+\.localhost)", text)
            assert host
            running[name] = (host[1], child.pid)
        for round_number in range(arguments.rounds):
            for load in chosen:
                for name, (host, pid) in running.items():
                    sample = measure(load, name, host, https[2], pid, edge.pid, directory)
                    samples.append(sample)
                    print(f"round {round_number + 1}  {sample}", file=sys.stderr)
    report(samples)
    if arguments.json:
        machine = {"machine": platform.platform(), "python": platform.python_version()}
        arguments.json.write_text(
            json.dumps({**machine, "samples": [asdict(sample) for sample in samples]}, indent=1)
        )


def report(samples: list[Sample]) -> None:
    """Medians as a table."""
    print(f"{'load':16} {'connector':12} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'connector CPU':>16} {'edge CPU':>12}")
    for load, name in dict.fromkeys((sample.load, sample.connector) for sample in samples):
        group = [s for s in samples if (s.load, s.connector) == (load, name)]

        def median(field: str, group: list[Sample] = group) -> float:
            return statistics.median(getattr(sample, field) for sample in group)

        is_bulk = "load x" in load
        unit = "s/GiB" if is_bulk else "us/req"
        print(
            f"{load:16} {name:12} {median('requests_per_second'):8.0f} {median('p50_ms'):8.2f} "
            f"{median('p99_ms'):8.2f} {median('connector_cpu'):10.2f} {unit:5} {median('edge_cpu'):8.2f}"
        )


if __name__ == "__main__":
    main()

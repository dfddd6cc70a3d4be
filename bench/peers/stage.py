"""What every load needs besides the peer that is measured: origins, an edge, tunnels on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import final

from bench.peers.processes import Child, free_port, started

UNDERPASS = (sys.executable, "-m", "underpass")
BULK = 256 << 20
"""Bytes of the large file."""
FAR = 64 << 20
"""Bytes that go over the long way: a first second of opening windows should not be all of it."""


class Origin(Enum):
    """FILES is nginx with files, LIVE is `bench.peers.origin`."""

    FILES = "files"
    LIVE = "live"


@dataclass(frozen=True)
class Edge:
    """A running edge, and the addresses on which it listens."""

    child: Child
    http: str
    tunnel: str
    api: str
    cacert: Path


@dataclass(frozen=True)
class Tunnel:
    """A tunnel of the edge: its hostname, and the file with its credentials."""

    id: str
    hostname: str
    credentials: Path


@final
class Stage:
    """Origins and edge, running inside a `with` block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._serial = 0
        self._bodies: dict[int, Path] = {}

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            directory = tempfile.TemporaryDirectory(prefix="underpass-bench-")
            self.files = Path(stack.enter_context(directory))
            self.files.chmod(0o755)  # nginx's workers run as nobody
            self._origins = {
                Origin.FILES: self._start_files(stack),
                Origin.LIVE: self._start_live(stack),
            }
            self.edge = self._start_edge(stack)
            self.certificate = self._make_certificate()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def lost(self) -> str:
        """Which of its processes has ended, and with what; empty while all run."""
        ended = [
            f"the {child.name} process ended with {child.process.returncode}"
            for child in (self.edge.child, *(child for child, _ in self._origins.values()))
            if not child.alive
        ]
        return " and ".join(ended)

    def port(self, origin: Origin) -> int:
        """Where an origin listens."""
        return self._origins[origin][1]

    def path(self, name: str) -> Path:
        """A path for a file that nobody has used yet."""
        self._serial += 1
        return self.files / f"{self._serial}-{name}"

    def body(self, size: int) -> Path:
        """A file of so many random bytes."""
        if size not in self._bodies:
            self._bodies[size] = self.files / f"body-{size}"
            _write_random(self._bodies[size], size)
        return self._bodies[size]

    def tunnel(self) -> Tunnel:
        """A new tunnel on the edge."""
        request = urllib.request.Request(f"http://{self.edge.api}/tunnel", method="POST")
        with urllib.request.urlopen(request, timeout=10) as response:
            made = json.load(response)["result"]
        credentials = self.path("credentials.json")
        credentials.write_text(
            json.dumps(
                {
                    "AccountTag": made["account_tag"],
                    "TunnelSecret": made["secret"],
                    "TunnelID": made["id"],
                }
            )
        )
        credentials.chmod(0o600)
        return Tunnel(made["id"], made["hostname"], credentials)

    def _start_files(self, stack: ExitStack) -> tuple[Child, int]:
        site = self.files / "www"
        site.mkdir(0o755)
        for name, size in (("1k", 1024), ("16k", 16384), ("far", FAR), ("bulk", BULK)):
            _write_random(site / name, size)
            (site / name).chmod(0o644)
        port = free_port()
        config = self.files / "files.conf"
        config.write_text(
            nginx_config(self.files, f"server {{ listen 127.0.0.1:{port} backlog=4096; }}", site)
        )
        command = ("nginx", "-e", "stderr", "-c", config)
        return stack.enter_context(started("files", command, self.path("files.log"), port)), port

    def _start_live(self, stack: ExitStack) -> tuple[Child, int]:
        command = (sys.executable, "-m", "bench.peers.origin")
        child = stack.enter_context(
            started("live", command, self.path("live.log"), r"listening on \d+\n")
        )
        return child, int(child.said.rpartition(" ")[2])

    def _start_edge(self, stack: ExitStack) -> Edge:
        data = self.files / "edge"
        addresses = [f"--{name}=127.0.0.1:0" for name in ("https", "http", "tunnel", "api")]
        child = stack.enter_context(
            started(
                "edge",
                (*UNDERPASS, "edge", "run", f"--data-dir={data}", *addresses),
                self.path("edge.log"),
                r"API: .*\n",
            )
        )
        patterns = (r"  http://(\S+)", r"Connectors: (\S+)", r"API: +http://(\S+)")
        http, tunnel, api = (
            match[1] if (match := re.search(pattern, child.said)) else "" for pattern in patterns
        )
        return Edge(child, http, tunnel, api, data / "ca.pem")

    def _make_certificate(self) -> Path:
        """One file with a key and a certificate, for the peers that are plain servers."""
        key, certificate = self.files / "key.pem", self.files / "certificate.pem"
        subprocess.run(
            [
                "openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost", "-days", "7",
                "-keyout", str(key), "-out", str(certificate),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        both = self.files / "both.pem"
        both.write_text(key.read_text() + certificate.read_text())
        return both


def nginx_config(directory: Path, server: str, root: Path | None = None) -> str:
    """An nginx with one worker in the foreground that keeps its files in `directory`."""
    return f"""
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 16000; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  keepalive_requests 1000000000; client_max_body_size 0; large_client_header_buffers 8 16k;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  {f"root {root};" if root else ""}
  {server}
}}
"""


def _write_random(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.write(os.urandom(size & 0xFFFFF))

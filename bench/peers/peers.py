"""The programs that are compared: how each is started before an origin, and where it is driven.

Three kinds. A *tunnel* is a connector on the edge; visitors speak HTTP/1.1 to the edge's plain
listener. A *proxy* is nginx or haproxy in a connector's position, TLS and HTTP/2 in front, HTTP/1.1
behind, driven over one connection: what the same work costs where nothing else is done. A
*forwarder* carries the bytes of TCP connections, with a server of its own instead of the edge.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from bench.peers.processes import Child, free_port, started
from bench.peers.stage import UNDERPASS, Origin, Stage, Tunnel, nginx_config

REGISTERED = r"Registered tunnel connection"
POOL = 4096
"""Idle connections to the origin that each peer may keep, unless a load says otherwise."""


class Kind(Enum):
    TUNNEL = "tunnel"
    PROXY = "proxy"
    FORWARDER = "forwarder"


@dataclass(frozen=True)
class Running:
    """A peer in front of one origin.

    `address` (host:port) is where its visitors connect, `host` what they call it. `child` is the
    process that is measured, `far` the one at the other end of the link, if it has one.
    """

    peer: str
    kind: Kind
    address: str
    host: str
    child: Child
    far: Child | None = None

    @property
    def alive(self) -> bool:
        return self.child.alive and (self.far is None or self.far.alive)


@dataclass(frozen=True)
class Variation:
    """What a load wants other than usual. Tunnels only.

    Attributes:
        hosts: so many ingress rules before the one that counts, each of another host.
        edge: dial this address instead of the edge's.
    """

    hosts: int = 0
    edge: str = ""


USUAL = Variation()


class Peer(Protocol):
    """One program that is compared."""

    name: str
    kind: Kind

    def missing(self) -> str:
        """Why it cannot take part; empty if it can."""

    def version(self) -> str:
        """As it says itself."""

    def start(
        self, stage: Stage, origin: Origin, variation: Variation = USUAL
    ) -> AbstractContextManager[Running]:
        """In front of an origin, for the length of a `with` block."""


def output_of(command: Sequence[str | Path]) -> str:
    """First line of what a program says about itself, on either stream."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else ""


@dataclass
class TunnelPeer:
    """A connector: underpass's, or one with the same command line."""

    name: str
    program: Sequence[str]
    links: int = 1
    flags: Sequence[str] = ()
    kind: Kind = Kind.TUNNEL
    _tunnels: dict[int, list[Tunnel]] = field(default_factory=dict)

    def missing(self) -> str:
        if not self.program:
            return "UNDERPASS_CLOUDFLARED does not name its binary"
        return "" if shutil.which(self.program[0]) else f"no {self.program[0]}"

    def version(self) -> str:
        return output_of([*self.program, "--version"])

    @contextmanager
    def start(
        self, stage: Stage, origin: Origin, variation: Variation = USUAL
    ) -> Iterator[Running]:
        # An edge gives names away at a limited rate, so each is used again.
        unused = self._tunnels.setdefault(stage.edge.child.pid, [])
        tunnel = unused.pop() if unused else stage.tunnel()
        try:
            with started(
                self.name,
                self._command(stage, tunnel, origin, variation),
                stage.path(f"{self.name}.log"),
                rf"(?s)({REGISTERED}.*){{{self.links}}}",
            ) as child:
                yield Running(
                    self.name, self.kind, stage.edge.http, tunnel.hostname, child, stage.edge.child
                )
        finally:
            unused.append(tunnel)

    def _command(
        self, stage: Stage, tunnel: Tunnel, origin: Origin, variation: Variation
    ) -> list[str | Path]:
        config = stage.path(f"{self.name}.yml")
        service = f"http://127.0.0.1:{stage.port(origin)}"
        rules = [
            f"  - hostname: rule-{number}.example.com\n    service: {service}\n"
            for number in range(variation.hosts)
        ]
        config.write_text(
            f"tunnel: {tunnel.id}\noriginRequest:\n  keepAliveConnections: {POOL}\ningress:\n"
            + "".join(rules)
            + f"  - service: {service}\n"
        )
        # The same address twice: with one only, cloudflared dials without pause when refused.
        edge = f"--edge={variation.edge or stage.edge.tunnel}"
        return [
            *self.program, "tunnel", "--no-autoupdate", "--protocol=http2", "--grace-period=1s",
            "--metrics=127.0.0.1:0", f"--ha-connections={self.links}",
            *[edge] * max(2, self.links), f"--cacert={stage.edge.cacert}", f"--config={config}",
            *self.flags, "run", f"--credentials-file={tunnel.credentials}", tunnel.id,
        ]  # fmt: skip


@dataclass
class Nginx:
    """nginx, TLS and HTTP/2 in front, kept-alive HTTP/1.1 behind, one worker."""

    name: str = "nginx"
    kind: Kind = Kind.PROXY

    def missing(self) -> str:
        return "" if shutil.which("nginx") else "no nginx"

    def version(self) -> str:
        return output_of(["nginx", "-v"])

    @contextmanager
    def start(
        self, stage: Stage, origin: Origin, variation: Variation = USUAL
    ) -> Iterator[Running]:
        port = free_port()
        directory = stage.path("nginx")
        directory.mkdir(0o755)
        server = f"""
  upstream origin {{
    server 127.0.0.1:{stage.port(origin)}; keepalive {POOL}; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} ssl http2 backlog=4096;
    ssl_certificate {stage.certificate}; ssl_certificate_key {stage.certificate};
    ssl_protocols TLSv1.3; ssl_buffer_size 16k;
    http2_max_concurrent_streams 4096; http2_chunk_size 64k;
    proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_max_temp_file_size 0;
    }}
  }}
"""
        config = stage.path("nginx.conf")
        config.write_text(nginx_config(directory, server))
        command = ("nginx", "-e", "stderr", "-c", config)
        with started(self.name, command, stage.path("nginx.log"), port) as child:
            yield Running(self.name, self.kind, f"127.0.0.1:{port}", "localhost", child)


@dataclass
class Haproxy:
    """haproxy in the same position, one thread."""

    name: str = "haproxy"
    kind: Kind = Kind.PROXY

    def missing(self) -> str:
        return "" if shutil.which("haproxy") else "no haproxy"

    def version(self) -> str:
        return output_of(["haproxy", "-v"])

    @contextmanager
    def start(
        self, stage: Stage, origin: Origin, variation: Variation = USUAL
    ) -> Iterator[Running]:
        port = free_port()
        config = stage.path("haproxy.cfg")
        config.write_text(
            f"""
global
  nbthread 1
  maxconn 8000
  tune.h2.max-concurrent-streams 4096
  tune.http.maxhdr 256
  tune.pool-high-fd-ratio 90
  tune.pool-low-fd-ratio 80
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 10s
  timeout client 120s
  timeout server 120s
  http-reuse always
frontend front
  bind 127.0.0.1:{port} ssl crt {stage.certificate} alpn h2
  default_backend origin
backend origin
  server origin 127.0.0.1:{stage.port(origin)} pool-max-conn {POOL}
"""
        )
        command = ("haproxy", "-db", "-f", config)
        with started(self.name, command, stage.path("haproxy.log"), port) as child:
            yield Running(self.name, self.kind, f"127.0.0.1:{port}", "localhost", child)


@dataclass
class Forwarder:
    """A program with a client at the origin and a server at the visitors: a pair of commands."""

    name: str
    programs: Sequence[str]
    kind: Kind = Kind.FORWARDER

    def missing(self) -> str:
        absent = [program for program in self.programs if not shutil.which(program)]
        return f"no {' and no '.join(absent)}" if absent else ""

    def version(self) -> str:
        return output_of([self.programs[0], "-V" if self.name == "ssh" else "--version"])

    @contextmanager
    def start(
        self, stage: Stage, origin: Origin, variation: Variation = USUAL
    ) -> Iterator[Running]:
        # `link` is where the client dials its server, `front` where visitors come.
        link, front = free_port(), free_port()
        server, client = getattr(self, f"_{self.name}")(stage, link, front, stage.port(origin))
        environment = {"AUTH": "bench:bench"} if self.name == "chisel" else {}
        with ExitStack() as stack:
            far = stack.enter_context(
                started(f"{self.name} server", server, stage.path("far.log"), link, environment)
            )
            child = stack.enter_context(
                started(self.name, client, stage.path(f"{self.name}.log"), front, environment)
            )
            yield Running(self.name, self.kind, f"127.0.0.1:{front}", "localhost", child, far)

    def _frp(self, stage: Stage, link: int, front: int, origin: int) -> tuple[list[str], list[str]]:
        server, client = stage.path("frps.toml"), stage.path("frpc.toml")
        server.write_text(f'bindAddr = "127.0.0.1"\nbindPort = {link}\n')
        client.write_text(
            f'serverAddr = "127.0.0.1"\nserverPort = {link}\n[[proxies]]\nname = "origin"\n'
            f'type = "tcp"\nlocalIP = "127.0.0.1"\nlocalPort = {origin}\nremotePort = {front}\n'
        )
        return ["frps", "-c", str(server)], ["frpc", "-c", str(client)]

    def _chisel(
        self, stage: Stage, link: int, front: int, origin: int
    ) -> tuple[list[str], list[str]]:
        return (
            ["chisel", "server", "--host", "127.0.0.1", "--port", str(link), "--reverse"],
            [
                "chisel", "client", f"http://127.0.0.1:{link}",
                f"R:127.0.0.1:{front}:127.0.0.1:{origin}",
            ],
        )  # fmt: skip

    def _rathole(
        self, stage: Stage, link: int, front: int, origin: int
    ) -> tuple[list[str], list[str]]:
        server, client = stage.path("server.toml"), stage.path("client.toml")
        server.write_text(
            f'[server]\nbind_addr = "127.0.0.1:{link}"\ndefault_token = "bench"\n'
            f'[server.services.origin]\nbind_addr = "127.0.0.1:{front}"\n'
        )
        client.write_text(
            f'[client]\nremote_addr = "127.0.0.1:{link}"\ndefault_token = "bench"\n'
            f'[client.services.origin]\nlocal_addr = "127.0.0.1:{origin}"\n'
        )
        return ["rathole", "--server", str(server)], ["rathole", "--client", str(client)]

    def _ssh(self, stage: Stage, link: int, front: int, origin: int) -> tuple[list[str], list[str]]:
        host_key, key = stage.path("host-key"), stage.path("key")
        for path in (host_key, key):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True
            )
        config = stage.path("sshd_config")
        config.write_text(
            f"Port {link}\nListenAddress 127.0.0.1\nHostKey {host_key}\nStrictModes no\n"
            f"AuthorizedKeysFile {key}.pub\nPasswordAuthentication no\n"
            f"PidFile {config}.pid\nMaxSessions 10\n"
        )
        return (
            [shutil.which("sshd") or "sshd", "-D", "-e", "-f", str(config)],
            [
                "ssh", "-N", "-F", "none", "-i", str(key), "-p", str(link),
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                "-o", "ExitOnForwardFailure=yes",
                "-R", f"127.0.0.1:{front}:127.0.0.1:{origin}", f"{getpass.getuser()}@127.0.0.1",
            ],
        )  # fmt: skip


FORWARDERS = {
    "frp": ("frpc", "frps"),
    "chisel": ("chisel",),
    "rathole": ("rathole",),
    "ssh": ("ssh", "sshd", "ssh-keygen"),
}
NAMES = ("underpass", "cloudflared", "nginx", "haproxy", *FORWARDERS)


def make(name: str, links: int, flags: Sequence[str]) -> Peer:
    """A peer by its name, which is one of NAMES. `flags` are for underpass only."""
    if name == "underpass":
        return TunnelPeer(name, UNDERPASS, links, flags)
    if name == "cloudflared":
        program = os.environ.get("UNDERPASS_CLOUDFLARED") or shutil.which("cloudflared")
        return TunnelPeer(name, (program,) if program else (), links)
    if name == "nginx":
        return Nginx()
    if name == "haproxy":
        return Haproxy()
    return Forwarder(name, FORWARDERS[name])


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """Of the peers, and of what is around them."""
    import ssl

    found = {peer.name: peer.version() for peer in peers}
    found |= {
        "origin (nginx)": output_of(["nginx", "-v"]),
        "h2load": output_of(["h2load", "--version"]),
        "python": sys.version.split()[0],
        "openssl of python": ssl.OPENSSL_VERSION,
        "uvloop": json.loads(
            output_of(
                [sys.executable, "-c", "import json, uvloop; print(json.dumps(uvloop.__version__))"]
            )
        ),
    }
    tree = output_of(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"])
    if re.fullmatch(r"[\w.-]+", tree):
        found["tree"] = tree
    return found

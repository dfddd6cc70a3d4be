"""An edge with a public port, and a connector behind it: ours or a stock one."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .cloudflared import Cloudflared
from .conversation import PIECE
from .patience import PATIENCE
from .processes import ConnectorProcess, EdgeProcess, Process, new_tunnel, running

__all__ = [
    "HOSTNAME",
    "PublicPort",
    "another_connector",
    "public_port",
    "read_all",
    "route",
    "visitor",
]

HOSTNAME = "stream.example.test"


@dataclass
class PublicPort:
    """`port` leads to the origin; `file` is the edge's, where more can be said."""

    edge: EdgeProcess
    connector: Process
    port: int
    file: Path
    access_log: Path
    token: str = ""
    """What further connectors of the tunnel are run with."""
    workers: list[int] = field(default_factory=list)
    """Process ids, when there are several."""

    def write(self, text: str) -> None:
        self.file.write_text(text)


def route(port: int, hostname: str = HOSTNAME, more: str = "") -> str:
    """An entry of the file's `tcp`."""
    return f"  - {{listen: '127.0.0.1:{port}', hostname: {hostname}{more}}}\n"


def another_connector(place: PublicPort, origin: str) -> ConnectorProcess:
    """One more of the same tunnel, begun."""
    arguments = [*place.edge.edge_arguments, "--ha-connections=1", "run"]
    return ConnectorProcess([*arguments, f"--token={place.token}", f"--url={origin}"])


@contextlib.contextmanager
def public_port(
    data_dir: Path,
    origin: str,
    *,
    binary: str | None = None,
    workers: int = 1,
    more: str = "",
    inherited: tuple[tuple[str, socket.socket], ...] = (),
    rules: str = "",
) -> Iterator[PublicPort]:
    """Begin both; `binary` is a stock cloudflared, `more` goes into the port's entry, `rules` are
    settings of the connector."""
    port = inherited[0][1].getsockname()[1] if inherited else 0
    file = data_dir.parent / "edge.yml"
    file.write_text(f"tcp:\n{route(port, more=more)}")
    credentials = new_tunnel(data_dir, HOSTNAME)
    access_log = data_dir.parent / "access.log"
    edge = EdgeProcess(
        data_dir,
        more=[
            f"--config={file}",
            f"--workers={workers}",
            "--metrics=127.0.0.1:0",
            f"--access-log={access_log}",
        ],
        inherited=inherited,
    )
    leads = str(edge.wait_for("Public port")["message"])
    port = int(re.findall(r":(\d+) leads to", leads)[0])
    with contextlib.ExitStack() as stack:
        if binary is None:
            arguments = [*edge.edge_arguments, "--ha-connections=1", "run"]
            connector: Process = ConnectorProcess(
                [*arguments, f"--token={credentials.to_token()}", f"--url={origin}", *rules.split()]
            )
        else:
            connector = Cloudflared(
                binary, edge, ["run", f"--token={credentials.to_token()}", f"--url={origin}"]
            )
        stack.enter_context(running(connector, edge))
        connector.wait_for("Registered tunnel connection")
        place = PublicPort(edge, connector, port, file, access_log, credentials.to_token())
        if workers > 1:
            place.workers = edge.wait_for(f"Running {workers} worker processes")["pids"]
            # Until all of them know of the link: figures come behind the word of it, first from
            # the worker that has it, then from those that are told.
            for _ in range(2):
                edge.page("/metrics")
        yield place


def read_all(sock: socket.socket) -> bytes:
    """Until its end."""
    data = bytearray()
    while piece := sock.recv(PIECE):
        data += piece
    return bytes(data)


def visitor(port: int, *, buffer: int = 0) -> socket.socket:
    """A connected socket; `buffer` is the size of what the system reads ahead."""
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock

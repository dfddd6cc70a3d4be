"""How an edge on this machine is: what it has written down at its start, and what it answers.

A running edge keeps `running.json` in its data directory. Whether it still runs is what its own
listeners say, so that what an edge has left behind that was killed misleads nobody.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import msgspec

from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import DataDirectoryError
from underpass.ops.http_request import Answer, RequestError, request

__all__ = ["Figures", "RunningEdge", "Status", "ask_metrics", "reachable", "read_status"]

ASK_SECONDS: Final = 5.0
MAX_ANSWER: Final = 16 * 1024 * 1024

_SAMPLE: Final = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'name="((?:[^"\\]|\\.)*)"')


class RunningEdge(msgspec.Struct, frozen=True):
    """What an edge writes down when it has started. Addresses are `HOST:PORT`."""

    pid: int
    version: str
    started_at: datetime
    workers: int
    https: str
    http: str
    tunnels: tuple[str, ...]
    api: str
    metrics: str | None = None
    dashboard: str | None = None
    """An address for browsers."""

    def write(self, directory: DataDirectory) -> None:
        """Keep it in a data directory. Raises DataDirectoryError."""
        unfinished = directory.running.with_suffix(".new")
        try:
            unfinished.write_bytes(msgspec.json.encode(self))
            unfinished.replace(directory.running)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot write {directory.running}: {error.strerror or error}"
            ) from error

    def forget(self, directory: DataDirectory) -> None:
        """Take it away, unless another edge has written it meanwhile. Raises DataDirectoryError."""
        if RunningEdge.read(directory) == self:
            directory.running.unlink(missing_ok=True)

    @staticmethod
    def read(directory: DataDirectory) -> RunningEdge | None:
        """The edge that runs, or was killed; None if there is none. Raises DataDirectoryError."""
        try:
            return msgspec.json.decode(directory.running.read_bytes(), type=RunningEdge)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise DataDirectoryError(f"cannot read {directory.running}: {error}") from error


class Figures(msgspec.Struct, omit_defaults=True):
    """What the metrics say, added up."""

    links: int = 0
    tunnels: int = 0
    tunnels_with_links: int = 0
    routes: int = 0
    revision: int = 0
    visitor_connections: int = 0
    requests: int = 0
    active_requests: int = 0
    failures: int = 0
    handshake_failures: int = 0
    first_certificate: str = ""
    first_certificate_ends: datetime | None = None


_FIGURES: Final = {
    "underpass_edge_links": "links",
    "underpass_edge_tunnels": "tunnels",
    "underpass_edge_tunnels_with_links": "tunnels_with_links",
    "underpass_edge_routes": "routes",
    "underpass_edge_store_revision": "revision",
    "underpass_edge_visitor_connections": "visitor_connections",
    "underpass_edge_requests_total": "requests",
    "underpass_edge_active_requests": "active_requests",
    "underpass_request_failures_total": "failures",
    "underpass_edge_tls_handshake_failures_total": "handshake_failures",
}
_EXPIRY: Final = "underpass_edge_certificate_expiry_timestamp_seconds"


class Status(msgspec.Struct):
    """`state` is ready, starting, draining or unready as the edge says; running when it has no
    listener to ask for more; "no answer", or "not running"."""

    state: str
    edge: RunningEdge | None = None
    figures: Figures | None = None
    problem: str = ""

    @property
    def is_well(self) -> bool:
        """Whether visitors are served."""
        return self.state in ("ready", "running")


def read_status(data_dir: Path) -> Status:
    """Of the edge with this data directory. Raises EdgeError."""
    edge = RunningEdge.read(DataDirectory.of_any_edge(data_dir))
    if edge is None:
        return Status("not running")
    if edge.metrics is not None:
        status = ask_metrics(edge.metrics)
    else:
        try:
            answer = _ask(edge.api, "/healthz")
            status = Status("running" if answer.status == 200 else "unready")
        except RequestError as error:
            status = Status("no answer", problem=str(error))
    status.edge = edge
    return status


def ask_metrics(address: str) -> Status:
    """Of the edge whose operators' listener is at an address."""
    try:
        readiness = msgspec.json.decode(_ask(address, "/readyz").body, type=dict[str, str])
        figures = _figures(_ask(address, "/metrics").body.decode("utf-8", "replace"))
    except (RequestError, msgspec.DecodeError) as error:
        return Status("no answer", problem=str(error))
    store = readiness.get("store", "")
    problem = "" if store == "ok" else f"store: {store}"
    return Status(readiness.get("status", "unready"), None, figures, problem)


def _ask(address: str, path: str) -> Answer:
    return request(
        "GET",
        f"http://{reachable(address)}{path}",
        headers={},
        timeout=ASK_SECONDS,
        max_bytes=MAX_ANSWER,
    )


def reachable(address: str) -> str:
    """An edge that listens on every interface is asked on loopback."""
    host, _, port = address.rpartition(":")
    if host in ("", "0.0.0.0"):  # noqa: S104 - read, not bound
        return f"127.0.0.1:{port}"
    return f"[::1]:{port}" if host == "[::]" else address


def _figures(exposition: str) -> Figures:
    figures = Figures()
    for line in exposition.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            continue
        name, labels, text = sample.groups()
        try:
            value = float(text)
        except ValueError:
            continue
        if name in _FIGURES:
            field = _FIGURES[name]
            setattr(figures, field, getattr(figures, field) + int(value))
        elif name == _EXPIRY:
            ends = datetime.fromtimestamp(value, timezone.utc)
            if figures.first_certificate_ends is None or ends < figures.first_certificate_ends:
                figures.first_certificate_ends = ends
                named = _LABEL.search(labels or "")
                figures.first_certificate = named.group(1) if named else ""
    return figures

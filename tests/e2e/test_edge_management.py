"""The management host of an edge: logs of connectors for whoever has a token, and nobody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from peers.curl import Answer, Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, Process, new_tunnel, running

from underpass.edge.management_token import ManagementKey

HOSTNAME = "app.example.test"
# A name that every system resolves, so that stock clients find the edge by it.
MANAGEMENT = "localhost"


@dataclass
class Managed:
    edge: EdgeProcess
    connectors: list[ConnectorProcess]
    origin: Origin
    tunnel: UUID
    key: ManagementKey

    def token(self, resource: str = "admin", **changes: Any) -> str:
        options = {"tunnel_id": self.tunnel, "account_id": "account"} | changes
        return self.key.issue(**options, actor="somebody", resource=resource)

    def ask(self, path: str, token: str, *more: str, query: str = "") -> Answer:
        return Curl(self.edge, MANAGEMENT)(f"{path}?access_token={token}{query}", *more)

    @property
    def connector_ids(self) -> list[str]:
        return [
            str(each.wait_for("Generated Connector ID")["message"]).rpartition(" ")[2]
            for each in self.connectors
        ]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def managed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Managed]:
    data_dir = tmp_path_factory.mktemp("managed") / "data"
    credentials = new_tunnel(data_dir, HOSTNAME)
    more = [f"--workers={request.param}", f"--management-hostname={MANAGEMENT}"]
    edge = EdgeProcess(data_dir, more=more)
    with Origin() as origin:
        connectors = [
            ConnectorProcess(
                [*edge.edge_arguments, "--ha-connections=1", "run", f"--url={origin.url}"],
                environment={"TUNNEL_TOKEN": credentials.to_token()},
            )
            for _ in range(2)
        ]
        with running(*connectors, edge):
            for connector in connectors:
                connector.ready()
            key = ManagementKey.open(data_dir / "management-key.pem")
            yield Managed(edge, connectors, origin, credentials.tunnel_id, key)


def test_the_connector_that_is_asked_for_answers(managed: Managed) -> None:
    for _ in range(3):
        for number in managed.connector_ids:
            answer = managed.ask("/host_details", managed.token(), query=f"&connector_id={number}")
            assert (answer.status, answer.json["connector_id"]) == (200, number)
    answer = managed.ask("/host_details", managed.token("host_details"))
    assert answer.json["connector_id"] in managed.connector_ids


def test_its_pages(managed: Managed) -> None:
    assert managed.ask("/ping", managed.token("logs")).status == 200
    assert b"cloudflared_tunnel_total_requests" in managed.ask("/metrics", managed.token()).body
    for version in ("--http1.1", "--http2"):
        assert managed.ask("/ping", managed.token(), version).status == 200


def test_a_connector_that_is_not_there(managed: Managed) -> None:
    for number in (UUID(int=7), "nonsense"):
        answer = managed.ask("/ping", managed.token(), query=f"&connector_id={number}")
        assert answer.status == 530
    both = "".join(f"&connector_id={number}" for number in managed.connector_ids)
    assert managed.ask("/ping", managed.token(), query=both).status == 530


class TestRefused:
    def test_tokens_of_nobody(self, managed: Managed, tmp_path: Path) -> None:
        other = ManagementKey.open(tmp_path / "key.pem")
        forged = other.issue(managed.tunnel, "account", "somebody", "admin")
        for token in (forged, managed.token()[:-4] + "AAAA", "nonsense"):
            assert managed.ask("/logs", token).status == 403
        assert managed.ask("/ping", "").status == 400

    def test_tokens_for_something_else(self, managed: Managed) -> None:
        for token, path in (
            (managed.token("host_details"), "/logs"),
            (managed.token("logs"), "/host_details"),
            (managed.token("logs"), "/metrics"),
            (managed.token("logs"), "/debug/stacks"),
            (managed.token(tunnel_id=UUID(int=5)), "/ping"),
            (managed.token(account_id="another"), "/ping"),
        ):
            assert managed.ask(path, token).status == 403, path

    def test_a_second_token_in_hiding(self, managed: Managed) -> None:
        good = managed.token()
        for more in (f"&access_token={good}", "&access%5Ftoken=x", ";access_token=x"):
            assert managed.ask("/ping", good, query=more).status in (400, 403)

    def test_without_tls(self, managed: Managed) -> None:
        curl = Curl(managed.edge, MANAGEMENT)
        answer = curl(f"/ping?access_token={managed.token()}", scheme="http")
        assert answer.status == 403

    def test_other_paths(self, managed: Managed) -> None:
        for path in ("/", "/nothing", "//logs", "/logs/"):
            assert managed.ask(path, managed.token()).status == 404

    def test_connectors_believe_nobody_else(self, managed: Managed) -> None:
        """Without a token, their own name leads nowhere, whichever way it is written."""
        for host in ("management.argotunnel.com", "MANAGEMENT.ARGOTUNNEL.COM.", MANAGEMENT):
            answer = Curl(managed.edge, HOSTNAME)("/ping", "-H", f"Host: {host}", "-k")
            assert answer.status == 400


class Tail(Process):
    """A `tail` that gets its token from the API itself."""

    def __init__(self, command: Sequence[str], edge: EdgeProcess, cert: Path, tunnel: str) -> None:
        host = f"{MANAGEMENT}:{edge.https_port}"
        super().__init__(
            [*command, "tail", "--management-hostname", host, "--output", "json", tunnel],
            {
                "SSL_CERT_FILE": str(edge.ca),
                "TUNNEL_API_URL": f"http://{edge.api}",
                "TUNNEL_ORIGIN_CERT": str(cert),
            },
        )


def cloudflared() -> list[str]:
    path = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not path:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return [path]


@pytest.mark.parametrize(
    "whose", ["ours", pytest.param("stock", marks=pytest.mark.interop)], ids=str
)
def test_tail_follows_a_tunnel_of_an_account(data_dir: Path, tmp_path: Path, whose: str) -> None:
    tail_command = cloudflared() if whose == "stock" else [*UNDERPASS]
    cert, credentials = tmp_path / "cert.pem", tmp_path / "credentials.json"

    def run(*arguments: str) -> None:
        subprocess.run([*UNDERPASS, *arguments], check=True, timeout=PATIENCE, capture_output=True)

    run("edge", "init", f"--data-dir={data_dir}", f"--cert={cert}")
    edge = EdgeProcess(data_dir, more=[f"--management-hostname={MANAGEMENT}"])
    account = ["tunnel", f"--api-url=http://{edge.api}", f"--origincert={cert}"]
    with Origin() as origin:
        try:
            run(*account, "create", f"--credentials-file={credentials}", "web")
            run(*account, "route", "dns", "web", HOSTNAME)
        except BaseException:
            edge.kill()
            raise
        connector = ConnectorProcess(
            [
                *(*edge.edge_arguments, "--ha-connections=1", "run"),
                *(f"--credentials-file={credentials}", f"--url={origin.url}"),
                json.loads(credentials.read_text())["TunnelID"],
            ]
        )
        tunnel = json.loads(credentials.read_text())["TunnelID"]
        with running(connector, edge):
            connector.ready()
            tail = Tail(tail_command, edge, cert, tunnel)
            with running(tail):
                visitor = Curl(edge, HOSTNAME)
                eventually(
                    lambda: visitor("/hello?seen").status and tail.has_logged("/hello?seen"),
                    "the request is shown",
                )
                tail.signal(signal.SIGINT)
                tail.check()

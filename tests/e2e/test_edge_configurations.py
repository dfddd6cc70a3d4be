"""Configurations kept at the edge: put by the API, in force at the connectors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.owner import ApiClient, certificate_of, set_up
from peers.patience import eventually
from peers.processes import ConnectorProcess, EdgeProcess, Process, running

VERSION = "cloudflared_orchestration_config_version"


class Managed:
    """A tunnel whose configuration is kept at the edge, with one hostname."""

    def __init__(self, edge: EdgeProcess, cert: Path) -> None:
        said = certificate_of(cert)
        self.edge = edge
        self._ask = ApiClient(edge.api, said["apiToken"])
        base = f"/accounts/{said['accountID']}/cfd_tunnel"
        made = self.ask("POST", base, {"name": "managed"})
        self.token = made["token"]
        self._configurations = f"{base}/{made['id']}/configurations"
        route = {"type": "dns", "user_hostname": "app.example.test"}
        self.ask("PUT", f"/zones/{said['zoneID']}/tunnels/{made['id']}/routes", route)
        self.curl = Curl(edge, "app.example.test")

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self._ask(method, path, body)
        assert status == 200, answer
        return answer["result"]

    def put(self, service: str) -> int:
        """Put a configuration; its version."""
        config = {"config": {"ingress": [{"service": service}]}}
        version: int = self.ask("PUT", self._configurations, config)["version"]
        return version

    def connector(self, *arguments: str) -> ConnectorProcess:
        return ConnectorProcess(
            [
                *self.edge.edge_arguments,
                *self.edge.edge_arguments,
                "--ha-connections=2",
                *arguments,
            ],
            environment={"TUNNEL_TOKEN": self.token},
        )

    def is_answered(self, status: int) -> None:
        eventually(lambda: self.curl("/hello").status == status, f"the answer is {status}")


@pytest.fixture(params=[1, 2], ids=["one-process", "workers"])
def managed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Managed]:
    set_up(tmp_path / "data", tmp_path / "cert.pem")
    edge = EdgeProcess(tmp_path / "data", more=[f"--workers={request.param}"])
    with running(edge):
        yield Managed(edge, tmp_path / "cert.pem")


def test_a_configuration_reaches_connectors_that_run_and_those_that_come(managed: Managed) -> None:
    with Origin() as origin:
        early = managed.connector(f"--url={origin.url}", "run")
        with running(early):
            early.ready(2)
            assert managed.curl("/hello").status == 200
            for version, status in ((1, 201), (2, 202)):
                assert managed.put(f"http_status:{status}") == version
                early.wait_for("Updated to new configuration", version=version)
                managed.is_answered(status)
            late = managed.connector("run")
            with running(late):
                late.ready(2)
                late.wait_for("Updated to new configuration", version=2)
                assert {answer.status for answer in managed.curl.several(["/hello"] * 8)} == {202}
                assert managed.put(origin.url) == 3
                for each in (early, late):
                    each.wait_for("Updated to new configuration", version=3)
                    assert each.metric(VERSION) == 3
                managed.is_answered(200)


def test_one_that_cannot_be_used_leaves_the_last_in_force(managed: Managed) -> None:
    connector = managed.connector("run")
    with running(connector):
        connector.ready(2)
        managed.put("http_status:201")
        managed.is_answered(201)
        managed.put("localhost:8000")
        connector.wait_for("Configuration refused, the one in force stays", refused=2)
        line = managed.edge.wait_for("did not take configuration 2")
        assert "needs a scheme and a host" in line["message"]
        assert managed.curl("/hello").status == 201
        managed.put("http_status:203")
        managed.is_answered(203)


@pytest.mark.interop
def test_a_stock_cloudflared_is_managed_from_here(managed: Managed) -> None:
    binary = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not binary:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    managed.put("http_status:418")
    cloudflared = Process(
        [
            binary,
            *("tunnel", "--output=json", "--no-autoupdate", "--no-prechecks"),
            *("--protocol=http2", "--metrics=127.0.0.1:0", "--grace-period=1s"),
            *managed.edge.edge_arguments * 4,
            "run",
        ],
        {"TUNNEL_TOKEN": managed.token},
    )
    with running(cloudflared):
        cloudflared.wait_for("Registered tunnel connection")
        cloudflared.wait_for("Updated to new configuration")
        managed.is_answered(418)
        managed.put("http_status:419")
        managed.is_answered(419)
        managed.put("nonsense")
        managed.edge.wait_for("did not take configuration 3")
        assert managed.curl("/hello").status == 419

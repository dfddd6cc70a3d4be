"""What a running connector tells operators on its metrics server."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from peers.origin import Origin
from peers.patience import eventually
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running

HOSTNAME = "app.example.test"


def document(connector: ConnectorProcess, path: str) -> Any:
    status, body = connector.page(path)
    assert status == 200, body
    return json.loads(body)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_pages_of_one_connector(data_dir: Path, tmp_path: Path, workers: int) -> None:
    credentials = new_tunnel(data_dir, HOSTNAME)
    edge = EdgeProcess(data_dir)
    with Origin() as origin:
        configuration = tmp_path / "config.yml"
        configuration.write_text(
            f"ingress:\n  - hostname: {HOSTNAME}\n    service: {origin.url}\n"
            "  - service: http_status:404\noriginRequest:\n  connectTimeout: 5s\n"
        )
        connector = ConnectorProcess(
            ["run"],
            settings=[
                *(edge.edge_arguments[0],) * 2,
                f"--cacert={edge.ca}",
                f"--config={configuration}",
                f"--workers={workers}",
                "--ha-connections=2",
                f"--logfile={tmp_path / 'log'}",
            ],
            environment={"TUNNEL_TOKEN": credentials.to_token()},
        )
        with running(connector, edge):
            connector.ready(2)
            state = document(connector, "/diag/tunnel")
            assert state["tunnelID"] == str(credentials.tunnel_id)
            assert state["connectorID"] == connector.readiness[1]["connectorId"]
            assert state["connections"] == [
                {"isConnected": True, "edgeAddress": "127.0.0.1"},
                {"isConnected": True, "edgeAddress": "127.0.0.1", "index": 1},
            ]

            config = document(connector, "/config")
            assert config["version"] == -1
            assert config["config"]["originRequest"]["connectTimeout"] == 5
            services = [rule["service"] for rule in config["config"]["ingress"]]
            assert services == [origin.url, "http_status:404"]

            flags = document(connector, "/diag/configuration")
            assert flags["ha-connections"] == "2"
            assert flags["logfile"] == str(tmp_path / "log")
            assert "token" not in flags
            assert document(connector, "/diag/system")["info"]["osSystem"]

            status, stacks = connector.page("/debug/stacks")
            assert (status, stacks.count(b"thread MainThread:")) == (
                200,
                1 if workers == 1 else 1 + workers,
            )
            status, memory = connector.page("/debug/memory")
            assert (status, memory.count(b"tracked objects, by type:")) == (
                200,
                1 if workers == 1 else 1 + workers,
            )
            for path in ("/", "/debug/pprof/heap", "/diag", "/metrics/"):
                assert connector.page(path)[0] == 404

            # What is shown is what is in force.
            configuration.write_text("ingress:\n  - service: http_status:410\n")
            connector.signal(signal.SIGHUP)
            eventually(
                lambda: (
                    [
                        rule["service"]
                        for rule in document(connector, "/config")["config"]["ingress"]
                    ]
                    == ["http_status:410"]
                ),
                "the new rules are shown",
            )

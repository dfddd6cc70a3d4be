"""`tunnel diag` on connectors that run, ours and stock."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from peers.origin import Origin
from peers.patience import PATIENCE
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, Process, new_tunnel, running

DOCUMENTED = {
    "tunnelstate.json",
    "systeminformation.json",
    "metrics.txt",
    "cloudflared_logs.txt",
    "cli-configuration.json",
    "configuration.json",
    "task-result.json",
}


@pytest.fixture
def token(data_dir: Path) -> str:
    return new_tunnel(data_dir, "app.example.test").to_token()


@pytest.fixture
def edge(data_dir: Path, token: str) -> Iterator[EdgeProcess]:
    process = EdgeProcess(data_dir)
    with running(process):
        yield process


def cloudflared() -> str:
    path = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not path:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return path


def diagnose(program: Sequence[str], address: str, directory: Path) -> tuple[set[str], Any]:
    """The names in the report, and the tunnel's state in it."""
    subprocess.run(
        [*program, "tunnel", "diag", "--no-diag-network", "--metrics", address],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    (path,) = directory.glob("*-diag-*.zip")
    with zipfile.ZipFile(path) as archive:
        results = json.loads(archive.read("task-result.json"))
        failed = {name: result for name, result in results.items() if "error" in result}
        assert not failed.keys() - {"log information"}, failed
        return set(archive.namelist()), json.loads(archive.read("tunnelstate.json"))


def test_our_connector(edge: EdgeProcess, token: str, tmp_path: Path) -> None:
    with Origin() as origin:
        connector = ConnectorProcess(
            ["run", f"--url={origin.url}"],
            settings=[*edge.edge_arguments, "--ha-connections=1", f"--logfile={tmp_path / 'log'}"],
            environment={"TUNNEL_TOKEN": token},
        )
        with running(connector):
            connector.ready()
            names, state = diagnose(UNDERPASS, connector.metrics_address, tmp_path)
            assert names == DOCUMENTED | {"stacks.txt", "memory.txt"}
            assert state["connections"] == [{"isConnected": True, "edgeAddress": "127.0.0.1"}]


@pytest.mark.interop
def test_a_stock_connector(edge: EdgeProcess, token: str, tmp_path: Path) -> None:
    connector = Process(
        [
            *(cloudflared(), "tunnel", "--output=json", "--no-autoupdate", "--no-prechecks"),
            *("--protocol=http2", "--metrics=127.0.0.1:0", *edge.edge_arguments * 2),
            *(f"--logfile={tmp_path / 'log'}", "run", "--token", token, "--hello-world"),
        ]
    )
    with running(connector):
        connector.wait_for("Registered tunnel connection")
        message = str(connector.wait_for("Starting metrics server on")["message"])
        (address,) = re.findall(r"127\.0\.0\.1:\d+", message)
        names, _ = diagnose(UNDERPASS, address, tmp_path)
        assert names == DOCUMENTED | {"goroutine.pprof", "heap.pprof"}


@pytest.mark.interop
def test_a_stock_program_understands_our_connector(
    edge: EdgeProcess, token: str, tmp_path: Path
) -> None:
    connector = ConnectorProcess(
        ["run", "--hello-world"],
        settings=[*edge.edge_arguments, "--ha-connections=1"],
        environment={"TUNNEL_TOKEN": token},
    )
    with running(connector):
        connector.ready()
        names, state = diagnose([cloudflared()], connector.metrics_address, tmp_path)
        # It looks for the log of a service of its own.
        assert names >= DOCUMENTED - {"cloudflared_logs.txt"}
        assert state["connections"] == [{"isConnected": True, "edgeAddress": "127.0.0.1"}]

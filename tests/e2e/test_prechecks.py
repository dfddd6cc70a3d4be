"""Pre-checks of an edge that is there, beside the links, and as a command."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.edge_stand_in import EdgeStandIn
from peers.patience import PATIENCE
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, new_tunnel, running
from peers.proxy_stand_in import ProxyStandIn

HOSTNAME = "app.example.test"


@pytest.fixture
def place(data_dir: Path) -> Iterator[tuple[EdgeProcess, str]]:
    token = new_tunnel(data_dir, HOSTNAME).to_token()
    edge = EdgeProcess(data_dir, tunnels=["127.0.0.1:0"] * 2)
    with running(edge):
        yield edge, token


def arguments(edge: EdgeProcess, token: str) -> list[str]:
    return [*edge.edge_arguments, "--hello-world", "run", f"--token={token}"]


@pytest.mark.parametrize("workers", [1, 2])
def test_they_run_beside_the_links(place: tuple[EdgeProcess, str], workers: int) -> None:
    edge, token = place
    connector = ConnectorProcess(
        arguments(edge, token),
        settings=[f"--workers={workers}"],
        environment={"TUNNEL_NO_PRECHECKS": "false"},
    )
    with running(connector):
        connector.ready(2)
        for tunnel in edge.tunnels:
            row = connector.wait_for("precheck", target=tunnel)
            assert row["component"] == "TCP Connectivity"
            assert (row["status"], row["level"]) == ("pass", "info")
        whole = connector.wait_for("precheck complete")
        assert whole["hard_fail"] is False
        first = connector.wait_for("Registered tunnel connection")
        assert connector.lines.index(first) < connector.lines.index(row)
    assert "did not register" not in edge.log


def test_they_run_although_no_link_comes_up(place: tuple[EdgeProcess, str], tmp_path: Path) -> None:
    edge, token = place
    other = EdgeStandIn(tmp_path)
    connector = ConnectorProcess(
        [f"--edge={edge.tunnels[0]}", f"--cacert={other.ca}", "--hello-world", "run"],
        environment={"TUNNEL_NO_PRECHECKS": "false", "TUNNEL_TOKEN": token},
    )
    with running(connector):
        row = connector.wait_for("precheck", status="fail")
        assert "certificate is not to be trusted" in row["details"]
        assert connector.wait_for("precheck complete")["hard_fail"] is True


def test_none_are_run_when_none_are_wanted(place: tuple[EdgeProcess, str]) -> None:
    edge, token = place
    connector = ConnectorProcess(
        arguments(edge, token),
        settings=["--no-prechecks"],
        environment={"TUNNEL_NO_PRECHECKS": "false"},
    )
    connector.ready(2)
    connector.stop()
    assert not connector.has_logged("precheck")


def test_a_stop_does_not_wait_for_them(tmp_path: Path) -> None:
    connector = ConnectorProcess(
        ["--edge=127.0.0.1:1", "--hello-world", "run"],
        environment={
            "TUNNEL_NO_PRECHECKS": "false",
            "TUNNEL_TOKEN": new_tunnel(tmp_path / "data", HOSTNAME).to_token(),
        },
    )
    connector.wait_for("Retrying connection")
    connector.stop()


def test_a_person_gets_a_table(place: tuple[EdgeProcess, str]) -> None:
    edge, token = place
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*UNDERPASS, "tunnel", "--metrics=127.0.0.1:0", *arguments(edge, token)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "HOME": "/nonexistent"},
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"SUMMARY: the way to the edge is open." not in shown:
            shown += os.read(ours, 4096)
        text = shown.decode()
        assert "CONNECTIVITY PRE-CHECKS" in text
        assert f"| TCP Connectivity | {edge.tunnels[0]}" in text
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(ours)


def run_command(*settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*UNDERPASS, "tunnel", *settings, "precheck"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "HOME": "/nonexistent", **environment},
    )


def test_the_command(place: tuple[EdgeProcess, str]) -> None:
    edge, _ = place
    done = run_command(*edge.edge_arguments)
    assert done.returncode == 0, done.stderr
    assert f"| TCP Connectivity | {edge.tunnels[0]} | PASS   |" in done.stdout
    with ProxyStandIn("http") as proxy:
        assert run_command(*edge.edge_arguments, f"--edge-proxy={proxy.url()}").returncode == 0
        assert sorted(proxy.asked) == sorted(edge.tunnels)
    without_trust = run_command(f"--edge={edge.tunnels[0]}")
    assert without_trust.returncode == 1
    assert "give its ca.pem with --cacert" in without_trust.stdout

"""An edge that is backed up while it runs, lost, and restored; what `edge status` says of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, new_tunnel, running

HOSTNAME = "app.example.test"


def command(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [*UNDERPASS, "edge", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def status(*arguments: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command("status", "--json", *arguments, code=code))
    return found


def test_connectors_and_visitors_find_the_restored_edge_unchanged(
    data_dir: Path, tmp_path: Path
) -> None:
    credentials = new_tunnel(data_dir, HOSTNAME)
    archive = tmp_path / "backup"
    with Origin() as origin:
        edge = EdgeProcess(data_dir)
        connector = ConnectorProcess(
            [*edge.edge_arguments, "--ha-connections=1", "run", f"--url={origin.url}"],
            environment={"TUNNEL_TOKEN": credentials.to_token()},
        )
        with running(connector):
            connector.ready()
            command("backup", f"--data-dir={data_dir}", str(archive))
            authority = edge.ca.read_bytes()
            edge.stop()
            shutil.rmtree(data_dir)
            command("restore", f"--data-dir={data_dir}", str(archive))
            assert edge.ca.read_bytes() == authority
            again = edge.again()
            with running(again):
                # The connector verifies with the authority it was given at its start... and comes
                # back with the credentials it had.
                again.wait_for("registered connection 0")
                assert Curl(again, HOSTNAME)("/hello").status == 200


class TestStatus:
    def test_of_an_edge_that_tells_its_operators(self, data_dir: Path) -> None:
        new_tunnel(data_dir, HOSTNAME)
        edge = EdgeProcess(data_dir, more=["--metrics=127.0.0.1:0", "--workers=2"])
        where = f"--data-dir={data_dir}"
        with running(edge):
            assert Curl(edge, "nobody.localhost")("/", scheme="http").status == 404
            found = status(where)
            assert found["state"] == "ready"
            said = found["edge"]
            assert (said["pid"], said["workers"]) == (edge.pid, 2)
            assert (said["https"], said["http"], said["api"]) == (edge.https, edge.http, edge.api)
            assert said["tunnels"] == edge.tunnels
            figures = found["figures"]
            assert (figures["tunnels"], figures["routes"]) == (1, 1)
            assert (figures["requests"], figures["failures"]) == (1, 1)
            assert figures["first_certificate"] == "ca"
            text = command("status", where)
            assert "State         ready\n" in text
            assert "Tunnels       1, 0 with connectors\n" in text
            elsewhere = status(f"--metrics={edge.metrics_address}")
            assert (elsewhere["state"], elsewhere["figures"]["tunnels"]) == ("ready", 1)
        assert status(where, code=1) == {
            "state": "not running",
            "edge": None,
            "figures": None,
            "problem": "",
        }

    def test_of_one_that_does_not_and_was_killed(self, data_dir: Path) -> None:
        edge = EdgeProcess(data_dir)
        where = f"--data-dir={data_dir}"
        found = status(where)
        assert (found["state"], found["figures"]) == ("running", None)
        edge.kill()
        found = status(where, code=1)
        assert found["state"] == "no answer"
        assert found["problem"]

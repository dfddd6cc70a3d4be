"""Quick tunnels: one command, a name of one's own."""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path

from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE
from peers.processes import UNDERPASS, ConnectorProcess, EdgeProcess, QuickTunnelProcess, running
from peers.stage import Stage


def test_the_name_is_told_and_works(scene: Stage) -> None:
    hostname = scene.hostname
    assert hostname.endswith(".localhost")
    assert f"https://{hostname}:{scene.edge.https_port}" in scene.connector.log
    assert scene.curl("/hello").body == b"hello\n"


def test_the_name_is_told_to_scripts_too(scene: Stage) -> None:
    connection = http.client.HTTPConnection(scene.connector.metrics_address, timeout=PATIENCE)
    connection.request("GET", "/quicktunnel")
    hostname = json.loads(connection.getresponse().read())["hostname"]
    connection.close()
    assert hostname.partition(":")[0] == scene.hostname


def test_it_has_one_link(scene: Stage) -> None:
    status, body = scene.connector.readiness
    assert status == 200
    assert body["readyConnections"] == 1


def test_each_has_a_name_of_its_own(edge: EdgeProcess) -> None:
    with Origin() as one, Origin() as other:
        first = QuickTunnelProcess(edge, f"--url={one.url}")
        second = QuickTunnelProcess(edge, f"--url={other.url}")
        with running(first, second):
            first.ready()
            second.ready()
            assert first.hostname != second.hostname
            Curl(edge, first.hostname)("/hello")
            Curl(edge, second.hostname)("/hello")
            assert len(one.requests("/hello")) == len(other.requests("/hello")) == 1


def test_its_name_outlives_a_restart_of_the_edge(data_dir: Path) -> None:
    edge = EdgeProcess(data_dir)
    with Origin() as origin:
        connector = QuickTunnelProcess(edge, f"--url={origin.url}")
        connector.ready()
        edge.stop()
        edge = edge.again()
        with running(connector, edge):
            connector.wait_for("Registered tunnel connection", count=2)
            assert Curl(edge, connector.hostname)("/hello").body == b"hello\n"


def test_hello_world(edge: EdgeProcess) -> None:
    connector = QuickTunnelProcess(edge, "--hello-world")
    with running(connector):
        connector.ready()
        answer = Curl(edge, connector.hostname)("/")
        assert answer.status == 200
        assert (answer.header("content-type") or "").startswith("text/html")


def test_a_service_that_is_not_there() -> None:
    connector = ConnectorProcess(["--url=http://127.0.0.1:1", "--quick-service=http://127.0.0.1:1"])
    connector.check(expected=1)
    assert "http://127.0.0.1:1 cannot be asked" in connector.log


def test_a_service_that_speaks_something_else() -> None:
    with Origin() as origin:
        connector = ConnectorProcess(["--url=http://127.0.0.1:1", f"--quick-service={origin.url}"])
        connector.check(expected=1)
    assert origin.requests("/tunnel")[0].method == "POST"
    assert "404" in connector.log


def test_help_needs_no_network() -> None:
    done = subprocess.run([*UNDERPASS, "tunnel", "--help"], capture_output=True, check=True)
    assert b"--url" in done.stdout

"""One connector, two edges with nothing in common: other certificates, other credentials."""

from __future__ import annotations

import contextlib
import json
import signal
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import eventually
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running

from underpass.wire.credentials import Credentials

HOSTNAME = "app.example.test"
NAMES = ("near", "far")


@dataclass
class TwoHomes:
    edges: list[EdgeProcess]
    origin: Origin
    config: Path

    def connector(self, *settings: str) -> ConnectorProcess:
        return ConnectorProcess([f"--config={self.config}", *settings, "run"])

    def curl(self, home: int) -> Curl:
        return Curl(self.edges[home], HOSTNAME)


def write_config(path: Path, homes: Sequence[dict[str, object]], origin: str) -> None:
    """JSON is YAML."""
    path.write_text(json.dumps({"homes": homes, "ingress": [{"service": origin}]}))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoHomes]:
    edges, homes = [], []
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin())
        for name in NAMES:
            data_dir, token = tmp_path / name, tmp_path / f"{name}.token"
            token.write_text(new_tunnel(data_dir, HOSTNAME).to_token())
            edge = EdgeProcess(data_dir, tunnels=["127.0.0.1:0"] * 2)
            edges.append(edge)
            homes.append(
                {
                    "name": name,
                    "edge": edge.tunnels,
                    "cacert": str(edge.ca),
                    "token-file": str(token),
                    "ha-connections": 2,
                }
            )
        config = tmp_path / "config.yml"
        write_config(config, homes, origin.url)
        yield TwoHomes(edges, origin, config)


@pytest.mark.parametrize("workers", [1, 3])
def test_losing_one_home_is_not_noticed_through_the_other(two: TwoHomes, workers: int) -> None:
    connector = two.connector(f"--workers={workers}")
    connector.ready(4)
    assert [two.curl(home)("/hello").status for home in (0, 1)] == [200, 200]
    with two.curl(1).begun("/slow?key=kept", "-w", "%{http_code}") as visit:
        two.origin.wait_for_request("/slow")
        two.edges[0].kill()
        connector.wait_for("Lost connection with the edge", count=2, home="near")
        assert [a.status for a in two.curl(1).several(["/hello"] * 10)] == [200] * 10
        eventually(
            lambda: connector.readiness == (200, connector.readiness[1] | {"readyConnections": 2}),
            "it stays ready through the other home",
        )
        two.origin.open_gate("kept")
        out, _ = visit.communicate()
        assert out == b"at last\n200"
    two.edges[0] = two.edges[0].again()
    with running(connector, *two.edges):
        connector.ready(6)
        assert [two.curl(home)("/hello").status for home in (0, 1)] == [200, 200]
        for name in NAMES:
            labels = f'connection_id="{name}/1",edge_location="[^"]*"'
            assert connector.metric("cloudflared_tunnel_server_locations", labels) == 1
        assert connector.metric("cloudflared_tunnel_ha_connections") == 4


def test_a_drain_covers_both(two: TwoHomes) -> None:
    connector = two.connector()
    with running(*two.edges):
        connector.ready(4)
        with contextlib.ExitStack() as stack:
            visits = [
                stack.enter_context(two.curl(home).begun(f"/slow?key=both&{home}"))
                for home in (0, 1)
            ]
            two.origin.wait_for_request("/slow", 2)
            connector.signal(signal.SIGTERM)
            connector.wait_for("Unregistered tunnel connection", count=4)
            two.origin.open_gate("both")
            assert [visit.communicate()[0] for visit in visits] == [b"at last\n"] * 2
        connector.check()


def test_a_home_that_is_not_there_does_not_hold_the_other_up(two: TwoHomes) -> None:
    two.edges[0].stop()
    connector = two.connector()
    with running(connector, two.edges[1]):
        connector.wait_for("Unable to establish connection with the edge", home="near")
        connector.ready(2)
        assert two.curl(1)("/hello").status == 200


def test_a_home_that_refuses_is_given_up_and_the_other_serves_on(
    two: TwoHomes, tmp_path: Path
) -> None:
    credentials = Credentials.from_token((tmp_path / "near.token").read_text())
    wrong = Credentials(credentials.account_tag, bytes(32), credentials.tunnel_id)
    (tmp_path / "near.token").write_text(wrong.to_token())
    connector = two.connector("--retries=0")
    with running(connector, *two.edges):
        line = connector.wait_for("This home is given up; the others go on")
        assert line["home"] == "near"
        assert "Unauthorized" in line["error"]
        connector.ready(2)
        assert two.curl(1)("/hello").status == 200
        assert connector.readiness[1]["readyConnections"] == 2


def test_it_ends_when_no_home_is_left(two: TwoHomes, tmp_path: Path) -> None:
    for name in NAMES:
        nobody = Credentials("account", bytes(32), uuid.uuid4())
        (tmp_path / f"{name}.token").write_text(nobody.to_token())
    with running(*two.edges):
        connector = two.connector("--retries=0")
        connector.check(1)
        assert connector.has_logged("Initiating shutdown")


def test_an_edge_beside_the_homes_is_refused(two: TwoHomes) -> None:
    with running(*two.edges):
        connector = two.connector("--edge=127.0.0.1:1")
        assert connector.wait() == 1
        assert "edge is given beside `homes`" in connector.log

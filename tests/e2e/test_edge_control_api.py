"""The API of a running edge, asked by curl; connectors of ours behind it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.owner import ApiClient, certificate_of, edge_command, set_up
from peers.patience import eventually
from peers.processes import ConnectorProcess, EdgeProcess, running


@pytest.fixture(params=[1, 2], ids=["one-process", "workers"])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EdgeProcess]:
    set_up(tmp_path / "data", tmp_path / "cert.pem")
    edge = EdgeProcess(tmp_path / "data", more=[f"--workers={request.param}"])
    with running(edge):
        yield edge


class Account:
    """Asks below an account of an edge."""

    def __init__(self, edge: EdgeProcess, cert: Path) -> None:
        said = certificate_of(cert)
        self.ask = ApiClient(edge.api, said["apiToken"])
        self.base = f"/accounts/{said['accountID']}"
        self.zone = f"/zones/{said['zoneID']}"

    def tunnel(self, name: str) -> tuple[str, str]:
        """Id and token of a new one."""
        status, answer = self.ask("POST", f"{self.base}/cfd_tunnel", {"name": name})
        assert status == 200, answer
        return answer["result"]["id"], answer["result"]["token"]

    def links(self, tunnel: str) -> list[str]:
        """The ids of its connections."""
        status, answer = self.ask("GET", f"{self.base}/cfd_tunnel/{tunnel}/connections")
        assert status == 200, answer
        return [link["id"] for client in answer["result"] for link in client["conns"]]


@pytest.fixture
def account(edge: EdgeProcess, tmp_path: Path) -> Account:
    return Account(edge, tmp_path / "cert.pem")


def connector(edge: EdgeProcess, token: str, origin: Origin) -> ConnectorProcess:
    return ConnectorProcess(
        # An address is dialled once.
        [
            *edge.edge_arguments,
            *edge.edge_arguments,
            "--ha-connections=2",
            f"--url={origin.url}",
            "run",
        ],
        environment={"TUNNEL_TOKEN": token},
    )


def test_a_tunnel_from_its_creation_to_its_end(edge: EdgeProcess, account: Account) -> None:
    tunnel, token = account.tunnel("web")
    route = {"type": "dns", "user_hostname": "App.Example.test"}
    status, answer = account.ask("PUT", f"{account.zone}/tunnels/{tunnel}/routes", route)
    assert (status, answer["result"]["cname"]) == (200, "new")
    curl = Curl(edge, "app.example.test")
    assert curl("/hello").status == 503
    with Origin() as origin:
        running_connector = connector(edge, token, origin).ready(2)
        assert curl("/hello").body == b"hello\n"
        eventually(lambda: len(account.links(tunnel)) == 2, "both links are told")
        one = f"{account.base}/cfd_tunnel/{tunnel}"
        status, answer = account.ask("DELETE", one)
        assert (status, answer["errors"][0]["code"]) == (400, 1022)
        assert curl("/hello").body == b"hello\n"
        before = set(account.links(tunnel))
        assert account.ask("DELETE", f"{one}/connections")[0] == 200
        assert not before & set(account.links(tunnel))
        eventually(lambda: len(account.links(tunnel)) == 2, "they come again")
        status, answer = account.ask("DELETE", f"{one}?cascade=true")
        assert (status, answer["success"]) == (200, True)
        assert curl("/hello", scheme="http").status == 404
        assert account.ask("GET", f"{one}/connections")[0] == 404
        refused = running_connector.wait_for("Register tunnel error from server side")
        assert "Unauthorized" in refused["error"]
        assert token not in str(refused)
        running_connector.signal(signal.SIGTERM)
        running_connector.wait()
    assert token not in edge.log
    assert account.ask.token not in edge.log


def test_who_has_a_tunnels_credentials_manages_nothing(edge: EdgeProcess, account: Account) -> None:
    tunnel, token = account.tunnel("web")
    for wrong in (token, account.ask.token + "0", "", "up_000000000000_" + "0" * 64):
        status, answer = ApiClient(edge.api, wrong)("GET", f"{account.base}/cfd_tunnel/{tunnel}")
        assert status == 401
        assert answer["result"] is None


def test_a_flood_of_guesses_is_told_to_wait(edge: EdgeProcess, account: Account) -> None:
    guesser = ApiClient(edge.api, "up_000000000000_" + "0" * 64)
    path = f"{account.base}/cfd_tunnel"
    statuses = [guesser("GET", path)[0] for _ in range(13)]
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429
    assert account.ask("GET", path)[0] == 200, "whoever has a token is not locked out"


def test_a_command_beside_the_running_edge_takes_effect(
    edge: EdgeProcess, account: Account, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    assert edge_command(edge.data_dir, "account", "create", "other").code == 0
    made = edge_command(
        edge.data_dir, "token", "create", "--account=other", f"--cert={other}", "ci"
    )
    assert made.code == 0, made.err
    theirs = Account(edge, other)
    _, _ = theirs.tunnel("web")
    status, _ = theirs.ask("GET", f"{account.base}/cfd_tunnel")
    assert status == 403
    assert edge_command(edge.data_dir, "token", "revoke", made.out.split()[3]).code == 0

    def is_refused() -> bool:
        return theirs.ask("GET", f"{theirs.base}/cfd_tunnel")[0] == 401

    eventually(is_refused, "the edge has heard that the token is no more")
    log = edge_command(edge.data_dir, "audit").out
    assert "tunnel.create" in log
    assert "127.0.0.1" in log
    assert "token.revoke" in log


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    set_up(tmp_path / "data", tmp_path / "cert.pem")
    edge = EdgeProcess(tmp_path / "data")
    names: list[str] = []
    routes: list[str] = []
    for round_ in range(5):
        account = Account(edge, tmp_path / "cert.pem")
        for number in range(3):
            name = f"{round_}-{number}"
            tunnel, _ = account.tunnel(name)
            route = {"type": "dns", "user_hostname": f"{name}.test"}
            path = f"{account.zone}/tunnels/{tunnel}/routes"
            assert account.ask("PUT", path, route)[0] == 200
            names.append(name)
            routes.append(path)
        edge.kill()
        edge = edge.again()
        account = Account(edge, tmp_path / "cert.pem")
        _, answer = account.ask("GET", f"{account.base}/cfd_tunnel?is_deleted=false")
        assert [found["name"] for found in answer["result"]] == names
        for name, path in zip(names, routes, strict=True):
            _, answer = account.ask("GET", path)
            assert f"{name}.test" in str(answer["result"])
    log = edge_command(tmp_path / "data", "audit", "--limit=1000").out
    assert log.count("tunnel.create") == len(names)
    assert log.count("hostname.put") == len(names)
    edge.stop()

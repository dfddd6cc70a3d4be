"""Interoperation: a stock cloudflared manages its tunnels at our API.

Runs when UNDERPASS_CLOUDFLARED names a binary; needs no network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.owner import Owner, edge_command, set_up
from peers.patience import eventually
from peers.processes import EdgeProcess, Process, running

pytestmark = pytest.mark.interop

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def binary() -> str:
    path = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not path:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return path


@pytest.fixture(params=[1, 2], ids=["one-process", "workers"])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EdgeProcess]:
    """An edge with an account, whose certificate is where cloudflared looks for it."""
    home = tmp_path / "home" / ".cloudflared"
    home.mkdir(parents=True)
    set_up(tmp_path / "data", home / "cert.pem")
    edge = EdgeProcess(tmp_path / "data", more=[f"--workers={request.param}"])
    with running(edge):
        yield edge


@pytest.fixture
def owner(binary: str, edge: EdgeProcess, tmp_path: Path) -> Owner:
    home = tmp_path / "home"
    return Owner([binary], edge, home, home / ".cloudflared" / "cert.pem")


def created(owner: Owner, name: str) -> str:
    """The id of a new tunnel."""
    out = owner("tunnel", "create", name).out
    return re.findall(rf"Created tunnel {name} with id ({UUID})", out)[0]


class Connector(Process):
    """A stock connector, run by name, id or token."""

    def __init__(self, owner: Owner, url: str, *what: str) -> None:
        edge = owner.edge
        super().__init__(
            [
                *owner.program,
                *("tunnel", "--output=json", "--no-autoupdate", "--no-prechecks"),
                *("--protocol=http2", "--metrics=127.0.0.1:0", f"--cacert={edge.ca}"),
                *(f"--edge={edge.tunnels[0]}" for _ in range(4)),
                *("run", f"--url={url}", *what),
            ],
            {
                "HOME": str(owner.home),
                "TUNNEL_ORIGIN_CERT": str(owner.cert),
                "TUNNEL_API_URL": f"http://{edge.api}",
            },
        )

    def ready(self, links: int = 4) -> Connector:
        for number in range(1, links + 1):
            self.wait_for("Registered tunnel connection", count=number)
        return self


def test_tunnels_are_created_listed_and_deleted(owner: Owner) -> None:
    web, api, old = (created(owner, name) for name in ("web", "api", "old"))
    taken = owner("tunnel", "create", "web", fails=True)
    assert "tunnel with name already exists" in taken.err
    secret = owner("tunnel", "create", "--output=json", "--secret=" + "QUJD" * 11, "known")
    assert secret.json["token"]
    owner("tunnel", "delete", "known")

    def names(*filters: str) -> set[str]:
        listed = owner("tunnel", "list", "--output=json", *filters).json
        return {tunnel["name"] for tunnel in listed or []}

    owner("tunnel", "delete", "old")
    assert names() == {"web", "api"}
    assert names("--name=web") == {"web"}
    assert names("--name=we") == set()
    assert names("--name-prefix=w") == {"web"}
    assert names("--exclude-name-prefix=w") == {"api"}
    assert names(f"--id={api}") == {"api"}
    assert names("--show-deleted") == {"web", "api", "old", "known"}
    assert names("--show-deleted", f"--id={old}") == {"old"}
    table = owner("tunnel", "list").out
    assert re.search(rf"{web} +web +20", table)
    assert "createdat: 20" in owner("tunnel", "list", "--output=yaml").out
    again = owner("tunnel", "delete", old, fails=True)
    assert "already been deleted" in again.err


def test_a_long_list_comes_in_pages(owner: Owner) -> None:
    for number in range(5):
        created(owner, f"tunnel-{number}")
    owner.more["TUNNEL_MAX_FETCH_SIZE"] = "2"
    listed = owner("tunnel", "list", "--output=json").json
    assert sorted(tunnel["name"] for tunnel in listed) == [f"tunnel-{n}" for n in range(5)]


@pytest.mark.parametrize("by", ["name", "id", "token"])
def test_run_a_tunnel_and_a_request_goes_through(owner: Owner, by: str) -> None:
    tunnel = created(owner, "web")
    added = owner("tunnel", "route", "dns", "web", "app.example.test")
    assert "Added CNAME app.example.test which will route to this tunnel" in added.err
    token = owner("tunnel", "token", "web").out.strip()
    what = {"name": ["web"], "id": [tunnel], "token": ["--token", token]}[by]
    with Origin() as origin, running(Connector(owner, origin.url, *what).ready()):
        assert Curl(owner.edge, "app.example.test")("/hello").body == b"hello\n"
        info = owner("tunnel", "info", "--output=json", "web").json
        (connector,) = info["conns"]
        assert connector["version"].startswith("20")
        assert re.fullmatch(r"linux_\w+", connector["arch"])
        assert "serialized_headers" in connector["features"]
        assert len(connector["conns"]) == 4
        assert {link["origin_ip"] for link in connector["conns"]} == {"127.0.0.1"}
        assert "4xlocal01" in owner("tunnel", "list").out
        assert re.search(
            r"CONNECTOR ID.*\n.*127\.0\.0\.1.*4xlocal01", owner("tunnel", "info", tunnel).out
        )


def test_a_tunnel_in_use_is_deleted_by_force_only(owner: Owner) -> None:
    tunnel = created(owner, "web")
    owner("tunnel", "route", "dns", "web", "app.example.test")
    with Origin() as origin:
        connector = Connector(owner, origin.url, tunnel).ready()
        refused = owner("tunnel", "delete", "web", fails=True)
        assert "code: 1022" in refused.err
        assert "4 connections" in refused.err
        assert Curl(owner.edge, "app.example.test")("/hello").status == 200
        owner("tunnel", "delete", "--force", "web")
        assert (
            Curl(
                owner.edge,
                "app.example.test",
            )("/hello", scheme="http").status
            == 404
        )
        refusal = connector.wait_for("Register tunnel error from server side")
        assert "Unauthorized" in refusal["error"]
        connector.kill()
    # For good: the name may be used again, the credentials may not.
    created(owner, "web")
    assert not owner("tunnel", "list", "--output=json", f"--id={tunnel}").json


def test_cleanup_closes_connections(owner: Owner) -> None:
    created(owner, "web")
    with Origin() as origin, running(Connector(owner, origin.url, "web").ready()) as _:
        (info,) = owner("tunnel", "info", "--output=json", "web").json["conns"]
        before = {link["id"] for link in info["conns"]}
        stranger = "--connector-id=3f0d4a0e-0000-4000-8000-000000000000"
        owner("tunnel", "cleanup", stranger, "web")
        (info,) = owner("tunnel", "info", "--output=json", "web").json["conns"]
        assert {link["id"] for link in info["conns"]} == before
        owner("tunnel", "cleanup", f"--connector-id={info['id']}", "web")

        def others() -> bool:
            connectors = owner("tunnel", "info", "--output=json", "web").json["conns"]
            found = {link["id"] for connector in connectors for link in connector["conns"]}
            return bool(found) and not found & before

        eventually(others, "it connects anew")


def test_hostnames(owner: Owner) -> None:
    web, api = created(owner, "web"), created(owner, "api")
    owner("tunnel", "route", "dns", "web", "app.example.test")
    same = owner("tunnel", "route", "dns", "web", "App.Example.Test")
    assert "already configured" in same.err
    taken = owner("tunnel", "route", "dns", "api", "app.example.test", fails=True)
    assert "code: 1003" in taken.err
    assert web in taken.err
    moved = owner("tunnel", "route", "dns", "--overwrite-dns", "api", "app.example.test")
    assert "updated to route to your tunnel" in moved.err
    assert api in moved.err
    balanced = owner("tunnel", "route", "lb", "web", "lb.example.test", "pool")
    assert "Created load balancer lb.example.test" in balanced.err
    owner("tunnel", "route", "dns", "web", "*.wild.example.test")


def test_networks(owner: Owner) -> None:
    tunnel = created(owner, "web")
    owner("tunnel", "vnet", "add", "staging", "a comment")
    (staging,) = owner("tunnel", "vnet", "list", "--name=staging", "--output=json").json
    assert staging["comment"] == "a comment"
    (default,) = owner("tunnel", "vnet", "list", "--is-default", "--output=json").json
    owner("tunnel", "route", "ip", "add", "10.1.0.0/16", "web", "office")
    owner("tunnel", "route", "ip", "add", "10.1.2.0/24", tunnel)
    owner("tunnel", "route", "ip", "add", "--vnet=staging", "10.1.0.0/16", "web")
    owner("tunnel", "route", "ip", "add", "fd00::/8", "web")
    taken = owner("tunnel", "route", "ip", "add", "10.1.0.0/16", "web", fails=True)
    assert "exists already" in taken.err

    def networks(*filters: str) -> list[tuple[str, str]]:
        listed = owner("tunnel", "route", "ip", "show", "--output=json", *filters).json
        assert all(route["tunnel_name"] == "web" for route in listed or [])
        vnets = {staging["id"]: "staging", default["id"]: "default"}
        return [(route["network"], vnets[route["virtual_network_id"]]) for route in listed or []]

    assert len(networks()) == 4
    assert networks("--filter-comment-is=office") == [("10.1.0.0/16", "default")]
    assert networks(f"--filter-vnet-id={staging['id']}") == [("10.1.0.0/16", "staging")]
    assert networks("--filter-network-is-superset-of=10.1.2.0/24", "--filter-comment-is=") == [
        ("10.1.0.0/16", "default"),
        ("10.1.2.0/24", "default"),
        ("10.1.0.0/16", "staging"),
    ]

    def found(address: str, *more: str) -> str:
        return owner("tunnel", "route", "ip", "get", *more, address).out

    assert "10.1.2.0/24" in found("10.1.2.3")
    assert "10.1.0.0/16" in found("10.1.3.3")
    assert "10.1.0.0/16" in found("10.1.2.3", "--vnet=staging")
    assert "fd00::/8" in found("fd12::1")
    assert "No route matches the IP 10.9.9.9" in found("10.9.9.9")
    owner("tunnel", "route", "ip", "delete", "--vnet=staging", "10.1.0.0/16")
    owner("tunnel", "route", "ip", "add", "--vnet=staging", "10.7.0.0/16", "web")
    refused = owner("tunnel", "vnet", "delete", "staging", fails=True)
    assert "has 1 routes" in refused.err
    owner("tunnel", "vnet", "update", "--name=production", "--default", "staging")
    refused = owner("tunnel", "vnet", "delete", "production", fails=True)
    assert "make another one the default" in refused.err
    owner("tunnel", "vnet", "update", "--default", "default")
    owner("tunnel", "vnet", "delete", "--force", "production")
    assert len(networks()) == 3
    deleted = networks("--filter-is-deleted")
    assert sorted(deleted) == [("10.1.0.0/16", "staging"), ("10.7.0.0/16", "staging")]
    shown = owner("tunnel", "vnet", "list", "--show-deleted", "--output=json").json
    assert [vnet["name"] for vnet in shown] == ["production"]


def test_a_management_token_is_for_one_tunnel(owner: Owner) -> None:
    tunnel = created(owner, "web")
    told = owner("management", "token", "--resource=logs", tunnel).out
    assert json.loads(told)["token"].startswith("eyJ")


def test_a_token_that_is_revoked_or_confined(owner: Owner, tmp_path: Path) -> None:
    created(owner, "web")
    data_dir = owner.edge.data_dir
    confined = tmp_path / "confined.pem"
    made = edge_command(
        data_dir,
        *("token", "create", "--scope=routes", "--hostname=*.a.test", f"--cert={confined}", "ci"),
    )
    assert made.code == 0, made.err
    (token_id,) = re.findall(r"Wrote API token ([0-9a-f]+) to", made.out)
    ci = Owner(owner.program, owner.edge, owner.home, confined)
    ci("tunnel", "route", "dns", "web", "app.a.test")
    refused = ci("tunnel", "route", "dns", "web", "app.b.test", fails=True)
    assert "confined to *.a.test" in refused.err
    refused = ci("tunnel", "create", "another", fails=True)
    assert "does not have the scope 'tunnels'" in refused.err
    refused = ci("tunnel", "token", "web", fails=True)
    assert "does not have the scope 'tunnels'" in refused.err
    assert edge_command(data_dir, "token", "revoke", token_id).code == 0
    eventually(lambda: _is_refused(ci), "the edge has heard that the token is no more")


def _is_refused(owner: Owner) -> bool:
    from peers.owner import run_command

    ran = run_command(
        [*owner.program, "tunnel", "list"],
        {
            "HOME": str(owner.home),
            "TUNNEL_ORIGIN_CERT": str(owner.cert),
            "TUNNEL_API_URL": f"http://{owner.edge.api}",
        },
    )
    return ran.code != 0 and "unauthorized" in ran.err

"""A connector that reaches its edge through a proxy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running
from peers.proxy_stand_in import ProxyStandIn

HOSTNAME = "app.example.test"
BEHIND = "edge.behind.proxy"
"""A name that nobody but the proxy can look up."""


@dataclass
class Place:
    edge: EdgeProcess
    token: str
    origin: Origin

    def connector(
        self, *settings: str, host: str = "127.0.0.1", environment: dict[str, str] | None = None
    ) -> ConnectorProcess:
        port = self.edge.tunnels[0].rpartition(":")[2]
        return ConnectorProcess(
            [
                *(f"--edge={host}:{port}", f"--cacert={self.edge.ca}"),
                *(*settings, "run", f"--url={self.origin.url}"),
            ],
            environment={"TUNNEL_TOKEN": self.token, **(environment or {})},
        )

    def serves(self) -> bool:
        curl = Curl(self.edge, HOSTNAME)
        # More than one piece, both ways.
        return curl("/hello").status == 200 and curl("/bytes/3000000").size == 3_000_000


@pytest.fixture
def place(data_dir: Path) -> Iterator[Place]:
    token = new_tunnel(data_dir, HOSTNAME).to_token()
    edge = EdgeProcess(data_dir)
    with running(edge), Origin() as origin:
        yield Place(edge, token, origin)


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
@pytest.mark.parametrize("loop", ["", "asyncio"])
def test_each_kind_of_proxy(place: Place, kind: str, loop: str) -> None:
    with ProxyStandIn(kind) as proxy:
        connector = place.connector(
            f"--edge-proxy={proxy.url()}", environment={"UNDERPASS_LOOP": loop}
        )
        with running(connector):
            connector.ready()
            assert proxy.asked == [place.edge.tunnels[0]]
            assert place.serves()


@pytest.mark.parametrize("loop", ["", "asyncio"])
def test_a_proxy_with_tls(place: Place, tmp_path: Path, loop: str) -> None:
    with ProxyStandIn("https", user="me", password="s3cret", directory=tmp_path) as proxy:
        connector = place.connector(
            f"--edge-proxy={proxy.url('me:s3cret@')}",
            environment={"UNDERPASS_LOOP": loop, "SSL_CERT_FILE": str(proxy.ca)},
        )
        with running(connector):
            connector.ready()
            assert place.serves()


def test_a_proxy_with_tls_is_verified(place: Place, tmp_path: Path) -> None:
    with ProxyStandIn("https", directory=tmp_path) as proxy:
        connector = place.connector(f"--edge-proxy={proxy.url()}")
        with running(connector):
            line = connector.wait_for("Unable to establish connection with the edge")
            assert line["step"] == "proxy"
            assert f"the proxy https://{proxy.address} cannot be reached" in line["error"]
            assert "CERTIFICATE_VERIFY_FAILED" in line["error"]
            assert proxy.asked == []


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_credentials_are_told_the_proxy_and_nobody_else(place: Place, kind: str) -> None:
    with ProxyStandIn(kind, user="me@example", password="p:ss/w") as proxy:
        url = proxy.url("me%40example:p%3Ass%2Fw@")
        connector = place.connector(f"--edge-proxy={url}", "--loglevel=debug")
        with running(connector):
            connector.ready()
            assert place.serves()
            assert "p:ss" not in connector.log
            assert "p%3Ass" not in connector.log


@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize(("given", "told"), [("", "wants a user"), ("me:no@", "does not take")])
def test_wrong_credentials(place: Place, kind: str, given: str, told: str) -> None:
    with ProxyStandIn(kind, user="me", password="yes") as proxy:
        connector = place.connector(f"--edge-proxy={proxy.url(given)}")
        with running(connector):
            line = connector.wait_for("Unable to establish connection with the edge")
            assert line["step"] == "proxy"
            assert told in line["error"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [("http", "403 Forbidden; many allow no port but 443"), ("socks5", "its rules do not allow")],
)
def test_a_proxy_that_refuses(place: Place, kind: str, told: str) -> None:
    with ProxyStandIn(kind, allows=False) as proxy:
        connector = place.connector(f"--edge-proxy={proxy.url()}")
        with running(connector):
            line = connector.wait_for("Unable to establish connection with the edge")
            assert f"does not connect us to {place.edge.tunnels[0]}: " in line["error"]
            assert told in line["error"]


def test_an_edge_that_is_not_there_behind_a_proxy(data_dir: Path) -> None:
    token = new_tunnel(data_dir, HOSTNAME).to_token()
    edge = EdgeProcess(data_dir)
    edge.stop()
    with ProxyStandIn("http") as proxy, Origin() as origin:
        place = Place(edge, token, origin)
        connector = place.connector(f"--edge-proxy={proxy.url()}")
        connector.wait_for("Unable to establish connection with the edge", step="proxy")
        place.edge = edge.again()
        with running(connector, place.edge):
            connector.ready()
            assert place.serves()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_the_environment_names_a_proxy(place: Place, variable: str) -> None:
    with ProxyStandIn("http") as proxy:
        connector = place.connector(host=BEHIND, environment={variable: proxy.url()})
        with running(connector):
            connector.ready()
            assert proxy.asked[0].startswith(f"{BEHIND}:")
            assert place.serves()


@pytest.mark.parametrize(
    ("settings", "environment"),
    [((), {}), (("--edge-proxy=none",), {})],
)
def test_an_edge_on_this_machine_is_dialled_directly(
    place: Place, settings: tuple[str, ...], environment: dict[str, str]
) -> None:
    with ProxyStandIn("http") as proxy:
        connector = place.connector(
            *settings, environment={"HTTPS_PROXY": proxy.url(), **environment}
        )
        with running(connector):
            connector.ready()
            assert proxy.asked == []


def test_a_refusal_of_the_environments_proxy_says_how_to_do_without(place: Place) -> None:
    with ProxyStandIn("http", allows=False) as proxy:
        connector = place.connector(host=BEHIND, environment={"HTTPS_PROXY": proxy.url()})
        with running(connector):
            line = connector.wait_for("Unable to establish connection with the edge")
            assert "HTTPS_PROXY" in line["error"]
            assert "NO_PROXY or give --edge-proxy none" in line["error"]


def test_workers_dial_through_the_proxy_too(place: Place) -> None:
    with ProxyStandIn("socks5") as proxy:
        tunnel = place.edge.tunnels[0]
        connector = place.connector(
            f"--edge={tunnel}", "--workers=2", f"--edge-proxy={proxy.url()}"
        )
        with running(connector):
            connector.ready(2)
            assert proxy.asked == [tunnel] * 2
            assert place.serves()

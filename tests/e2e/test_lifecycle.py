"""A tunnel stays up, comes back, and goes down without losing a request."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import (
    UNDERPASS,
    ConnectorProcess,
    EdgeProcess,
    QuickTunnelProcess,
    new_tunnel,
    running,
)
from peers.wire_cutter import WireCutter

HOSTNAME = "app.example.test"


@dataclass
class Named:
    edge: EdgeProcess
    token: str
    origin: Origin

    def connector(
        self, *settings: str, addresses: int = 1, via: Sequence[str] = ()
    ) -> ConnectorProcess:
        """One link for each address told: those of the edge in turn, or those it is told."""
        tunnels = [*via] or (self.edge.tunnels * addresses)[:addresses]
        edges = [f"--edge={tunnel}" for tunnel in tunnels]
        return ConnectorProcess(
            [*edges, f"--cacert={self.edge.ca}", *settings, "run", f"--url={self.origin.url}"],
            environment={"TUNNEL_TOKEN": self.token},
        )

    @property
    def curl(self) -> Curl:
        return Curl(self.edge, HOSTNAME)


@pytest.fixture
def named(data_dir: Path) -> Iterator[Named]:
    """An edge with two tunnel listeners. Its end is the test's own business."""
    token = new_tunnel(data_dir, HOSTNAME).to_token()
    with Origin() as origin:
        yield Named(EdgeProcess(data_dir, tunnels=["127.0.0.1:0"] * 2), token, origin)


@contextlib.contextmanager
def asked(curl: Curl, path: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A visitor who waits for an answer."""
    with curl.begun(path, "-w", "%{http_code}", *more) as visit:
        yield visit


def answer_of(visit: subprocess.Popen[bytes]) -> bytes:
    out, error = visit.communicate(timeout=PATIENCE)
    assert visit.returncode == 0, error
    return out


def registered(edge: EdgeProcess) -> int:
    """Links registered at an edge since its start."""
    return sum("registered connection" in line for line in edge.text)


def test_four_links_over_two_addresses(named: Named) -> None:
    connector = named.connector(addresses=4)
    with running(connector, named.edge):
        connector.ready(4)
        status, body = connector.readiness
        assert (status, body["readyConnections"]) == (200, 4)
        assert connector.metric("cloudflared_tunnel_ha_connections") == 4
        for index in range(4):
            connector.wait_for("Registered tunnel connection", connIndex=index)
        # Slow requests occupy all four: the least loaded link is taken.
        with contextlib.ExitStack() as stack:
            visits = [
                stack.enter_context(asked(named.curl, f"/slow?key=four&{number}"))
                for number in range(4)
            ]
            named.origin.wait_for_request("/slow", 4)
            assert connector.metric("cloudflared_tunnel_concurrent_requests_per_tunnel") >= 4
            named.origin.open_gate("four")
            assert [answer_of(visit) for visit in visits] == [b"at last\n200"] * 4


def test_one_lost_link_leaves_the_others(named: Named) -> None:
    with contextlib.ExitStack() as stack:
        cutters = [
            stack.enter_context(WireCutter(tunnel)) for tunnel in named.edge.tunnels for _ in "ab"
        ]
        connector = named.connector(via=[cutter.address for cutter in cutters])
        stack.enter_context(running(connector, named.edge))
        connector.ready(4)
        visits = [
            stack.enter_context(asked(named.curl, f"/slow?key=lost&{number}"))
            for number in range(4)
        ]
        named.origin.wait_for_request("/slow", 4)
        cutters[2].cut()
        line = connector.wait_for("Lost connection with the edge")
        # Nothing of its answer had come, and asking twice does no harm: another link has it now.
        named.origin.wait_for_request("/slow", 5)
        assert named.curl("/hello").status == 200
        named.origin.open_gate("lost")
        assert [answer_of(visit) for visit in visits] == [b"at last\n200"] * 4
        connector.wait_for("Registered tunnel connection", count=2, connIndex=line["connIndex"])
        assert connector.readiness[1]["readyConnections"] == 4


def test_what_might_have_been_done_is_not_asked_again(named: Named) -> None:
    with contextlib.ExitStack() as stack:
        cutters = [stack.enter_context(WireCutter(tunnel)) for tunnel in named.edge.tunnels]
        connector = named.connector(via=[cutter.address for cutter in cutters])
        stack.enter_context(running(connector, named.edge))
        connector.ready(2)
        visits = [
            stack.enter_context(asked(named.curl, f"/slow?key=once&{number}", "-d", "order"))
            for number in range(2)
        ]
        named.origin.wait_for_request("/slow", 2)
        cutters[0].cut()
        connector.wait_for("Lost connection with the edge")
        named.origin.open_gate("once")
        answers = sorted(answer_of(visit)[-3:] for visit in visits)
        assert answers == [b"200", b"502"]
        assert len(named.origin.requests("/slow")) == 2


def test_an_edge_that_is_killed_and_comes_back(named: Named) -> None:
    connector = named.connector(addresses=2)
    connector.ready(2)
    assert named.curl("/hello").status == 200
    named.edge.kill()
    connector.wait_for("Lost connection with the edge", count=2)
    eventually(lambda: connector.readiness[0] == 503, "the connector is not ready")
    connector.wait_for("Unable to establish connection with the edge")
    named.edge = named.edge.again()
    with running(connector, named.edge):
        connector.ready(4)
        assert connector.readiness[0] == 200
        assert named.curl("/hello").status == 200
        assert (
            connector.metric(
                "cloudflared_tunnel_tunnel_register_success", 'rpcName="registerConnection"'
            )
            == 4
        )


def test_an_edge_that_is_stopped_and_comes_back(named: Named) -> None:
    connector = named.connector(addresses=2)
    connector.ready(2)
    named.edge.stop()
    named.edge = named.edge.again()
    with running(connector, named.edge):
        connector.ready(4)
        assert named.curl("/hello").status == 200


def test_an_edge_that_stops_finishes_what_is_under_way(named: Named) -> None:
    connector = named.connector(addresses=2)
    connector.ready(2)
    with asked(named.curl, "/slow?key=edge") as visit:
        named.origin.wait_for_request("/slow")
        named.edge.signal(signal.SIGTERM)
        named.edge.wait_for("Stopping")
        eventually(lambda: not accepts(named.edge.https_port), "nobody is let in")
        named.origin.open_gate("edge")
        assert answer_of(visit) == b"at last\n200"
    named.edge.check()
    connector.stop()


def test_a_connector_that_stops_finishes_what_is_under_way(named: Named) -> None:
    connector = named.connector(addresses=4)
    with running(named.edge):
        connector.ready(4)
        with contextlib.ExitStack() as stack:
            slow = stack.enter_context(asked(named.curl, "/slow?key=stop"))
            half = stack.enter_context(asked(named.curl, "/trickle?key=stop"))
            named.origin.wait_for_request("/slow")
            named.origin.wait_for_request("/trickle")
            connector.signal(signal.SIGTERM)
            for count in range(1, 5):
                connector.wait_for("Unregistered tunnel connection", count=count)
            # No new requests from here on, but the old ones go on.
            assert named.curl("/hello").status == 503
            named.origin.open_gate("stop")
            assert answer_of(slow) == b"at last\n200"
            assert answer_of(half) == b"halfhalf200"
        connector.check()


def test_a_second_connector_takes_over(named: Named) -> None:
    """How a connector is updated: start the new one, stop the old one; nobody notices."""
    old = named.connector(addresses=2)
    old.ready(2)
    new = named.connector(addresses=2)
    with running(new, named.edge):
        new.ready(2)
        with asked(named.curl, "/slow?key=update") as visit:
            named.origin.wait_for_request("/slow")
            old.signal(signal.SIGTERM)
            old.wait_for("Unregistered tunnel connection", count=2)
            assert [a.status for a in named.curl.several(["/hello"] * 10)] == [200] * 10
            named.origin.open_gate("update")
            assert answer_of(visit) == b"at last\n200"
        old.check()


def test_an_idle_connector_stops_at_once(named: Named) -> None:
    with running(named.edge):
        connector = named.connector(addresses=2)
        connector.ready(2)
        connector.signal(signal.SIGINT)
        connector.check()
        assert connector.has_logged("Tunnel server stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_cuts_it_short(named: Named, number: signal.Signals) -> None:
    with running(named.edge):
        connector = named.connector()
        connector.ready()
        with asked(named.curl, "/hang") as visit:
            named.origin.wait_for_request("/hang")
            connector.signal(number)
            connector.wait_for("Unregistered tunnel connection")
            connector.signal(number)
            connector.check(expected=128 + number)
            # Asked again in vain: there is no other link.
            assert answer_of(visit).endswith(b"503")


def test_the_grace_period_ends(named: Named) -> None:
    with running(named.edge):
        connector = named.connector("--grace-period=1s")
        connector.ready()
        with asked(named.curl, "/hang") as visit:
            named.origin.wait_for_request("/hang")
            connector.stop()
            assert answer_of(visit).endswith(b"503")


def test_a_second_signal_stops_an_edge_at_once(named: Named) -> None:
    connector = named.connector()
    with running(connector):
        connector.ready()
        with asked(named.curl, "/hang"):
            named.origin.wait_for_request("/hang")
            named.edge.signal(signal.SIGTERM)
            named.edge.wait_for("Stopping")
            named.edge.signal(signal.SIGTERM)
            named.edge.check(expected=128 + signal.SIGTERM)


def test_a_connector_can_be_started_before_its_edge(data_dir: Path) -> None:
    token = new_tunnel(data_dir, HOSTNAME).to_token()
    edge = EdgeProcess(data_dir)
    edge.stop()
    with Origin() as origin:
        connector = ConnectorProcess(
            [*edge.edge_arguments, "run", f"--url={origin.url}", f"--token={token}"]
        )
        connector.wait_for("Unable to establish connection with the edge")
        assert connector.readiness[0] == 503
        edge = edge.again()
        with running(connector, edge):
            connector.ready()
            assert Curl(edge, HOSTNAME)("/hello").status == 200


def test_readiness_by_command(named: Named) -> None:
    def ready(address: str) -> subprocess.CompletedProcess[str]:
        command = [*UNDERPASS, "tunnel", "ready", f"--metrics={address}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    connector = named.connector()
    address = connector.metrics_address
    with running(connector, named.edge):
        connector.ready()
        assert ready(address).returncode == 0
    gone = ready(address)
    assert gone.returncode == 1
    assert address in gone.stderr


def test_metrics_count_requests(named: Named) -> None:
    connector = named.connector()
    with running(connector, named.edge):
        connector.ready()
        named.curl.several(["/hello", "/status/404", "/status/500", "/hello"])
        named.curl("/raw/nothing")

        def counted(status: int) -> float:
            return connector.metric(
                "cloudflared_tunnel_response_by_code", f'status_code="{status}"'
            )

        assert counted(404) == 1
        assert counted(500) == 1
        assert counted(502) == 1
        assert connector.metric("cloudflared_tunnel_request_errors") == 1
        assert connector.metric("cloudflared_tunnel_concurrent_requests_per_tunnel") <= 1


def test_the_pid_file_is_written_when_it_is_up(named: Named, tmp_path: Path) -> None:
    path = tmp_path / "connector.pid"
    connector = named.connector(f"--pidfile={path}")
    with running(connector, named.edge):
        connector.ready()
        assert int(eventually(lambda: path.exists() and path.read_text(), "it is")) == connector.pid


def test_two_edges_cannot_share_their_data(named: Named) -> None:
    with running(named.edge), pytest.raises(AssertionError, match="in use by another edge"):
        EdgeProcess(named.edge.data_dir)


def test_a_quick_tunnels_connector_needs_no_second_try(data_dir: Path) -> None:
    edge = EdgeProcess(data_dir)
    with running(edge), Origin() as origin:
        connector = QuickTunnelProcess(edge, f"--url={origin.url}")
        with running(connector):
            connector.ready()
            edge.wait_for("registered connection")
            assert not connector.has_logged("Retrying")
            assert registered(edge) == 1


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except OSError:
        return False
    return True

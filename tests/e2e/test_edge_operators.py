"""What an edge tells its operators while it runs, and while it stops."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import EdgeProcess, QuickTunnelProcess, running

from underpass.edge.tunnels import MAX_UNREGISTERED

NOBODY = "http://127.0.0.1:9"
"""The discard service, which no machine runs any more."""


def operated(data_dir: Path, *more: str) -> EdgeProcess:
    return EdgeProcess(data_dir, more=["--metrics=127.0.0.1:0", *more])


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_add_up(data_dir: Path, workers: int) -> None:
    with Origin() as origin:
        edge = operated(data_dir, f"--workers={workers}")
        working = QuickTunnelProcess(edge, f"--url={origin.url}")
        broken = QuickTunnelProcess(edge, f"--url={NOBODY}")
        with running(working, broken, edge):
            working.ready()
            broken.ready()
            curl = Curl(edge, working.hostname)
            eventually(lambda: curl("/hello").status == 200, "the tunnel answers")
            unknown = Curl(edge, "nobody.localhost")
            eventually(
                lambda: Curl(edge, broken.hostname)("/").header("underpass-cause") == "dial",
                "the other tunnel is there",
            )
            before = edge.metric("underpass_edge_responses_total", 'status_code="200"')
            asked = edge.metric("underpass_edge_requests_total")
            assert [unknown("/", scheme="http").status for _ in range(3)] == [404] * 3
            assert [curl("/hello").status for _ in range(4)] == [200] * 4
            ok, missing = (
                edge.metric("underpass_edge_responses_total", f'status_code="{status}"')
                for status in (200, 404)
            )
            assert (ok - before, missing) == (4, 3)
            assert edge.metric("underpass_edge_requests_total") - asked == 7
            failures = "underpass_request_failures_total"
            assert edge.metric(failures, 'cause="unknown_host",hop="edge"') == 3
            assert edge.metric(failures, 'cause="dial",hop="origin"') == 1
            assert edge.metric("underpass_edge_response_bytes_total") > 0
            assert edge.metric("underpass_edge_first_byte_seconds_count") >= asked + 7
            assert edge.metric("underpass_edge_duration_seconds_count") >= asked + 7
            assert edge.metric("underpass_edge_visitor_connections_total", 'listener="https"') >= 6
            assert edge.metric("underpass_edge_links") == 2
            assert edge.metric("underpass_edge_tunnels", 'kind="quick"') == 2
            assert edge.metric("underpass_edge_tunnels_with_links") == 2
            assert edge.metric("underpass_edge_routes") == 2
            assert edge.metric("underpass_edge_store_revision") >= 2
            calls = 'method="POST",status_code="200"'
            assert edge.metric("underpass_edge_api_requests_total", calls) == 2
            expiry = "underpass_edge_certificate_expiry_timestamp_seconds"
            assert edge.metric(expiry, 'name="ca"') > 1e9


class TestReadiness:
    def test_needs_no_link(self, data_dir: Path) -> None:
        edge = operated(data_dir)
        with running(edge):
            status, body = edge.page("/readyz")
            assert (status, json.loads(body)) == (200, {"status": "ready", "store": "ok"})
            assert edge.page("/healthz") == (200, b"OK\n")
            assert edge.page("/ready")[0] == 404  # that is a connector's

    def test_ends_when_the_stop_begins(self, data_dir: Path) -> None:
        with Origin() as origin:
            edge = operated(data_dir)
            tunnel = QuickTunnelProcess(edge, f"--url={origin.url}")
            with running(edge, tunnel):
                tunnel.ready()
                curl = Curl(edge, tunnel.hostname)
                with curl.begun("/slow?key=stop") as visit:
                    origin.wait_for_request("/slow")
                    edge.signal(signal.SIGTERM)
                    edge.wait_for("requests under way may finish")
                    status, body = edge.page("/readyz")
                    assert (status, json.loads(body)["status"]) == (503, "draining")
                    assert edge.page("/healthz")[0] == 200
                    origin.open_gate("stop")
                    visit.communicate(timeout=PATIENCE)
                    assert visit.returncode == 0
                edge.check()


def test_there_is_no_such_listener_unless_asked_for(edge: EdgeProcess) -> None:
    assert not edge.has_logged("Starting metrics server")


def test_a_taken_address_is_told(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AssertionError, match=re.escape(f"metrics address {address}")):
            EdgeProcess(data_dir, more=[f"--metrics={address}"])


def test_failed_handshakes_are_counted_and_take_no_room(data_dir: Path) -> None:
    """Connections that speak no TLS must leave nothing behind that connectors are refused for."""
    many = MAX_UNREGISTERED + 50
    with Origin() as origin:
        edge = operated(data_dir)
        host, _, port = edge.tunnels[0].rpartition(":")
        with running(edge):
            for _ in range(many):
                with socket.create_connection((host, int(port)), PATIENCE) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n")
                    while stranger.recv(4096):
                        pass
            tunnel = QuickTunnelProcess(edge, f"--url={origin.url}")
            with running(tunnel):
                tunnel.ready()
                assert Curl(edge, tunnel.hostname)("/hello").status == 200
            failures = "underpass_edge_tls_handshake_failures_total"
            eventually(lambda: edge.metric(failures, 'listener="tunnel"') == many, "all are told")
            assert edge.metric(failures, 'listener="https"') == 0

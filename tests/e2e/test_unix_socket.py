"""Origins on a unix socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers.curl import Curl
from peers.origin import Origin
from peers.processes import EdgeProcess, QuickTunnelProcess, running


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    path = tmp_path / "origin.sock"
    # sun_path has 108 bytes.
    assert len(str(path)) < 100
    return path


def test_the_flag(edge: EdgeProcess, socket_path: Path) -> None:
    with Origin(path=socket_path):
        connector = QuickTunnelProcess(edge, f"--unix-socket={socket_path}")
        with running(connector):
            connector.ready()
            curl = Curl(edge, connector.hostname)
            assert curl("/hello").body == b"hello\n"
            seen = curl("/shown", "-d", "content").json
            assert seen["content"] == "content"
            hosts = [value for name, value in seen["headers"] if name == "Host"]
            assert hosts == [curl.url("").partition("//")[2]]


def test_nobody_listens(edge: EdgeProcess, socket_path: Path) -> None:
    connector = QuickTunnelProcess(edge, f"--unix-socket={socket_path}")
    with running(connector):
        connector.ready()
        assert Curl(edge, connector.hostname)("/hello").status == 502
        line = connector.wait_for("Unable to reach the origin service", status=502)
        assert str(socket_path) in str(line["error"])

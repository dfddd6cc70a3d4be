"""An edge whose sockets a service manager keeps: a restart turns nobody away."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from peers.load import NewConnections
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import (
    ConnectorProcess,
    EdgeProcess,
    QuickTunnelProcess,
    new_tunnel,
    running,
)

if TYPE_CHECKING:
    from typing_extensions import Self

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sockets are no descriptors there")

RESTARTS = 4


@pytest.fixture
def kept() -> Iterator[list[tuple[str, socket.socket]]]:
    """What the service manager listens on."""
    with contextlib.ExitStack() as stack:
        yield [
            (name, stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024)))
            for name in ("http", "tunnel", "https", "api")
        ]


def test_it_serves_on_them(data_dir: Path, kept: list[tuple[str, socket.socket]]) -> None:
    with Origin() as origin:
        edge = EdgeProcess(data_dir, inherited=kept)
        tunnel = QuickTunnelProcess(edge, f"--url={origin.url}")
        with running(tunnel, edge):
            at = {name: f"127.0.0.1:{each.getsockname()[1]}" for name, each in kept}
            assert (edge.http, edge.https) == (at["http"], at["https"])
            assert (edge.api, edge.tunnels) == (at["api"], [at["tunnel"]])
            tunnel.ready()
            connection = http.client.HTTPConnection(edge.http, timeout=PATIENCE)
            with contextlib.closing(connection):
                connection.request("GET", "/hello", headers={"Host": tunnel.hostname})
                assert connection.getresponse().status == 200


class Visitors:
    """Threads that connect and ask, each time anew, until told to stop. What fails is kept."""

    def __init__(self, port: int, count: int) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._port = port
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stopping.is_set():
            visitor = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            with contextlib.closing(visitor):
                try:
                    visitor.request("GET", "/", headers={"Host": "nobody.localhost"})
                    status = visitor.getresponse().status
                except (OSError, http.client.HTTPException) as error:
                    with self._lock:
                        self.failures.append(repr(error))
                    continue
            with self._lock:
                self.answered += 1
                if status != 404:
                    self.failures.append(f"status {status}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_under_load_turns_nobody_away(
    data_dir: Path, kept: list[tuple[str, socket.socket]], workers: int
) -> None:
    def start() -> EdgeProcess:
        return EdgeProcess(data_dir, inherited=kept, more=[f"--workers={workers}"])

    def asked_again(visitors: Visitors) -> None:
        before = visitors.answered
        eventually(lambda: visitors.answered > before + 20, "visitors are answered")

    port = kept[0][1].getsockname()[1]
    edge = start()
    with Visitors(port, 4) as visitors:
        try:
            for _ in range(RESTARTS):
                asked_again(visitors)
                edge.stop()
                edge = start()
            asked_again(visitors)
        finally:
            visitors.__exit__()
            edge.stop()
    assert visitors.failures == []


@pytest.mark.parametrize("workers", [1, 2])
def test_connectors_and_visitors_with_tls_find_it_again(
    data_dir: Path, kept: list[tuple[str, socket.socket]], workers: int
) -> None:
    """Over restarts: every connection is taken, every handshake completed, every request answered
    by the application, once its connector has dialled again, on the socket that was kept."""
    host = "app.example.test"
    credentials = new_tunnel(data_dir, host)

    def start() -> EdgeProcess:
        return EdgeProcess(data_dir, inherited=kept, more=[f"--workers={workers}"])

    with Origin() as origin:
        edge = start()
        connector = ConnectorProcess(
            [*edge.edge_arguments, "run", f"--url={origin.url}"],
            environment={"TUNNEL_TOKEN": credentials.to_token()},
        )
        visitors = [NewConnections(edge, host, tls=tls) for tls in (True, True, False)]
        try:
            with running(connector), contextlib.ExitStack() as stack:
                connector.ready()
                for visitor in visitors:
                    stack.enter_context(visitor)
                for _ in range(2):
                    for visitor in visitors:
                        visitor.answers_more()
                    edge.stop()
                    edge = start()
                for visitor in visitors:
                    visitor.answers_more()
        finally:
            edge.stop()
    assert [failure for visitor in visitors for failure in visitor.failures] == []


def test_it_tells_the_service_manager(data_dir: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        edge = EdgeProcess(data_dir, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with running(edge):
            assert manager.recv(256) == b"READY=1"
        assert manager.recv(256) == b"STOPPING=1"


def test_systemds_own_activation(data_dir: Path) -> None:
    """By the program of systemd's that hands sockets over for trying out."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [activate, f"--listen=127.0.0.1:{port}", "--fdname=http", sys.executable, "-m"]
    command += ["underpass", "edge", "run", f"--data-dir={data_dir}", "--https=127.0.0.1:0"]
    command += ["--tunnel=127.0.0.1:0", "--api=127.0.0.1:0"]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    # The environment of the program that is started has only what is passed on.
    passed_on = [f"--setenv={name}={value}" for name, value in environment.items()]
    command[1:1] = passed_on
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    try:
        assert process.stderr is not None
        assert b"Listening on" in process.stderr.readline()
        visitor = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(visitor):
            visitor.request("GET", "/", headers={"Host": "nobody.localhost"})
            assert visitor.getresponse().status == 404
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()

"""`underpass tunnel` with an origin and nothing else: one process, working URLs."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

LOOPBACK = "127.0.0.1"
# Only a hang takes that long; nothing below is measured against it.
PATIENCE = 30.0


class Tunnel:
    """A running `underpass tunnel …` and what it printed so far."""

    def __init__(self, data_home: Path, *arguments: str) -> None:
        self.log = ""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TUNNEL_")
        }
        environment["XDG_DATA_HOME"] = environment["HOME"] = str(data_home)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "underpass", "tunnel", *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def read_until(self, marker: str) -> str:
        """Everything printed up to the line that contains `marker`."""
        assert self.process.stderr is not None
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stderr:
                self.log += line
                if marker in line:
                    return self.log
        finally:
            watchdog.cancel()
        raise AssertionError(f"ended without printing {marker!r}:\n{self.log}")

    def wait_ready(self) -> None:
        self.read_until("Ctrl-C")

    def url(self, scheme: str) -> tuple[str, int]:
        """Name and port of the printed address."""
        found = re.search(rf"\|  {scheme}://([a-z.-]+\.localhost):(\d+) ", self.log)
        assert found is not None, self.log
        return found[1], int(found[2])

    def authority(self) -> str:
        """The certificate authority's file, as the printed command names it."""
        found = re.search(r"curl --cacert (\S+) https://", self.log)
        assert found is not None, self.log
        return found[1]

    def get(self, scheme: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        name, port = self.url(scheme)
        sock = socket.create_connection((LOOPBACK, port), PATIENCE)
        if scheme == "https":
            context = ssl.create_default_context(cafile=self.authority())
            sock = context.wrap_socket(sock, server_hostname=name)
        connection = http.client.HTTPConnection(name, port)
        connection.sock = sock
        try:
            connection.request("GET" if body is None else "POST", path, body=body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=PATIENCE)
        self.log += rest
        return self.process.returncode


Start = Callable[..., Tunnel]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    tunnels: list[Tunnel] = []

    def begin(*arguments: str) -> Tunnel:
        tunnels.append(Tunnel(tmp_path, *arguments))
        return tunnels[-1]

    yield begin
    for tunnel in tunnels:
        if tunnel.process.poll() is None:
            tunnel.process.kill()
            tunnel.process.communicate()


class Origin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[str]:
    with ThreadingHTTPServer((LOOPBACK, 0), Origin) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()
        thread.join()


def test_hello_world_is_served_at_both_addresses(start: Start) -> None:
    tunnel = start("--hello-world")
    tunnel.wait_ready()
    assert tunnel.get("https", "/_health") == (200, b"ok")
    assert tunnel.get("http", "/_health") == (200, b"ok")
    assert tunnel.stop() == 0


def test_an_origin_gets_the_request_and_its_answer_comes_back(start: Start, origin: str) -> None:
    tunnel = start("--url", origin)
    tunnel.wait_ready()
    body = os.urandom(300_000)
    assert tunnel.get("https", "/upload", body) == (200, body[::-1])
    assert tunnel.stop(signal.SIGINT) == 0


def test_a_request_under_way_is_waited_for_until_a_second_signal(start: Start) -> None:
    tunnel = start("--hello-world")
    tunnel.wait_ready()
    name, port = tunnel.url("http")
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE)
    connection.request("GET", "/sse", headers={"Host": name})
    assert connection.getresponse().readline() == b"id: 0\n"
    tunnel.process.send_signal(signal.SIGTERM)
    tunnel.read_until("Unregistered tunnel connection")
    assert tunnel.process.poll() is None
    assert tunnel.stop() == 128 + signal.SIGTERM
    connection.close()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs unix sockets")
def test_a_unix_socket_is_an_origin_too(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "origin.sock"

    class UnixServer(ThreadingHTTPServer):
        address_family = socket.AF_UNIX

        def server_bind(self) -> None:
            self.socket.bind(self.server_address)
            self.server_name, self.server_port = "unix", 0

        def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
            return self.socket.accept()[0], ("unix", 0)

    with UnixServer(str(path), Origin) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            tunnel = start("--unix-socket", str(path))
            tunnel.wait_ready()
            assert tunnel.get("http", "/", b"abc") == (200, b"cba")
            assert tunnel.stop() == 0
        finally:
            server.shutdown()
            thread.join()


def test_an_origin_that_is_down_is_told_and_does_not_end_the_tunnel(start: Start) -> None:
    with socket.create_server((LOOPBACK, 0)) as reserved:
        port = reserved.getsockname()[1]
    tunnel = start("--url", f"http://{LOOPBACK}:{port}")
    tunnel.wait_ready()
    status, page = tunnel.get("https", "/")
    assert status == 502
    assert b"application" in page
    assert tunnel.get("https", "/")[0] == 502
    assert tunnel.stop() == 0


def test_the_authority_stays_and_the_tunnel_does_not(start: Start) -> None:
    first = start("--hello-world")
    first.wait_ready()
    certificate = Path(first.authority()).read_bytes()
    name, _ = first.url("https")
    assert first.stop() == 0
    second = start("--hello-world")
    second.wait_ready()
    assert Path(second.authority()).read_bytes() == certificate
    _, port = second.url("http")
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE)
    connection.request("GET", "/", headers={"Host": name})
    assert connection.getresponse().status == 404
    connection.close()
    assert second.stop() == 0


def test_taken_ports_are_told_and_others_are_found(start: Start) -> None:
    with socket.socket() as https, socket.socket() as http_:
        for sock, port in ((https, 8443), (http_, 8080)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((LOOPBACK, port))
                sock.listen()
            except OSError:
                pass  # Somebody else's, which is as good.
        tunnel = start("--hello-world")
        tunnel.wait_ready()
        assert tunnel.url("https")[1] != 8443
        assert tunnel.url("http")[1] != 8080
        assert "cannot listen on 127.0.0.1:8443" in tunnel.log
        assert tunnel.get("https", "/_health") == (200, b"ok")
        assert tunnel.stop() == 0


def test_beside_a_running_edge_it_gets_one_of_its_own_and_says_so(
    start: Start, tmp_path: Path
) -> None:
    first = start("--hello-world")
    first.wait_ready()
    second = start("--hello-world")
    second.wait_ready()
    assert f"in use by another edge (process {first.process.pid})" in second.log
    assert "--quick-service" in second.log
    own = Path(second.authority())
    assert not own.is_relative_to(tmp_path)
    assert second.get("https", "/_health") == (200, b"ok")
    assert second.stop() == 0
    assert not own.parent.exists()
    assert first.get("https", "/_health") == (200, b"ok")
    assert first.stop() == 0


def test_a_data_directory_that_others_can_read_is_refused(start: Start, tmp_path: Path) -> None:
    directory = tmp_path / "underpass" / "edge"
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    tunnel = start("--hello-world")
    _, log = tunnel.process.communicate(timeout=PATIENCE)
    assert tunnel.process.returncode == 1
    assert "Cannot run an edge in this process" in log
    assert f"chmod 700 {directory}" in log

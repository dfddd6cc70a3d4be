"""A web server that is everywhere, behind the tunnel."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from peers import content
from peers.curl import Curl
from peers.patience import eventually
from peers.processes import QuickTunnelProcess, running
from peers.stage import Stage

SIZE = 20 * 1024 * 1024

CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 512; }}
http {{
    log_format protocol "$server_protocol $request_uri";
    access_log {directory}/access.log protocol;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 10;
    types {{ text/plain txt; application/octet-stream bin; }}
    server {{
        listen unix:{directory}/nginx.sock;
        listen unix:{directory}/http2.sock http2;
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {directory}/chain.pem;
        ssl_certificate_key {directory}/chain.pem;
        root {directory}/www;
        client_max_body_size 500k;
        gzip on;
        gzip_types text/plain;
        gzip_min_length 100;
        gzip_proxied any;
        location = /refused {{ return 403 "no\\n"; }}
        location = /moved {{ return 301 /text.txt; }}
        location /upload {{ client_body_in_single_buffer on; proxy_pass http://unix:{directory}/nginx.sock:/refused; }}
    }}
}}
"""  # noqa: E501 - nginx's own lines


@dataclass(frozen=True)
class Nginx:
    """It listens in three ways; `arguments` are what a connector is told of each."""

    directory: Path
    port: int

    def arguments(self, way: str) -> list[str]:
        return {
            "http1": [f"--unix-socket={self.directory}/nginx.sock"],
            "h2c": [f"--unix-socket={self.directory}/http2.sock", "--http2-origin"],
            "h2": [
                f"--url=https://127.0.0.1:{self.port}",
                f"--origin-ca-pool={self.directory}/ca.pem",
                "--http2-origin",
            ],
        }[way]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    directory = tmp_path_factory.mktemp("nginx")
    www = directory / "www"
    www.mkdir()
    (www / "text.txt").write_text("some text\n" * 1000)
    with (www / "large.bin").open("wb") as file:
        for block in content.blocks(SIZE):
            file.write(block)
    # Workers would run as somebody else, who cannot read what is here.
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = directory / "nginx.conf"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(directory / "chain.pem")
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    configuration.write_text(CONFIGURATION.format(directory=directory, user=user, port=port))
    process = subprocess.Popen(
        [
            program,
            "-p",
            str(directory),
            "-c",
            str(configuration),
            "-e",
            str(directory / "start.log"),
        ]
    )
    try:
        pid = directory / "nginx.pid"
        eventually(lambda: pid.exists() or process.poll() is not None, "nginx listens")
        assert process.poll() is None, (directory / "start.log").read_text()
        yield Nginx(directory, port)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module", params=["http1", "h2c", "h2"])
def curl(request: pytest.FixtureRequest, nginx: Nginx, scene: Stage) -> Iterator[Curl]:
    """A visitor of nginx, which is asked in HTTP/1.1, HTTP/2, and HTTP/2 over TLS."""
    log = nginx.directory / "access.log"
    already = len(log.read_text())
    connector = QuickTunnelProcess(scene.edge, *nginx.arguments(request.param))
    with running(connector):
        connector.ready()
        yield Curl(scene.edge, connector.hostname)
    spoken = {line.partition(" ")[0] for line in log.read_text()[already:].splitlines()}
    # (What it asks itself, for /upload, is HTTP/1.0.)
    assert spoken - {"HTTP/1.0"} == {"HTTP/1.1" if request.param == "http1" else "HTTP/2.0"}


def test_a_file(curl: Curl) -> None:
    answer = curl("/text.txt")
    assert answer.body == b"some text\n" * 1000
    assert answer.header("content-type") == "text/plain"
    assert (answer.header("server") or "").startswith("nginx")


def test_a_large_file(curl: Curl) -> None:
    answer = curl("/large.bin")
    assert (answer.size, answer.sha256) == (SIZE, content.digest(SIZE))


def test_a_part_of_a_file(curl: Curl) -> None:
    answer = curl("/text.txt", "-r", "5-13")
    assert (answer.status, answer.body) == (206, b"text\nsome")
    assert answer.header("content-range") == "bytes 5-13/10000"


def test_a_file_that_has_not_changed(curl: Curl) -> None:
    tag = curl("/text.txt").header("etag")
    answer = curl("/text.txt", "-H", f"If-None-Match: {tag}")
    assert (answer.status, answer.body) == (304, b"")


def test_compressed_content_stays_compressed(curl: Curl) -> None:
    answer = curl("/text.txt", "-H", "Accept-Encoding: gzip")
    assert answer.header("content-encoding") == "gzip"
    assert gzip.decompress(answer.body) == b"some text\n" * 1000


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_an_upload_that_is_too_large_for_it(curl: Curl, tmp_path: Path, version: str) -> None:
    file = tmp_path / "upload"
    for size, status in ((100_000, 403), (1_000_000, 413)):
        file.write_bytes(bytes(size))
        answer = curl("/upload", version, "--data-binary", f"@{file}", "-H", "Expect:")
        assert answer.status == status


def test_a_missing_file(curl: Curl) -> None:
    assert curl("/nothing").status == 404


def test_a_redirect(curl: Curl) -> None:
    answer = curl("/moved")
    assert answer.status == 301
    assert (answer.header("location") or "").endswith("/text.txt")


def test_connections_it_closes_after_ten_requests_cost_no_answer(curl: Curl) -> None:
    answers = curl.several(["/text.txt"] * 50)
    assert [answer.status for answer in answers] == [200] * 50

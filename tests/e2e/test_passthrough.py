"""TLS that ends at the application: the edge reads the name it is for, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from peers.cloudflared import Cloudflared, binary
from peers.http2_client import Http2Client
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.processes import ConnectorProcess, EdgeProcess, Process, new_tunnel, running
from peers.servers import free_port, program, serving
from rig.hellos import hello_for

from underpass.wire.credentials import write_credentials_file

__all__ = ["binary"]

SECRET, BELOW, APP = "secret.example.test", "a.b.below.example.test", "app.example.test"

NGINX = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    root {directory}/files;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {directory}/site.pem;
        ssl_certificate_key {directory}/site.pem;
        location / {{ return 200 "$ssl_server_name $server_protocol $remote_addr"; }}
        location /large {{ try_files $uri =404; }}
    }}
    server {{
        listen 127.0.0.1:{proxied} ssl proxy_protocol;
        ssl_certificate {directory}/site.pem;
        ssl_certificate_key {directory}/site.pem;
        location / {{ return 200 "$ssl_server_name $proxy_protocol_addr"; }}
    }}
}}
"""


@dataclass(frozen=True)
class Place:
    """An nginx with a certificate of its own behind a connector, beside an ordinary application."""

    edge: EdgeProcess
    trust: Path
    """The authority of nginx's certificate."""
    file: Path

    def curl(
        self, hostname: str, path: str = "/", *more: str
    ) -> subprocess.CompletedProcess[bytes]:
        port = self.edge.https_port
        return subprocess.run(
            [
                *(program("curl"), "-q", "-sS", "--resolve", f"{hostname}:{port}:127.0.0.1"),
                *("--cacert", str(self.trust), f"https://{hostname}:{port}{path}", *more),
            ],
            check=False,
            capture_output=True,
            timeout=PATIENCE,
        )


@contextlib.contextmanager
def passing(
    tmp_path: Path, *, workers: int = 1, more: str = "", binary: str | None = None
) -> Iterator[Place]:
    """Begin it all; the connector is ours, or a stock one."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "large").write_bytes(os.urandom(3_000_000))
    authority = trustme.CA()
    trust = tmp_path / "trust.pem"
    authority.cert_pem.write_to_path(str(trust))
    leaf = authority.issue_cert(SECRET, "*.b.below.example.test")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "site.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    port, proxied = free_port(), free_port()
    configuration = tmp_path / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # the tests' directory is theirs alone
    configuration.write_text(
        NGINX.format(user=user, directory=tmp_path, port=port, proxied=proxied)
    )
    nginx = [program("nginx"), "-e", str(tmp_path / "error.log"), "-c", str(configuration)]
    credentials = new_tunnel(tmp_path / "data", SECRET, "*.below.example.test", APP)
    write_credentials_file(tmp_path / "tunnel.json", credentials)
    file = tmp_path / "edge.yml"
    file.write_text(f"passthrough: [{SECRET}, '*.below.example.test']\n{more}")
    with serving(nginx, port, tmp_path / "nginx.log"), Origin() as origin:
        document = {
            "tunnel": str(credentials.tunnel_id),
            "credentials-file": str(tmp_path / "tunnel.json"),
            "ingress": [
                {"hostname": SECRET, "service": f"tcp://127.0.0.1:{port}"},
                {
                    "hostname": "*.below.example.test",
                    "service": f"tcp://127.0.0.1:{proxied}",
                    "originRequest": {"proxyProtocol": "v2"},
                },
                {"service": origin.url},
            ],
        }
        (tmp_path / "config.yml").write_text(yaml.safe_dump(document))
        edge = EdgeProcess(tmp_path / "data", more=[f"--config={file}", f"--workers={workers}"])
        configured = f"--config={tmp_path / 'config.yml'}"
        connector: Process
        if binary is None:
            connector = ConnectorProcess([configured, *edge.edge_arguments, "run"])
        else:
            connector = Cloudflared(binary, edge, [configured, "run"])
        with running(connector, edge):
            connector.wait_for("Registered tunnel connection")
            place = Place(edge, trust, file)
            eventually(lambda: ask(place, APP) == b"hello\n", "the tunnel answers")
            yield place


def ask(place: Place, hostname: str) -> bytes | None:
    """What an ordinary hostname answers, by the edge's own certificate."""
    context = ssl.create_default_context(cafile=place.edge.ca)
    with contextlib.ExitStack() as stack:
        try:
            plain = stack.enter_context(
                socket.create_connection(("127.0.0.1", place.edge.https_port), PATIENCE)
            )
            secure = stack.enter_context(context.wrap_socket(plain, server_hostname=hostname))
            secure.sendall(f"GET /hello HTTP/1.1\r\nHost: {hostname}\r\n\r\n".encode())
            response = http.client.HTTPResponse(secure)
            response.begin()
        except OSError:
            return None
        return response.read() if response.status == 200 else None


@pytest.mark.parametrize("workers", [1, 2])
def test_curl_sees_the_applications_certificate(tmp_path: Path, workers: int) -> None:
    """HTTP/2 is agreed on with nginx, not with the edge."""
    with passing(tmp_path, workers=workers) as place:
        for version, protocol in (("--http2", b"HTTP/2.0"), ("--http1.1", b"HTTP/1.1")):
            done = place.curl(SECRET, "/", version)
            assert done.stdout.split()[:2] == [SECRET.encode(), protocol], done.stderr
        # Verified: with another name, or another authority, curl goes no further.
        assert place.curl(SECRET, "/", "--cacert", str(place.edge.ca)).returncode == 60
        assert place.curl("b.below.example.test").returncode == 60
        assert place.curl(SECRET, "/large").stdout == (tmp_path / "files" / "large").read_bytes()
        upload = tmp_path / "files" / "large"
        assert place.curl(
            SECRET, "/", "--http1.1", "--data-binary", f"@{upload}"
        ).stdout.startswith(SECRET.encode())
        assert ask(place, APP) == b"hello\n"


@pytest.mark.interop
def test_a_stock_connector(tmp_path: Path, binary: str) -> None:
    with passing(tmp_path, binary=binary) as place:
        assert place.curl(SECRET).stdout.split()[:2] == [SECRET.encode(), b"HTTP/2.0"]
        assert place.curl(SECRET, "/large").stdout == (tmp_path / "files" / "large").read_bytes()
        assert place.curl(SECRET, "/", "--cacert", str(place.edge.ca)).returncode == 60


def test_the_application_may_be_told_whose_connection_it_is(tmp_path: Path) -> None:
    """By the connector's PROXY header, of the address that a trusted hop has named."""
    with passing(tmp_path, more="trusted-hops: [127.0.0.2]\n") as place:
        assert place.curl(BELOW).stdout.split() == [BELOW.encode(), b"127.0.0.1"]
        context = ssl.create_default_context(cafile=place.trust)
        with socket.create_connection(
            ("127.0.0.1", place.edge.https_port), PATIENCE, ("127.0.0.2", 0)
        ) as plain:
            plain.sendall(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n")
            with context.wrap_socket(plain, server_hostname=BELOW) as secure:
                secure.sendall(f"GET / HTTP/1.1\r\nHost: {BELOW}\r\n\r\n".encode())
                response = http.client.HTTPResponse(secure)
                response.begin()
                assert response.read().split() == [BELOW.encode(), b"192.0.2.7"]


def test_a_client_of_http2(tmp_path: Path) -> None:
    """As browsers have it: ALPN, many requests on one connection."""

    async def scenario(place: Place) -> None:
        context = ssl.create_default_context(cafile=place.trust)
        context.set_alpn_protocols(["h2", "http/1.1"])
        visitor = await Http2Client.connect(
            "127.0.0.1", place.edge.https_port, server_name=SECRET, context=context
        )
        try:
            streams = [await visitor.get(SECRET.encode(), b"/") for _ in range(20)]
            for stream in streams:
                await stream.finished()
                assert (stream.status, bytes(stream.data).split()[1]) == (200, b"HTTP/2.0")
        finally:
            await visitor.close()

    with passing(tmp_path) as place:
        asyncio.run(scenario(place))


def test_a_hello_in_many_segments(tmp_path: Path) -> None:
    """The client's own bytes, all of them, in order."""
    with passing(tmp_path) as place:
        context = ssl.create_default_context(cafile=place.trust)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=SECRET)
        with socket.create_connection(("127.0.0.1", place.edge.https_port), PATIENCE) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        sock.sendall(bytes([byte]))
                    incoming.write(sock.recv(65536))
            assert ("DNS", SECRET) in client.getpeercert()["subjectAltName"]  # type: ignore[index]


def test_who_names_nobody_gets_the_edge(tmp_path: Path) -> None:
    with passing(tmp_path) as place:
        context = ssl.create_default_context(cafile=place.edge.ca)
        context.check_hostname = False
        for name in (None, APP, "nobody.example.test", f"x{SECRET}", "below.example.test"):
            with (
                socket.create_connection(("127.0.0.1", place.edge.https_port), PATIENCE) as plain,
                context.wrap_socket(plain, server_hostname=name) as secure,
            ):
                assert secure.version() == "TLSv1.3"


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_that_come_without_that_tls(tmp_path: Path, workers: int) -> None:
    """They are no bytes for the application: a browser that thinks one connection good for both
    hostnames is told to make another."""

    def status(host: str, connection: http.client.HTTPConnection) -> int:
        with contextlib.closing(connection):
            connection.request("GET", "/hello", headers={"Host": host})
            return connection.getresponse().status

    with passing(tmp_path, workers=workers) as place:
        context = ssl.create_default_context(cafile=place.edge.ca)
        for host, expected in ((SECRET, 421), (f"{SECRET.upper()}.:1", 421), (APP, 200)):
            plain = socket.create_connection(("127.0.0.1", place.edge.http_port), PATIENCE)
            came = http.client.HTTPConnection("edge")
            came.sock = plain
            assert status(host, came) == expected
            plain = socket.create_connection(("127.0.0.1", place.edge.https_port), PATIENCE)
            came.sock = context.wrap_socket(plain, server_hostname=APP)
            assert status(host, came) == expected


def test_a_hostname_that_nobody_serves_ends_with_a_reset(tmp_path: Path) -> None:
    with passing(tmp_path) as place:
        place.file.write_text("passthrough: [gone.example.test]\n")
        place.edge.signal(signal.SIGHUP)
        place.edge.wait_for("Configuration applied")
        with socket.create_connection(("127.0.0.1", place.edge.https_port), PATIENCE) as sock:
            sock.sendall(hello_for("gone.example.test"))
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        line = place.edge.wait_for("a stream was broken off")
        assert (line["cause"], line["host"], line["route"]) == (
            *("unknown_host", "gone.example.test"),
            "passthrough",
        )
        # And what is no longer passed through is the edge's to serve.
        assert place.curl(SECRET, "/", "--cacert", str(place.edge.ca)).returncode == 0


def test_what_is_passed_through_changes_while_it_runs(tmp_path: Path) -> None:
    with passing(tmp_path, workers=2) as place:
        context = ssl.create_default_context(cafile=place.trust)
        with (
            socket.create_connection(("127.0.0.1", place.edge.https_port), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=SECRET) as secure,
        ):
            for count, text in enumerate(("{}\n", f"passthrough: [{SECRET}]\n"), 1):
                place.file.write_text(text)
                place.edge.signal(signal.SIGHUP)
                place.edge.wait_for("Configuration applied", count=count)
                ours = place.curl(SECRET, "/", "--cacert", str(place.edge.ca)).returncode
                assert ours == (0 if count == 1 else 60)
                # Whoever is there stays.
                secure.sendall(f"GET / HTTP/1.1\r\nHost: {SECRET}\r\n\r\n".encode())
                response = http.client.HTTPResponse(secure)
                response.begin()
                assert response.read().startswith(SECRET.encode())


@pytest.mark.interop
def test_a_browser(tmp_path: Path) -> None:
    """Chromium, whose hello is larger than a segment, shuffled, and has an ECH of no meaning."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    with passing(tmp_path) as place:
        # It trusts the key of nginx's certificate, and no other.
        certificate = x509.load_pem_x509_certificate((tmp_path / "chain.pem").read_bytes())
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        trusted = base64.b64encode(hashlib.sha256(key).digest()).decode()
        done = subprocess.run(
            [
                chromium,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
                f"--ignore-certificate-errors-spki-list={trusted}",
                f"--host-resolver-rules=MAP {SECRET} 127.0.0.1",
                f"https://{SECRET}:{place.edge.https_port}/",
            ],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
        assert f"{SECRET} HTTP/2.0".encode() in done.stdout

"""One request and its answer: bounded, never redirected, believed by the right roots."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from underpass.ops.http_request import Answer, RequestError, request, require_http_url

LIMIT = 1000
# Long enough for any machine where an answer comes, and short where none does.
LONG, SHORT = 60.0, 0.2

Serve = Callable[[socket.socket, threading.Event], None]
"""Gets a connection, and learns when the client is done."""


@contextlib.contextmanager
def peer(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server for one connection, on loopback. Its address."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError, ssl.SSLError):
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                with connection:
                    serve(connection, ended)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            scheme = "https" if tls else "http"
            yield f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            with contextlib.suppress(OSError), socket.create_connection(server.getsockname(), 1):
                pass  # for a server that nobody asked
            thread.join()


def saying(answer: bytes, seen: list[bytes] | None = None) -> Serve:
    """Reads a request without a body, and answers it."""

    def serve(connection: socket.socket, _: threading.Event) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(4096)
            if not received:
                return
            head += received
        if seen is not None:
            seen.append(head)
        connection.sendall(answer)

    return serve


def dripping(begin: bytes, drop: bytes) -> Serve:
    """Answers for ever."""

    def serve(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(begin)
        while not ended.wait(0.01):
            connection.sendall(drop)

    return serve


def ask(address: str, *, timeout: float = LONG, cacert: Path | None = None) -> Answer:
    return request(
        "GET", address, headers={"X-A": "b"}, timeout=timeout, max_bytes=LIMIT, cacert=cacert
    )


def test_a_request_and_its_answer() -> None:
    seen: list[bytes] = []
    head = (
        b"HTTP/1.1 201 Made\r\nContent-Type: Application/JSON; charset=x\r\nContent-Length: 2\r\n"
    )
    with peer(saying(head + b"\r\n{}", seen)) as address:
        answer = ask(f"{address}/path?q=1")
    assert (answer.status, answer.content_type, answer.location, answer.body) == (
        201,
        "application/json",
        "",
        b"{}",
    )
    assert answer.header("content-TYPE") == answer.header("Content-Type") != ""
    assert answer.header("absent") == ""
    assert seen[0].startswith(b"GET /path?q=1 HTTP/1.1\r\n")
    assert f"\r\nHost: {address.removeprefix('http://')}\r\n".encode() in seen[0]
    assert b"\r\nX-A: b\r\n" in seen[0]


def test_a_body_that_ends_with_the_connection() -> None:
    with peer(saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")) as address:
        assert ask(address).body == b"all of it"


def test_a_redirect_is_an_answer() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    with peer(saying(head)) as address:
        answer = ask(address)
    assert (answer.status, answer.location, answer.body) == (302, "http://elsewhere/", b"")


@pytest.mark.parametrize("coding", ["length", "chunked", "close"])
def test_an_answer_that_is_too_long(coding: str) -> None:
    body = b"x" * (LIMIT + 1)
    head = {
        "length": b"Content-Length: %d\r\n\r\n" % len(body),
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body),
        "close": b"Connection: close\r\n\r\n",
    }[coding]
    with (
        peer(saying(b"HTTP/1.1 200 OK\r\n" + head + body)) as address,
        pytest.raises(RequestError, match="longer than 1000 bytes"),
    ):
        ask(address)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
)
def test_an_answer_that_is_broken(answer: bytes) -> None:
    with peer(saying(answer)) as address, pytest.raises(RequestError):
        ask(address)


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 20),
    ],
)
def test_a_peer_that_takes_its_time_has_one_deadline_for_everything(
    begin: bytes, drop: bytes
) -> None:
    with (
        peer(dripping(begin, drop)) as address,
        pytest.raises(RequestError, match=r"timed out: no complete answer in 0\.2 s"),
    ):
        ask(address, timeout=SHORT)


def test_a_handshake_that_never_ends() -> None:
    with peer(dripping(b"", b"")) as address, pytest.raises(RequestError, match="timed out"):
        ask(address.replace("http:", "https:"), timeout=SHORT)


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(RequestError, match="refused"):
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


class TestTls:
    OK = b"HTTP/1.1 204 No Content\r\n\r\n"

    def test_an_unknown_authority_is_not_believed(self, tls: ssl.SSLContext) -> None:
        with (
            peer(saying(self.OK), tls) as address,
            pytest.raises(RequestError, match="certificate verify failed"),
        ):
            ask(address)

    def test_an_authority_that_was_given(self, tls: ssl.SSLContext, roots: Path) -> None:
        with peer(saying(self.OK), tls) as address:
            assert ask(address, cacert=roots).status == 204

    def test_an_authority_of_the_environment(
        self, tls: ssl.SSLContext, roots: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        with peer(saying(self.OK), tls) as address:
            assert ask(address).status == 204

    def test_a_name_that_is_not_on_the_certificate(
        self, authority: trustme.CA, roots: Path
    ) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("somebody.example").configure_cert(tls)
        with peer(saying(self.OK), tls) as address, pytest.raises(RequestError, match="mismatch"):
            ask(address, cacert=roots)

    def test_roots_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match=r"--cacert .*absent.pem"):
            ask("https://127.0.0.1:1", cacert=tmp_path / "absent.pem")


@pytest.mark.parametrize("text", ["http://x", "https://x:1/y", "http://[::1]:80/a/b/"])
def test_addresses_of_services(text: str) -> None:
    require_http_url(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "localhost:80",
            "ftp://x",
            "http://",
            "http:///x",
            "http://x:99999",
            "http://x:a",
        ),
        *("http://user@x", "http://:pass@x", "http://x/?q", "http://x/#f", "http://x/ y"),
        *("http://x\r\nInjected: y", "http://é", "http://[::1"),
    ],
)
def test_what_is_no_address_of_a_service(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (urllib has words of its own)
        require_http_url(text)

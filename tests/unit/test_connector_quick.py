"""Asking a service for a quick tunnel."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from underpass.connector.quick import request_quick_tunnel, request_quick_tunnel_blocking
from underpass.version import VERSION
from underpass.wire.credentials import Credentials
from underpass.wire.quick_tunnel import (
    MAX_RESPONSE_BYTES,
    QuickTunnel,
    QuickTunnelError,
    encode_quick_tunnel,
)

TUNNEL = QuickTunnel(Credentials("account", b"s" * 32, uuid.UUID(int=7)), "x-y.localhost:8443", "q")
Answer = Callable[[BaseHTTPRequestHandler], None]


def answer_with(body: bytes, status: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@contextmanager
def service(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """A service on loopback; yields its address and the requests it got."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(f"{self.requestline} {json.dumps(sorted(self.headers.items()))}")
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_tunnel_is_asked_for_with_an_empty_post() -> None:
    with service(answer_with(encode_quick_tunnel(TUNNEL))) as (address, seen):
        assert asyncio.run(request_quick_tunnel(f"{address}/")) == TUNNEL
    (request,) = seen
    assert request.startswith("POST /tunnel HTTP/1.1 ")
    for header in (
        '["Content-Length", "0"]',
        '["Content-Type", "application/json"]',
        f'["User-Agent", "underpass/{VERSION}"]',
    ):
        assert header in request


def test_a_service_with_a_certificate_of_its_own_is_trusted_by_its_authority(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with service(answer_with(encode_quick_tunnel(TUNNEL)), context) as (address, _):
        assert request_quick_tunnel_blocking(address, tmp_path / "ca.pem") == TUNNEL
        with pytest.raises(QuickTunnelError, match="certificate verify failed"):
            request_quick_tunnel_blocking(address)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"<html>", 502, "502"),
        (b'{"success":false,"errors":[{"code":1101,"message":"no more"}]}', 429, "no more"),
        (b"{}" + b" " * MAX_RESPONSE_BYTES, 200, "longer than"),
    ],
)
def test_an_answer_without_a_tunnel_is_explained(body: bytes, status: int, reason: str) -> None:
    with (
        service(answer_with(body, status)) as (address, _),
        pytest.raises(QuickTunnelError, match=reason),
    ):
        request_quick_tunnel_blocking(address)


def test_a_service_that_hangs_up_is_named() -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    with service(hang_up) as (address, _), pytest.raises(QuickTunnelError, match=address):
        request_quick_tunnel_blocking(address)


def test_a_service_that_never_answers_is_given_up() -> None:
    released = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        released.wait(10)

    with service(hang) as (address, _):
        try:
            with pytest.raises(QuickTunnelError, match="timed out"):
                request_quick_tunnel_blocking(address, timeout=0.05)
        finally:
            released.set()


@pytest.mark.parametrize("address", ["", "localhost:80", "ftp://x", "http://", "http://x:99999"])
def test_what_is_no_service_address_is_refused(address: str) -> None:
    with pytest.raises(QuickTunnelError, match="--quick-service"):
        request_quick_tunnel_blocking(address)


def test_a_cacert_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuickTunnelError, match=r"--cacert .*absent.pem"):
        request_quick_tunnel_blocking("https://127.0.0.1:1", tmp_path / "absent.pem")

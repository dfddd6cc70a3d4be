"""The host of an Access team's keys, where a connector finds it that is told of a proxy."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from joserfc import jws
from joserfc.jwk import RSAKey

HOST = "team.cloudflareaccess.com"
AUDIENCE = "f70ff4ee5c9e5a1b7a1a1f4f5d2cbd0a3a4f0d1c2b3e4f5a6b7c8d9e0f1a2b3c"


@dataclass
class Request:
    """A request, as far as it matters."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @classmethod
    def parse(cls, head: bytes) -> Request:
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines)
        return cls(method, target, {name.lower(): value.strip() for name, _, value in pairs})


@dataclass
class Answer:
    status: int
    body: bytes = b""
    fields: list[tuple[str, str]] = field(default_factory=list)

    def encoded(self, method: str) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Whatever", f"content-length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        head = "\r\n".join([*lines, "", ""]).encode()
        return head if method == "HEAD" else head + self.body


class Team:
    """A team with keys: `sign` makes tokens, `rotate` another key. `fetches` counts."""

    hosts: tuple[str, ...] = (HOST,)

    def __init__(self, directory: Path) -> None:
        self.keys: list[tuple[str, RSAKey]] = []
        self.fetches = 0
        self.is_out_of_order = False
        self.rotate()
        authority = trustme.CA()
        self.trusted = directory / "access-ca.pem"
        authority.cert_pem.write_to_path(str(self.trusted))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*self.hosts).configure_cert(self._context)
        self._server = _Proxy(("127.0.0.1", 0), self._serve)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What leads a connector here."""
        host, port = self._server.server_address[:2]
        return {
            "HTTPS_PROXY": f"http://{host!s}:{port}",
            "SSL_CERT_FILE": str(self.trusted),
        }

    def rotate(self) -> None:
        """From now on tokens have another key's signature, and the old key is not to be had."""
        key_id = f"key-{time.monotonic_ns()}"
        self.keys = [(key_id, RSAKey.generate_key(2048))]

    def sign(self, **claims: Any) -> str:
        """A token; claims given replace those of a good one, None leaves one out."""
        key_id, key = self.keys[-1]
        now = int(time.time())
        good = {
            "iss": f"https://{HOST}",
            "aud": [AUDIENCE],
            "email": "someone@example.com",
            "exp": now + 600,
            "iat": now,
            "nbf": now,
        }
        payload = {name: value for name, value in {**good, **claims}.items() if value is not None}
        return jws.serialize_compact(
            {"alg": "RS256", "kid": key_id}, json.dumps(payload).encode(), key
        )

    @contextmanager
    def serving(self) -> Iterator[Team]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(10)

    def answer(self, host: str, request: Request) -> Answer | None:
        """What `host` says; None if it is not there."""
        if host != HOST or self.is_out_of_order:
            return None
        if request.path != "/cdn-cgi/access/certs":
            return Answer(404)
        self.fetches += 1
        public = [
            {**key.as_dict(private=False), "kid": key_id, "alg": "RS256", "use": "sig"}
            for key_id, key in self.keys
        ]
        return Answer(200, json.dumps({"keys": public}).encode())

    def _serve(self, plain: socket.socket) -> None:
        head = _head(plain)
        host = head.partition(b" ")[2].partition(b":")[0].decode()
        if not head.startswith(b"CONNECT ") or host not in self.hosts or self.is_out_of_order:
            plain.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return
        plain.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with self._context.wrap_socket(plain, server_side=True) as secure:
            while head := _head(secure):
                request = Request.parse(head)
                length = int(request.fields.get("content-length", "0"))
                request.body = _exactly(secure, length)
                answer = self.answer(host, request) or Answer(404)
                secure.sendall(answer.encoded(request.method))


def _head(sock: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        if not piece:
            break
        head += piece
    return head


def _exactly(sock: ssl.SSLSocket, size: int) -> bytes:
    body = b""
    while len(body) < size:
        body += sock.recv(size - len(body))
    return body


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], serve: Any) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                serve(self.request)

        super().__init__(address, Handler)

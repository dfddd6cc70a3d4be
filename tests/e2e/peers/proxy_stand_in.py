"""Proxies as one meets them: HTTP CONNECT, with TLS or without, and SOCKS5."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from pathlib import Path

import trustme

from .patience import PATIENCE

PIECE = 65536


class ProxyStandIn:
    """Listens on loopback; what asks rightly is connected. `kind` is the scheme of its URL.

    `asked` has the targets that were asked for, as they were spelt.
    """

    def __init__(
        self,
        kind: str,
        *,
        user: str = "",
        password: str = "",
        allows: bool = True,
        directory: Path | None = None,
    ) -> None:
        self.kind = kind
        self.asked: list[str] = []
        self._user = user.encode()
        self._password = password.encode()
        self._allows = allows
        self._context: ssl.SSLContext | None = None
        if kind == "https":
            assert directory is not None
            authority = trustme.CA()
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(self._context)
            self.ca = directory / "proxy-ca.pem"
            authority.cert_pem.write_to_path(str(self.ca))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def url(self, credentials: str = "") -> str:
        """`credentials` as in a URL: `user:password@`."""
        return f"{self.kind}://{credentials}{self.address}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in tuple(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def __enter__(self) -> ProxyStandIn:  # noqa: PYI034 - nobody inherits from it
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.add(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(PATIENCE)
        far: socket.socket | None = None
        try:
            if self._context is not None:
                raw, client = client, self._context.wrap_socket(client, server_side=True)
                self._sockets.discard(raw)
                self._sockets.add(client)
            far = self._http(client) if self.kind in ("http", "https") else self._socks(client)
            if far is not None:
                self._sockets.add(far)
                client.settimeout(None)
                back = threading.Thread(target=_pump, args=(far, client), daemon=True)
                back.start()
                _pump(client, far)
                back.join(PATIENCE)
        except OSError:
            pass  # the client has gone, or was none
        finally:
            for end in (client, far):
                if end is not None:
                    self._sockets.discard(end)
                    end.close()

    def _http(self, client: socket.socket) -> socket.socket | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _some(client)
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].split(b" ")
        assert method == b"CONNECT"
        self.asked.append(target.decode())
        token = base64.b64encode(self._user + b":" + self._password)
        wanted = b"Proxy-Authorization: Basic " + token
        if self._user and wanted not in lines:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return None
        if not self._allows:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n")
            return None
        try:
            far = _connect(target.decode())
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return None
        client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: stand-in\r\n\r\n")
        return far

    def _socks(self, client: socket.socket) -> socket.socket | None:
        version, count = _exactly(client, 2)
        assert version == 5
        methods = _exactly(client, count)
        method = 2 if self._user else 0
        if method not in methods:
            client.sendall(b"\x05\xff")
            return None
        client.sendall(bytes([5, method]))
        if method == 2:
            _, size = _exactly(client, 2)
            user = _exactly(client, size)
            password = _exactly(client, _exactly(client, 1)[0])
            good = (user, password) == (self._user, self._password)
            client.sendall(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return None
        _, command, _, kind = _exactly(client, 4)
        assert command == 1
        if kind == 3:
            host = _exactly(client, _exactly(client, 1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, _exactly(client, size))
        port = int.from_bytes(_exactly(client, 2), "big")
        self.asked.append(f"{host}:{port}")
        if not self._allows:
            client.sendall(b"\x05\x02\x00\x01" + bytes(6))
            return None
        try:
            far = _connect(f"{host}:{port}")
        except OSError:
            client.sendall(b"\x05\x05\x00\x01" + bytes(6))
            return None
        # The bound address as a name, which few do and all may.
        client.sendall(b"\x05\x00\x00\x03\x05proxy" + bytes(2))
        return far


def _connect(target: str) -> socket.socket:
    host, _, port = target.rpartition(":")
    # A name that only this proxy knows.
    host = "127.0.0.1" if host == "edge.behind.proxy" else host
    far = socket.create_connection((host, int(port)), PATIENCE)
    far.settimeout(None)
    return far


def _some(source: socket.socket) -> bytes:
    data = source.recv(PIECE)
    if not data:
        raise ConnectionResetError
    return data


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)

"""Visitors that ask without a pause, each in its own manner, and forgive nothing.

A response that is not the one expected, a connection that breaks, a reset: everything is kept as a
failure, also what a browser would hide by asking again.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from .content import blocks, digest
from .patience import PATIENCE, eventually
from .processes import EdgeProcess

if TYPE_CHECKING:
    from typing_extensions import Self

UPLOAD = 100_000
PIECE = 65536


class Visitor(threading.Thread):
    """Asks until it is told to stop. A context: it may end in no other way."""

    def __init__(self, edge: EdgeProcess, host: str, *, tls: bool = False) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.failures: list[str] = []
        self.edge = edge
        self.host = host
        self.tls = tls
        self.stopping = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join(PATIENCE)
        assert not self.is_alive(), f"{self} hangs"

    def __str__(self) -> str:
        return f"{type(self).__name__} of {self.host}{' with TLS' if self.tls else ''}"

    def run(self) -> None:
        while not self.stopping.is_set():
            self._visit()

    def _visit(self) -> None:
        try:
            self.visit()
        except (OSError, http.client.HTTPException, WebSocketException, AssertionError) as error:
            self.failures.append(f"{self}, after {self.answered}: {error!r}")

    def visit(self) -> None:
        """Ask once or several times."""
        raise NotImplementedError

    def answers_more(self, count: int = 3) -> None:
        """It has got so many answers more, or fails."""
        wanted = self.answered + count
        eventually(lambda: self.answered >= wanted or self.failures, f"{self} is answered")

    def connection(self) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection("127.0.0.1", self.edge.http_port, timeout=PATIENCE)
        connection = http.client.HTTPConnection(self.host, self.edge.https_port, timeout=PATIENCE)
        plain = socket.create_connection(("127.0.0.1", self.edge.https_port), PATIENCE)
        connection.sock = trust(self.edge).wrap_socket(plain, server_hostname=self.host)
        return connection

    def ask(
        self, connection: http.client.HTTPConnection, path: str, body: bytes | None = None
    ) -> bytes:
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, headers={"Host": self.host})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, f"status {response.status}: {content[:2000]!r}"
        return content


class NewConnections(Visitor):
    """One connection for each request."""

    def visit(self) -> None:
        with contextlib.closing(self.connection()) as connection:
            assert self.ask(connection, "/hello") == b"hello\n"
            self.answered += 1


class KeptConnection(Visitor):
    """One connection for as long as the edge says that it stays."""

    def visit(self) -> None:
        with contextlib.closing(self.connection()) as connection:
            while not self.stopping.is_set():
                assert self.ask(connection, "/hello") == b"hello\n"
                self.answered += 1
                if connection.sock is None:  # the response has said so
                    return


class Uploads(Visitor):
    """Content that takes several turns of everything."""

    def visit(self) -> None:
        content = b"".join(blocks(UPLOAD))
        with contextlib.closing(self.connection()) as connection:
            while not self.stopping.is_set():
                told = json.loads(self.ask(connection, "/sink", content))
                assert told == {"size": UPLOAD, "sha256": digest(UPLOAD)}
                self.answered += 1
                if connection.sock is None:
                    return


class Http2(Visitor):
    """curl with several requests at a time on one connection, which it uses until it is told not
    to."""

    REQUESTS = 200

    def __init__(self, edge: EdgeProcess, host: str) -> None:
        super().__init__(edge, host, tls=True)

    def visit(self) -> None:
        authority = f"{self.host}:{self.edge.https_port}"
        command = ["curl", "--silent", "--show-error", "--http2", "--parallel"]
        command += [
            "--parallel-max",
            "4",
            "--cacert",
            str(self.edge.ca),
            "--resolve",
            f"{authority}:127.0.0.1",
        ]
        command += [
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %{http_version} %{errormsg}\n",
        ]
        command += [f"https://{authority}/hello?[1-{self.REQUESTS}]"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        lines = done.stdout.splitlines()
        wrong = [line for line in lines if line.strip() != "200 2"]
        told = done.returncode, len(lines), wrong[:5]
        assert told == (0, self.REQUESTS, []), f"{told} {done.stderr}"
        self.answered += self.REQUESTS


class Conversation(Visitor):
    """A WebSocket with messages to and fro."""

    def visit(self) -> None:
        uri = f"ws://{self.host}:{self.edge.http_port}/ws"
        plain = socket.create_connection(("127.0.0.1", self.edge.http_port), PATIENCE)
        with connect(uri, sock=plain, proxy=None, open_timeout=PATIENCE) as websocket:
            while not self.stopping.is_set():
                message = f"message {self.answered}"
                websocket.send(message)
                assert websocket.recv(PATIENCE) == message
                self.answered += 1
                self.stopping.wait(0.01)


class Download:
    """One response that is taken piece by piece, as somebody says."""

    def __init__(self, edge: EdgeProcess, host: str, size: int) -> None:
        self._size = size
        self._got = 0
        self._digest = hashlib.sha256()
        self._socket = socket.socket()
        # What the kernel takes is no response under way.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(("127.0.0.1", edge.http_port))
        self._socket.sendall(f"GET /bytes/{size} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        self._response = http.client.HTTPResponse(self._socket)
        self._response.begin()
        assert self._response.status == 200

    def take(self, size: int) -> None:
        """The next bytes."""
        piece = self._response.read(size)
        self._got += len(piece)
        self._digest.update(piece)

    def finish(self) -> None:
        """The rest; it is all there."""
        self.take(self._size - self._got)
        assert (self._got, self._digest.hexdigest()) == (self._size, digest(self._size))
        self._response.close()
        self._socket.close()


@contextlib.contextmanager
def visiting(visitors: Sequence[Visitor]) -> Iterator[None]:
    """All of them ask meanwhile; nobody may have failed."""
    with contextlib.ExitStack() as stack:
        for visitor in visitors:
            stack.enter_context(visitor)
        for visitor in visitors:
            visitor.answers_more()
        yield
        for visitor in visitors:
            visitor.answers_more()
    failures = [failure for visitor in visitors for failure in visitor.failures]
    assert not failures, f"{len(failures)} failed:\n" + "\n".join(failures[:20])


def trust(edge: EdgeProcess) -> ssl.SSLContext:
    """Whoever believes the edge's authority."""
    return ssl.create_default_context(cafile=str(edge.ca))

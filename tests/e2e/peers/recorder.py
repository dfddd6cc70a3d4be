"""An origin that writes down every byte it is sent, one connection for each request.

It answers as the query says (`?answer=NAME`, of `ANSWERS`), and then reads on until the other end
closes, so that what follows a request is seen as well.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .patience import PATIENCE, eventually

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ANSWERS", "Record", "Recorder"]

GZIPPED: Final = gzip.compress(b"content that was compressed", mtime=0)

ANSWERS: Final = {
    b"length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok",
    b"empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
    ),
    b"until-close": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nok",
    b"gzip": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (len(GZIPPED), GZIPPED)
    ),
    b"204": b"HTTP/1.1 204 No Content\r\nX-Kept: 1\r\n\r\n",
    b"304": b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
    b"404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
    b"500": b"HTTP/1.1 500 Oh No\r\nContent-Length: 4\r\n\r\nfail",
    b"599": b"HTTP/1.1 599 Made Up\r\nContent-Length: 0\r\n\r\n",
    b"302": b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    b"cookies": (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nVary: A\r\nVary: B\r\n"
        b"Content-Length: 2\r\n\r\nok"
    ),
    b"early-hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ),
    b"odd-names": (
        b"HTTP/1.1 200 OK\r\nx_under_score: 1\r\nX.dot: 2\r\nwww-authenticate: Basic\r\n"
        b"X-Empty:\r\n"
        b"Cf-Ray: origin\r\nCf-Int-X: 1\r\nCf-Cloudflared-X: 1\r\nCf-Proxy-X: 1\r\nServer: me\r\n"
        b"Content-Length: 2\r\n\r\nok"
    ),
    b"two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    b"sse": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n",
    b"broken": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort",
}
"""What the answer to HEAD leaves out is what follows the head."""

GOODBYE: Final = b"bye"
"""What a visitor says last after an upgrade."""

UPGRADED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello"
)


@dataclass
class Record:
    """One connection: what came on it, and in which TLS."""

    data: bytes = b""
    server_name: str | None = None
    alpn: str | None = None


@dataclass
class Recorder:
    """Listens until the end of the `with`: on loopback, or on a unix socket at `path`."""

    context: ssl.SSLContext | None = None
    path: Path | None = None
    records: list[Record] = field(default_factory=list)
    """Of connections that are over, in that order."""

    def __enter__(self) -> Self:
        self._names: dict[int, str | None] = {}
        self._accepted = 0
        if self.context is not None:
            self.context.sni_callback = self._note_name
            self.context.set_alpn_protocols(["http/1.1"])
        if self.path is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen(128)
        else:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake who accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def take(self) -> list[Record]:
        """The records since the last time, once all connections are over."""
        eventually(lambda: len(self.records) == self._accepted, "the origin's connections end")
        taken, self.records = self.records, []
        self._accepted -= len(taken)
        return taken

    def _note_name(self, session: ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        self._names[id(session)] = name

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._accepted += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(PATIENCE)
        record = Record()
        try:
            if self.context is not None:
                secured = self.context.wrap_socket(
                    peer, server_side=True, do_handshake_on_connect=False
                )
                peer = secured
                secured.do_handshake()
                record.server_name = self._names.pop(id(secured), None)
                record.alpn = secured.selected_alpn_protocol()
            with peer:
                self._converse(peer, record)
        except OSError:
            # The other end may leave at any time; what came until then counts.
            peer.close()
        self.records.append(record)

    def _converse(self, peer: socket.socket, record: Record) -> None:
        while not complete(record.data):
            data = peer.recv(65536)
            if not data:
                return
            record.data += data
        head = record.data.partition(b"\r\n\r\n")[0]
        if re.search(rb"(?i)^upgrade: websocket", head, re.MULTILINE):
            peer.sendall(UPGRADED)
            while not record.data.endswith(GOODBYE) and (data := peer.recv(65536)):
                record.data += data
            return
        name = re.search(rb"answer=([a-z0-9-]+)", head)
        answer = ANSWERS[name.group(1) if name else b"length"]
        if head.startswith(b"HEAD "):
            answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        until_close = not re.search(rb"(?i)content-length|transfer-encoding", answer)
        start, line, rest = answer.rpartition(b"HTTP/1.1 ")
        status, _, fields = rest.partition(b"\r\n")
        peer.sendall(start + line + status + b"\r\nConnection: close\r\n" + fields)
        if self.context is None:
            peer.shutdown(socket.SHUT_WR)
        elif isinstance(peer, ssl.SSLSocket) and until_close:
            # Says that this direction is over, and waits for the same of the other.
            with contextlib.suppress(OSError):
                peer.unwrap()
            return
        while data := peer.recv(65536):
            record.data += data


def complete(data: bytes) -> bool:
    """Whether `data` holds a whole request, by the framing it claims to have."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    if re.search(rb"(?i)^transfer-encoding: *chunked", head, re.MULTILINE):
        return re.search(rb"(^|\r\n)0\r\n([^\r\n]+\r\n)*\r\n$", body) is not None
    length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    return length is None or len(body) >= int(length.group(1))

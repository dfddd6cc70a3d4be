"""A forward proxy as companies have them: it connects where it is told, or answers itself."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ForwardProxy"]


class ForwardProxy:
    """Connects `host:port` to the loopback port that `ways` has for it, and refuses all else.

    A request in absolute form is answered with its own head.
    """

    def __init__(self, ways: dict[str, int] | None = None) -> None:
        self.ways = ways or {}
        self.asked: list[list[str]] = []
        """The lines of every request head."""
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while proxy.serve(self):
                    pass

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: socketserver.StreamRequestHandler) -> bool:
        """One request; whether another may follow."""
        lines = []
        while line := handler.rfile.readline().decode("latin-1").rstrip("\r\n"):
            lines.append(line)
        if not lines:
            return False
        self.asked.append(lines)
        method, target, _ = lines[0].split(" ")
        if method != "CONNECT":
            body = "\n".join(lines).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            handler.wfile.write(head + body)
            return True
        if target not in self.ways:
            handler.wfile.write(b"HTTP/1.1 403 Not That One\r\nContent-Length: 0\r\n\r\n")
            return False
        with socket.create_connection(("127.0.0.1", self.ways[target])) as origin:
            handler.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(origin, handler.connection), daemon=True)
            back.start()
            _pump(handler.connection, origin)
            back.join()
        return False


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # Either end may leave at any time.
        pass

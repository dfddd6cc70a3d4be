"""Servers that speak no HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from .conversation import PIECE
from .patience import PATIENCE

Talk = Callable[[socket.socket], None]


def stream_echo() -> contextlib.AbstractContextManager[int]:
    """A TCP server that sends back what it gets, for as long as it comes; yields its port."""

    def echo(client: socket.socket) -> None:
        client.settimeout(None)
        while data := client.recv(PIECE):
            client.sendall(data)

    return serving(echo)


@contextlib.contextmanager
def serving(talk: Talk) -> Iterator[int]:
    """A TCP server that speaks with each client in a thread; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threads: list[threading.Thread] = []

    def serve(client: socket.socket) -> None:
        client.settimeout(PATIENCE)
        with client, contextlib.suppress(ConnectionError):
            talk(client)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(client,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # close() alone does not wake a thread that waits in accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)

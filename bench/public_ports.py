"""What a byte costs through a public port, beside HTTP through the same tunnel:
`python -m bench.public_ports`.

An edge and a connector as processes of their own, an origin and clients that only move bytes. Both
ways without TLS on the visitor's side, one stream at a time. Round by round, so that all meet the
machine in the same moods; the median of the rounds is shown. CPU time is the kernel's own clock of
each process. Linux.
"""

from __future__ import annotations

import argparse
import re
import socket
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from bench.peers.processes import cpu_seconds, free_port, started

HOSTNAME = "stream.localhost"
GIB = 1 << 30
PIECE = memoryview(bytearray(1 << 20))


def move(sock: socket.socket, size: int) -> None:
    """Send so many bytes."""
    while size:
        size -= sock.send(PIECE[: min(size, len(PIECE))])


def take(sock: socket.socket, size: int) -> None:
    """Read so many bytes, or to the end with a size below 0."""
    buffer = memoryview(bytearray(1 << 20))
    while size:
        count = sock.recv_into(buffer[: min(size, len(buffer))] if size > 0 else buffer)
        if not count:
            if size < 0:
                return
            raise RuntimeError(f"the end, {size} bytes too early")
        size -= count


def head_of(sock: socket.socket) -> bytes:
    """A request's or response's head, to its empty line."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    return head


def serve(client: socket.socket) -> None:
    """An origin: its first byte says what is wanted."""
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = client.recv(1)
        if first in (b"D", b"U"):
            size = int.from_bytes(client.recv(8, socket.MSG_WAITALL), "big")
            if first == b"D":
                move(client, size)
            else:
                take(client, size)
                client.sendall(b".")
            return
        while first:
            request = first + head_of(client)
            length = re.search(rb"\r\ncontent-length: (\d+)", request, re.IGNORECASE)
            if length is not None:
                take(client, int(length[1]))
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.")
            else:
                size = int(re.findall(rb"GET /(\d+)", request)[0])
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                move(client, size)
            first = client.recv(1)


@contextmanager
def origin() -> Iterator[int]:
    """Its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


class Place:
    """A running tunnel."""

    def __init__(self, stack: ExitStack) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service, port = stack.enter_context(origin()), free_port()
        file = directory / "edge.yml"
        file.write_text(f"tcp: [{{listen: '127.0.0.1:{port}', hostname: {HOSTNAME}}}]\n")
        program = (sys.executable, "-m", "underpass")
        credentials = _named_tunnel(directory / "edge")
        addresses = [f"--{name}=127.0.0.1:0" for name in ("https", "http", "tunnel", "api")]
        edge = stack.enter_context(
            started(
                "edge",
                (*program, "edge", "run", f"--config={file}", f"--data-dir={directory / 'edge'}",
                 *addresses),
                directory / "edge.log",
                r"API: .*\n",
            )
        )  # fmt: skip
        http = re.findall(r"  http://(\S+)", edge.said)[0]
        tunnel = re.findall(r"Connectors: (\S+)", edge.said)[0]
        rules = directory / "config.yml"
        # One hostname for both: what it is asked decides which rule serves it.
        rules.write_text(
            "ingress:\n"
            f"  - hostname: {HOSTNAME}\n    service: tcp://127.0.0.1:{service}\n"
            f"  - service: http://127.0.0.1:{service}\n"
        )
        connector = stack.enter_context(
            started(
                "connector",
                (*program, "tunnel", f"--config={rules}", "--metrics=127.0.0.1:0",
                 "--ha-connections=1", f"--edge={tunnel}",
                 f"--cacert={directory / 'edge' / 'ca.pem'}", "run", f"--token={credentials}"),
                directory / "connector.log",
                r"Registered tunnel connection",
            )
        )  # fmt: skip
        self.processes = {"edge": edge.pid, "connector": connector.pid}
        self.http = ("127.0.0.1", int(http.rpartition(":")[2]))
        self.tcp = ("127.0.0.1", port)


def _named_tunnel(data: Path) -> str:
    """A tunnel for two hostnames; what a connector runs it with."""
    import asyncio
    import os
    import uuid
    from datetime import datetime, timezone

    from underpass.edge.registry import Registry
    from underpass.edge.router import Router
    from underpass.edge.store import Tunnel
    from underpass.edge.store.sqlite import SqliteStore
    from underpass.wire.credentials import Credentials

    credentials = Credentials("account", os.urandom(32), uuid.uuid4())

    async def create() -> None:
        store = await SqliteStore.open(data / "edge.db")
        try:
            tunnel = Tunnel(
                id=credentials.tunnel_id,
                account_tag=credentials.account_tag,
                name="bench",
                secret=credentials.tunnel_secret,
                created_at=datetime.now(timezone.utc),
            )
            registry = await Registry.load(store, Router())
            await registry.create_tunnel(tunnel, (HOSTNAME, f"web.{HOSTNAME}"))
        finally:
            await store.close()

    data.mkdir(mode=0o700)
    asyncio.run(create())
    return credentials.to_token()


def http_download(place: Place, size: int) -> None:
    with closing(socket.create_connection(place.http)) as sock:
        sock.sendall(b"GET /%d HTTP/1.1\r\nHost: web.stream.localhost\r\n\r\n" % size)
        head_of(sock)
        take(sock, size)


def http_upload(place: Place, size: int) -> None:
    with closing(socket.create_connection(place.http)) as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: web.stream.localhost\r\nContent-Length: %d\r\n\r\n" % size
        )
        move(sock, size)
        head_of(sock)


def tcp_download(place: Place, size: int) -> None:
    with closing(socket.create_connection(place.tcp)) as sock:
        sock.sendall(b"D" + size.to_bytes(8, "big"))
        take(sock, size)


def tcp_upload(place: Place, size: int) -> None:
    with closing(socket.create_connection(place.tcp)) as sock:
        sock.sendall(b"U" + size.to_bytes(8, "big"))
        move(sock, size)
        take(sock, 1)


LOADS: dict[str, Callable[[Place, int], None]] = {
    "HTTP download": http_download,
    "TCP download": tcp_download,
    "HTTP upload": http_upload,
    "TCP upload": tcp_upload,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.public_ports", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=512, help="of each transfer")
    options = parser.parse_args()
    size = options.mib << 20
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADS}
    with ExitStack() as stack:
        place = Place(stack)
        for load in LOADS.values():  # to warm up
            load(place, 1 << 24)
        for _ in range(options.rounds):
            for name, load in LOADS.items():
                before = {key: cpu_seconds(pid) for key, pid in place.processes.items()}
                load(place, size)
                edge, connector = (
                    (cpu_seconds(pid) - before[key]) * GIB / size
                    for key, pid in place.processes.items()
                )
                costs[name].append((edge, connector))
    print("| CPU time per GiB, s | edge | connector | both |")
    print("|---|---|---|---|")
    for name, figures in costs.items():
        edges, connectors = zip(*figures, strict=True)
        both = [sum(pair) for pair in figures]
        row = (statistics.median(each) for each in (edges, connectors, both))
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in row)} |")


if __name__ == "__main__":
    main()

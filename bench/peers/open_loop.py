"""An open loop, in a process of its own: requests begin when the schedule says, whatever happens
to the ones before them, and the response time counts from that moment.

    python -m bench.peers.open_loop ADDRESS HOST PATH RATE SECONDS

Begins are spread at random with the given mean (a Poisson process), by a fixed seed: each peer gets
the same schedule. A generator that waits for a slow response before it sends the next request would
leave out just the requests that would have been slow; here a request that finds no idle one among
CONNECTIONS waits in line with its time running.

Writes a line of JSON: `requests`, `seconds`, percentiles, and `late_p99_ms`, by how much the
generator itself was behind its schedule.
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import sys
import time
from collections import deque

from bench.peers.figures import latencies, percentile

SEED = 1
CONNECTIONS = 256
"""Opened before the schedule begins, all kept to the end."""
GIVE_UP_SECONDS = 10.0
"""After the last request was due."""


class Connection:
    """One kept-alive connection, with at most one request on it, due at `due`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due = 0.0
        self.received = b""

    def receive(self) -> bool:
        """Read what is there. Whether that completes the response.

        Raises:
            RuntimeError: the connection ended, or the answer is not 200.
        """
        try:
            part = self.socket.recv(65536)
        except BlockingIOError:
            return False
        if not part:
            raise RuntimeError(f"the connection was closed: {self.received[:300]!r}")
        self.received += part
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not self.received.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not answered with 200: {self.received[:300]!r}")
        head = self.received[:end].lower()
        length = head.find(b"\r\ncontent-length:")
        if length < 0:
            raise RuntimeError(f"an answer without a length: {head[:300]!r}")
        wanted = int(head[length + 17 :].partition(b"\r\n")[0])
        if len(self.received) < end + 4 + wanted:
            return False
        self.received = b""
        return True


class OpenLoop:
    """All requests of one run."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self._address = address
        self._request = request
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._line: deque[float] = deque()
        self.times: list[float] = []
        self.late: list[float] = []
        for _ in range(CONNECTIONS):
            self._idle.append(self._connect())

    def run(self, schedule: list[float]) -> float:
        """Keep to the schedule, in seconds from now. Returns how long it all took.

        Raises:
            RuntimeError: a request failed, or had no answer in time.
        """
        begun = time.monotonic()
        at = 0
        while len(self.times) < len(schedule):
            now = time.monotonic()
            while at < len(schedule) and begun + schedule[at] <= now:
                self._begin(begun + schedule[at])
                at += 1
            if at < len(schedule):
                wait = begun + schedule[at] - time.monotonic()
            else:
                wait = begun + schedule[-1] + GIVE_UP_SECONDS - now
                if wait < 0:
                    missing = len(schedule) - len(self.times)
                    raise RuntimeError(f"{missing} requests without an answer")
            # epoll's own timeout is in whole milliseconds; select's is not.
            select.select([self._poll], [], [], max(wait, 0))
            for number, _ in self._poll.poll(0):
                connection = self._connections[number]
                if connection.receive():
                    self.times.append(time.monotonic() - connection.due)
                    self._free(connection)
        return time.monotonic() - begun

    def close(self) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._poll.close()

    def _connect(self) -> Connection:
        connection = Connection(self._address)
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)
        return connection

    def _begin(self, due: float) -> None:
        self.late.append(time.monotonic() - due)
        if self._idle:
            self._send(self._idle.pop(), due)
        else:
            self._line.append(due)

    def _free(self, connection: Connection) -> None:
        if self._line:
            self._send(connection, self._line.popleft())
        else:
            self._idle.append(connection)

    def _send(self, connection: Connection, due: float) -> None:
        connection.due = due
        if connection.socket.send(self._request) != len(self._request):
            raise RuntimeError("a request was not taken at once")


def poisson(rate: float, seconds: float) -> list[float]:
    """When requests are due: about `rate` a second, for so long."""
    source = random.Random(SEED)
    schedule = []
    at = source.expovariate(rate)
    while at < seconds:
        schedule.append(at)
        at += source.expovariate(rate)
    return schedule


def main(address: str, host: str, path: str, rate: float, seconds: float) -> None:
    name, _, port = address.rpartition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
    loop = OpenLoop((name, int(port)), request.encode("ascii"))
    with contextlib.closing(loop):
        took = loop.run(poisson(rate, seconds))
    found = {
        "requests": len(loop.times),
        "seconds": took,
        "late_p99_ms": percentile(sorted(loop.late), 0.99) * 1000,
        **latencies(loop.times),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))

"""Open sockets on their way to a worker process that runs already (SCM_RIGHTS, unix(7)).

Beside the channel, which is a stream that asyncio reads and that could not tell which bytes a
descriptor came with: a pair of datagram sockets, names and descriptors together. What has been sent
is there, so whoever tells the worker by the channel to look need not wait.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Final

__all__ = ["DescriptorSender", "receive_sockets"]

MAX_NAME: Final = 24
"""Bytes of a socket's name."""

BATCH: Final = 64
"""Sockets in one datagram: its names fit into 2 KiB, which is all that macOS lets through."""


class DescriptorSender:
    """The supervisor's end. The worker inherits `theirs`."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setblocking(False)

    def send(self, sockets: Mapping[str, socket.socket]) -> None:
        """Hand sockets over, by name; they stay open here. Raises OSError: the worker has ended, or
        takes none."""
        items = list(sockets.items())
        for start in range(0, len(items), BATCH):
            batch = items[start : start + BATCH]
            names = "\n".join(name[:MAX_NAME] for name, _ in batch).encode("ascii")
            socket.send_fds(self._ours, [names], [listener.fileno() for _, listener in batch])

    def close(self) -> None:
        """Nothing more is handed over."""
        self._ours.close()
        self.theirs.close()


def receive_sockets(end: socket.socket) -> dict[str, socket.socket]:
    """In the worker: all that has been sent and was not received before, by name."""
    end.setblocking(False)
    received: dict[str, socket.socket] = {}
    with contextlib.suppress(BlockingIOError):
        while True:
            names, descriptors, _flags, _address = socket.recv_fds(
                end, BATCH * (MAX_NAME + 1), BATCH
            )
            if not descriptors:
                break
            for name, descriptor in zip(
                names.decode("ascii").split("\n"), descriptors, strict=True
            ):
                listener = socket.socket(fileno=descriptor)
                listener.set_inheritable(False)
                listener.setblocking(False)
                received[name] = listener
    return received

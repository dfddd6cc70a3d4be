"""TCP keep-alive: the system asks a silent peer whether it is still there."""

from __future__ import annotations

import socket
from typing import Final

__all__ = ["LONGEST", "keep_alive"]

LONGEST: Final = 32767
"""Seconds; what Linux takes."""


def keep_alive(sock: socket.socket, seconds: float) -> None:
    """Have it asked after so long, and again as often: 0 for the system's own times. Raises
    OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if not seconds:
        return
    whole = min(max(round(seconds), 1), LONGEST)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL"):  # the second is macOS's first
        number = getattr(socket, option, None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, whole)

"""Replacing a running edge by a new process of the program, without a failed request.

The old process starts the new one and goes on until that one serves: it gives it the listening
sockets and the lock of the data directory (`messages.Estate`), and tells it of its links and of
the way to them. The new one accepts visitors and connectors beside the old one from its first
moment on, and sends what it has no links for to the old one. Only then does the old one let go: of
the API and all changes first, of its listeners next. It has its links moved (`edge.moving`),
answers what it has taken, and ends.
"""

from __future__ import annotations

from typing import Final

__all__ = ["VARIABLE"]

VARIABLE: Final = "UNDERPASS_HANDOVER"
"""Names, in the new process' environment, the descriptor of its end of the channel between the
two."""

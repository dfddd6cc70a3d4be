"""`http_status:N`: the same answer to everything."""

from __future__ import annotations

from underpass.core.tunnel import OriginExchange

__all__ = ["FixedStatus"]


class FixedStatus:
    """Answers with one status, no fields and no content (docs: wire protocol §2.5)."""

    def __init__(self, status: int) -> None:
        self._status = max(status, 200)  # an interim status cannot end a request

    def forward(self, exchange: OriginExchange) -> None:
        """Answer."""
        exchange.respond(self._status, ())

    is_busy = False

    def close(self) -> None:
        """There is nothing to let go of."""

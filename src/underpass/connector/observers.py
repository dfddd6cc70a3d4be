"""Looking on at requests: several may look at one exchange, and nobody costs nothing.

An observer is called with each exchange before it is carried on, and hooks itself into what it
wants to see of it: `on_answer`, `on_over`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from underpass.core.tunnel import OriginExchange

if TYPE_CHECKING:
    from underpass.connector.access_log import AccessLog
    from underpass.connector.options import ConnectorOptions

__all__ = ["Observe", "ObserverError", "Observers", "chained"]

Observe: TypeAlias = Callable[[OriginExchange], object]


class ObserverError(Exception):
    """Requests cannot be observed as asked; the text says why."""


class Observers:
    """Those that the options ask for. Each is imported only then. Raises ObserverError."""

    def __init__(self, options: ConnectorOptions) -> None:
        self.observe: Observe | None = None
        self._access_log: AccessLog | None = None
        if logging.getLogger("underpass.connector.requests").isEnabledFor(logging.DEBUG):
            from underpass.connector.request_log import observe_requests

            self.observe = chained(self.observe, observe_requests)
        if options.access_log is not None:
            from underpass.connector.access_log import AccessLog

            self._access_log = AccessLog(options.access_log)
            self.observe = chained(self.observe, self._access_log.observe)

    def tick(self) -> None:
        """Once a second."""
        if self._access_log is not None:
            self._access_log.flush()

    def close(self) -> None:
        """Write what is left to be written."""
        if self._access_log is not None:
            self._access_log.close()


def chained(first: Callable[..., object] | None, then: Callable[..., object] | None) -> Any:
    """A hook that calls both, one alone if the other is None, or None."""
    if first is None or then is None:
        return then if first is None else first

    def both(*arguments: Any) -> None:
        try:
            first(*arguments)
        finally:
            then(*arguments)

    return both

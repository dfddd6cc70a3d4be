"""Looking on at requests: several may look at one exchange, and nobody costs nothing.

An observer is called with each exchange before it is carried on, and hooks itself into what it
wants to see of it: `on_answer`, `on_over`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from underpass.core.tunnel import OriginExchange

if TYPE_CHECKING:
    from underpass.connector.access_log import AccessLog
    from underpass.connector.options import ConnectorOptions
    from underpass.connector.tracing import Tracing

__all__ = ["Observe", "ObserverError", "Observers", "chained"]

log = logging.getLogger("underpass.connector.observers")

Observe: TypeAlias = Callable[[OriginExchange], object]


class ObserverError(Exception):
    """Requests cannot be observed as asked; the text says why."""


class Observers:
    """Those that the options ask for. Each is imported only then. Raises ObserverError."""

    def __init__(self, options: ConnectorOptions) -> None:
        self.observe: Observe | None = None
        """Called with each exchange; another one after `look_at_log_level`."""
        self._lasting: Observe | None = None
        self._access_log: AccessLog | None = None
        self._tracing: Tracing | None = None
        if options.access_log is not None:
            from underpass.connector.access_log import AccessLog

            self._access_log = AccessLog(options.access_log)
            self._lasting = chained(self._lasting, self._access_log.observe)
        if _is_tracing_asked_for():
            self._start_tracing()
        self.look_at_log_level()

    def look_at_log_level(self) -> None:
        """Log each request from now on, or no longer: called when the log's level has changed, so
        that no request has to ask for it."""
        self.observe = self._lasting
        if logging.getLogger("underpass.connector.requests").isEnabledFor(logging.DEBUG):
            from underpass.connector.request_log import observe_requests

            self.observe = chained(observe_requests, self._lasting)

    def _start_tracing(self) -> None:
        try:
            from underpass.connector.tracing import Tracing
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "opentelemetry":
                raise
            # No reason not to start: operators of clusters set this for all programs alike.
            log.warning(
                "Requests are not traced: OTEL_EXPORTER_OTLP_ENDPOINT is set, and the packages "
                "for it are missing; pip install 'underpass[otel]'"
            )
            return
        self._tracing = Tracing()
        self._lasting = chained(self._lasting, self._tracing.observe)

    def tick(self) -> None:
        """Once a second."""
        if self._access_log is not None:
            self._access_log.flush()

    def close(self) -> None:
        """Write what is left to be written."""
        if self._access_log is not None:
            self._access_log.close()
        if self._tracing is not None:
            self._tracing.close()


def _is_tracing_asked_for() -> bool:
    """By OpenTelemetry's own environment variables."""
    environment = os.environ
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(
        environment.get(name)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


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

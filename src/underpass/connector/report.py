"""The log lines a tunnel's life leaves, as operators know them (docs: observability §8)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from underpass.connector.durations import format_duration
from underpass.connector.links import (
    DialError,
    LinkConnected,
    LinkConnecting,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkReconnecting,
    LinkUnregistered,
)
from underpass.wire.registration import RegistrationRefused

__all__ = ["LinkReport"]

_log = logging.getLogger(__name__)

# The numeric `event` field of cloudflared's own events.
_EVENT = 0


class LinkReport:
    """Logs link events. `ready_connections` decides whether a failure is an error or a warning."""

    def __init__(self, protocol: str, ready_connections: Callable[[], int]) -> None:
        self._protocol = protocol
        self._ready_connections = ready_connections

    def observe(self, event: LinkEvent) -> None:
        """Log one event."""
        fields: dict[str, Any] = {
            "connIndex": event.conn_index,
            "ip": event.slot.host,
            "event": _EVENT,
        }
        if isinstance(event, LinkConnecting):
            fields["protocol"] = self._protocol
            _log.debug("Registering tunnel connection", extra=fields)
        elif isinstance(event, LinkConnected):
            fields["protocol"] = self._protocol
            fields["connection"] = str(event.details.connection_id)
            fields["location"] = event.details.location_name
            _log.info("Registered tunnel connection", extra=fields)
        elif isinstance(event, LinkFailed):
            self._failed(event, fields)
        elif isinstance(event, LinkUnregistered):
            if event.error is not None:
                fields["error"] = _words(event.error)
            _log.info("Unregistered tunnel connection", extra=fields)
        elif isinstance(event, LinkDisconnected):
            self._disconnected(event, fields)
        elif isinstance(event, LinkReconnecting):
            longest = format_duration(event.longest_wait)
            _log.info("Retrying connection in up to %s", longest, extra=fields)

    def _failed(self, event: LinkFailed, fields: dict[str, Any]) -> None:
        fields["error"] = _words(event.error)
        if isinstance(event.error, RegistrationRefused):
            message = "Register tunnel error from server side"
        else:
            message = "Unable to establish connection with the edge"
        if isinstance(event.error, DialError):
            fields["step"] = event.error.kind.value
        self._log_trouble(message, fields)

    def _disconnected(self, event: LinkDisconnected, fields: dict[str, Any]) -> None:
        if event.expected:
            _log.debug("Connection closed", extra=fields)
        elif event.error is None:
            _log.info("Lost connection with the edge", extra=fields)
        else:
            fields["error"] = _words(event.error)
            self._log_trouble("Lost connection with the edge", fields)

    def _log_trouble(self, message: str, fields: dict[str, Any]) -> None:
        level = logging.WARNING if self._ready_connections() else logging.ERROR
        _log.log(level, message, extra=fields)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__

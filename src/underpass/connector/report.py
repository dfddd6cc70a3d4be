"""The log lines a tunnel's life leaves, as operators know them (docs: observability §8)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from underpass.connector.homes import Home
from underpass.connector.links import (
    AddressesFound,
    DialError,
    HomeEvent,
    HomeRefused,
    LinkConnected,
    LinkConnecting,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkReconnecting,
    LinkReplacing,
    LinkUnregistered,
)
from underpass.ops.durations import format_duration
from underpass.wire.registration import RegistrationRefused

__all__ = ["LinkReport"]

_log = logging.getLogger(__name__)

# The numeric `event` field of cloudflared's own events.
_EVENT = 0


class LinkReport:
    """Logs what happens to links and homes.

    `ready_connections` decides whether a failure is an error or a warning. The home's name is in a
    line only when there are several.
    """

    def __init__(self, homes: Sequence[Home], ready_connections: Callable[[], int]) -> None:
        self._homes = tuple(homes)
        self._ready_connections = ready_connections

    def observe_home(self, event: HomeEvent) -> None:
        """Log what concerns a whole home."""
        fields = self._home_fields(event.home)
        if isinstance(event, AddressesFound):
            if event.links < event.wanted:
                fields |= {"connections": event.links, "asked": event.wanted}
                _log.info("There are fewer edge addresses than connections asked for", extra=fields)
            return
        fields["error"] = _words(event.error)
        if isinstance(event, HomeRefused):
            _log.error("This home is given up; the others go on", extra=fields)
        elif event.longest_wait is None:
            _log.warning("Cannot look the edge up again, using what is known", extra=fields)
        else:
            self._log_trouble("Cannot find the edge", fields)
            _log.info("Looking again in up to %s", format_duration(event.longest_wait))

    def _home_fields(self, home: int) -> dict[str, Any]:
        return {"home": self._homes[home].name} if len(self._homes) > 1 else {}

    def observe(self, event: LinkEvent) -> None:
        """Log what happens to a link."""
        fields: dict[str, Any] = {
            "connIndex": event.conn_index,
            "ip": event.slot.host,
            "event": _EVENT,
            **self._home_fields(event.slot.home),
        }
        protocol = self._homes[event.slot.home].protocol
        if isinstance(event, LinkConnecting):
            fields["protocol"] = protocol
            _log.debug("Registering tunnel connection", extra=fields)
        elif isinstance(event, LinkConnected):
            fields["protocol"] = protocol
            fields["connection"] = str(event.details.connection_id)
            fields["location"] = event.details.location_name
            _log.info("Registered tunnel connection", extra=fields)
        elif isinstance(event, LinkFailed):
            self._failed(event, fields)
        elif isinstance(event, LinkReplacing):
            who = "as the edge asks" if event.by_edge else "on request"
            _log.info("Replacing the connection %s", who, extra=fields)
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

"""What connectors say of the applications behind a hostname, and whom to spare therefore.

Nobody is probed: connectors say with each request that they could not carry on why that was. One
whose application could not be reached several times in a row is spared for some seconds, twice as
long each time; then one request shows whether that has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

__all__ = ["REFUSALS", "UNREACHABLE", "ConnectorHealth", "OriginHealth"]

UNREACHABLE: Final = frozenset({"dns", "dial", "dial_timeout", "tls", "tls_timeout", "connector"})
"""Causes by which a connector says that it could not reach the application at all. `connector` is
what is known of a stock cloudflared's failures: it does not say why it got no answer."""

REFUSALS: Final = {
    **{cause: cause == "connector" for cause in UNREACHABLE},
    "no_link": False,
    "link_full": False,
    "link_lost": True,
}
"""Causes by which a request may be sent to another connector, and whether an application may have
seen it. The last three are words of other processes of this edge."""

FAILURES_TO_SPARE: Final = 3
"""In a row. One may be a connection that was closed at the wrong moment."""

FIRST_SPELL_SECONDS: Final = 5.0
"""A connector is spared for so long at first: a restarting application is back by then."""

LONGEST_SPELL_SECONDS: Final = 60.0

TRIAL_SECONDS: Final = 10.0
"""A request that is to show how things are has so long to begin to be answered; then the next one
may."""

FORGET_SECONDS: Final = 120.0
"""After the last failure, and a spell, nothing is known any more."""

MAX_CONNECTORS: Final = 128
"""Connectors of one hostname whose failures are remembered: the latest."""

_MOST_SPELLS: Final = 16
"""The spell is the longest by then."""


@dataclass(frozen=True, slots=True)
class ConnectorHealth:
    """What is known of one connector."""

    connector_id: UUID
    failures: int
    """In a row."""
    is_spared: bool
    """Whether it gets nothing but a trial."""
    seconds: float
    """Until the next trial; 0 if that is due, or it is not spared."""


@dataclass(slots=True)
class _Record:
    failures: int = 0
    spells: int = 0
    """How often it was spared without an answer meanwhile."""
    until: float = 0.0
    """The end of its spell, or of its trial."""
    on_trial: bool = False

    @property
    def is_spared(self) -> bool:
        return self.spells > 0


class OriginHealth:
    """Of one hostname. Connectors nobody complains of are not in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.spells = 0
        """How often a connector began to be spared, so far."""
        self._clock = clock
        self._records: dict[UUID, _Record] = {}
        self._watched_until = 0.0

    @property
    def is_watching(self) -> bool:
        """Whether it wants to know what becomes of requests."""
        if self._clock() < self._watched_until:
            return True
        self._records.clear()
        return False

    def failed(self, connector_id: UUID | None) -> None:
        """A connector could not reach the application; None: one could not, and it is not known
        which."""
        now = self._clock()
        self._watched_until = max(self._watched_until, now + FORGET_SECONDS)
        if connector_id is None:
            return
        record = self._records.pop(connector_id, None) or _Record()
        while len(self._records) >= MAX_CONNECTORS:
            del self._records[next(iter(self._records))]
        self._records[connector_id] = record
        record.failures += 1
        # In the middle of a spell it is a request from before that says nothing new.
        if record.on_trial or (record.failures >= FAILURES_TO_SPARE and not record.is_spared):
            spell = min(FIRST_SPELL_SECONDS * 2**record.spells, LONGEST_SPELL_SECONDS)
            record.spells = min(record.spells + 1, _MOST_SPELLS)
            record.until = now + spell
            record.on_trial = False
            self._watched_until = record.until + FORGET_SECONDS
            self.spells += 1

    def answered(self, connector_id: UUID) -> None:
        """The application has answered by a connector, whatever it said."""
        self._records.pop(connector_id, None)

    def spared(self) -> set[UUID]:
        """The connectors that are spared now, those that are due for a trial included."""
        return {key for key, record in self._records.items() if record.is_spared}

    def due(self) -> set[UUID]:
        """Those of them that the next request may try."""
        now = self._clock()
        return {
            key for key, record in self._records.items() if record.is_spared and record.until <= now
        }

    def tries(self, connector_id: UUID) -> None:
        """A request goes to a connector that was due."""
        record = self._records[connector_id]
        record.on_trial = True
        record.until = self._clock() + TRIAL_SECONDS

    def known(self) -> list[ConnectorHealth]:
        """All that is known."""
        if not self.is_watching:
            return []
        now = self._clock()
        return [
            ConnectorHealth(key, record.failures, record.is_spared, max(0.0, record.until - now))
            for key, record in self._records.items()
        ]

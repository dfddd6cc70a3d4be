"""What is told about a link to whoever manages its tunnel."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Final
from uuid import UUID

from msgspec import Struct

from underpass.wire.registration import ClientInfo

__all__ = ["MAX_FEATURES", "MAX_WORD", "UNKNOWN_DETAILS", "CarriedBy", "LinkDetails"]

MAX_WORD: Final = 64
"""Characters that are kept of a word of a connector: its version, its platform, a feature."""

MAX_FEATURES: Final = 32
"""Features that are kept of a connector; cloudflared has about ten."""


class LinkDetails(Struct, frozen=True):
    """Of one registered link. Bounded, whatever the connector says."""

    connection_id: UUID
    opened_at: datetime
    origin_ip: str = "0.0.0.0"  # noqa: S104 - for clients, which want an address
    """The connector's address as the edge sees it."""
    version: str = ""
    arch: str = ""
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, connection_id: UUID, origin_ip: str, client: ClientInfo) -> LinkDetails:
        """Of a link that registers now."""
        return cls(
            connection_id,
            datetime.now(timezone.utc),
            origin_ip.partition("%")[0],
            _word(client.version),
            _word(client.arch),
            tuple(_word(feature) for feature in client.features[:MAX_FEATURES]),
        )


class CarriedBy(Struct, frozen=True):
    """Which link a request was sent on by last, where the link itself is no more, or never was: in
    the place of one in an exchange's `context`."""

    tunnel_id: UUID
    connector_id: UUID | None = None
    """None: the tunnel has no link."""
    conn_index: int = -1


UNKNOWN_DETAILS: Final = LinkDetails(UUID(int=0), datetime(1970, 1, 1, tzinfo=timezone.utc))


def _word(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:MAX_WORD])

"""What the connector knows about itself: links that are up, and the counters of its control plane.

Fed with the supervisor's events; read by /ready and by the metrics (docs: observability §1, §2).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence

from underpass.connector.links import (
    LinkConnected,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkReplacing,
    LinkUnregistered,
)
from underpass.ops.metrics import Labelled, Snapshot
from underpass.ops.metrics_server import Readiness
from underpass.wire.registration import RegistrationRefused

__all__ = ["ConnectorStatus"]

# Former edge locations that are remembered; a wandering edge must not grow the table for ever.
MAX_LOCATIONS = 64

_REGISTER = "registerConnection"


class ConnectorStatus:
    """Readiness and metrics of one connector. Only a quick tunnel has a `quick_hostname`.

    With `home_names` more than one, a link is called by its home's name and its index: `own/0`.
    """

    def __init__(
        self,
        connector_id: uuid.UUID,
        quick_hostname: str = "",
        home_names: Sequence[str] = ("",),
    ) -> None:
        self.connector_id = connector_id
        self.quick_hostname = quick_hostname
        self.local_config_pushes = 0
        self.local_config_push_errors = 0
        self._home_names = tuple(home_names)
        self._registered: set[tuple[int, int]] = set()
        self._locations: dict[tuple[str, str], int] = {}
        self._registrations = 0
        self._failures: Counter[str] = Counter()

    @property
    def ready_connections(self) -> int:
        """Links the edge sends requests to."""
        return len(self._registered)

    def readiness(self) -> Readiness:
        return Readiness(self.ready_connections, str(self.connector_id))

    def observe(self, event: LinkEvent) -> None:
        """Take in what the supervisor tells."""
        link = (event.slot.home, event.conn_index)
        if isinstance(event, LinkConnected):
            self._registered.add(link)
            self._registrations += 1
            self._note_location(self._name(link), event.details.location_name)
        elif (
            isinstance(event, LinkUnregistered)
            or (isinstance(event, LinkDisconnected) and not event.replaced)
            or (isinstance(event, LinkReplacing) and event.by_edge)
        ):
            self._registered.discard(link)
        elif isinstance(event, LinkFailed) and isinstance(event.error, RegistrationRefused):
            kind = "dup_edge_conn" if event.error.is_duplicate else "server_error"
            self._failures[kind] += 1

    def _name(self, link: tuple[int, int]) -> str:
        home, conn_index = link
        if len(self._home_names) == 1:
            return str(conn_index)
        return f"{self._home_names[home]}/{conn_index}"

    def snapshot(self) -> Snapshot:
        """The metrics of the control plane."""
        values: dict[str, int | Labelled] = {
            "cloudflared_config_local_config_pushes": self.local_config_pushes,
            "cloudflared_config_local_config_pushes_errors": self.local_config_push_errors,
            "cloudflared_tunnel_server_locations": dict(self._locations),
            "cloudflared_tunnel_tunnel_register_fail": {
                (kind, _REGISTER): count for kind, count in self._failures.items()
            },
        }
        if self._registrations:
            success: Labelled = {_REGISTER: self._registrations}
            values["cloudflared_tunnel_tunnel_register_success"] = success
        if self.quick_hostname:
            values["cloudflared_tunnel_user_hostnames_counts"] = {
                f"https://{self.quick_hostname}": 1
            }
        return values

    def _note_location(self, conn_index: str, location: str) -> None:
        for known in self._locations:
            if known[0] == conn_index:
                self._locations[known] = 0
        self._locations.pop((conn_index, location), None)
        while len(self._locations) >= MAX_LOCATIONS:
            former = next((key for key, current in self._locations.items() if not current), None)
            self._locations.pop(former or next(iter(self._locations)))
        self._locations[conn_index, location] = 1

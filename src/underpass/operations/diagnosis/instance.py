"""Find running connectors by their metrics servers, and ask them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from underpass.ops.metrics_server import KNOWN_PORTS

__all__ = ["Instance", "InstanceError", "find_instances", "known_addresses"]

MAX_ENTRY: Final = 16 * 1024 * 1024
"""Bytes of one answer, or of one entry of a report."""

ANSWER_SECONDS: Final = 15.0
PROBE_SECONDS: Final = 2.0
"""For an answer from a port of this machine that may be somebody else's."""


class InstanceError(Exception):
    """A connector does not answer as one; the text says how."""


class Instance(Struct, frozen=True):
    """A running connector. `address` is host:port of its metrics server."""

    address: str
    state: dict[str, Any]

    @property
    def tunnel_id(self) -> str:
        return str(self.state.get("tunnelID", ""))

    @property
    def connector_id(self) -> str:
        return str(self.state.get("connectorID", ""))

    @classmethod
    def ask(cls, address: str, seconds: float = ANSWER_SECONDS) -> Instance:
        """The connector whose metrics server is there. Raises InstanceError."""
        address = address.removeprefix("http://").rstrip("/")
        body = _get(address, "/diag/tunnel", seconds)
        try:
            state = json.loads(body)
        except ValueError:
            state = None
        if not isinstance(state, dict) or "connectorID" not in state:
            raise InstanceError(f"http://{address}/diag/tunnel is not that of a connector")
        return cls(address, state)

    def get(self, path: str, seconds: float = ANSWER_SECONDS) -> bytes:
        """A page. Raises InstanceError."""
        return _get(self.address, path, seconds)


def known_addresses() -> list[str]:
    """Where metrics servers are if nobody has said where they should be."""
    return [f"localhost:{port}" for port in KNOWN_PORTS]


def find_instances(addresses: Sequence[str]) -> list[Instance]:
    """The connectors at these addresses."""
    found = []
    for address in addresses:
        instance = _probe(address)
        if instance is not None:
            found.append(instance)
    return found


def _probe(address: str) -> Instance | None:
    try:
        return Instance.ask(address, PROBE_SECONDS)
    except InstanceError:
        return None


def _get(address: str, path: str, seconds: float) -> bytes:
    try:
        connection = http.client.HTTPConnection(address, timeout=seconds)
        try:
            connection.request("GET", path, headers={"Accept": "application/json;version=1"})
            response = connection.getresponse()
            body = response.read(MAX_ENTRY + 1)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise InstanceError(f"nothing answers at http://{address}{path}: {error}") from None
    if response.status != http.client.OK:
        raise InstanceError(f"http://{address}{path} answers {response.status}")
    if len(body) > MAX_ENTRY:
        raise InstanceError(f"http://{address}{path} answers more than {MAX_ENTRY} bytes")
    return body

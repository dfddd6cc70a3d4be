"""The management host: what lets `tail` look into connectors, for whoever has a token for it.

Connectors answer requests for one hostname themselves, and believe the token in its query (docs:
observability §3). So it is here that signature, end and purpose are checked, and that the tunnel is
the one that the token is for; nothing else leads to that hostname.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from underpass.core.tunnel import VisitorExchange
from underpass.edge.errors import CertificateError
from underpass.edge.hostnames import hostname_of
from underpass.edge.links import EdgeLink
from underpass.edge.management_token import Claims, ManagementKey, TokenInvalid
from underpass.edge.registry import Registry
from underpass.edge.remote import RemoteLink
from underpass.edge.router import MANAGEMENT_HOST, Router

__all__ = ["Management", "wanted_connector"]

log = logging.getLogger("underpass.edge.management")

MAX_QUERY: Final = 16384
"""Bytes of a query; a token has some 500."""

MAX_QUERY_FIELDS: Final = 16

NO_CONNECTOR: Final = 530
"""As at Cloudflare: there is none to ask."""

_PURPOSES: Final = {
    "/ping": frozenset({"logs", "host_details", "admin"}),
    "/logs": frozenset({"logs", "admin"}),
    "/host_details": frozenset({"host_details", "admin"}),
    "/metrics": frozenset({"admin"}),
}
"""What a token has to be for, one of these, by path."""

_DIAGNOSTICS: Final = "/debug/"

_MISSING: Final = 1001
"""The code that connectors give, too."""
_REFUSED: Final = 1002


class Management:
    """Answers for one hostname.

    Args:
        hostname: by which it is asked.
        key_path: the key that the API signs with; read when the first token comes.
    """

    def __init__(self, hostname: str, key_path: Path, registry: Registry, router: Router) -> None:
        self.hostname = hostname
        self._key_path = key_path
        self._key: ManagementKey | None = None
        self._registry = registry
        self._router = router

    def take(self, exchange: VisitorExchange) -> bool:
        """Answer a request, or send it to a connector. False if it is for another host."""
        # Connectors' own name too: one that is sent again has it already.
        if hostname_of(exchange.authority) not in (self.hostname, MANAGEMENT_HOST):
            return False
        if exchange.acceptor.scheme != b"https":
            _refuse(exchange, 403, _REFUSED, "tokens are for HTTPS only")
            return True
        path, query = _parts(exchange.path)
        purposes = _purposes(path)
        tokens = [value for name, value in query if name == "access_token"]
        if purposes is None:
            _refuse(exchange, 404, _REFUSED, "there is nothing here")
        elif len(tokens) != 1 or not tokens[0]:
            _refuse(exchange, 400, _MISSING, "missing access_token query parameter")
        else:
            try:
                claims = self._verified(tokens[0])
            except TokenInvalid as error:
                log.info("a management token was refused", extra={"error": str(error)})
                _refuse(exchange, 403, _REFUSED, str(error))
            else:
                if purposes.isdisjoint(claims.res):
                    _refuse(exchange, 403, _REFUSED, f"the token is not for {path}")
                else:
                    self._send(exchange, claims)
        return True

    def _verified(self, token: str) -> Claims:
        """Raises TokenInvalid."""
        if self._key is None:
            # Whoever issues a token makes the key first.
            if not self._key_path.exists():
                raise TokenInvalid("no token has been issued here")
            try:
                self._key = ManagementKey.open(self._key_path)
            except CertificateError as error:
                log.error("management tokens cannot be checked", extra={"error": str(error)})
                raise TokenInvalid("tokens cannot be checked now") from error
        claims = self._key.verify(token)
        tunnel = self._registry.tunnel(claims.tunnel_id)
        if tunnel is None or tunnel.account_tag != claims.tun.account_tag:
            raise TokenInvalid("the token's tunnel does not exist")
        return claims

    def _send(self, exchange: VisitorExchange, claims: Claims) -> None:
        wanted = wanted_connector(exchange.path)
        links = [
            link
            for link in self._router.links_of(claims.tunnel_id)
            if not link.draining and (wanted is None or link.connector_id == wanted)
        ]
        log.info(
            "somebody looks into a connector",
            extra={
                "tunnelID": str(claims.tunnel_id),
                "actor": claims.actor.id,
                "path": _parts(exchange.path)[0],
                "cfRay": exchange.ray.decode("ascii"),
            },
        )
        request = exchange.request
        assert request is not None
        request.remove(b":authority")
        request.remove(b"host")
        request.append(b"host", MANAGEMENT_HOST.encode("ascii"))
        # Those here before those of other workers, whose load is not known.
        for link in sorted(links, key=lambda link: (link.__class__ is not EdgeLink, link.load)):
            if isinstance(link, EdgeLink | RemoteLink):
                exchange.context = link
                if link.forward(exchange):
                    return
        _refuse(exchange, NO_CONNECTOR, _REFUSED, "the tunnel has no such connector now")


def wanted_connector(path: bytes) -> UUID | None:
    """The connector that a request to the management host is for; None: any. One that is not well
    formed is nobody's."""
    ids = [value for name, value in _parts(path)[1] if name == "connector_id"]
    if not ids:
        return None
    try:
        return UUID(ids[0]) if len(ids) == 1 else UUID(int=0)
    except ValueError:
        return UUID(int=0)


def _parts(target: bytes) -> tuple[str, list[tuple[str, str]]]:
    path, _, query = target.partition(b"?")
    fields: list[tuple[str, str]] = []
    # What some readers take for a separator must not hide a second token.
    if len(query) <= MAX_QUERY and b";" not in query and query.isascii():
        try:
            fields = parse_qsl(
                query.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS
            )
        except ValueError:
            fields = []
    return path.decode("ascii", "replace"), fields


def _purposes(path: str) -> frozenset[str] | None:
    if path.startswith(_DIAGNOSTICS):
        return _PURPOSES["/metrics"]
    return _PURPOSES.get(path)


def _refuse(exchange: VisitorExchange, status: int, code: int, message: str) -> None:
    body = msgspec.json.encode({"errors": [{"code": code, "message": message}]})
    exchange.respond(status, ((b"content-type", b"application/json"),), body)

"""HTTP origins: `http://`, `https://`, `unix:` and `unix+tls:`."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import HttpService, UnixService
from underpass.connector.services.connections import (
    HTTP2_OR_1,
    OriginConnections,
    OriginSettingError,
)
from underpass.connector.trust import origin_context
from underpass.core.tunnel import OriginExchange
from underpass.wire.turns import LoopTurn

if TYPE_CHECKING:
    from underpass.connector.services.proxy import Proxy

__all__ = ["HttpOrigin"]

log = logging.getLogger("underpass.connector.origin")

MAX_NAMES: Final = 1000
"""Names under which one origin is dialled at once, where the visitor's Host decides (a rule for
`*.example.com` has as many as visitors can think of). Those used last stay."""

MAX_MEASURED: Final = 524288
"""Bytes of request content that are waited for to learn its length (`disableChunkedEncoding`). Less
than the window of a stream on a link, so that all of it can come."""

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", re.ASCII)

Forward = Callable[[OriginExchange], None]


class HttpOrigin:
    """One HTTP origin with its connections.

    Raises TrustError for a file of certificates that cannot be used, OriginSettingError for a host
    or a proxy.
    """

    def __init__(
        self, turn: LoopTurn, service: HttpService | UnixService, settings: OriginRequest
    ) -> None:
        self._turn = turn
        self._service = service
        self._settings = settings
        self._proxy = _proxy(service)
        self._host = _host_field(settings.http_host_header)
        self._named: dict[str, OriginConnections] = {}
        self._only: OriginConnections | None = None
        if isinstance(service, UnixService):
            # As cloudflared has it: a socket is on this machine.
            is_tls, name = service.tls, settings.origin_server_name or "localhost"
        else:
            is_tls = service.scheme == "https"
            name = settings.origin_server_name or service.host
            if settings.match_sni_to_host:
                name = None
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        if is_tls and settings.ca_pool:
            # A file that cannot be used is to be known before the first request.
            for alpn in ((), HTTP2_OR_1) if settings.http2_origin else ((),):
                self._context(alpn)
        if not is_tls or name is not None:
            self._only = self._connections(name if is_tls else None)

    @property
    def forward(self) -> Forward:
        """The compiled pool's own method, unless something has to be said first."""
        forward = self._only.forward if self._only is not None else self._forward_by_name
        if self._settings.disable_chunked_encoding and not self._settings.http2_origin:
            forward = _measured(forward)
        return forward if self._host is None else _under(self._host, forward)

    @property
    def is_busy(self) -> bool:
        """Whether connections are being made, or are in use."""
        return any(connections.is_busy for connections in self._all())

    def close(self) -> None:
        """Close waiting connections and give up those being made."""
        for connections in self._all():
            connections.close()

    def _all(self) -> tuple[OriginConnections, ...]:
        return (self._only,) if self._only is not None else tuple(self._named.values())

    def _connections(self, name: str | None) -> OriginConnections:
        return OriginConnections(
            self._turn, self._service, self._settings, self._context, name, self._proxy
        )

    def _context(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        context = self._contexts.get(alpn)
        if context is None:
            context = self._contexts[alpn] = origin_context(self._settings, alpn)
        return context

    # Where the Host that goes out is the name on the certificate.

    def _forward_by_name(self, exchange: OriginExchange) -> None:
        host = exchange.authority if exchange.host is None else exchange.host
        name = _server_name(host)
        if name is None:
            exchange.context = f"no certificate can be for {host!r}"
            exchange.fail(502, "tls")
            return
        connections = self._named.pop(name, None)
        if connections is None:
            if len(self._named) >= MAX_NAMES and not self._forget_one():
                exchange.context = f"{self._service} is in use under {MAX_NAMES} names already"
                exchange.fail(502, "too_many_names")
                return
            connections = self._connections(name)
        self._named[name] = connections  # the last used is the last
        connections.forward(exchange)

    def _forget_one(self) -> bool:
        """Close the connections of the name that was used longest ago and is not in use."""
        for name, connections in self._named.items():
            if not connections.is_busy:
                connections.close()
                del self._named[name]
                return True
        return False


def _host_field(text: str) -> bytes | None:
    """`httpHostHeader` as it is sent: names in other scripts in the form that DNS has for them."""
    if not text:
        return None
    if text.isascii():
        return text.encode("ascii")
    try:
        return text.encode("idna")
    except UnicodeError as error:
        raise OriginSettingError(f"httpHostHeader {text!r} is no host: {error}") from None


def _under(host: bytes, forward: Forward) -> Forward:
    """Name another host to the origin."""

    def forward_under(exchange: OriginExchange) -> None:
        exchange.host = host
        forward(exchange)

    return forward_under


def _measured(forward: Forward) -> Forward:
    """Have content without a length come whole first."""

    def forward_measured(exchange: OriginExchange) -> None:
        exchange.when_whole(MAX_MEASURED, forward)

    return forward_measured


def _server_name(host: bytes) -> str | None:
    """The name or address in an outgoing Host, without its port; None if it has none that TLS can
    ask for."""
    text = host.decode("ascii", "replace")
    name, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        name = text
    name = name.removesuffix(".").lower()
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return name if len(name) <= 253 and _HOST_NAME.fullmatch(name) else None


def _proxy(service: HttpService | UnixService) -> Proxy | None:
    if isinstance(service, UnixService) or not any(
        name.upper() in ("HTTP_PROXY", "HTTPS_PROXY") for name in os.environ
    ):
        return None
    from underpass.connector.services.proxy import proxy_for

    return proxy_for(service)

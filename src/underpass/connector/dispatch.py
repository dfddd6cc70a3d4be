"""From a request on a link to the service that answers it: decided once, then it is the core's.

The ingress rules say which service; what a service is made of is in `connector.services`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from underpass.connector.ingress import Ingress, Rule
from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import (
    HelloWorld,
    HttpService,
    HttpStatus,
    StreamService,
    UnixService,
)
from underpass.connector.services.fixed import FixedStatus
from underpass.connector.services.http import HttpOrigin
from underpass.core.fields import Token
from underpass.core.tunnel import Kind, OriginExchange
from underpass.wire.turns import LoopTurn

if TYPE_CHECKING:
    from underpass.connector.services.private import PrivateNetwork

__all__ = ["Dispatcher", "ServiceNotSupportedError"]

log = logging.getLogger("underpass.connector.dispatch")

WITHOUT_EFFECT = ("disable_chunked_encoding", "http2_origin", "match_sni_to_host")
"""Settings that this version reads and does not act on; whoever gives one is told."""

_DEFAULTS = OriginRequest()

Handler: TypeAlias = Callable[[OriginExchange], None]


class ServiceNotSupportedError(Exception):
    """A rule asks for what this version cannot do. Better not to start than to serve it wrongly."""


class Service(Protocol):
    """What answers the requests of a rule."""

    @property
    def forward(self) -> Handler:
        """Called once a request."""
        ...

    def close(self) -> None:
        """Let go of idle connections."""
        ...


class Dispatcher:
    """The services of one set of ingress rules.

    Raises ServiceNotSupportedError when a rule needs what is not there.
    """

    def __init__(self, turn: LoopTurn, ingress: Ingress) -> None:
        self._turn = turn
        self._services = [
            self._service(number, rule) for number, rule in enumerate(ingress.rules, 1)
        ]
        self._forwards = tuple(service.forward for service in self._services)
        self._match = ingress.match
        self._private: PrivateNetwork | None = None

    @property
    def streams_active(self) -> int:
        """Raw streams open now."""
        return self._private.active if self._private is not None else 0

    @property
    def streams_total(self) -> int:
        """Raw streams since the start."""
        return self._private.total if self._private is not None else 0

    def handler(self, special: Mapping[int, Handler]) -> Handler:
        """What a link's acceptor calls for each request; `special` are kinds the link serves."""
        match, forwards = self._match, self._forwards
        websocket, stream, private = Kind.WEBSOCKET, Kind.STREAM, self._forward_private

        def handle(exchange: OriginExchange) -> None:
            kind = exchange.kind
            if kind <= websocket:
                forwards[match(exchange.authority, exchange.path)](exchange)
            elif kind == stream:
                private(exchange)
            elif kind in special:
                special[kind](exchange)
            else:
                # Configuration from the edge: this version keeps the one it was started with.
                exchange.respond(501, ())

        return handle

    def failed(self, exchange: OriginExchange, status: int, cause: str) -> None:
        """A request was answered with an error of our own."""
        log.error(
            "Unable to reach the origin service",
            extra={
                "error": str(exchange.context or cause),
                "cause": cause,
                "status": status,
                "host": exchange.authority.decode("ascii", "replace"),
                "cfRay": (exchange.header(Token.T_CF_RAY) or b"").decode("ascii", "replace"),
            },
        )

    def unexpected(self, exchange: OriginExchange, error: Exception) -> None:
        """A handler raised: a fault of ours, and one request's."""
        log.error("unexpected error while handling a request", exc_info=error)

    def close(self) -> None:
        """Let go of idle connections to origins."""
        for service in self._services:
            service.close()
        if self._private is not None:
            self._private.close()

    def _forward_private(self, exchange: OriginExchange) -> None:
        if self._private is None:
            # Here, because most connectors never see such a stream.
            from underpass.connector.services.private import PrivateNetwork

            self._private = PrivateNetwork(self._turn)
        self._private.forward(exchange)

    def _service(self, number: int, rule: Rule) -> Service:
        service, settings = rule.service, rule.origin_request
        if settings.access is not None:
            # To serve such a rule unchecked would open what somebody meant to close.
            raise ServiceNotSupportedError(
                f"rule #{number}: originRequest.access is not supported yet; protect the "
                "application itself, or leave the rule out"
            )
        for setting in WITHOUT_EFFECT:
            if getattr(settings, setting) != getattr(_DEFAULTS, setting):
                log.warning("rule #%d: originRequest's %s has no effect yet", number, setting)
        if isinstance(service, HttpService | UnixService):
            return HttpOrigin(self._turn, service, settings)
        if isinstance(service, HttpStatus):
            return FixedStatus(service.code)
        if isinstance(service, StreamService) and not settings.proxy_type:
            from underpass.connector.services.stream import StreamOrigin

            return StreamOrigin(self._turn, service, settings)
        if isinstance(service, HelloWorld):
            from underpass.connector.services.hello_world import HelloWorldService

            return HelloWorldService()
        raise ServiceNotSupportedError(f"rule #{number}: {service} is not supported yet")

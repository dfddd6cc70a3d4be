"""From a request on a link to the service that answers it: decided once, then it is the core's.

The ingress rules say which service; what a service is made of is in `connector.services`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from msgspec import Struct

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

__all__ = ["Dispatcher", "Plan", "ServiceNotSupportedError"]

log = logging.getLogger("underpass.connector.dispatch")

WITHOUT_EFFECT = ("disable_chunked_encoding", "http2_origin", "match_sni_to_host")
"""Settings that this version reads and does not act on; whoever gives one is told."""

MAX_RETIRED: Final = 10_000
"""Services of earlier rules that still have requests under way, those of the last rules not
counted. New rules wait for their end."""

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

    @property
    def is_busy(self) -> bool:
        """Whether `close` would cut something short."""
        ...

    def close(self) -> None:
        """Let go of idle connections, and give up what is being made."""
        ...


class Plan(Struct, frozen=True):
    """Rules with their services, those that are the same as before among them."""

    ingress: Ingress
    services: tuple[Service, ...]
    new: tuple[Service, ...]

    def discard(self) -> None:
        """It is not to be."""
        for service in self.new:
            service.close()


class Dispatcher:
    """The services of the ingress rules in force.

    Raises ServiceNotSupportedError when a rule needs what is not there.
    """

    def __init__(self, turn: LoopTurn, ingress: Ingress) -> None:
        self._turn = turn
        self._private: PrivateNetwork | None = None
        self._ingress = ingress
        self._services: tuple[Service, ...] = ()
        self._retired: list[Service] = []
        self._services = self._make(ingress, {}).services
        self._forwards = self._in_order()
        self._match = ingress.match
        turn.on_tick.add(self._let_go)

    def prepare(self, ingress: Ingress) -> Plan:
        """What other rules need, made and kept aside. A service that stays as it is keeps its
        connections. Raises ServiceNotSupportedError or TrustError; nothing is left then.
        """
        if len(self._retired) >= MAX_RETIRED:
            raise ServiceNotSupportedError(
                f"{len(self._retired)} services of earlier rules have requests under way; "
                "try again when they have ended, or restart"
            )
        kept: dict[Rule, list[Service]] = {}
        for rule, service in zip(self._ingress.rules, self._services, strict=True):
            # A file of certificates may have another content now, under the same name.
            if not rule.origin_request.ca_pool:
                kept.setdefault(_served(rule), []).append(service)
        return self._make(ingress, kept)

    def apply(self, plan: Plan) -> None:
        """Put a plan in force. Requests under way finish with the services they have."""
        old, self._services, self._ingress = self._services, plan.services, plan.ingress
        self._forwards = self._in_order()
        self._match = plan.ingress.match
        if self._private is not None:
            self._private.routing = plan.ingress.warp_routing
        staying = set(map(id, self._services))
        for service in old:
            if id(service) not in staying:
                self._retired.append(service)
        self._let_go()

    def _make(self, ingress: Ingress, kept: dict[Rule, list[Service]]) -> Plan:
        services: list[Service] = []
        new: list[Service] = []
        try:
            for number, rule in enumerate(ingress.rules, 1):
                same = kept.get(_served(rule))
                if same:
                    services.append(same.pop())
                else:
                    new.append(self._service(number, rule))
                    services.append(new[-1])
        except BaseException:
            for service in new:
                service.close()
            raise
        return Plan(ingress, tuple(services), tuple(new))

    def _in_order(self) -> tuple[Handler, ...]:
        """What answers for each rule, by its index; AMBIGUOUS is the last one's."""
        return (*(service.forward for service in self._services), _refuse_ambiguous)

    def _let_go(self) -> None:
        """Close retired services that have nothing left to do."""
        if self._retired:
            idle = [service for service in self._retired if not service.is_busy]
            self._retired = [service for service in self._retired if service.is_busy]
            for service in idle:
                service.close()

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
        websocket, stream, private = Kind.WEBSOCKET, Kind.STREAM, self._forward_private

        def handle(exchange: OriginExchange) -> None:
            kind = exchange.kind
            if kind <= websocket:
                # Asked for each time: other rules may be in force since.
                self._forwards[self._match(exchange.authority, exchange.path)](exchange)
            elif kind == stream:
                private(exchange)
            else:
                special[kind](exchange)

        return handle

    def failed(self, exchange: OriginExchange, status: int, cause: str) -> None:
        """A request was answered with an error of our own."""
        is_ours = status >= 500
        log.log(
            logging.ERROR if is_ours else logging.WARNING,
            "Unable to reach the origin service" if is_ours else "Request refused",
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
        self._turn.on_tick.discard(self._let_go)
        for service in (*self._services, *self._retired):
            service.close()
        if self._private is not None:
            self._private.close()

    def _forward_private(self, exchange: OriginExchange) -> None:
        if self._private is None:
            # Here, because most connectors never see such a stream.
            from underpass.connector.services.private import PrivateNetwork

            self._private = PrivateNetwork(self._turn, self._ingress.warp_routing)
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


def _refuse_ambiguous(exchange: OriginExchange) -> None:
    exchange.context = "the path may be read in several ways, and different rules match them"
    exchange.fail(400, "ambiguous_path")


def _served(rule: Rule) -> Rule:
    """What two rules have in common that one service can serve."""
    return Rule(rule.service, origin_request=rule.origin_request)

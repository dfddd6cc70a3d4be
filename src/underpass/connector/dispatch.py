"""From a request on a link to the service that answers it: decided once, then it is the core's.

The ingress rules say which service; what a service is made of is in `connector.services`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from underpass.connector.figures import StreamConnects
from underpass.connector.ingress import Ingress, Rule
from underpass.connector.origin_request import AccessRequirement
from underpass.connector.origins import (
    HelloWorld,
    HttpService,
    HttpStatus,
    SocksProxy,
    UnixService,
)
from underpass.connector.routes import PRIVATE_NETWORK, RouteInfo, RouteTable
from underpass.connector.services.connections import OriginSettingError
from underpass.connector.services.fixed import FixedStatus
from underpass.connector.services.http import HttpOrigin
from underpass.connector.trust import TrustError
from underpass.core.fields import Token
from underpass.core.tunnel import Kind, OriginExchange
from underpass.wire.turns import LoopTurn

if TYPE_CHECKING:
    from underpass.connector.observers import Observers
    from underpass.connector.services.private import PrivateNetwork
    from underpass.connector.services.protected import AccessVerifier

__all__ = ["Dispatcher", "Plan", "ServiceNotSupportedError"]

log = logging.getLogger("underpass.connector.dispatch")

MAX_RETIRED: Final = 10_000
"""Services of earlier rules that still have requests under way, those of the last rules not
counted. New rules wait for their end."""

# The numeric `event` field of cloudflared's log lines.
_HTTP_EVENT: Final = 1
_STREAM_EVENT: Final = 2

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
    """The services of the ingress rules in force, in one of `processes` that a connector has.

    `observe` is called with every request of a visitor's before it is carried on. Requests to the
    host `reserved` never meet the rules; what `make_reserved` returns gets them.
    Raises ServiceNotSupportedError when a rule needs what is not there.
    """

    def __init__(
        self,
        turn: LoopTurn,
        ingress: Ingress,
        processes: int = 1,
        observers: Observers | None = None,
        reserved: bytes = b"",
        make_reserved: Callable[[], Service] | None = None,
    ) -> None:
        self._turn = turn
        self._processes = processes
        self._reserved_host = reserved
        self._make_reserved = make_reserved
        self._reserved: Service | None = None
        self.stream_connects = StreamConnects()
        self._observers = observers
        self.routes = RouteTable(None, self.stream_connects.observe)
        self._private: PrivateNetwork | None = None
        self._ingress = ingress
        self._services: tuple[Service, ...] = ()
        self._retired: list[Service] = []
        # Of Access tokens, by who issues them; the rules in force share them with earlier ones.
        self._verifiers: WeakValueDictionary[str, AccessVerifier] = WeakValueDictionary()
        self._put_in_force(self._make(ingress, {}))
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
        old = self._services
        self._put_in_force(plan)
        if self._private is not None:
            self._private.routing = plan.ingress.warp_routing
        staying = set(map(id, self._services))
        for service in old:
            if id(service) not in staying:
                self._retired.append(service)
        self._let_go()

    def _put_in_force(self, plan: Plan) -> None:
        self._services, self._ingress = plan.services, plan.ingress
        self._ingress.reserve(self._reserved_host)
        self._match = self._ingress.match
        self.look_again()

    def look_again(self) -> None:
        """Have requests looked at by those who want to from now on, or no longer."""
        self.routes.observed_by(self._observers.observe if self._observers is not None else None)
        self._forward_stream = self.routes.private_network(self._forward_private)
        forwards = (service.forward for service in self._services)
        self._forwards = (
            *self.routes.handlers(self._ingress, forwards),
            # From behind: AMBIGUOUS is -1, RESERVED is -2.
            self._forward_reserved,
            _refuse_ambiguous,
        )

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
        websocket, stream = Kind.WEBSOCKET, Kind.STREAM

        def handle(exchange: OriginExchange) -> None:
            kind = exchange.kind
            if kind <= websocket:
                # Asked for each time: other rules may be in force since.
                self._forwards[self._match(exchange.authority, exchange.path)](exchange)
            elif kind == stream:
                self._forward_stream(exchange)
            else:
                special[kind](exchange)

        return handle

    def failed(self, exchange: OriginExchange, status: int, cause: str) -> None:
        """A request was answered with an error of our own; with status 0, it could not be."""
        from underpass.wire.causes import Hop, Speaker, hop_of, in_words  # most never fail

        hop = hop_of(cause, Speaker.CONNECTOR)
        fields: dict[str, object] = {
            "error": str(exchange.context or in_words(cause)),
            "cause": cause,
            "hop": hop.value,
            "connIndex": exchange.acceptor.conn_index,
            "event": _STREAM_EVENT if exchange.kind == Kind.STREAM else _HTTP_EVENT,
        }
        if exchange.route is not None:
            info: RouteInfo = exchange.route.info
            fields["originService"] = info.service
            if info is not PRIVATE_NETWORK:
                fields["ingressRule"] = info.rule
        if exchange.request is not None:  # it is gone once a response has begun
            host = exchange.authority.decode("ascii", "replace")
            fields["destAddr" if exchange.kind == Kind.STREAM else "host"] = host
            fields["cfRay"] = (exchange.header(Token.T_CF_RAY) or b"").decode("ascii", "replace")
        if status >= 500:
            log.error("Unable to reach the origin service", extra={**fields, "status": status})
        elif status:
            log.warning("Request refused", extra={**fields, "status": status})
        elif hop is Hop.VISITOR:
            log.debug("The visitor has gone", extra=fields)
        else:
            log.error("A response was broken off", extra=fields)

    def unexpected(self, exchange: OriginExchange, error: Exception) -> None:
        """A handler raised: a fault of ours, and one request's."""
        log.error("unexpected error while handling a request", exc_info=error)

    def close(self) -> None:
        """Let go of idle connections to origins."""
        self._turn.on_tick.discard(self._let_go)
        for service in (*self._services, *self._retired):
            service.close()
        for verifier in self._verifiers.values():
            verifier.close()
        if self._private is not None:
            self._private.close()
        if self._reserved is not None:
            self._reserved.close()

    def _forward_private(self, exchange: OriginExchange) -> None:
        if self._private is None:
            # Here, because most connectors never see such a stream.
            from underpass.connector.services.private import PrivateNetwork

            self._private = PrivateNetwork(self._turn, self._ingress.warp_routing, self._processes)
        self._private.forward(exchange)

    def _forward_reserved(self, exchange: OriginExchange) -> None:
        if self._reserved is None:
            # Made for the first request: most connectors never see one.
            assert self._make_reserved is not None
            self._reserved = self._make_reserved()
        self._reserved.forward(exchange)

    def _service(self, number: int, rule: Rule) -> Service:
        service, settings = rule.service, rule.origin_request
        if settings.access is not None:
            return self._protected(number, rule, settings.access)
        if isinstance(service, HttpService | UnixService):
            try:
                return HttpOrigin(self._turn, service, settings)
            except OriginSettingError as error:
                raise ServiceNotSupportedError(f"rule #{number}: {error}") from error
            except TrustError as error:
                raise TrustError(f"rule #{number}: {error}") from error
        if isinstance(service, HttpStatus):
            return FixedStatus(service.code)
        if isinstance(service, HelloWorld):
            from underpass.connector.services.hello_world import HelloWorldService

            return HelloWorldService()
        if isinstance(service, SocksProxy) or settings.proxy_type:
            from underpass.connector.services.socks import SocksOrigin

            return SocksOrigin(self._turn, service, settings)
        from underpass.connector.services.stream import StreamOrigin

        return StreamOrigin(self._turn, service, settings)

    def _protected(self, number: int, rule: Rule, access: AccessRequirement) -> Service:
        """The rule's service, behind a check of Access tokens."""
        # Here, because most connectors leave Access to the edge.
        from underpass.connector.access_keys import AccessKeys
        from underpass.connector.services.protected import (
            AccessVerifier,
            ProtectedService,
            issuer_of,
        )

        open_rule = replace(rule, origin_request=replace(rule.origin_request, access=None))
        issuer = issuer_of(access)
        verifier = self._verifiers.get(issuer)
        if verifier is None:
            verifier = self._verifiers[issuer] = AccessVerifier(AccessKeys(issuer))
        return ProtectedService(self._service(number, open_rule), access, verifier)


def _refuse_ambiguous(exchange: OriginExchange) -> None:
    exchange.context = "the path may be read in several ways, and different rules match them"
    exchange.fail(400, "ambiguous_path")


def _served(rule: Rule) -> Rule:
    """What two rules have in common that one service can serve."""
    return Rule(rule.service, origin_request=rule.origin_request)

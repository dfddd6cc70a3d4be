"""What is known of each ingress rule's requests: where they go, and how they fare.

A rule's counters are made at its first request, and only the first MAX_SERIES rules have some of
their own; the others share one set. Counters are the core's: it counts in them what it would
otherwise count for all rules together, so telling rules apart costs a request nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, TypeAlias

from msgspec import Struct

from underpass.connector.ingress import Ingress
from underpass.connector.observers import Observe, chained
from underpass.connector.origins import Bastion, Service, SocksProxy, StreamService
from underpass.core.relay import Counters, Route
from underpass.core.tunnel import OriginExchange
from underpass.ops.metrics import Labelled, Snapshot, histogram_values

__all__ = ["MAX_SERIES", "PRIVATE_NETWORK", "RouteInfo", "RouteTable"]

MAX_SERIES: Final = 100
"""Rules with counters and metrics of their own, 8 kB and some fifty series each once they are used.
Those further down the list are counted together as "other"."""

Handler: TypeAlias = Callable[[OriginExchange], None]


class RouteInfo(Struct, frozen=True, gc=False):
    """A rule, as logs and metrics name it. `rule` counts from 0, as cloudflared does; `is_stream`
    says that its service speaks no HTTP."""

    rule: int
    hostname: str
    service: str
    is_stream: bool = False


PRIVATE_NETWORK: Final = RouteInfo(-1, "", "warp-routing", is_stream=True)
"""Raw streams to addresses, which meet no rules."""

_Key: TypeAlias = tuple[str, str]

_OTHER: Final = ("other", "")
_LABELS_OF_PRIVATE_NETWORK: Final = ("warp-routing", "")


class RouteTable:
    """The counters of all requests, told apart by rule.

    `unrouted` is for what no rule has been found for yet, and keeps what rules counted that are no
    longer in force. `observe` is called with every exchange before it is carried on, and
    `observe_stream` with those to origins that speak no HTTP.
    """

    def __init__(
        self, observe: Observe | None = None, observe_stream: Observe | None = None
    ) -> None:
        self.unrouted = Counters()
        self._only_streams = observe_stream
        self.observed_by(observe)
        self._counters: dict[_Key, Counters] = {}
        self._in_force: set[_Key] = {_LABELS_OF_PRIVATE_NETWORK}

    def observed_by(self, observe: Observe | None) -> None:
        """Have another one look on, from the handlers on that are asked for next."""
        self._observe = observe
        self._observe_stream = chained(observe, self._only_streams)

    @property
    def by_rule(self) -> Mapping[tuple[str, str], Counters]:
        """Counters by number and hostname, of rules that have had requests."""
        return self._counters

    def handlers(self, ingress: Ingress, forwards: Iterable[Handler]) -> tuple[Handler, ...]:
        """What to call for a request of each rule; `forwards` carry it on."""
        self._in_force = {_LABELS_OF_PRIVATE_NETWORK}
        handlers: list[Handler] = []
        services: dict[Service, str] = {}  # which many rules have in common
        for number, (rule, forward) in enumerate(zip(ingress.rules, forwards, strict=True)):
            is_stream = isinstance(rule.service, (StreamService, Bastion, SocksProxy))
            service = services.setdefault(rule.service, str(rule.service))
            info = RouteInfo(number, rule.hostname or "*", service, is_stream)
            key = (str(number), info.hostname) if number < MAX_SERIES else _OTHER
            self._in_force.add(key)
            handlers.append(self._handler(forward, info, key))
        self._forget_former()
        return tuple(handlers)

    def private_network(self, forward: Handler) -> Handler:
        """What to call for a raw stream to an address."""
        return self._handler(forward, PRIVATE_NETWORK, _LABELS_OF_PRIVATE_NETWORK)

    def _handler(self, forward: Handler, info: RouteInfo, key: _Key) -> Handler:
        observe = self._observe_stream if info.is_stream else self._observe
        return Route(forward, partial(self._counters_of, key), info, observe, _trace).take

    def _counters_of(self, key: _Key) -> Counters:
        counters = self._counters.get(key)
        if counters is None:
            counters = self._counters[key] = Counters()
        return counters

    def _forget_former(self) -> None:
        """Rules that are gone, and have nothing under way, are told apart no longer: so there are
        no more counters than rules and requests."""
        for key in [each for each in self._counters if each not in self._in_force]:
            if not self._counters[key].active:
                self.unrouted.absorb(self._counters.pop(key))

    def total(self) -> Counters:
        """All requests together."""
        total = Counters()
        total.absorb(self.unrouted)
        for counters in self._counters.values():
            total.absorb(counters)
        return total

    def snapshot(self) -> Snapshot:
        """The metrics of requests, by their full names."""
        from underpass.wire.causes import Speaker, hop_of  # for this and for failures alone

        self._forget_former()
        total = self.total()
        each = self._counters
        return {
            "cloudflared_tunnel_total_requests": total.opened,
            "cloudflared_tunnel_concurrent_requests_per_tunnel": total.active,
            "cloudflared_tunnel_request_errors": total.failed,
            "cloudflared_tunnel_response_by_code": {
                (str(status),): count for status, count in total.statuses().items() if status != 101
            },
            "flow_client_registrations_rate_limited_total": _flows_turned_away(
                each.get(_LABELS_OF_PRIVATE_NETWORK)
            ),
            "underpass_request_failures_total": {
                (cause, hop_of(cause, Speaker.CONNECTOR).value): count
                for cause, count in total.causes().items()
            },
            "underpass_rule_requests_total": {key: own.opened for key, own in each.items()},
            "underpass_rule_active_requests": {key: own.active for key, own in each.items()},
            "underpass_rule_failures_total": {key: own.failed for key, own in each.items()},
            "underpass_rule_responses_total": {
                (*key, f"{number}xx"): count
                for key, own in each.items()
                for number, count in enumerate(own.classes(), 1)
                if count
            },
            "underpass_rule_request_bytes_total": {
                key: own.request_bytes for key, own in each.items()
            },
            "underpass_rule_response_bytes_total": {
                key: own.response_bytes for key, own in each.items()
            },
            "underpass_rule_first_byte_seconds": histogram_values(
                (key, own.first_byte) for key, own in each.items()
            ),
            "underpass_rule_duration_seconds": histogram_values(
                (key, own.duration) for key, own in each.items()
            ),
        }


def _trace(exchange: OriginExchange) -> None:
    from underpass.connector.edge_traces import trace  # most edges never ask for one

    trace(exchange)


def _flows_turned_away(private_network: Counters | None) -> Labelled:
    """Streams to addresses that were one too many."""
    causes = private_network.causes() if private_network is not None else {}
    count = causes.get("too_many_streams", 0) + causes.get("flow_rate_limited", 0)
    return {"tcp": count} if count else {}

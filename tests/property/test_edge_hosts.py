"""Properties of addresses, hostnames and routing, on generated input."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from underpass.edge.errors import HostnameError, OptionsError
from underpass.edge.hostnames import hostname_of, normalize_hostname
from underpass.edge.options import Address
from underpass.edge.router import UNKNOWN_HOST, DuplicateLink, NoLink, Router

labels = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,10}[a-zA-Z0-9_])?", fullmatch=True)
hostnames = st.lists(labels, min_size=1, max_size=5).map(".".join)
ports = st.integers(0, 65535)


@given(
    st.one_of(hostnames, st.just(""), st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
    ports,
)
def test_an_address_is_read_as_it_is_written(host: str, port: int) -> None:
    address = Address(host, port)
    assert Address.parse(str(address)) == address


@given(st.one_of(st.text(max_size=40), st.text(alphabet="[]:.%0123456789abf", max_size=20)))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except OptionsError:
        return
    assert 0 <= address.port <= 65535
    if ":" in address.host:
        ipaddress.IPv6Address(address.host)
    assert Address.parse(str(address)) == address


@given(hostnames)
def test_a_normal_hostname_stays_as_it_is(hostname: str) -> None:
    normal = normalize_hostname(hostname)
    assert normalize_hostname(normal) == normal
    assert normal == hostname.lower()


@given(st.text(max_size=300))
def test_any_text_is_a_hostname_or_refused(text: str) -> None:
    try:
        normal = normalize_hostname(text, wildcard=True)
    except HostnameError:
        return
    assert normal == normalize_hostname(normal, wildcard=True)
    assert normal.isascii()
    assert len(normal) <= 253


@given(hostnames, st.sampled_from(["", "."]), st.one_of(st.none(), ports), st.booleans())
def test_every_spelling_of_a_host_is_one_name(
    hostname: str, dot: str, port: int | None, upper: bool
) -> None:
    spelt = (hostname.upper() if upper else hostname) + dot
    if port is not None:
        spelt += f":{port}"
    assert hostname_of(spelt) == hostname_of(spelt.encode()) == normalize_hostname(hostname)


@given(st.binary(max_size=300))
def test_any_bytes_name_a_host_or_nothing_and_routing_never_raises(authority: bytes) -> None:
    name = hostname_of(authority)
    assert name is None or (name and name == name.lower())
    router = Router()
    router.put_route("*.example.com", UUID(int=1))
    router.put_route("a", UUID(int=2))
    expected = router.knows(name) if name is not None else False
    assert (router.route(authority) is not UNKNOWN_HOST) == expected


@dataclass(eq=False)
class FakeLink:
    tunnel_id: UUID
    connector_id: UUID
    conn_index: int
    load: int = 0
    draining: bool = False
    key: UUID = field(default_factory=uuid4)


tunnel_ids = st.integers(1, 3).map(lambda number: UUID(int=number))
few_hosts = st.sampled_from(
    ["a.x", "b.x", "a.b.x", "x", "*.x", "*.b.x", "c.b.x", "*.c.b.x", "d.c.b.x"]
)


class RouterAgainstAModel(RuleBasedStateMachine):
    """The router, and a model that searches everything every time."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.routes: dict[str, UUID] = {}
        self.live: list[FakeLink] = []
        self.draining: list[FakeLink] = []

    links = Bundle("links")

    @rule(hostname=few_hosts, tunnel_id=tunnel_ids)
    def put_route(self, hostname: str, tunnel_id: UUID) -> None:
        self.router.put_route(hostname, tunnel_id)
        self.routes[hostname] = tunnel_id

    @rule(hostname=few_hosts)
    def delete_route(self, hostname: str) -> None:
        self.router.delete_route(hostname)
        self.routes.pop(hostname, None)

    @rule(
        target=links,
        tunnel_id=tunnel_ids,
        connector=st.integers(0, 2),
        index=st.integers(0, 2),
        load=st.integers(0, 3),
    )
    def add_link(self, tunnel_id: UUID, connector: int, index: int, load: int) -> FakeLink:
        link = FakeLink(tunnel_id, UUID(int=connector), index, load)
        holders = [
            other
            for other in self.live
            if (other.tunnel_id, other.connector_id, other.conn_index)
            == (link.tunnel_id, link.connector_id, link.conn_index)
        ]
        if holders:
            with pytest.raises(DuplicateLink) as refused:
                self.router.add_link(tunnel_id, link)
            assert holders == [refused.value.holder]
        else:
            self.router.add_link(tunnel_id, link)
            self.live.append(link)
        return link

    @rule(link=links, load=st.integers(0, 3))
    def work(self, link: FakeLink, load: int) -> None:
        link.load = load

    @rule(link=links)
    def drain(self, link: FakeLink) -> None:
        self.router.drain(link)
        if link in self.live:
            self.live.remove(link)
            self.draining.append(link)

    @rule(link=consumes(links))
    def remove_link(self, link: FakeLink) -> None:
        self.router.remove_link(link)
        if link in self.live:
            self.live.remove(link)
        if link in self.draining:
            self.draining.remove(link)

    def tunnel_for(self, name: str) -> UUID | None:
        if name in self.routes:
            return self.routes[name]
        parts = name.split(".")
        for cut in range(1, len(parts)):
            wildcard = "*." + ".".join(parts[cut:])
            if wildcard in self.routes:
                return self.routes[wildcard]
        return None

    @rule(
        name=st.sampled_from(["x", "a.x", "z.x", "a.b.x", "z.b.x", "d.c.b.x", "z.c.b.x", "y"]),
        port=st.sampled_from([b"", b":1", b":2"]),
    )
    def route(self, name: str, port: bytes) -> None:
        outcome = self.router.route(name.encode() + port)
        tunnel_id = self.tunnel_for(name)
        links = [link for link in self.live if link.tunnel_id == tunnel_id]
        if tunnel_id is None:
            assert outcome is UNKNOWN_HOST
        elif not links:
            assert outcome == NoLink(tunnel_id)
        else:
            assert isinstance(outcome, FakeLink)
            assert outcome in links
            assert outcome.load == min(link.load for link in links)

    @invariant()
    def nothing_is_kept_needlessly(self) -> None:
        in_use = {link.tunnel_id for link in (*self.live, *self.draining)}
        in_use.update(self.routes.values())
        assert set(self.router._destinations) == in_use


TestRouterAgainstAModel = RouterAgainstAModel.TestCase

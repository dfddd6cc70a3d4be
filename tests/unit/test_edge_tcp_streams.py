"""Public ports: what may be said of them, and limits of streams that are counted together."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from underpass.edge.errors import OptionsError
from underpass.edge.gateway import Gateway
from underpass.edge.manners import Manners
from underpass.edge.options import Address, EdgeOptions
from underpass.edge.router import Router
from underpass.edge.sites import COMMON
from underpass.edge.tcp_routes import MAX_ROUTES, StreamLimits, TcpRoute, check_routes
from underpass.edge.tcp_streams import StreamGroup, TcpStreams, TcpVisitor
from underpass.ops import event_loop
from underpass.wire.turns import LoopTurn

HERE = Address("127.0.0.1", 2222)


@pytest.mark.parametrize(
    "values",
    [
        {"connections": 0},
        {"connections": 1_000_001},
        {"per_client": 0},
        {"connect_seconds": 0.0},
        {"connect_seconds": float("nan")},
        {"connect_seconds": 1e9},
        {"idle_seconds": -1.0},
        {"idle_seconds": float("nan")},
        {"idle_seconds": float("inf")},
    ],
)
def test_limits_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        StreamLimits(**values)


class TestRoutes:
    def test_the_hostname_is_as_routes_have_it(self) -> None:
        route = TcpRoute(HERE, "SSH.Example.com.")
        assert (route.hostname, route.name) == ("ssh.example.com", "tcp-2222")

    @pytest.mark.parametrize("hostname", ["", "*.example.com", "a b", "bücher.example", "x" * 300])
    def test_a_hostname_that_is_none(self, hostname: str) -> None:
        with pytest.raises(OptionsError, match=r"public port 127\.0\.0\.1:2222: "):
            TcpRoute(HERE, hostname)

    def test_a_version_of_the_proxy_protocol_that_is_none(self) -> None:
        with pytest.raises(OptionsError, match="none of v1 and v2"):
            TcpRoute(HERE, "a.example", proxy_protocol="3")

    def test_a_port_is_there_once(self) -> None:
        routes = (TcpRoute(HERE, "a.example"), TcpRoute(Address("::1", 2222), "b.example"))
        with pytest.raises(OptionsError, match="port 2222 is given to two"):
            check_routes(routes)
        check_routes((TcpRoute(Address("", 0), "a.example"), TcpRoute(Address("", 0), "b.test")))

    def test_there_is_a_limit(self) -> None:
        routes = [TcpRoute(Address("", port), "a.example") for port in range(1, MAX_ROUTES + 2)]
        check_routes(tuple(routes[:-1]))
        with pytest.raises(OptionsError, match="at most 256"):
            check_routes(tuple(routes))

    def test_an_address_of_another_listener(self, tmp_path: Any) -> None:
        with pytest.raises(OptionsError, match="two listeners"):
            EdgeOptions.parse(
                data_dir=tmp_path,
                tcp=(TcpRoute(Address("::", 443), "a.example"),),
                https="[::]:443",
            )


def streams_of(turn: LoopTurn) -> TcpStreams:
    gateway = Gateway(turn, Router(), location="here", manners=Manners.of(COMMON))
    return TcpStreams(turn, gateway, location="here")


def joined(group: StreamGroup, turn: LoopTurn, client: str) -> TcpVisitor | None:
    """A stream of that client, if the group takes one more."""
    if not group.admits(client):
        return None
    stream = TcpVisitor(turn, group, client)
    group.add(stream)
    return stream


def in_loop(scenario: Any) -> None:
    async def main() -> None:
        result = scenario(LoopTurn(asyncio.get_running_loop()))
        if result is not None:
            await result

    event_loop.run(main())


class TestGroups:
    def test_a_client_is_one_address_or_a_network_of_64_bits(self) -> None:
        def scenario(turn: LoopTurn) -> None:
            group = StreamGroup("tcp-1", StreamLimits(connections=100, per_client=2))
            first = joined(group, turn, "2001:db8::1")
            assert joined(group, turn, "2001:db8::ffff:1:2:3") is not None
            assert joined(group, turn, "2001:db8::7") is None
            assert joined(group, turn, "2001:db8:0:1::7") is not None
            for _ in range(2):
                assert joined(group, turn, "192.0.2.1") is not None
            assert joined(group, turn, "192.0.2.1") is None
            assert joined(group, turn, "::ffff:192.0.2.1") is None
            assert joined(group, turn, "192.0.2.2") is not None
            assert first is not None
            group.discard(first)
            group.discard(first)
            assert joined(group, turn, "2001:db8::7") is not None
            assert joined(group, turn, "2001:db8::8") is None

        in_loop(scenario)

    def test_all_together(self) -> None:
        def scenario(turn: LoopTurn) -> None:
            group = StreamGroup("tcp-1", StreamLimits(connections=3))
            assert [joined(group, turn, f"192.0.2.{n}") is None for n in range(4)] == [
                False,
                False,
                False,
                True,
            ]
            group.limits = StreamLimits(connections=4)
            assert joined(group, turn, "192.0.2.9") is not None

        in_loop(scenario)

    def test_a_group_that_is_left_is_forgotten_with_its_last_stream(self) -> None:
        def scenario(turn: LoopTurn) -> None:
            streams = streams_of(turn)
            group = streams.group("tcp-1")
            stream = joined(group, turn, "192.0.2.1")
            assert stream is not None
            streams.drop_group("tcp-1")
            assert streams.groups == (group,)
            assert streams.group("tcp-1") is group, "it has come back in time"
            streams.drop_group("tcp-1")
            group.refuse()
            group.discard(stream)
            for look in tuple(turn.on_tick):
                look()
            assert streams.groups == ()
            assert streams.refused == 1, "counters do not fall"
            streams.drop_group("tcp-1")

        in_loop(scenario)


def test_where_no_route_leads_a_connection_is_reset() -> None:
    """By `accepting`, as a listener of somebody else would."""

    async def scenario(turn: LoopTurn) -> None:
        streams = streams_of(turn)
        group = streams.group("sni:nowhere.example")
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            visitor = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        accepted.setblocking(False)
        await loop.connect_accepted_socket(
            lambda: streams.accepting("nowhere.example", group, client="192.0.2.77"), accepted
        )
        visitor.setblocking(False)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(loop.sock_recv(visitor, 1), 30)
        visitor.close()
        assert group.counters.causes() == {"unknown_host": 1}
        assert streams.count == 0
        await streams.stop(0)

    in_loop(scenario)


def test_what_comes_while_it_stops_is_reset() -> None:
    async def scenario(turn: LoopTurn) -> None:
        streams = streams_of(turn)
        group = streams.group("tcp-1")
        await streams.stop(0)
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            visitor = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        accepted.setblocking(False)
        await loop.connect_accepted_socket(
            lambda: streams.accepting("nowhere.example", group), accepted
        )
        visitor.setblocking(False)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(loop.sock_recv(visitor, 1), 30)
        visitor.close()
        assert group.refused == 0

    in_loop(scenario)

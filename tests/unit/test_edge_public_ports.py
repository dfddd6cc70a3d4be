"""An edge's public ports while others are wanted: what is opened, closed, and put back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence

import pytest

from underpass.edge.errors import ListenError, OptionsError
from underpass.edge.options import Address
from underpass.edge.public_ports import PublicPorts
from underpass.edge.tcp_routes import TcpRoute


class Place:
    """Ports whose sockets are pretended, but for the addresses that they tell."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.open: dict[str, Address] = {}
        self.served: list[tuple[str, str]] = []
        self.ports = PublicPorts(self._listen, self._close)

    def _listen(self, name: str, address: Address) -> socket.socket:
        if address.port in self.taken:
            raise ListenError(f"{address} is taken")
        assert name not in self.open
        self.open[name] = address
        return Listener(address)  # type: ignore[return-value]

    def _close(self, name: str, listener: socket.socket) -> None:
        del self.open[name]

    async def _serve(
        self, routes: Sequence[TcpRoute], sockets: Mapping[str, socket.socket]
    ) -> None:
        assert set(sockets) == {route.name for route in routes}
        self.served = [(str(route.address), route.hostname) for route in routes]

    def change(self, *routes: TcpRoute) -> None:
        asyncio.run(self.ports.change(routes, self._serve))


class Listener:
    def __init__(self, address: Address) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address.host, self._address.port


def route(port: int, hostname: str = "a.example", host: str = "127.0.0.1") -> TcpRoute:
    return TcpRoute(Address(host, port), hostname)


def test_new_ones_are_opened_and_old_ones_closed() -> None:
    place = Place()
    place.ports.listen((route(1), route(2)))
    place.change(route(2), route(3))
    assert place.open == {"tcp-2": Address("127.0.0.1", 2), "tcp-3": Address("127.0.0.1", 3)}
    assert place.served == [("127.0.0.1:2", "a.example"), ("127.0.0.1:3", "a.example")]
    place.change()
    assert (place.open, place.served) == ({}, [])


def test_one_that_leads_elsewhere_stays_open() -> None:
    place = Place()
    place.ports.listen((route(1),))
    place.change(route(1, "b.example"))
    assert place.served == [("127.0.0.1:1", "b.example")]


def test_one_that_moves_to_another_address() -> None:
    place = Place()
    place.ports.listen((route(1), route(2)))
    place.change(route(1, host="0.0.0.0"), route(2))
    assert place.open["tcp-1"] == Address("0.0.0.0", 1)
    assert place.served == [("0.0.0.0:1", "a.example"), ("127.0.0.1:2", "a.example")]


@pytest.mark.parametrize(
    "wanted",
    [
        (route(2), route(3), route(9)),
        (route(1, host="0.0.0.0"), route(9)),
        (route(1, "b.example"), route(9)),
    ],
)
def test_one_that_cannot_be_opened_changes_nothing(wanted: tuple[TcpRoute, ...]) -> None:
    place = Place()
    place.taken = {9}
    place.ports.listen((route(1), route(2)))
    place.change(route(1), route(2))
    before = dict(place.open), list(place.served), place.ports.routes
    with pytest.raises(ListenError, match="is taken"):
        place.change(*wanted)
    assert (dict(place.open), list(place.served), place.ports.routes) == before


def test_what_cannot_be_is_refused_before_anything_is_done() -> None:
    place = Place()
    place.ports.listen((route(1),))
    with pytest.raises(OptionsError):
        place.change(route(2), route(2, host="::1"))
    assert place.open == {"tcp-1": Address("127.0.0.1", 1)}


def test_at_the_end_all_are_closed_those_too_that_nobody_serves_yet() -> None:
    place = Place()
    place.taken = {2}
    with pytest.raises(ListenError):
        place.ports.listen((route(1), route(2)))
    place.ports.close()
    assert place.open == {}

"""Requests that wait for a link on the move."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from rig.http1 import Visitor

from underpass.core.relay import Exchange
from underpass.edge import waiting
from underpass.edge.remote import RemoteLink
from underpass.edge.router import Router
from underpass.edge.waiting import HOLD_SECONDS, START_SECONDS, WaitingRoom

TUNNEL = UUID(int=1)
OTHER = UUID(int=2)
GET = b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n"


class Stage:
    def __init__(self) -> None:
        self.now = 1000.0
        self.router = Router()
        self.room = WaitingRoom(self.router, lambda: self.now)
        self.gone_on: list[Exchange] = []

    def request(self) -> tuple[Visitor, Exchange]:
        visitor = Visitor(on_call=lambda call: None)
        visitor.send(GET)
        return visitor, visitor.app.last.exchange

    def hold(self, exchange: Exchange, tunnel: UUID = TUNNEL) -> bool:
        return self.room.hold(tunnel, exchange, self.gone_on.append)


def test_nothing_is_held_for_a_tunnel_of_which_no_link_is_to_come() -> None:
    stage = Stage()
    stage.room.expect(OTHER)
    _, exchange = stage.request()
    assert not stage.hold(exchange)
    assert stage.room.count == 0


def test_it_goes_on_when_the_link_is_there() -> None:
    stage = Stage()
    requests = [stage.request()[1] for _ in range(3)]
    stage.room.expect(TUNNEL)
    assert all(stage.hold(each) for each in requests)
    stage.room.came(OTHER)
    assert stage.gone_on == []
    stage.room.came(TUNNEL)
    assert stage.gone_on == requests
    assert stage.room.count == 0
    # Each may wait again.
    assert stage.hold(requests[0])


def test_after_a_start_the_first_link_of_each_tunnel_is_waited_for() -> None:
    stage = Stage()
    stage.room.expect_all([TUNNEL, OTHER])
    _, exchange = stage.request()
    assert stage.hold(exchange)
    stage.room.came(TUNNEL)
    assert stage.gone_on == [exchange]
    # From now on it is as any other, which may have no connector.
    assert not stage.hold(exchange)
    assert stage.hold(stage.request()[1], OTHER)


def test_and_not_for_longer_than_is_said() -> None:
    stage = Stage()
    stage.room.expect_all([TUNNEL, OTHER])
    _, exchange = stage.request()
    assert stage.hold(exchange)
    stage.now += START_SECONDS - 0.1
    stage.room.tick()
    assert stage.gone_on == []
    stage.now += 0.1
    stage.room.tick()
    assert stage.gone_on == [exchange]
    assert not stage.hold(exchange)
    stage.room.came(OTHER)


def test_a_link_that_moves_after_a_start_is_waited_for_as_long_as_others() -> None:
    stage = Stage()
    stage.room.expect_all([TUNNEL])
    stage.room.expect(TUNNEL)
    stage.room.came(TUNNEL)
    stage.now += START_SECONDS + 1
    stage.room.tick()
    assert stage.hold(stage.request()[1])


def test_it_does_not_wait_for_ever() -> None:
    stage = Stage()
    _, exchange = stage.request()
    stage.room.expect(TUNNEL)
    assert stage.hold(exchange)
    stage.now += HOLD_SECONDS - 1
    stage.room.tick()
    assert stage.gone_on == []
    stage.now += 1
    stage.room.tick()
    assert stage.gone_on == [exchange]
    assert not stage.hold(exchange)


def test_a_link_that_was_there_all_the_time_is_tried_again() -> None:
    stage = Stage()
    _, exchange = stage.request()
    stage.room.expect(TUNNEL)
    stage.router.add_beyond(RemoteLink(1, 1, TUNNEL, UUID(int=3), 0, beyond=True))
    assert stage.hold(exchange)
    stage.room.tick()
    assert stage.gone_on == [exchange]


def test_who_leaves_waits_no_more() -> None:
    stage = Stage()
    visitor, exchange = stage.request()
    stage.room.expect(TUNNEL)
    assert stage.hold(exchange)
    visitor.transport.lose()
    assert exchange.is_over
    assert stage.room.count == 0
    stage.room.came(TUNNEL)
    assert stage.gone_on == []


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_HELD", 2)
    stage = Stage()
    stage.room.expect(TUNNEL)
    stage.room.expect(OTHER)
    held: list[Any] = [stage.request()[1] for _ in range(3)]
    assert stage.hold(held[0])
    assert stage.hold(held[1], OTHER)
    assert not stage.hold(held[2])

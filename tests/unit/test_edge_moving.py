"""In which order links are brought to move, and what is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from uuid import UUID, uuid4

import pytest

from underpass.edge import moving
from underpass.edge.link_details import LinkDetails
from underpass.edge.moving import LinkMover, Way
from underpass.edge.router import Link, Router
from underpass.wire.headers import FEATURE_REPLACES_LINKS

TUNNEL = UUID(int=1)
CONNECTOR = UUID(int=2)
DRAIN = 600.0


def details(*features: str) -> LinkDetails:
    return LinkDetails(uuid4(), datetime.now(timezone.utc), features=features)


@dataclass(eq=False)
class FakeLink:
    conn_index: int = 0
    tunnel_id: UUID = TUNNEL
    connector_id: UUID = CONNECTOR
    load: int = 0
    draining: bool = False
    details: LinkDetails = field(default_factory=details)


class Stage:
    """A router with links, and what they were told to do."""

    def __init__(self) -> None:
        self.router = Router()
        self.mover = LinkMover(self.router, self._move, DRAIN)
        self.told: list[tuple[int, Way]] = []
        self._something = asyncio.Condition()

    def link(self, conn_index: int, *features: str) -> FakeLink:
        made = FakeLink(conn_index, details=details(*features))
        self.router.add_link(TUNNEL, made)
        return made

    def _move(self, link: Link, way: Way, drain_seconds: float) -> None:
        assert drain_seconds == DRAIN
        self.told.append((link.conn_index, way))

    async def settled(self) -> list[tuple[int, Way]]:
        """What was told since the last time, once nothing more follows from what has happened."""
        for _ in range(10):
            await asyncio.sleep(0)
        told, self.told = self.told, []
        return told

    def goes(self, link: FakeLink) -> None:
        self.router.drain(link)
        self.mover.changed()

    def comes(self, conn_index: int) -> None:
        """To the process that follows."""
        self.router.add_beyond(FakeLink(conn_index))
        self.mover.changed()


def play(scenario: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        stage = Stage()
        await scenario(stage)
        await asyncio.wait_for(stage.mover.run(), 10)

    asyncio.run(main())


def test_who_replaces_links_is_asked_for_all_at_once() -> None:
    async def scenario(stage: Stage) -> None:
        links = [stage.link(index, FEATURE_REPLACES_LINKS) for index in range(3)]
        running = asyncio.ensure_future(stage.mover.run())
        assert await stage.settled() == [(index, Way.ASK) for index in range(3)]
        for link in links:
            assert not running.done()
            stage.goes(link)
            stage.comes(link.conn_index)
            assert await stage.settled() == []
        await running

    play(scenario)


def test_who_does_not_do_so_in_time_is_treated_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "ASKED_SECONDS", 0.0)

    async def scenario(stage: Stage) -> None:
        link = stage.link(0, FEATURE_REPLACES_LINKS)
        running = asyncio.ensure_future(stage.mover.run())
        await asyncio.sleep(0.01)
        assert await stage.settled() == [(0, Way.ASK), (0, Way.WHEN_IDLE)]
        stage.goes(link)
        await running

    play(scenario)


def test_half_of_the_others_go_first_and_the_rest_when_they_are_back() -> None:
    async def scenario(stage: Stage) -> None:
        links = [stage.link(index) for index in (3, 1, 0, 2)]
        running = asyncio.ensure_future(stage.mover.run())
        assert await stage.settled() == [(0, Way.DRAIN), (1, Way.DRAIN)]
        for link in links[1:3]:
            stage.goes(link)
        stage.comes(1)
        assert await stage.settled() == []
        stage.comes(0)
        assert await stage.settled() == [(2, Way.DRAIN), (3, Way.DRAIN)]
        for link in (links[0], links[3]):
            stage.goes(link)
        await running

    play(scenario)


def test_the_last_ones_wait_for_a_quiet_moment_when_none_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moving, "COME_BACK_SECONDS", 0.0)

    async def scenario(stage: Stage) -> None:
        links = [stage.link(index) for index in range(2)]
        running = asyncio.ensure_future(stage.mover.run())
        assert await stage.settled() == [(0, Way.DRAIN)]
        stage.goes(links[0])
        await asyncio.sleep(0.01)
        assert await stage.settled() == [(1, Way.WHEN_IDLE)]
        stage.goes(links[1])
        await running

    play(scenario)


def test_the_only_one_waits_for_a_quiet_moment() -> None:
    async def scenario(stage: Stage) -> None:
        link = stage.link(0)
        running = asyncio.ensure_future(stage.mover.run())
        assert await stage.settled() == [(0, Way.WHEN_IDLE)]
        stage.goes(link)
        await running

    play(scenario)


def test_where_there_are_links_already_nobody_is_waited_for() -> None:
    async def scenario(stage: Stage) -> None:
        stage.comes(7)
        links = [stage.link(index) for index in range(2)]
        running = asyncio.ensure_future(stage.mover.run())
        assert await stage.settled() == [(0, Way.DRAIN), (1, Way.DRAIN)]
        for link in links:
            stage.goes(link)
        await running

    play(scenario)


def test_one_that_comes_late_is_moved_too() -> None:
    async def scenario(stage: Stage) -> None:
        link = stage.link(0)
        running = asyncio.ensure_future(stage.mover.run())
        await stage.settled()
        late = stage.link(1)
        stage.goes(link)
        assert await stage.settled() == [(1, Way.WHEN_IDLE)]
        stage.goes(late)
        await running

    play(scenario)

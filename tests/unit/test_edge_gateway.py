"""What the gateway notices about its visitors' connections."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from underpass.edge.gateway import SEND_SECONDS, Gateway, SendWatch
from underpass.edge.manners import Manners
from underpass.edge.remote import RemoteLink
from underpass.edge.router import Router
from underpass.edge.sites import COMMON
from underpass.wire.turns import LoopTurn


@dataclass
class Transport:
    waiting: int = 0

    def get_write_buffer_size(self) -> int:
        return self.waiting


@dataclass
class Visitor:
    transport: Any
    write_paused: bool = True


def ticks_until_stuck(watch: SendWatch, visitor: Any, limit: int = 1000) -> int:
    return next(tick for tick in range(1, limit) if watch.is_stuck(visitor))


def test_a_visitor_that_takes_nothing_is_noticed_at_the_limit() -> None:
    visitor = Visitor(Transport(70000))
    assert ticks_until_stuck(SendWatch(), visitor) == SEND_SECONDS + 1


def test_a_visitor_that_takes_a_little_is_left_alone() -> None:
    watch, visitor = SendWatch(), Visitor(Transport(70000))
    for tick in range(5 * SEND_SECONDS):
        if tick % (SEND_SECONDS - 1) == 0:
            visitor.transport.waiting -= 1
        assert not watch.is_stuck(visitor)


def test_a_visitor_that_takes_everything_again_starts_afresh() -> None:
    watch, visitor = SendWatch(), Visitor(Transport(70000))
    for _ in range(SEND_SECONDS):
        assert not watch.is_stuck(visitor)
    visitor.write_paused = False
    assert not watch.is_stuck(visitor)
    visitor.write_paused = True
    assert not watch.is_stuck(visitor)


def test_a_closed_connection_is_not_stuck() -> None:
    watch = SendWatch()
    visitor = Visitor(None)
    assert not any(watch.is_stuck(visitor) for _ in range(2 * SEND_SECONDS))


class Visit:
    """A visitor's request as far as routing looks at it."""

    authority = b"app.localhost"

    def __init__(self) -> None:
        self.via_tunnel: bytes | None = None
        self.failures: list[tuple[int, str]] = []

    def fail(self, status: int, cause: str) -> None:
        self.failures.append((status, cause))


class TestLinksOfOtherProcesses:
    @staticmethod
    def routed(*takes: bool) -> tuple[list[int], Visit]:
        """Which of remote links that take a request or not were asked to, in order."""
        asked: list[int] = []

        def remote(index: int) -> RemoteLink:
            def carry(exchange: Any) -> bool:
                asked.append(index)
                return takes[index]

            return RemoteLink(index, 1, UUID(int=1), UUID(int=2), index, carry=carry)

        router = Router()
        router.put_route("app.localhost", UUID(int=1))
        for index in range(len(takes)):
            router.add_remote(remote(index))
        visit: Any = Visit()

        async def main() -> None:
            turn = LoopTurn(asyncio.get_running_loop())
            Gateway(turn, router, location="local01", manners=Manners.of(COMMON)).route(visit)

        asyncio.run(main())
        return asked, visit

    def test_one_that_takes_the_request_is_all_it_needs(self) -> None:
        asked, visit = self.routed(True)
        assert (asked, visit.failures) == ([0], [])

    def test_another_is_tried_after_one_that_cannot(self) -> None:
        asked, visit = self.routed(True, False)
        assert asked[0] == 1
        assert (asked[-1], visit.failures) == (0, [])

    def test_none_that_can(self) -> None:
        asked, visit = self.routed(False, False)
        assert set(asked) == {0, 1}
        assert visit.failures == [(503, "link_full")]

    def test_none_at_all(self) -> None:
        assert self.routed()[1].failures == [(503, "no_link")]

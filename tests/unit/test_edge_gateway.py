"""What the gateway notices about its visitors' connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from underpass.core.fields import Fields
from underpass.edge.gateway import SEND_SECONDS, Gateway, SendWatch
from underpass.edge.manners import Manners
from underpass.edge.pools import Pool
from underpass.edge.remote import RemoteLink
from underpass.edge.router import Router
from underpass.edge.sites import COMMON
from underpass.edge.store import Sticky, Target
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
        self.context: Any = None
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


class Steered(Visit):
    """The same with all that is looked at where there is a choice."""

    visitor = b"192.0.2.1"

    def __init__(self, *fields: tuple[bytes, bytes], scheme: bytes = b"https") -> None:
        super().__init__()
        self.context: Any = None
        self.refusal: str | None = None
        self.refusal_status = 0
        self.on_answer: Any = None
        self.set_cookie: bytes | None = None
        self.request = Fields(fields)
        self.acceptor = SimpleNamespace(scheme=scheme)


class TestSteering:
    """Links of other processes, each of a connector of its own, tell what they are asked."""

    HOST = Steered.authority.decode()

    @staticmethod
    def steer(
        visit: Steered,
        prepare: Callable[[Router, list[RemoteLink]], None],
        *,
        again: bool = False,
        busy: Collection[int] = (),
    ) -> tuple[list[int], list[bytes]]:
        """Which links were asked to carry the request, and of whom they were told."""
        asked: list[int] = []
        told: list[bytes] = []

        def remote(number: int) -> RemoteLink:
            def carry(exchange: Any) -> bool:
                asked.append(number)
                told.append(exchange.via_tunnel)
                return number not in busy

            # Two connectors of each of two tunnels, one of each tunnel in each of two workers.
            tunnel = UUID(int=1 + number // 2)
            return RemoteLink(number % 2, 1, tunnel, UUID(int=10 + number), 0, carry=carry)

        router = Router()
        links = [remote(number) for number in range(4)]
        for link in links:
            router.add_remote(link)
        prepare(router, links)

        async def main() -> None:
            gateway = Gateway(
                LoopTurn(asyncio.get_running_loop()),
                router,
                location="local01",
                manners=Manners.of(COMMON),
            )
            exchange: Any = visit
            (gateway.steering.again if again else gateway.route)(exchange)

        asyncio.run(main())
        return asked, told

    def pool(self, sticky: Sticky = Sticky.NONE) -> Callable[[Router, list[RemoteLink]], None]:
        def prepare(router: Router, _: list[RemoteLink]) -> None:
            targets = [Target(UUID(int=1)), Target(UUID(int=2))]
            router.put_pool(self.HOST, targets, sticky)

        return prepare

    def test_who_sticks_is_sent_to_exactly_that_connector(self) -> None:
        visit = Steered()
        (number,), (told,) = self.steer(visit, self.pool(Sticky.COOKIE))
        assert told.split() == [
            str(UUID(int=1 + number // 2)).encode(),
            str(UUID(int=10 + number)).encode(),
        ]
        assert visit.set_cookie is not None
        value = visit.set_cookie.split(b";")[0]
        for _ in range(4):
            again = Steered((b"cookie", b"a=b; " + value))
            assert self.steer(again, self.pool(Sticky.COOKIE))[0] == [number]
            assert again.set_cookie is None

    @pytest.mark.parametrize("scheme", [b"http", b"https"])
    def test_the_cookie_is_kept_from_scripts_and_from_the_clear(self, scheme: bytes) -> None:
        visit = Steered(scheme=scheme)
        self.steer(visit, self.pool(Sticky.COOKIE))
        assert visit.set_cookie is not None
        attributes = visit.set_cookie.split(b"; ")[1:]
        assert attributes[:3] == [b"Path=/", b"HttpOnly", b"SameSite=Lax"]
        assert attributes[3:] == ([b"Secure"] if scheme == b"https" else [])

    def test_when_the_chosen_one_is_busy_all_others_are_asked(self) -> None:
        for sticky in Sticky:
            visit = Steered()
            asked, _ = self.steer(visit, self.pool(sticky), busy=range(4))
            assert sorted(asked) == [0, 1, 2, 3]
            assert visit.failures == [(503, "link_full")]

    def test_what_a_process_has_lost_is_not_asked_of_it_again(self) -> None:
        for pooled in (True, False):
            visit = Steered()

            def prepare(
                router: Router, links: list[RemoteLink], pooled: bool = pooled, to: Any = visit
            ) -> None:
                if pooled:
                    self.pool()(router, links)
                else:
                    router.put_route(self.HOST, UUID(int=1))
                to.context = links[0]

            visit.refusal, visit.refusal_status = "no_link", 503
            asked, _ = self.steer(visit, prepare, again=True, busy=range(4))
            assert asked == ([1, 2, 3] if pooled else [1])
            assert visit.failures == [(503, "no_link")]

    def test_an_application_that_one_connector_cannot_reach_is_asked_by_another(self) -> None:
        visit, kept = Steered(), []

        def prepare(router: Router, links: list[RemoteLink]) -> None:
            router.put_route(self.HOST, UUID(int=1))
            visit.context = links[0]
            kept.append(router)

        visit.refusal, visit.refusal_status = "dial", 502
        asked, _ = self.steer(visit, prepare, again=True)
        assert (asked, visit.failures) == ([1], [])
        assert isinstance(kept[0].route(visit.authority), Pool), "it is watched from now on"

    def test_and_if_there_is_none_that_is_the_answer(self) -> None:
        visit = Steered()

        def prepare(router: Router, links: list[RemoteLink]) -> None:
            router.put_route(self.HOST, UUID(int=1))
            router.remove_link(links[1])
            visit.context = links[0]

        visit.refusal, visit.refusal_status = "dial_timeout", 502
        asked, _ = self.steer(visit, prepare, again=True)
        assert (asked, visit.failures) == ([], [(502, "dial_timeout")])
        assert visit.context is not None

    def test_a_request_for_one_connectors_management_is_nobody_elses(self) -> None:
        visit = Steered()

        def prepare(router: Router, links: list[RemoteLink]) -> None:
            router.reserve(self.HOST)
            visit.context = links[0]

        visit.refusal, visit.refusal_status = "connector", 502
        assert self.steer(visit, prepare, again=True)[0] == []
        assert visit.failures == [(502, "connector")]

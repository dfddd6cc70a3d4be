"""What makes links doubtful: sleep, a stopped process, another network."""

from __future__ import annotations

import asyncio
import socket

import pytest

from underpass.connector import network_watch
from underpass.connector.network_watch import (
    LATE,
    LOOK_EVERY,
    NetworkWatch,
    asleep_seconds,
    source_addresses,
)


class World:
    """Clocks and a network, in the test's hands."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asleep = 3.0
        self.sources: tuple[str, ...] = ("192.168.0.2", "")
        self.told: list[str] = []
        self.watch = NetworkWatch(
            self.told.append,
            clock=lambda: self.now,
            asleep=lambda: self.asleep,
            sources=lambda: self.sources,
        )

    def look(self, after: float = LOOK_EVERY) -> list[str]:
        self.now += after
        self.told.clear()
        self.watch.look()
        return self.told


def test_nothing_is_said_when_nothing_is_new() -> None:
    world = World()
    assert [world.look() for _ in range(3)] == [[], [], []]


def test_sleep_shows_on_a_clock_that_goes_on() -> None:
    world = World()
    world.asleep += 3600.0
    assert world.look() == ["the machine slept for 3600 s"]
    assert world.look() == []


def test_the_wall_clock_may_be_set_a_little() -> None:
    world = World()
    world.asleep += 0.5
    assert world.look() == []
    world.asleep -= 3600.0
    assert world.look() == []


def test_a_process_that_was_stopped_looks_late() -> None:
    world = World()
    assert world.look(LOOK_EVERY + LATE - 1.0) == []
    assert world.look(LOOK_EVERY + 60.0) == ["this process stood still for 60 s"]


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        (("10.0.0.9", ""), "the network changed: 192.168.0.2 is now 10.0.0.9"),
        (("", ""), "the network changed: 192.168.0.2 is now no network"),
        (
            ("192.168.0.2", "2001:db8::7"),
            "the network changed: 192.168.0.2 is now 192.168.0.2 and 2001:db8::7",
        ),
    ],
)
def test_another_network(sources: tuple[str, ...], told: str) -> None:
    world = World()
    world.sources = sources
    assert world.look() == [told]
    assert world.look() == []


def test_it_looks_by_itself_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_watch, "LOOK_EVERY", 0.0)

    async def scenario() -> None:
        told = asyncio.Event()
        sources = [("a",), ("b",)]
        watch = NetworkWatch(
            lambda _: told.set(),
            clock=lambda: 0.0,
            asleep=lambda: 0.0,
            sources=lambda: sources.pop(0) if len(sources) > 1 else sources[0],
        )
        watch.start()
        await asyncio.wait_for(told.wait(), 10)
        watch.stop()

    asyncio.run(scenario())


def test_this_machine_can_be_asked() -> None:
    assert asleep_seconds() - asleep_seconds() == pytest.approx(0.0, abs=60.0)
    for address, family in zip(source_addresses(), (socket.AF_INET, socket.AF_INET6), strict=True):
        if address:
            socket.inet_pton(family, address.partition("%")[0])

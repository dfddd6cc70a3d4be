"""Connectors whose application cannot be reached: when one is spared, tried again, forgotten."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from underpass.edge import origin_health
from underpass.edge.origin_health import (
    FAILURES_TO_SPARE,
    FIRST_SPELL_SECONDS,
    FORGET_SECONDS,
    LONGEST_SPELL_SECONDS,
    MAX_CONNECTORS,
    TRIAL_SECONDS,
    UNREACHABLE,
    OriginHealth,
)
from underpass.wire.causes import CAUSES, Hop

ONE, TWO = UUID(int=1), UUID(int=2)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def health(time: Time) -> OriginHealth:
    return OriginHealth(time)


def spare(health: OriginHealth, connector: UUID = ONE) -> None:
    for _ in range(FAILURES_TO_SPARE):
        health.failed(connector)


def test_what_counts_are_causes_of_an_application_out_of_reach() -> None:
    assert {CAUSES[cause].hop for cause in UNREACHABLE - {"connector"}} == {Hop.ORIGIN}


def test_nothing_is_watched_until_something_fails(health: OriginHealth) -> None:
    assert not health.is_watching
    assert health.known() == []
    health.failed(None)
    assert health.is_watching
    assert health.spared() == set()


def test_some_failures_in_a_row_spare_a_connector(health: OriginHealth) -> None:
    for _ in range(FAILURES_TO_SPARE - 1):
        health.failed(ONE)
        health.failed(TWO)
    health.answered(ONE)
    health.failed(ONE)
    assert health.spared() == set(), "an answer ends the row"
    health.failed(TWO)
    assert health.spared() == {TWO}
    assert health.due() == set()
    assert health.spells == 1


def test_after_a_spell_one_request_at_a_time_may_try(health: OriginHealth, time: Time) -> None:
    spare(health)
    time.now += FIRST_SPELL_SECONDS - 0.1
    assert health.due() == set()
    time.now += 0.1
    assert health.due() == {ONE}
    health.tries(ONE)
    assert health.due() == set()
    assert health.spared() == {ONE}, "for all others"
    time.now += TRIAL_SECONDS
    assert health.due() == {ONE}, "nobody has heard of that request"


def test_a_trial_that_succeeds_ends_it(health: OriginHealth, time: Time) -> None:
    spare(health)
    time.now += FIRST_SPELL_SECONDS
    health.tries(ONE)
    health.answered(ONE)
    assert health.spared() == set()
    assert health.known() == []


def test_every_trial_that_fails_makes_the_spell_longer(health: OriginHealth, time: Time) -> None:
    spare(health)
    spells = []
    for _ in range(30):
        (known,) = health.known()
        spells.append(known.seconds)
        time.now += known.seconds
        assert health.due() == {ONE}
        health.tries(ONE)
        health.failed(ONE)
    assert spells[:3] == [FIRST_SPELL_SECONDS * factor for factor in (1, 2, 4)]
    assert max(spells) == spells[-1] == LONGEST_SPELL_SECONDS


def test_what_was_under_way_when_the_spell_began_changes_nothing(
    health: OriginHealth, time: Time
) -> None:
    spare(health)
    time.now += 1.0
    health.failed(ONE)
    (known,) = health.known()
    assert known.seconds == FIRST_SPELL_SECONDS - 1.0
    assert known.failures == FAILURES_TO_SPARE + 1
    assert health.spells == 1


def test_all_is_forgotten_in_time(health: OriginHealth, time: Time) -> None:
    spare(health)
    health.failed(TWO)
    time.now += FIRST_SPELL_SECONDS + FORGET_SECONDS - 0.1
    assert health.is_watching
    time.now += 0.1
    assert not health.is_watching
    assert health.spared() == set()
    health.failed(ONE)
    assert health.spared() == set(), "the row begins anew"


def test_connectors_remembered_are_bounded(
    health: OriginHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin_health, "MAX_CONNECTORS", 3)
    assert MAX_CONNECTORS > 3
    spare(health, ONE)
    for _ in range(5):
        health.failed(uuid4())
    assert len(health.known()) == 3
    assert health.spared() == set(), "the latest are remembered"

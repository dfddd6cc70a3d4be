"""Counters of workers that come and go, as one program's."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpass.ops.workers.tally import Readings, Tally, total

TOTAL = "cloudflared_tunnel_total_requests"
ACTIVE = "cloudflared_tunnel_concurrent_requests_per_tunnel"
BY_CODE = "cloudflared_tunnel_response_by_code"


def test_sums_are_made_label_by_label() -> None:
    one: Readings = {TOTAL: 3, BY_CODE: {("200",): 2, ("404",): 1}}
    two: Readings = {TOTAL: 4, BY_CODE: {("200",): 4}, ACTIVE: 1}
    assert total((one, two)) == {TOTAL: 7, BY_CODE: {("200",): 6, ("404",): 1}, ACTIVE: 1}
    assert total(({BY_CODE: {"200": 1}}, {BY_CODE: {("200",): 2}})) == {BY_CODE: {("200",): 3}}
    assert one == {TOTAL: 3, BY_CODE: {("200",): 2, ("404",): 1}}


def test_a_dead_workers_counters_stay_and_its_gauges_go() -> None:
    tally = Tally()
    tally.told({TOTAL: 5, ACTIVE: 2, BY_CODE: {("200",): 5}})
    assert tally.readings[ACTIVE] == 2
    tally.ended()
    assert tally.readings == {TOTAL: 5, BY_CODE: {("200",): 5}}
    tally.told({TOTAL: 1, ACTIVE: 1, BY_CODE: {("200",): 1}})
    assert tally.readings == {TOTAL: 6, ACTIVE: 1, BY_CODE: {("200",): 6}}
    tally.ended()
    tally.ended()
    assert tally.readings == {TOTAL: 6, BY_CODE: {("200",): 6}}


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=30))
def test_counters_never_go_back(steps: list[int | None]) -> None:
    """A step is so many requests more, told; or the death of the process."""
    tally, here, seen = Tally(), 0, 0
    for step in steps:
        if step is None:
            tally.ended()
            here = 0
        else:
            here += step
            tally.told({TOTAL: here, BY_CODE: {("200",): here}})
        now = tally.readings.get(TOTAL, 0)
        assert isinstance(now, int)
        assert now >= seen
        assert tally.readings.get(BY_CODE, {("200",): 0}) == {("200",): now}
        seen = now
    assert seen == sum(step for step in steps if step is not None)


@pytest.mark.parametrize("readings", [{TOTAL: 3, BY_CODE: {("200",): 2}}, {ACTIVE: 1.5}])
def test_readings_go_through_a_channel(readings: Readings) -> None:
    sent = msgspec.msgpack.encode(readings)
    assert msgspec.msgpack.decode(sent, type=Readings) == readings

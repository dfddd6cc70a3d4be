"""Durations are read and written as Go does."""

from __future__ import annotations

import pytest

from underpass.ops.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("100ms", 0.1),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("-5s", -5.0),
        ("+5s", 5.0),
        ("0", 0.0),
        ("24h0m0s", 86400.0),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("3ns", 3e-9),
    ],
)
def test_reads_what_go_reads(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "-", "5", "5 s", "s", "1d", "5s ", "1e3s", "9999999999h", "٣s"]
)
def test_refuses_the_rest_and_shows_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (30, "30s"),
        (90, "1m30s"),
        (86400, "24h0m0s"),
        (0.1, "100ms"),
        (0.0015, "1.5ms"),
        (1.5, "1.5s"),
        (3e-9, "3ns"),
        (1e-5, "10µs"),
        (-5, "-5s"),
    ],
)
def test_writes_what_go_writes(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text

"""Sizes as people write them."""

from __future__ import annotations

import pytest

from underpass.ops.sizes import MAX_SIZE, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("500", 500),
        ("500B", 500),
        ("64kB", 64_000),
        ("64 KB", 64_000),
        ("100MB", 100_000_000),
        ("1.5GiB", 3 * 2**29),
        ("2TB", 2 * 10**12),
        ("1KiB", 1024),
        (str(MAX_SIZE), MAX_SIZE),
    ],
)
def test_units_are_decimal_or_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-1", "1,5GB", "1e3", "10 MiBs", "1 000", "0x10", ".5MB", "\u0661", "1MB\n"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_size(text)


def test_what_nothing_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="more than anything"):
        parse_size(str(MAX_SIZE + 1))

"""Addresses as applications are told them."""

from __future__ import annotations

import pytest

from underpass.edge.visitor_address import plain_address


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("::ffff:0:1", "::ffff:0:1"),
    ],
)
def test_an_address_is_told_plainly(address: str, told: str) -> None:
    assert plain_address(address) == told

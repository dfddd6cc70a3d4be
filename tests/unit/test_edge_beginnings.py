"""What an operator says about how connections begin."""

from __future__ import annotations

import pytest

from underpass.edge import passthrough, trusted_hops
from underpass.edge.errors import OptionsError
from underpass.edge.passthrough import NO_PASSTHROUGH, Passthrough
from underpass.edge.trusted_hops import NO_HOPS, TrustedHops


@pytest.mark.parametrize(
    ("address", "is_trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:192.0.2.8", False),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("fe80::1%eth0", True),
        ("fe81::1%eth0", False),
        ("::a01:203", False),
        ("", False),
        ("somebody", False),
    ],
)
def test_who_is_trusted(address: str, is_trusted: bool) -> None:
    hops = TrustedHops(("10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/64"))
    assert hops.trusts(address) == is_trusted
    assert not NO_HOPS.trusts(address)
    assert bool(hops)
    assert not NO_HOPS


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.com", "", "::/129", "1"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(OptionsError, match="is no network"):
        TrustedHops(("10.0.0.0/8", text))


def test_networks_are_bounded() -> None:
    networks = tuple(f"10.{number}.0.0/16" for number in range(trusted_hops.MAX_NETWORKS))
    assert TrustedHops(networks).trusts("10.255.0.1")
    with pytest.raises(OptionsError, match="at most"):
        TrustedHops((*networks, "11.0.0.0/8"))


@pytest.mark.parametrize(
    ("name", "is_covered"),
    [
        ("secret.example.com", True),
        ("x.secret.example.com", False),
        ("example.com", False),
        ("vault.example.com", False),
        ("a.vault.example.com", True),
        ("a.b.vault.example.com", True),
        ("avault.example.com", False),
        ("", False),
        (".vault.example.com", True),  # nobody's name, and nobody's route
        ("a" * 255, False),
    ],
)
def test_what_is_passed_through(name: str, is_covered: bool) -> None:
    passed = Passthrough(("secret.example.com", "*.vault.example.com"))
    assert passed.covers(name) == is_covered
    assert not NO_PASSTHROUGH.covers(name)
    assert bool(passed)
    assert not NO_PASSTHROUGH


@pytest.mark.parametrize("hostname", ["", "*", "*.*.example", "a b", "a..b", "*.Example.com", "a."])
def test_what_is_no_hostname(hostname: str) -> None:
    with pytest.raises(OptionsError, match=r"hostname|write "):
        Passthrough((hostname,))


def test_hostnames_are_bounded() -> None:
    hostnames = tuple(f"h{number}.example" for number in range(passthrough.MAX_HOSTNAMES))
    assert Passthrough(hostnames).covers("h7.example")
    with pytest.raises(OptionsError, match="at most"):
        Passthrough((*hostnames, "one.more"))

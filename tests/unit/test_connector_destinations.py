"""Where visitors may have a connector connect to: jump destinations and `ipRules`."""

from __future__ import annotations

import ipaddress

import pytest

from underpass.connector.origin_request import IPRule
from underpass.connector.services.ip_rules import IpRules
from underpass.connector.services.jump import MAX_DESTINATION, jump_destination


class TestJumpDestination:
    """docs: visitors' side §7."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (b"host.local:22", ("host.local", 22)),
            (b"10.0.0.1:3389", ("10.0.0.1", 3389)),
            (b"[::1]:22", ("::1", 22)),
            (b"[fe80::1%eth0]:22", ("fe80::1%eth0", 22)),
            (b"ssh://host.local:22", ("host.local", 22)),
            (b"ssh://user:secret@host.local:22/path?x=1", ("host.local", 22)),
            (b"//host.local:22", ("host.local", 22)),
            (b"host.local:22/path/more", ("host.local", 22)),
            (b"https://[2001:db8::1]:8443/x", ("2001:db8::1", 8443)),
        ],
    )
    def test_host_and_port(self, value: bytes, expected: tuple[str, int]) -> None:
        assert jump_destination(value) == expected

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            (b"host.local", "has no port"),
            (b"ssh://host.local", "has no port"),
            (b"::1", "has no port"),
            (b"2001:db8::1:22", "has no port"),
            (b"[::1]", "has no port"),
            (b"[::1:22", "has no port"),
            (b":22", "names no host"),
            (b"[]:22", "names no host"),
            (b"/host:22", "has no port"),
            (b"ho st:22", "names no host"),
            (b"host\x00:22", "names no host"),
            (b"host\n:22", "names no host"),
            (b"host:0", "no number"),
            (b"host:65536", "no number"),
            (b"host:000022", "no number"),
            (b"host:-1", "no number"),
            (b"host:", "no number"),
            (b"host:ssh", "no number"),
            ("host:٢٢".encode(), "no number"),
            (b"x" * MAX_DESTINATION + b":22", "longer than 1024 bytes"),
            (b"http://[::1", "no number"),
            (b"\xff\xfe", "has no port"),
        ],
    )
    def test_what_is_none(self, value: bytes, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            jump_destination(value)


def rules(*lines: str) -> IpRules:
    """`+10.0.0.0/8 22,80` allows, `-` denies."""
    parsed = []
    for line in lines:
        prefix, _, ports = line[1:].partition(" ")
        numbers = tuple(int(port) for port in ports.split(",") if port)
        parsed.append(IPRule(ipaddress.ip_network(prefix), numbers, line[0] == "+"))
    return IpRules(tuple(parsed))


class TestIpRules:
    """docs: configuration §5.2."""

    def test_without_rules_everything_is_denied(self) -> None:
        assert not rules()("127.0.0.1", 80)

    def test_what_no_rule_holds_is_denied(self) -> None:
        assert not rules("+10.0.0.0/8")("11.0.0.1", 80)

    def test_the_first_that_holds_it_decides(self) -> None:
        ordered = rules("-10.1.0.0/16", "+10.0.0.0/8", "-0.0.0.0/0")
        assert ordered("10.2.0.1", 80)
        assert not ordered("10.1.0.1", 80)

    def test_ports(self) -> None:
        some = rules("+10.0.0.0/8 22,80", "-10.0.0.0/8", "+0.0.0.0/0 443")
        assert some("10.0.0.1", 22)
        assert not some("10.0.0.1", 443)
        assert some("11.0.0.1", 443)

    def test_families_are_apart(self) -> None:
        assert not rules("+0.0.0.0/0")("::1", 80)
        assert not rules("+::/0")("127.0.0.1", 80)
        assert rules("+::/0")("2001:db8::1", 80)

    def test_another_spelling_of_an_ipv4_address_is_that_address(self) -> None:
        assert not rules("-127.0.0.0/8", "+0.0.0.0/0", "+::/0")("::ffff:127.0.0.1", 80)
        assert rules("+10.0.0.0/8")("::ffff:10.0.0.1", 80)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
    def test_the_unspecified_address_is_never_allowed(self, host: str) -> None:
        """It would be this machine, past a rule that denies 127.0.0.0/8."""
        assert not rules("-127.0.0.0/8", "-::1/128", "+0.0.0.0/0", "+::/0")(host, 80)

    def test_a_zone_is_no_part_of_an_address(self) -> None:
        assert rules("+fe80::/10")("fe80::1%eth0", 80)

"""The header of HAProxy's PROXY protocol, byte by byte (its specification, §2.1 and §2.2)."""

from __future__ import annotations

import pytest

from underpass.wire.proxy_protocol import proxy_header, visitor_address

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def header(version: str, source: bytes | None, host: str = "10.0.0.9", port: int = 22) -> bytes:
    return proxy_header(version, visitor_address(source), host, port)


@pytest.mark.parametrize(
    ("source", "host", "expected"),
    [
        (b"192.0.2.1", "10.0.0.9", b"PROXY TCP4 192.0.2.1 10.0.0.9 0 22\r\n"),
        (b"2001:db8::1", "::1", b"PROXY TCP6 2001:db8::1 ::1 0 22\r\n"),
        (b"2001:DB8:0::1", "::1", b"PROXY TCP6 2001:db8::1 ::1 0 22\r\n"),
        (b"::ffff:192.0.2.1", "10.0.0.9", b"PROXY TCP4 192.0.2.1 10.0.0.9 0 22\r\n"),
        (b"192.0.2.1", "::ffff:10.0.0.9", b"PROXY TCP4 192.0.2.1 10.0.0.9 0 22\r\n"),
        (b"192.0.2.1", "2001:db8::9", b"PROXY TCP4 192.0.2.1 0.0.0.0 0 22\r\n"),
        (b"192.0.2.1", "fe80::1%eth0", b"PROXY TCP4 192.0.2.1 0.0.0.0 0 22\r\n"),
        (None, "10.0.0.9", b"PROXY UNKNOWN\r\n"),
        (b"", "10.0.0.9", b"PROXY UNKNOWN\r\n"),
        (b"unknown", "10.0.0.9", b"PROXY UNKNOWN\r\n"),
        (b"192.0.2.1\r\nHELO", "10.0.0.9", b"PROXY UNKNOWN\r\n"),
        (b"fe80::1%eth0", "::1", b"PROXY UNKNOWN\r\n"),
        (b"\xff", "::1", b"PROXY UNKNOWN\r\n"),
    ],
)
def test_version_1(source: bytes | None, host: str, expected: bytes) -> None:
    assert header("v1", source, host) == expected
    assert len(expected) <= 107


def test_version_1_of_an_ipv6_visitor_at_an_ipv4_origin() -> None:
    words = header("v1", b"2001:db8::1", "10.0.0.9").split()
    assert words[:3] == [b"PROXY", b"TCP6", b"2001:db8::1"]
    assert words[3] in (b"::ffff:10.0.0.9", b"::ffff:a00:9")


def test_version_2_over_ipv4() -> None:
    assert header("v2", b"192.0.2.1") == SIGNATURE + bytes.fromhex(
        "21 11 000c c0000201 0a000009 0000 0016"
    )


def test_version_2_over_ipv6() -> None:
    assert header("v2", b"2001:db8::1", "::1", 443) == SIGNATURE + bytes.fromhex(
        "21 21 002420010db8000000000000000000000001 00000000000000000000000000000001 0000 01bb"
    )


def test_version_2_of_an_ipv6_visitor_at_an_ipv4_origin() -> None:
    assert header("v2", b"2001:db8::1")[32:48] == bytes(10) + b"\xff\xff\x0a\x00\x00\x09"


@pytest.mark.parametrize("source", [None, b"", b"unknown", b"300.1.1.1"])
def test_version_2_without_a_source(source: bytes | None) -> None:
    assert header("v2", source) == SIGNATURE + bytes.fromhex("20 00 0000")

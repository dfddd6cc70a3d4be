"""Hostnames: which can be served, and which one a request names."""

from __future__ import annotations

import pytest

from underpass.edge.errors import HostnameError
from underpass.edge.hostnames import (
    MAX_AUTHORITY_LENGTH,
    MAX_HOSTNAME_LENGTH,
    MAX_LABEL_LENGTH,
    hostname_of,
    normalize_hostname,
)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("localhost", "localhost"),
        ("App.Example.COM", "app.example.com"),
        ("app.example.com.", "app.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_acme_challenge.a-b.example", "_acme_challenge.a-b.example"),
        ("a", "a"),
    ],
)
def test_a_hostname_is_made_normal(given: str, normal: str) -> None:
    assert normalize_hostname(given) == normal


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("", "empty"),
        (".", "empty"),
        ("a..b", "malformed label ''"),
        ("-a.example", "malformed label"),
        ("a-.example", "malformed label"),
        ("a b.example", "malformed label"),
        ("a.example:80", "malformed label"),
        ("bücher.example", "not ASCII"),
        ("*.example.com", "wildcard"),
        ("*", "malformed label"),
        ("a.*.example", "malformed label"),
        ("a\n.example", "malformed label"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(given: str, complaint: str) -> None:
    with pytest.raises(HostnameError, match=complaint):
        normalize_hostname(given)


def test_a_wildcard_where_one_is_allowed() -> None:
    assert normalize_hostname("*.Example.com", wildcard=True) == "*.example.com"
    for given in ("*", "*.", "**.example.com", "a*.example.com", "*.*.example.com"):
        with pytest.raises(HostnameError):
            normalize_hostname(given, wildcard=True)


def test_labels_and_names_are_bounded() -> None:
    assert normalize_hostname("a" * MAX_LABEL_LENGTH)
    with pytest.raises(HostnameError, match="label of 64"):
        normalize_hostname("a" * (MAX_LABEL_LENGTH + 1))
    longest = ".".join(["a" * 49] * 5) + ".bbb"
    assert len(longest) == MAX_HOSTNAME_LENGTH
    assert normalize_hostname(longest + ".") == longest
    with pytest.raises(HostnameError, match="254 characters"):
        normalize_hostname(longest + "b")


@pytest.mark.parametrize(
    ("authority", "hostname"),
    [
        (b"example.com", "example.com"),
        (b"EXAMPLE.com:8443", "example.com"),
        (b"example.com.", "example.com"),
        (b"example.com.:443", "example.com"),
        (b"example.com:", "example.com"),
        (b"[::1]:8080", "[::1]"),
        (b"[2001:DB8::1]", "[2001:db8::1]"),
        ("text.example:80", "text.example"),
    ],
)
def test_the_hostname_of_an_authority(authority: bytes | str, hostname: str) -> None:
    assert hostname_of(authority) == hostname


@pytest.mark.parametrize(
    "authority",
    [
        b"",
        b":80",
        b".",
        b".:80",
        b"a:b",
        b"a:80:80",
        b"a:-1",
        b"a:123456",
        b"[::1",
        b"[::1]x",
        b"[::1]:x",
        b"\xff.example",
        "bücher.example",
        "a:\u0661",
    ],
)
def test_authorities_that_name_nothing(authority: bytes | str) -> None:
    assert hostname_of(authority) is None


def test_an_authority_longer_than_any_name_is_not_looked_at() -> None:
    assert hostname_of(b"a" * MAX_AUTHORITY_LENGTH) is not None
    assert hostname_of(b"a" * (MAX_AUTHORITY_LENGTH + 1)) is None

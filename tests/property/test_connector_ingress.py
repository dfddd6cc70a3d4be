"""The compiled matcher gives the answer of a plain walk down the list."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from underpass.connector.ingress import AMBIGUOUS, Ingress, Rule, split_host_port
from underpass.connector.origins import HttpStatus
from underpass.connector.path_pattern import PathPattern
from underpass.connector.request_path import readings

_labels = st.sampled_from(["a", "b", "*abc", "com"])
_hosts = st.lists(_labels, min_size=1, max_size=4).map(".".join)
_hostnames = st.one_of(st.sampled_from(["", "*"]), _hosts, _hosts.map("*.{}".format))
_paths = st.sampled_from([None, "^/a", "b$", "/", "^/a b$", "(a+)+$"])
_rules = st.lists(st.tuples(_hostnames, _paths), max_size=8)
_requests = st.lists(
    st.tuples(
        _hosts,
        st.sampled_from(["", ":80", ":"]),
        st.sampled_from(["/", "/a", "/b", "/a%20b", "/xa?b", ""]),
    ),
    min_size=1,
    max_size=8,
)


def first_match(rules: list[Rule], host: str, path: str) -> int:
    """The rule of docs: configuration §3.1, word by word."""
    host = split_host_port(host.encode()).decode().lower().removesuffix(".")
    for index, rule in enumerate(rules):
        wildcard = rule.hostname.startswith("*.") and host.endswith(rule.hostname[1:])
        if rule.hostname not in ("", "*", host) and not wildcard:
            continue
        if rule.path is None or rule.path.matches(unquote(path.partition("?")[0])):
            return index
    raise AssertionError("the last rule matches everything")


@settings(max_examples=300)
@given(_rules, _requests)
def test_compiled_rules_agree_with_a_linear_walk(
    listed: list[tuple[str, str | None]], requests: list[tuple[str, str, str]]
) -> None:
    rules = [
        Rule(HttpStatus(200), hostname, PathPattern(path) if path else None)
        for hostname, path in listed
    ]
    rules.append(Rule(HttpStatus(404)))
    ingress = Ingress(rules)
    for _ in range(2):  # the second round answers from what the first one remembered
        for host, port, path in requests:
            expected = first_match(rules, host + port, path)
            assert ingress.match((host + port).encode(), path.encode()) == expected


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_match_some_rule(host: bytes, path: bytes) -> None:
    ingress = Ingress([Rule(HttpStatus(200), "*.x", PathPattern("^/a+")), Rule(HttpStatus(404))])
    assert ingress.match(host, path) in (0, 1, AMBIGUOUS)


# What paths that are up to something are made of.
_pieces = st.sampled_from(
    [
        *("/", "//", "a", "b", "a/b", ".", "..", "\\", "%", ";", "..;x", "?", "é"),
        *("%61", "%2e", "%2E", "%2f", "%2F", "%5c", "%25", "%3f", "%C3%A9", "%ff"),
        *("%2561", "%252e", "%252f", "%25252e"),
    ]
)
_crafted = st.lists(_pieces, max_size=12).map(lambda pieces: "/" + "".join(pieces))
_patterns = st.sampled_from(["^/a", "^/a/", "b$", "^/[^/]+$", "^/a/b", "/", r"\.", "^/b(/|$)", "%"])


def fully_normalised(path: bytes) -> bytes:
    """Decoded until nothing is left, slashes straight, without dot segments; and encoded once."""
    text = path.partition(b"?")[0]
    while text != (text := unquote_to_bytes(text)):
        pass
    kept: list[bytes] = []
    segments = text.replace(b"\\", b"/").split(b"/")[1:]
    for segment in segments:
        name = segment.partition(b";")[0] if segment.startswith(b".") else segment
        if name == b"..":
            kept = kept[:-1]
        elif name != b".":
            kept.append(segment)
    if segments[-1].partition(b";")[0] in (b".", b".."):
        kept.append(b"")
    return b"/" + quote_from_bytes(b"/".join(kept)).encode()


@settings(max_examples=2000)
@given(st.lists(_patterns, min_size=1, max_size=3), _crafted)
def test_a_path_and_what_it_comes_to_get_the_same_rule_or_none(
    patterns: list[str], path: str
) -> None:
    ingress = Ingress(
        [
            *(Rule(HttpStatus(200), "", PathPattern(text)) for text in patterns),
            Rule(HttpStatus(404)),
        ]
    )
    chosen = ingress.match(b"h", path.encode())
    if chosen != AMBIGUOUS:
        assert ingress.match(b"h", fully_normalised(path.encode())) == chosen


@given(st.binary(max_size=60))
def test_readings_are_few_and_the_same_again(path: bytes) -> None:
    found = readings(path)
    assert len(found) == len(set(found)) <= 6
    assert readings(path) == found

"""The compiled matcher gives the answer of a plain walk down the list."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from underpass.connector.ingress import Ingress, Rule, split_host_port
from underpass.connector.origins import HttpStatus
from underpass.connector.path_pattern import PathPattern

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
    host = split_host_port(host.encode()).decode()
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
    assert ingress.match(host, path) in (0, 1)

"""Configuration documents: YAML 1.2 values with lines, JSON with durations in seconds."""

from __future__ import annotations

import pytest

from underpass.ops import document
from underpass.ops.document import ConfigError, parse_json, parse_yaml


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = """
a: yes
b: true
c: 010
d: 0x10
e: 22:30
f: 2026-01-02
g: 1.5
h: ~
i: "4"
j:
k: 10
l: -3
m: off
"""
    assert parse_yaml(text, "x").value == {
        "a": "yes",
        "b": True,
        "c": 8,
        "d": 16,
        "e": "22:30",
        "f": "2026-01-02",
        "g": 1.5,
        "h": None,
        "i": "4",
        "j": None,
        "k": 10,
        "l": -3,
        "m": "off",
    }


def test_only_the_first_document_counts_and_an_empty_file_is_nothing() -> None:
    assert parse_yaml("a: 1\n---\nb: 2\n", "x").value == {"a": 1}
    assert parse_yaml("", "x").value is None
    assert parse_yaml("# nothing here\n", "x").root.values == {}


def test_anchors_and_merge_keys_work() -> None:
    text = "base: &base {a: 1, b: 2}\nuse:\n  <<: *base\n  b: 3\n"
    assert parse_yaml(text, "x").value["use"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "config.yml, line 3: the key 'a' is given twice"),
        ("a: [1\n", "config.yml, line 2: not valid YAML"),
        ("a: 1\n b: 2\n", "config.yml, line 2: not valid YAML"),
        ("? [a]\n: 1\n", "config.yml, line 1: a key must be a plain word"),
        ("- 1\n", "config.yml, line 1: expected a mapping, found a list"),
        ("a: &x [*x]\n", "config.yml, line 1: nested deeper than"),
        ("a: !!int ten\n", "config.yml, line 1: 'ten' is not a number"),
        ("a: \x00\n", "config.yml: not valid YAML"),
    ],
)
def test_what_is_not_a_configuration_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = parse_yaml(text, "config.yml").root
    assert str(caught.value).startswith(message)


def test_aliases_cannot_blow_the_document_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match=f"more than {document.MAX_VALUES} values"):
        parse_yaml("\n".join(lines), "x")


def test_a_file_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        parse_yaml(b" " * (document.MAX_DOCUMENT + 1), "x")


def test_values_are_read_with_their_type_or_refused_with_the_line() -> None:
    root = parse_yaml("a: 4\nb: text\nc: 1m30s\nd: [x, 2]\ne: true\n", "config.yml").root
    assert root.integer("a") == 4
    assert root.string("b") == "text"
    assert root.duration("c") == 90
    assert root.boolean("e") is True
    assert root.string("missing") is None
    for read, key, message in (
        (root.string, "a", "line 1: a: expected a string, found the number 4; write"),
        (root.integer, "b", "line 2: b: expected a whole number, found the string 'text'"),
        (root.integer, "e", "line 5: e: expected a whole number, found the boolean true"),
        (root.boolean, "b", "line 2: b: expected true or false"),
        (root.duration, "a", "line 1: a: expected a duration such as 30s"),
        (root.duration, "b", "line 2: b: 'text' is not a duration"),
        (root.strings, "d", "line 4: d[1]: expected a string, found the number 2"),
        (root.strings, "b", "line 2: b: expected a list of strings"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(key)
        assert message in str(caught.value)


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    root = parse_yaml("one: 1\nOrigincert: x\nnotlsverify: true\n", "config.yml").root
    with pytest.raises(ConfigError, match=r"line 2: Origincert: unknown key; did you mean 'orig"):
        root.refuse_unknown(frozenset({"one", "origincert", "notlsverify"}))
    with pytest.raises(ConfigError, match=r"line 3: .*did you mean 'noTLSVerify'\?"):
        root.refuse_unknown(frozenset({"one", "Origincert", "noTLSVerify"}))


def test_json_counts_durations_in_seconds_and_knows_no_lines() -> None:
    root = parse_json('{"a": 30, "b": "30s", "c": 1.5}', "--json").root
    assert root.duration("a") == 30.0
    for key in "bc":
        with pytest.raises(ConfigError, match=f"--json: {key}: expected a whole number of seconds"):
            root.duration(key)


@pytest.mark.parametrize("text", ["{", '{"a":1,"a":2}', "[" * 100_000])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--json: "):
        _ = parse_json(text, "--json").root

"""Path patterns mean what Go's regular expressions mean, and never take long."""

from __future__ import annotations

import pytest

from underpass.connector import path_pattern
from underpass.connector.path_pattern import PathPattern, PatternError


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/foo", "/x/foo/y", True),
        ("^/a b$", "/a b", True),
        (r"^/a$", "/a\n", False),  # Python's $ would match
        (r"^\d+$", "٣", False),  # Python's \d would match
        (r"(?i)^/API", "/api/x", True),
        (r"(?i:api)/X", "/API/x", False),
        (r"^/(a|b)/c", "/b/c", True),
        (r"^/(?P<name>[a-z]+)$", "/abc", True),
        (r"^/(?<name>[a-z]+)$", "/abc", True),
        (r"[[:digit:]]{3}", "/123", True),
        (r"^/[^[:alpha:]]$", "/a", False),
        (r"\.(jpg|png)$", "/x.png", True),
        (r"\Q.*\E", "/.*", True),
        (r"\Q.*\E", "/ab", False),
        (r"{,3}", "/{,3}", True),
        (r"a{2}", "/a", False),
        (r"a{2,}b", "/aaab", True),
        (r"\bword\b", "/a-word", True),
        (r"\bword\b", "/awords", False),
        (r"x\By", "/xy", True),
        (r"\B", "", True),
        (r"^.$", "\n", False),
        (r"(?s)^.$", "\n", True),
        (r"(?m)^b$", "a\nb\nc", True),
        (r"\x2Fa\x{2F}b\057c", "/a/b/c", True),
        (r"^\pL+$", "/é", False),
        (r"^/\p{Lu}", "/É", True),
        (r"^/\P{Lu}", "/É", False),
        (r"[]a]", "]", True),
        (r"[a-]", "-", True),
        ("", "/", True),
        ("a||b", "/", True),
    ],
)
def test_reads_patterns_as_go_does(pattern: str, path: str, matches: bool) -> None:
    compiled = PathPattern(pattern)
    assert compiled.matches(path) is matches
    assert compiled._machine.search(path) is matches


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?=a)", "look-around"),
        ("(?!a)", "look-around"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "back-references"),
        ("(?P=name)", "unknown kind of group"),
        ("(?>a)", "unknown kind of group"),
        ("a**", "after another one"),
        ("a++", "after another one"),
        ("*a", "nothing to repeat"),
        ("(", "not closed"),
        ("a)", r"unexpected '\)' at character 2"),
        ("[a", "not closed"),
        ("[b-a]", "backwards"),
        ("a{1001}", "above 1000"),
        ("a{3,2}", "backwards"),
        (r"\p{Greek}", "general categories"),
        (r"\Z", "unknown escape"),
        ("\\", "nothing after it"),
        ("(" * 200 + ")" * 200, "nested deeper"),
        ("(?:a{1000}){1000}", "too large"),
        ("a" * 5000, "longer than"),
    ],
)
def test_refuses_what_go_refuses_and_says_why(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        PathPattern(pattern)


@pytest.mark.parametrize("pattern", [r"^(a+)+$", r"^(a|a)*$", r"(a?){30}a{30}$", r".*.*.*.*.*=$"])
def test_a_path_made_to_exhaust_a_backtracking_matcher_is_answered(pattern: str) -> None:
    """With `re` alone each of these would run past any patience."""
    assert PathPattern(pattern).matches("a" * 5000 + "!") is False


def test_what_the_machine_remembers_is_bounded() -> None:
    pattern = PathPattern(r"([a-z]+-)*x$")
    for number in range(3 * path_pattern.MAX_REMEMBERED):
        pattern.matches(chr(0x4E00 + number))
    assert pattern._machine._remembered <= path_pattern.MAX_REMEMBERED

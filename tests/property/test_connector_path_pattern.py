"""The state machine and Python's `re` agree on every pattern both can read."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from underpass.connector.path_pattern import PathPattern, PatternError

# Atoms on which RE2 and `re` agree, given ASCII text without newlines.
_atoms = st.sampled_from(["a", "b", "/", ".", "[ab]", "[^a]", "^", r"\b", r"\w", r"\A", "(?:)"])
_patterns = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(_patterns, st.text(alphabet="ab/", max_size=6))
def test_machine_and_backtracking_agree(pattern: str, path: str) -> None:
    compiled = PathPattern(pattern)
    expected = re.search(pattern, path, re.ASCII) is not None
    assert compiled._machine.search(path) is expected
    assert (compiled._search(path) is not None) is expected


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=r"ab\[](){}?*+|^$.-:<P=!,0123xpdLQE", max_size=14))
def test_any_text_is_a_pattern_or_a_pattern_error(text: str) -> None:
    try:
        compiled = PathPattern(text)
    except PatternError:
        return
    assert compiled._machine.search("/ab") is (compiled._search("/ab") is not None)

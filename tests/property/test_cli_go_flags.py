"""Rewriting a command line loses nothing and is done once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from underpass.cli.go_flags import Flag, normalize

FLAGS = {"url": Flag("url"), "edge": Flag("edge"), "yes": Flag("yes", is_boolean=True)}
_words = st.text(alphabet="ab=-/.:", min_size=1, max_size=5)
_values = st.text(max_size=8)


@given(st.lists(st.tuples(st.sampled_from(["url", "edge"]), _values, st.booleans(), st.booleans())))
def test_every_spelling_of_a_flag_gives_the_same(
    flags: list[tuple[str, str, bool, bool]],
) -> None:
    given_arguments: list[str] = []
    for name, value, one_dash, joined in flags:
        dashed = f"{'-' if one_dash else '--'}{name}"
        given_arguments += [f"{dashed}={value}"] if joined else [dashed, value]
    expected = [f"--{name}={value}" for name, value, _, _ in flags]
    assert normalize(given_arguments, FLAGS, stop_at_word=False) == expected


@given(st.lists(st.one_of(_words, st.sampled_from(["-url", "--yes", "--", "-edge=x"])), max_size=8))
def test_rewriting_again_changes_nothing(arguments: list[str]) -> None:
    once = normalize(arguments, FLAGS, stop_at_word=True)
    if once[-1:] != ["--url"] and once[-1:] != ["--edge"]:
        assert normalize(once, FLAGS, stop_at_word=True) == once

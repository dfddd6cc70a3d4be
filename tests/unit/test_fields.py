"""Fields: an ordered list of (name, value) pairs in one arena (RFC 9110 §5)."""

from __future__ import annotations

import pytest

from underpass.core.fields import Fields, Token

ARENA_LIMIT = 4 * 1024 * 1024  # octets; fields.pyx


def test_fields_keep_order_case_and_repetition() -> None:
    pairs = [(b"Host", b"a"), (b"set-cookie", b"1"), (b"Set-Cookie", b"2"), (b"x", b"")]
    fields = Fields(pairs)
    assert list(fields) == pairs
    assert len(fields) == 4


def test_a_new_list_is_empty() -> None:
    fields = Fields()
    assert list(fields) == []
    assert len(fields) == 0
    assert fields.get(b"host") is None


@pytest.mark.parametrize("name", [b"set-cookie", b"Set-Cookie", b"SET-COOKIE"])
def test_look_up_ignores_case(name: bytes) -> None:
    fields = Fields([(b"Set-Cookie", b"1"), (b"Other", b"x"), (b"set-cookie", b"2")])
    assert fields.get(name) == b"1"
    assert fields.get_all(name) == [b"1", b"2"]


def test_get_takes_a_default() -> None:
    assert Fields([(b"a", b"")]).get(b"a", b"d") == b""
    assert Fields().get(b"a", b"d") == b"d"


def test_remove_takes_every_field_of_that_name_and_no_other() -> None:
    fields = Fields([(b"A", b"1"), (b"b", b"2"), (b"a", b"3"), (b"aa", b"4")])
    fields.remove(b"a")
    assert list(fields) == [(b"b", b"2"), (b"aa", b"4")]
    assert len(fields) == 2
    assert fields.get(b"a") is None


def test_a_removed_name_can_be_added_again() -> None:
    fields = Fields([(b"a", b"1")])
    fields.remove(b"a")
    fields.append(b"a", b"2")
    assert list(fields) == [(b"a", b"2")]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 64, 65, 1000])
def test_clear_forgets_all_and_the_list_is_of_use_again(count: int) -> None:
    fields = Fields((b"n%d" % i, b"v" * i) for i in range(count))
    fields.clear()
    assert list(fields) == []
    pairs = [(b"m%d" % i, b"w" * i) for i in range(count)]
    for name, value in pairs:
        fields.append(name, value)
    assert list(fields) == pairs


def test_a_list_may_grow_while_it_is_walked() -> None:
    fields = Fields([(b"a", b"1")])
    walk = iter(fields)
    assert next(walk) == (b"a", b"1")
    fields.append(b"b", b"2")
    assert next(walk) == (b"b", b"2")


def test_a_list_may_be_cleared_while_it_is_walked() -> None:
    fields = Fields((b"n", b"v" * 100) for _ in range(200))
    walk = iter(fields)
    next(walk)
    fields.clear()
    assert list(walk) == []


def test_any_octets_are_kept() -> None:
    every = bytes(range(256))
    assert list(Fields([(every, every), (b"", b"")])) == [(every, every), (b"", b"")]


def test_repr_shows_no_values() -> None:
    assert b"secret".decode() not in repr(Fields([(b"cookie", b"secret")]))


@pytest.mark.parametrize("pair", [(None, b""), (b"", None), ("a", b""), (b"", "a")])
def test_only_bytes_are_taken(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(TypeError):
        Fields([pair])


@pytest.mark.parametrize("spare", [1, 2])
def test_one_field_up_to_the_arena_limit_fits(spare: int) -> None:
    value = b"v" * (ARENA_LIMIT - 1 - spare)
    fields = Fields([(b"n", value)])
    assert fields.get(b"n") == value


@pytest.mark.parametrize("excess", [1, 1024 * 1024])
def test_one_field_over_the_arena_limit_is_refused(excess: int) -> None:
    with pytest.raises(MemoryError):
        Fields([(b"n", b"v" * (ARENA_LIMIT - 1 + excess))])


def test_many_fields_cannot_pass_the_arena_limit_together() -> None:
    fields = Fields()
    value = b"v" * (ARENA_LIMIT // 4 - 2)
    for _ in range(4):
        fields.append(b"n", value)
    with pytest.raises(MemoryError):
        fields.append(b"n", b"12345")
    assert len(fields) == 4
    assert fields.get_all(b"n") == [value] * 4


def test_growth_by_doubling_does_not_lift_the_arena_limit() -> None:
    fields = Fields([(b"n", b"v" * (ARENA_LIMIT // 4 * 3))])
    fields.append(b"n", b"v" * (ARENA_LIMIT // 8))
    with pytest.raises(MemoryError):
        fields.append(b"n", b"v" * (ARENA_LIMIT // 4))


def test_token_zero_is_every_other_name() -> None:
    assert Token.T_OTHER == 0
    assert len({token.value for token in Token}) == len(Token)

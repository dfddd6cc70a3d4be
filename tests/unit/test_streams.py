"""StreamTable: stream identifiers to streams."""

from __future__ import annotations

import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underpass.core.streams import StreamTable


class Thing:
    """Something with a weak reference."""


def test_a_new_table_is_empty() -> None:
    table = StreamTable()
    assert len(table) == table.count == 0
    assert 1 not in table
    assert table.all() == []
    with pytest.raises(KeyError):
        table[1]
    with pytest.raises(KeyError):
        del table[1]


def test_what_was_put_is_found_until_it_is_removed() -> None:
    table = StreamTable()
    table[1] = "one"
    table[2**32 - 1] = "last"
    assert table[1] == "one"
    assert table[2**32 - 1] == "last"
    assert len(table) == 2
    del table[1]
    assert 1 not in table
    assert table.all() == ["last"]


def test_stream_zero_is_the_connection_and_never_in_the_table() -> None:
    table = StreamTable()
    with pytest.raises(ValueError, match="identifier 0"):
        table[0] = "zero"
    assert 0 not in table


def test_an_identifier_is_put_once() -> None:
    table = StreamTable()
    table[1] = "one"
    with pytest.raises(ValueError, match="already"):
        table[1] = "again"
    assert table[1] == "one"
    assert len(table) == 1


@pytest.mark.parametrize("key", [-1, 2**32])
def test_identifiers_have_32_bits(key: int) -> None:
    with pytest.raises(OverflowError):
        key in StreamTable()  # noqa: B015
    with pytest.raises(OverflowError):
        StreamTable()[key] = "value"


def test_the_table_owns_its_values_until_they_are_removed() -> None:
    table = StreamTable()
    first, second = Thing(), Thing()
    seen = weakref.ref(first), weakref.ref(second)
    table[1], table[3] = first, second
    del first, second
    assert seen[0]() is not None
    del table[1]
    assert seen[0]() is None
    del table
    assert seen[1]() is None


def test_removing_may_run_code_that_uses_the_table() -> None:
    table = StreamTable()

    class Last:
        def __del__(self) -> None:
            table[5] = "put by a destructor"

    table[1] = Last()
    del table[1]
    assert table[5] == "put by a destructor"
    assert len(table) == 1


@pytest.mark.parametrize("count", [10, 11, 21, 22, 5000])
def test_it_grows_without_losing_anything(count: int) -> None:
    table = StreamTable()
    keys = [2 * i + 1 for i in range(count)]
    for key in keys:
        table[key] = key
    assert len(table) == count
    assert all(table[key] == key for key in keys)
    assert sorted(map(int, table.all())) == keys  # type: ignore[call-overload]


@given(
    st.lists(
        st.tuples(st.booleans(), st.one_of(st.integers(1, 40), st.integers(1, 2**32 - 1))),
        max_size=300,
    )
)
def test_it_agrees_with_a_dict(steps: list[tuple[bool, int]]) -> None:
    table, model = StreamTable(), dict[int, object]()
    for put, key in steps:
        if put and key not in model:
            table[key] = model[key] = object()
        elif not put and key in model:
            del table[key], model[key]
        assert (key in table) is (key in model)
        assert len(table) == len(model)
    assert all(table[key] is value for key, value in model.items())
    assert set(map(id, table.all())) == set(map(id, model.values()))


@pytest.mark.parametrize("step", [2, 4, 6, 1 << 12, 1 << 16])
def test_a_peer_cannot_choose_identifiers_that_share_a_place(step: int) -> None:
    """The bound is loose: random places need about 40 looks at this load, chosen ones thousands."""
    table = StreamTable()
    for i in range(20_000):
        table[1 + i * step] = None
    assert table.longest_search < 400

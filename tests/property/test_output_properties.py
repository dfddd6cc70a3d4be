"""Output and Backlog against a plain bytearray, over any sequence of steps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from underpass.core.fields import Fields
from underpass.core.output import Backlog, Output

# Sizes around the boundaries at which stores grow, are kept or are given back.
SIZE = st.one_of(
    st.integers(0, 40),
    st.sampled_from([511, 512, 513, 1023, 1024, 1025, 16384, 16385, 65536, 65537]),
    st.integers(0, 40_000),
)


def text(step: int, size: int) -> bytes:
    """`size` octets that differ from step to step and along the way."""
    return bytes((step * 31 + i) & 0xFF for i in range(min(size, 256))) * (size // 256 + 1)


@settings(deadline=None)
@given(st.lists(st.one_of(SIZE, st.none()), max_size=40))
def test_output_is_a_bytearray_that_is_handed_over(steps: list[int | None]) -> None:
    out, model = Output(), bytearray()
    handed: list[tuple[bytes, bytes]] = []
    for step, size in enumerate(steps):
        if size is None:
            handed.append((out.collect(), bytes(model)))
            model.clear()
        else:
            part = text(step, size)[:size]
            out.add(part)
            model += part
        assert len(out) == len(model)
    handed.append((out.collect(), bytes(model)))
    for got, wanted in handed:
        assert got == wanted


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), SIZE), max_size=60))
def test_backlog_is_a_queue_of_octets(steps: list[tuple[bool, int]]) -> None:
    backlog, model = Backlog(), bytearray()
    for step, (adds, size) in enumerate(steps):
        if adds:
            part = text(step, size)[:size]
            backlog.add(part)
            model += part
        else:
            assert backlog.remove(size) == bytes(model[:size])
            del model[:size]
        assert len(backlog) == len(model)
    assert backlog.remove(len(model)) == bytes(model)


NAME = st.sampled_from([b"host", b"Host", b"x-a", b"X-A", b"set-cookie", b"", b":path"])
STEP = st.one_of(
    st.tuples(st.just("append"), NAME, st.binary(max_size=300)),
    st.tuples(st.just("remove"), NAME, st.just(b"")),
    st.tuples(st.just("clear"), st.just(b""), st.just(b"")),
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=120))
def test_fields_are_a_list_of_pairs(steps: list[tuple[str, bytes, bytes]]) -> None:
    fields, model = Fields(), list[tuple[bytes, bytes]]()
    for what, name, value in steps:
        if what == "append":
            fields.append(name, value)
            model.append((name, value))
        elif what == "remove":
            fields.remove(name)
            model = [pair for pair in model if pair[0].lower() != name.lower()]
        else:
            fields.clear()
            model = []
        assert len(fields) == len(model)
        found = [pair[1] for pair in model if pair[0].lower() == name.lower()]
        assert fields.get_all(name) == found
        assert fields.get(name, b"none") == (found[0] if found else b"none")
    assert list(fields) == model

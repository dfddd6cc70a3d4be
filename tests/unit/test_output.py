"""Output (gather and hand over) and Backlog (wait in order)."""

from __future__ import annotations

from array import array

import pytest

from underpass.core.output import Backlog, Output

SIZES = [1, 511, 512, 513, 1024, 4096, 65536, 65537, 1_000_000]


def test_a_new_output_is_empty() -> None:
    out = Output()
    assert len(out) == 0
    assert out.collect() == b""


def test_output_joins_what_was_added() -> None:
    out = Output()
    for part in (b"one", b"", bytearray(b" two"), memoryview(b" three")):
        out.add(part)
    assert len(out) == len(b"one two three")
    assert out.collect() == b"one two three"


def test_output_is_empty_after_collecting() -> None:
    out = Output()
    out.add(b"x")
    out.collect()
    assert len(out) == 0
    assert out.collect() == b""


@pytest.mark.parametrize("size", SIZES)
def test_what_was_collected_is_not_touched_by_later_turns(size: int) -> None:
    out = Output()
    out.add(b"a" * size)
    first = out.collect()
    out.add(b"b" * size)
    second = out.collect()
    assert (first, second) == (b"a" * size, b"b" * size)


def test_output_grows_over_many_small_additions() -> None:
    out = Output()
    for i in range(20_000):
        out.add(b"%06d" % i)
    assert out.collect() == b"".join(b"%06d" % i for i in range(20_000))


@pytest.mark.parametrize("size", SIZES)
def test_small_turns_after_a_large_one_are_right(size: int) -> None:
    # The first capacity follows what recent turns needed, down as well as up.
    out = Output()
    out.add(b"L" * size)
    assert len(out.collect()) == size
    for i in range(12):
        out.add(b"%d" % i)
        assert out.collect() == b"%d" % i


@pytest.mark.parametrize("holder", [Output, Backlog])
def test_only_contiguous_octets_are_taken(holder: type[Output | Backlog]) -> None:
    with pytest.raises((TypeError, ValueError, BufferError)):
        holder().add(memoryview(b"abcdef")[::2])
    with pytest.raises((TypeError, ValueError)):
        holder().add(array("i", [1, 2]))
    with pytest.raises(TypeError):
        holder().add(None)  # type: ignore[arg-type]


def test_backlog_is_first_in_first_out() -> None:
    backlog = Backlog()
    backlog.add(b"abc")
    backlog.add(b"def")
    assert len(backlog) == 6
    assert backlog.remove(2) == b"ab"
    backlog.add(b"gh")
    assert backlog.remove(5) == b"cdefg"
    assert backlog.remove(5) == b"h"
    assert backlog.remove(5) == b""
    assert len(backlog) == 0


def test_backlog_removes_nothing_when_asked_for_nothing() -> None:
    backlog = Backlog()
    backlog.add(b"abc")
    assert backlog.remove(0) == b""
    assert len(backlog) == 3


def test_backlog_refuses_a_negative_size() -> None:
    with pytest.raises(ValueError, match="negative"):
        Backlog().remove(-1)


@pytest.mark.parametrize("size", SIZES)
def test_backlog_is_of_use_again_after_running_empty(size: int) -> None:
    backlog = Backlog()
    for octet in (b"a", b"b"):
        backlog.add(octet * size)
        assert backlog.remove(size) == octet * size


def test_backlog_closes_the_gap_instead_of_growing() -> None:
    # Half of it is spent and the rest must move: the order has to survive that.
    backlog = Backlog()
    backlog.add(b"a" * 600 + b"b" * 400)
    assert backlog.remove(600) == b"a" * 600
    backlog.add(b"c" * 500)
    assert backlog.remove(2000) == b"b" * 400 + b"c" * 500


def test_backlog_grows_when_less_than_half_is_spent() -> None:
    backlog = Backlog()
    backlog.add(b"a" * 300 + b"b" * 700)
    assert backlog.remove(300) == b"a" * 300
    backlog.add(b"c" * 500)
    assert backlog.remove(2000) == b"b" * 700 + b"c" * 500

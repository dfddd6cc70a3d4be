"""PROXY headers: what is written is read, and whatever else comes is refused or waited for."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from underpass.wire.proxy_protocol import (
    MAX_HEADER,
    MAX_LINE,
    ProxyHeader,
    ProxyHeaderError,
    proxy_header,
)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")

addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@given(
    st.sampled_from(["v1", "v2"]),
    st.none() | addresses,
    addresses,
    st.integers(0, 65535),
    st.binary(max_size=50),
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_what_a_connector_writes_an_edge_reads(
    version: str,
    source: Address | None,
    host: Address,
    port: int,
    after: bytes,
    segments: list[int],
) -> None:
    header = proxy_header(version, source, str(host), port)
    coming = itertools.cycle(segments)
    have = 0
    while isinstance(read := ProxyHeader.read(header[:have]), int):
        # More than there is, and no more than will come.
        assert have < read <= len(header)
        have = min(have + next(coming), len(header))
    mapped = getattr(source, "ipv4_mapped", None)
    assert read == ProxyHeader(len(header), mapped or source)
    assert ProxyHeader.read(header + after) == read


@given(st.binary(max_size=300) | st.binary(max_size=300).map(SIGNATURE.__add__))
@example(b"PROXY ")
@example(b"PROXY \r\n")
@example(b"PROXY TCP4 1.2.3.4 1.2.3.4 \xb2 1\r\n")
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(ProxyHeaderError):
        read = ProxyHeader.read(data)
        if isinstance(read, int):
            assert len(data) < read <= MAX_HEADER
        else:
            assert 0 < read.length <= len(data)


@given(st.text("PROXYTCP46 .:0123456789abcdefUNKNOW%\r\n", max_size=120).map(str.encode))
def test_any_line(line: bytes) -> None:
    with contextlib.suppress(ProxyHeaderError):
        read = ProxyHeader.read(b"PROXY " + line)
        assert read == 6 + len(line) + 1 or isinstance(read, ProxyHeader)


@pytest.mark.parametrize(
    "line",
    [
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 -1",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 ",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 1",
        "PROXY TCP4 ::1 ::1 1 1",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 1",
        "PROXY TCP6 fe80::1%eth0 ::1 1 1",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 1",
        "PROXY TCP4 1.2.3.4 nobody 1 1",
        "PROXY",
        "proxy TCP4 1.2.3.4 1.2.3.4 1 1",
    ],
)
def test_malformed_lines(line: str) -> None:
    with pytest.raises(ProxyHeaderError):
        ProxyHeader.read(line.encode() + b"\r\n")


def test_a_line_ends_in_time() -> None:
    line = b"PROXY UNKNOWN "
    longest = line + b"x" * (MAX_LINE - 2 - len(line)) + b"\r\n"
    assert ProxyHeader.read(longest) == ProxyHeader(MAX_LINE, None)
    with pytest.raises(ProxyHeaderError):
        ProxyHeader.read(longest[:-2] + b"x\r\n")
    # The carriage return may be the last that has come.
    assert ProxyHeader.read(longest[:-1]) == MAX_LINE


@pytest.mark.parametrize(
    ("head", "size", "is_read"),
    [
        ("2111", 12, True),
        ("2111", 11, False),
        ("2121", 36, True),
        ("2121", 35, False),
        ("2131", 216, True),
        ("2131", 215, False),
        ("2100", 0, True),
        ("2112", 12, False),  # datagrams
        ("2122", 36, False),
        ("2132", 216, False),
        ("2141", 12, False),
        ("2211", 12, False),
        ("1111", 12, False),
        ("20ff", 0, True),  # nothing of a LOCAL one means anything
        ("2111", MAX_HEADER - 16, True),
        ("2111", MAX_HEADER - 15, False),
        ("2111", 65535, False),
    ],
)
def test_version_2(head: str, size: int, is_read: bool) -> None:
    data = SIGNATURE + bytes.fromhex(head) + size.to_bytes(2, "big") + bytes(size)
    if is_read:
        read = ProxyHeader.read(data)
        assert isinstance(read, ProxyHeader)
        assert read.length == len(data)
        assert (read.source is not None) == (head in ("2111", "2121"))
    else:
        with pytest.raises(ProxyHeaderError):
            ProxyHeader.read(data)

"""Whatever visitors ask for: it is understood as they meant it, or refused."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import example, given
from hypothesis import strategies as st

from underpass.connector.services.jump import jump_destination
from underpass.connector.services.socks5 import Socks5Error, SocksTarget, read_request
from underpass.wire.proxy_protocol import proxy_header, visitor_address

MAX_HANDSHAKE = 519

ports = st.integers(1, 65535)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,10}){0,3}", fullmatch=True)
addresses = st.ip_addresses()


def spelled(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@given(
    names | addresses.map(str),
    ports,
    st.sampled_from(["", "//", "tcp://", "ssh://me@"]),
    st.sampled_from(["", "/", "/path", "/a:1/b@c"]),
)
def test_a_destination_is_understood(host: str, port: int, before: str, after: str) -> None:
    text = f"{before}{spelled(host)}:{port}{after}"
    assert jump_destination(text.encode()) == (host, port)


@given(st.binary(max_size=200) | st.text(alphabet="[]:/@.%a1 ", max_size=30).map(str.encode))
@example(b"[[::1]]:22")
@example(b"a@b@c:1")
@example(b"//:22")
def test_anything_else_is_refused_or_names_host_and_port(value: bytes) -> None:
    try:
        host, port = jump_destination(value)
    except ValueError:
        return
    assert host
    assert 0 < port <= 65535
    assert not any(ord(char) <= 0x20 or ord(char) == 0x7F for char in host)


def heard(data: bytes) -> tuple[SocksTarget | None, int, bytes]:
    """What is made of a client's bytes, how many were read, and what it was told on the way."""
    at = 0
    told = b""

    async def read(size: int) -> bytes:
        nonlocal at
        if at + size > len(data):
            raise EOFError
        at += size
        return data[at - size : at]

    def say(words: bytes) -> None:
        nonlocal told
        told += words

    reading = read_request(read, say)
    try:
        reading.send(None)
    except StopIteration as finished:
        return finished.value, at, told
    except (EOFError, Socks5Error):
        return None, at, told
    raise AssertionError("nothing is waited for that is there already")


@given(
    st.binary(max_size=700) | st.binary(max_size=700).map(lambda rest: b"\x05\x01\x00\x05" + rest)
)
def test_a_client_that_says_anything(data: bytes) -> None:
    target, read, told = heard(data)
    assert read <= MAX_HANDSHAKE
    assert told in (b"", b"\x05\x00")
    assert target is None or told


@given(
    st.lists(st.integers(0, 255), max_size=254),
    st.integers(0, 254),
    names | addresses,
    st.integers(0, 65535),
    st.binary(max_size=50),
)
def test_a_client_that_keeps_to_it(
    methods: list[int],
    at: int,
    host: str | ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    rest: bytes,
) -> None:
    methods.insert(at, 0)
    if isinstance(host, str):
        encoded = b"\x03" + bytes((len(host),)) + host.encode()
    else:
        encoded = (b"\x01" if host.version == 4 else b"\x04") + host.packed
    encoded += struct.pack("!H", port)
    greeting = bytes((5, len(methods), *methods))
    target, read, told = heard(greeting + b"\x05\x01\x00" + encoded + rest)
    assert target == SocksTarget(str(host), port, encoded)
    assert read == len(greeting) + 3 + len(encoded)
    assert told == b"\x05\x00"


@given(addresses, addresses, ports)
def test_a_header_says_who_visits(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
) -> None:
    visitor = visitor_address(str(source).encode())
    text = proxy_header("v1", visitor, str(destination), port)
    binary = proxy_header("v2", visitor, str(destination), port)
    if visitor is None:  # an address with a zone, which means something on one machine only
        assert text == b"PROXY UNKNOWN\r\n"
        return
    assert len(text) <= 107
    _, family, theirs, ours, zero, number = text.decode().removesuffix("\r\n").split(" ")
    assert ipaddress.ip_address(theirs) == visitor
    assert ipaddress.ip_address(ours).version == visitor.version == int(family[-1])
    assert (zero, int(number)) == ("0", port)
    size = len(visitor.packed)
    assert binary[13] == (0x11 if size == 4 else 0x21)
    assert int.from_bytes(binary[14:16], "big") == len(binary) - 16 == 2 * size + 4
    assert binary[16 : 16 + size] == visitor.packed
    assert binary[16 + size : 16 + 2 * size] == ipaddress.ip_address(ours).packed
    assert binary[-4:] == struct.pack("!HH", 0, port)

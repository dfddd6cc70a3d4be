"""Whatever comes first on a connection: read as OpenSSL wrote it, or refused, and never more."""

from __future__ import annotations

import contextlib
import itertools
import ssl

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rig.hellos import hello_for, in_records

from underpass.edge.client_hello import (
    MAX_BEGINNING,
    MAX_HELLO,
    MAX_RECORDS,
    ClientHello,
    HelloError,
)

TLS12 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)

labels = st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,12}", fullmatch=True)
names = st.lists(labels, min_size=2, max_size=6).map(".".join).map(lambda name: "a" + name)
protocols = st.lists(st.text("abc/12.-", min_size=1, max_size=20), max_size=5)
versions = st.sampled_from([None, TLS12])


def message_of(records: bytes) -> bytes:
    """The handshake message of what Python sends, which is one record."""
    assert len(records) == 5 + int.from_bytes(records[3:5], "big")
    return records[5:]


def body(message: bytes) -> bytes:
    """A record with this message, its length made right."""
    fixed = message[:1] + (len(message) - 4).to_bytes(3, "big") + message[4:]
    return in_records(fixed, [])


@settings(deadline=None)  # OpenSSL makes keys
@given(st.none() | names, protocols, versions)
def test_what_openssl_writes_is_read(
    name: str | None,
    offered: list[str],
    chosen: tuple[ssl.TLSVersion, ssl.TLSVersion] | None,
) -> None:
    hello = ClientHello.read(hello_for(name, *offered, versions=chosen))
    assert hello == ClientHello(name, tuple(each.encode() for each in offered))


@settings(deadline=None)  # OpenSSL makes keys
@given(
    names,
    st.lists(st.integers(1, 400), max_size=MAX_RECORDS - 1),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
)
def test_records_and_segments_change_nothing(
    name: str, sizes: list[int], segments: list[int]
) -> None:
    records = in_records(message_of(hello_for(name, "h2")), sizes)
    coming = itertools.cycle(segments)
    have = 0
    while isinstance(read := ClientHello.read(records[:have]), int):
        # More than there is, and no more than will come.
        assert have < read <= len(records)
        have = min(have + next(coming), len(records))
    assert read == ClientHello(name, (b"h2",))
    # What follows in records of their own is not looked at: it may be early data.
    assert ClientHello.read(records + b"\x17\x03\x03\x00\x01x") == read


@given(st.binary(max_size=600))
@example(b"")
@example(b"\x16\x03\x01\x00\x00")
def test_any_bytes_are_read_refused_or_waited_for(data: bytes) -> None:
    with contextlib.suppress(HelloError):
        read = ClientHello.read(data)
        if isinstance(read, int):
            assert len(data) < read <= MAX_BEGINNING


@settings(deadline=None)  # OpenSSL makes keys
@given(names, st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_a_byte_that_differs_is_never_an_unexpected_error(
    name: str, at: int, value: int, cut: bool
) -> None:
    records = bytearray(hello_for(name, "h2", "http/1.1"))
    at %= len(records)
    records[at] = value
    if cut:
        del records[at:]
    with contextlib.suppress(HelloError):
        read = ClientHello.read(bytes(records))
        if isinstance(read, int):
            assert len(records) < read <= MAX_BEGINNING


# Python reports a name that is not ASCII in this way, and refuses it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(deadline=None)  # OpenSSL makes keys
@given(names, st.integers(0, 10_000), st.integers(1, 255))
def test_what_openssl_takes_is_read_as_openssl_reads_it(name: str, at: int, change: int) -> None:
    """Where both read a name out of bytes that somebody has changed, it is the same one."""
    records = bytearray(hello_for(name))
    records[at % len(records)] ^= change
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _, server_name, __: asked.append(server_name)
    incoming = ssl.MemoryBIO()
    incoming.write(bytes(records))
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with contextlib.suppress(ssl.SSLError, UnicodeDecodeError):
        server.do_handshake()
    with contextlib.suppress(HelloError):
        read = ClientHello.read(bytes(records))
        if isinstance(read, ClientHello) and asked:
            seen = asked[0]
            assert read.server_name == (seen and seen.lower().removesuffix("."))


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def vector(content: bytes, size: int = 2) -> bytes:
    return len(content).to_bytes(size, "big") + content


def hello_with(
    *extensions: bytes, suites: bytes = b"\x13\x01", compression: bytes = b"\0", more: bytes = b""
) -> bytes:
    start = b"\x01\0\0\0\x03\x03" + bytes(32) + vector(b"", 1) + vector(suites)
    return body(start + vector(compression, 1) + vector(b"".join(extensions)) + more)


NAME = vector(b"\0" + vector(b"app.example.com"))


def test_the_smallest_ones() -> None:
    assert ClientHello.read(hello_with()) == ClientHello()
    without = b"\x01\0\0\0\x03\x03" + bytes(32) + b"\0" + vector(b"\x13\x01") + b"\x01\0"
    assert ClientHello.read(body(without)) == ClientHello()
    named = hello_with(extension(0, NAME), extension(0x0A0A, b""), extension(16, vector(b"\2h2")))
    assert ClientHello.read(named) == ClientHello("app.example.com", (b"h2",))
    assert ClientHello.read(
        hello_with(extension(0, vector(b"\0" + vector(b"App.Example.COM."))))
    ) == ClientHello("app.example.com")


@pytest.mark.parametrize(
    "data",
    [
        hello_with(extension(0, NAME), extension(0, NAME)),
        hello_with(extension(0, b"")),
        hello_with(extension(0, vector(b""))),
        hello_with(extension(0, NAME + b"x")),
        hello_with(extension(0, vector(NAME[2:] * 2))),
        hello_with(extension(0, vector(b"\1" + vector(b"app")))),
        hello_with(extension(0, vector(b"\0" + vector(b"")))),
        hello_with(extension(0, vector(b"\0" + vector(b"a\0b")))),
        hello_with(extension(0, vector(b"\0" + vector(b"a" * 256)))),
        hello_with(extension(0, vector(b"\0" + vector(b"\xfc.example")))),
        hello_with(extension(16, vector(b""))),
        hello_with(extension(16, vector(b"\0"))),
        hello_with(extension(16, vector(b"\3h2"))),
        hello_with(b"\0\0\0"),
        hello_with(suites=b""),
        hello_with(suites=b"\x13\x01\x13"),
        hello_with(compression=b""),
        hello_with(compression=b"\1"),
        hello_with(more=b"x"),
        hello_with()[:5] + hello_with()[5:].replace(b"\x03\x03", b"\x02\x03"),
        hello_with()[:5] + b"\x02" + hello_with()[6:],
        b"\x16\x03\x01\x00\x00",
        b"\x16\x02",
        b"\x17",
        in_records(bytes(message_of(hello_with())) + b"x", []),
    ],
)
def test_malformed_ones_are_refused(data: bytes) -> None:
    with pytest.raises(HelloError):
        ClientHello.read(data)


def test_bounds() -> None:
    padding = MAX_HELLO - len(message_of(hello_with(extension(21, b""))))
    largest = hello_with(extension(21, bytes(padding)))
    # Records hold 16 kB.
    message = b"\x01" + (MAX_HELLO - 4).to_bytes(3, "big") + _rest(largest)
    assert ClientHello.read(in_records(message, [16384])) == ClientHello()
    with pytest.raises(HelloError):
        ClientHello.read(b"\x16\x03\x01\x00\x04\x01" + (MAX_HELLO - 3).to_bytes(3, "big"))
    small = message_of(hello_with())
    ones = in_records(small, [1] * (MAX_RECORDS - 1))
    assert len(small) > MAX_RECORDS - 1 or ClientHello.read(ones) == ClientHello()
    name = message_of(hello_with(extension(21, bytes(200))))
    assert ClientHello.read(in_records(name, [1] * (MAX_RECORDS - 1))) == ClientHello()
    with pytest.raises(HelloError):
        ClientHello.read(in_records(name, [1] * MAX_RECORDS))


def _rest(records: bytes) -> bytes:
    """Of a message that was put into one record, though it is too large for it."""
    return records[5 + 4 :]

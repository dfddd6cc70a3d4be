"""The server's end of SOCKS5, RFC 1928 (docs: visitors' side §8): what is heard, what answered."""

from __future__ import annotations

import asyncio
import errno

import pytest

from underpass.connector.services.socks5 import (
    Reply,
    Socks5Error,
    SocksTarget,
    encode_address,
    read_request,
    reply,
    reply_to_failure,
)

GREETING = b"\x05\x01\x00"


class Client:
    """What a client sends, and what it got. Reading past the end of that raises EOFError."""

    def __init__(self, sends: bytes) -> None:
        self.left = sends
        self.got = b""

    async def read(self, size: int) -> bytes:
        if len(self.left) < size:
            raise EOFError
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def say(self, data: bytes) -> None:
        self.got += data


def serve(sends: bytes) -> tuple[SocksTarget, Client]:
    client = Client(sends)
    return asyncio.run(read_request(client.read, client.say)), client


def refuse(sends: bytes) -> tuple[Socks5Error, Client]:
    client = Client(sends)
    with pytest.raises(Socks5Error) as refused:
        asyncio.run(read_request(client.read, client.say))
    return refused.value, client


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (b"\x01\x0a\x00\x00\x07", "10.0.0.7"),
        (b"\x04" + bytes(15) + b"\x01", "::1"),
        (b"\x03\x0corigin.local", "origin.local"),
        (b"\x03\xff" + b"x" * 255, "x" * 255),
        (b"\x03\x00", ""),
        (b"\x03\x02\xff\x00", "�\x00"),
    ],
)
def test_connect(address: bytes, host: str) -> None:
    target, client = serve(GREETING + b"\x05\x01\x00" + address + b"\x01\xbb" + b"rest")
    assert (target.host, target.port) == (host, 443)
    assert target.encoded == address + b"\x01\xbb"
    assert (client.got, client.left) == (b"\x05\x00", b"rest")


def test_no_authentication_among_255_methods() -> None:
    methods = bytes(range(255, 0, -1))[:254] + b"\x00"
    _, client = serve(b"\x05\xff" + methods + b"\x05\x01\x00\x01\x7f\0\0\x01\0\x16")
    assert client.got == b"\x05\x00"


@pytest.mark.parametrize("methods", [b"\x00", b"\x01\x02", b"\x02\x01\x02", b"\x01\xff"])
def test_other_methods_are_declined(methods: bytes) -> None:
    error, client = refuse(b"\x05" + methods)
    assert (error.answer, client.got) == (b"\x05\xff", b"")


@pytest.mark.parametrize("first", [b"\x04\x01\0\x50\x7f\0\0\x01\0", b"GET / HTTP/1.1\r\n", b"\0\0"])
def test_another_version_gets_no_answer(first: bytes) -> None:
    error, client = refuse(first)
    assert (error.answer, client.got) == (b"", b"")


def test_another_version_in_the_request() -> None:
    error, _ = refuse(GREETING + b"\x04\x01\x00\x01\x7f\0\0\x01\0\x16")
    assert error.answer == b""


@pytest.mark.parametrize("command", [0, 2, 3, 4, 255], ids=["0", "BIND", "UDP", "4", "255"])
def test_other_commands_are_not_supported(command: int) -> None:
    error, _ = refuse(GREETING + bytes((5, command, 0, 1)) + b"\x7f\0\0\x01\0\x16")
    assert error.answer == b"\x05\x07\x00\x01\0\0\0\0\0\0"


@pytest.mark.parametrize("kind", [0, 2, 5, 255])
def test_other_address_types_are_not_supported(kind: int) -> None:
    error, _ = refuse(GREETING + bytes((5, 1, 0, kind)))
    assert error.answer == b"\x05\x08\x00\x01\0\0\0\0\0\0"


@pytest.mark.parametrize("whole", [GREETING + b"\x05\x01\x00\x03\x04host\x00\x16"])
def test_nothing_is_decided_before_it_is_whole(whole: bytes) -> None:
    for end in range(len(whole)):
        with pytest.raises(EOFError):
            serve(whole[:end])
    serve(whole)


def test_success_names_the_local_address() -> None:
    assert reply(Reply.SUCCEEDED, encode_address("10.0.0.7", 5000)) == (
        b"\x05\x00\x00\x01\x0a\x00\x00\x07\x13\x88"
    )
    assert reply(Reply.SUCCEEDED, encode_address("fe80::1%eth0", 1))[3:] == (
        b"\x04\xfe\x80" + bytes(13) + b"\x01\x00\x01"
    )


TARGET = SocksTarget("origin.local", 22, b"\x03\x0corigin.local\x00\x16")


@pytest.mark.parametrize(
    ("cause", "number", "answer"),
    [
        ("denied", 0, b"\x05\x02\x00" + TARGET.encoded),
        ("dns", 0, b"\x05\x02\x00" + TARGET.encoded),
        ("dial", errno.ECONNREFUSED, b"\x05\x05\x00\x01\0\0\0\0\0\0"),
        ("dial", errno.ENETUNREACH, b"\x05\x03\x00\x01\0\0\0\0\0\0"),
        ("dial", errno.EHOSTUNREACH, b"\x05\x04\x00\x01\0\0\0\0\0\0"),
        ("dial_timeout", 0, b"\x05\x04\x00\x01\0\0\0\0\0\0"),
    ],
)
def test_failures_to_connect(cause: str, number: int, answer: bytes) -> None:
    assert reply_to_failure(cause, number, TARGET) == answer

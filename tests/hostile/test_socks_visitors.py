"""Visitors of a `socks-proxy` who do not keep to SOCKS5: each ends alone, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from peers import in_process
from peers.in_process import Tunnel
from peers.patience import PATIENCE, eventually_async, soon
from peers.stream_echo import stream_echo
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import underpass
from underpass.connector.ingress import single_rule
from underpass.connector.origin_request import IPRule
from underpass.connector.origins import SocksProxy
from underpass.connector.services import socks
from underpass.connector.services.dial import Dialer, OriginDialError

GREETING = b"\x05\x01\x00"
CONNECT = b"\x05\x01\x00"
WINDOW = 1048576
"""Of a stream on a link, at first."""


class Place:
    """A `socks-proxy` that may connect to this machine, and an echo there."""

    def __init__(self, tunnel: Tunnel, ca: Path, echo: int) -> None:
        self.tunnel = tunnel
        self.echo = echo
        self._context = ssl.create_default_context(cafile=ca)

    def visit(self) -> connect:
        port = self.tunnel.edge.https.port
        return connect(
            f"wss://{self.tunnel.hostname}:{port}/",
            host="127.0.0.1",
            port=port,
            proxy=None,
            max_size=None,
            ssl=self._context,
            open_timeout=PATIENCE,
        )

    @property
    def request(self) -> bytes:
        return CONNECT + b"\x01\x7f\x00\x00\x01" + self.echo.to_bytes(2, "big")

    async def still_serves(self) -> None:
        async with self.visit() as socket:
            await socket.send(GREETING + self.request + b"hello")
            answer = await heard(socket, 2 + 10 + 5)
            assert answer[:3] + answer[12:] == b"\x05\x00\x05hello"

    async def nothing_is_left(self) -> None:
        await eventually_async(
            lambda: self.tunnel.requests_at_edge == 0 and self.tunnel.streams_on_links == 0,
            "every stream has ended",
        )


@contextlib.asynccontextmanager
async def place(directory: Path) -> AsyncIterator[Place]:
    rules = (IPRule(ipaddress.ip_network("127.0.0.0/8"), (), allow=True),)
    with stream_echo() as echo:
        async with in_process.tunnel(
            directory, "", ingress=single_rule(SocksProxy(rules))
        ) as tunnel:
            here = Place(tunnel, directory / "ca.pem", echo)
            yield here
            await here.nothing_is_left()
            await here.still_serves()
            await here.nothing_is_left()


async def heard(visitor: ClientConnection, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = await soon(visitor.recv())
        assert isinstance(data, bytes)
        received += data
    return received


async def all_heard(visitor: ClientConnection) -> bytes:
    """Until the server ends it."""
    received = b""
    with contextlib.suppress(ConnectionClosed):
        while True:
            data = await soon(visitor.recv())
            assert isinstance(data, bytes)
            received += data
    return received


def test_byte_by_byte(data_dir: Path) -> None:
    """In messages, and in frames of one message, with pings between them."""

    async def scenario() -> None:
        async with place(data_dir) as here:
            whole = GREETING + here.request + b"hello"
            pieces = [bytes((byte,)) for byte in whole]
            async with here.visit() as visitor:
                for piece in pieces:
                    await visitor.send(piece)
                    await visitor.ping()
                assert (await heard(visitor, 17))[12:] == b"hello"
            async with here.visit() as visitor:
                await visitor.send(pieces)
                assert (await heard(visitor, 17))[12:] == b"hello"

    in_process.run(scenario())


def test_truncated_anywhere(data_dir: Path) -> None:
    async def scenario() -> None:
        async with place(data_dir) as here:
            whole = GREETING + CONNECT + b"\x03\x09localhost" + here.echo.to_bytes(2, "big")
            for end in range(len(whole)):
                async with here.visit() as visitor:
                    if end:
                        await visitor.send(whole[:end])
                async with here.visit() as visitor:
                    if end:
                        await visitor.send(whole[:end])
                    visitor.transport.abort()

    in_process.run(scenario())


@pytest.mark.parametrize(
    ("sends", "answer"),
    [
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (GREETING + b"\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x16", b"\x05\x00"),
        (GREETING + b"\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x16", b"\x05\x00\x05\x07\x00\x01"),
        (GREETING + b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", b"\x05\x00\x05\x07\x00\x01"),
        (GREETING + b"\x05\x01\x00\x02", b"\x05\x00\x05\x08\x00\x01"),
        (GREETING + CONNECT + b"\x03\xff" + b"x" * 255 + b"\x00\x16", b"\x05\x00\x05\x02\x00\x03"),
        (GREETING + CONNECT + b"\x03\x00\x00\x16", b"\x05\x00\x05\x02\x00\x03"),
        (GREETING + CONNECT + b"\x03\x03a\x00b\x00\x16", b"\x05\x00\x05\x02\x00\x03"),
        (GREETING + CONNECT + b"\x03\x02\r\n\x00\x16", b"\x05\x00\x05\x02\x00\x03"),
        (GREETING + CONNECT + b"\x03\x03\xff\xfe\xfd\x00\x16", b"\x05\x00\x05\x02\x00\x03"),
        (GREETING + CONNECT + b"\x01\x00\x00\x00\x00\x00\x16", b"\x05\x00\x05\x02\x00\x01"),
        (GREETING + CONNECT + b"\x01\x7f\x00\x00\x01\x00\x00", b"\x05\x00\x05"),
        (GREETING + CONNECT + b"\x04" + bytes(16) + b"\x00\x16", b"\x05\x00\x05\x02\x00\x04"),
        (
            GREETING + CONNECT + b"\x04" + bytes(10) + b"\xff\xff\x0a\x00\x00\x01\x00\x16",
            b"\x05\x00\x05\x02\x00\x04",
        ),
    ],
    ids=[
        "SOCKS4",
        "HTTP",
        "authentication only",
        "no method",
        "version of the request",
        "BIND",
        "UDP",
        "address type",
        "longest name",
        "no name",
        "zero in the name",
        "line end in the name",
        "no UTF-8",
        "this machine as 0.0.0.0",
        "port 0",
        "this machine as ::",
        "IPv4 as IPv6",
    ],
)
def test_what_is_not_served(data_dir: Path, sends: bytes, answer: bytes) -> None:
    async def scenario() -> None:
        async with place(data_dir) as here, here.visit() as visitor:
            await visitor.send(sends)
            assert (await all_heard(visitor)).startswith(answer)
            if not answer:
                assert await all_heard(visitor) == b""

    in_process.run(scenario())


def test_a_name_longer_than_what_comes(data_dir: Path) -> None:
    """Nothing is done for half a name, though it would resolve."""

    async def scenario() -> None:
        async with place(data_dir) as here, here.visit() as visitor:
            await visitor.send(GREETING + CONNECT + b"\x03\xfflocalhost\x00\x16")
            assert await heard(visitor, 2) == b"\x05\x00"

    in_process.run(scenario())


def test_one_that_dawdles_is_hung_up_on(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socks, "HANDSHAKE_SECONDS", 0.05)

    async def scenario() -> None:
        async with place(data_dir) as here:
            for sends in (b"", b"\x05", GREETING, GREETING + CONNECT):
                async with here.visit() as visitor:
                    if sends:
                        await visitor.send(sends)
                    await all_heard(visitor)
            monkeypatch.setattr(socks, "HANDSHAKE_SECONDS", PATIENCE)

    in_process.run(scenario())


def test_a_flood_ahead_of_a_connection_stays_with_its_sender(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the destination does not answer, a stream's window is held, and no more."""
    taken = 0
    enough = asyncio.Event()
    connect_tcp, hear = Dialer.connect_tcp, socks.SocksConnection.hear

    async def held(self: Dialer, name: object, host: str, port: int, permit: Any) -> Any:
        if port == 1:
            await soon(enough.wait())
            raise OriginDialError("dial_timeout", "it did not answer")
        return await connect_tcp(self, name, host, port, permit)

    def count(self: socks.SocksConnection, data: bytes) -> None:
        nonlocal taken
        taken += len(data)
        hear(self, data)

    monkeypatch.setattr(Dialer, "connect_tcp", held)
    monkeypatch.setattr(socks.SocksConnection, "hear", count)

    async def scenario() -> None:
        async with place(data_dir) as here, here.visit() as visitor:
            await visitor.send(GREETING + CONNECT + b"\x01\x7f\0\0\x01\0\x01")
            assert await heard(visitor, 2) == b"\x05\x00"
            flood = asyncio.ensure_future(send_all(visitor, [bytes(16384)] * 1000))
            await eventually_async(lambda: taken > WINDOW * 0.9, "the window is full")
            await here.still_serves()
            assert taken <= WINDOW + len(here.request) + 100
            assert not flood.done()
            enough.set()
            assert await heard(visitor, 10) == b"\x05\x04\x00\x01" + bytes(6)
            with pytest.raises(ConnectionClosed):
                await soon(flood)

    in_process.run(scenario())


def test_bytes_ahead_of_the_reply_reach_the_origin_in_order(data_dir: Path) -> None:
    async def scenario() -> None:
        async with place(data_dir) as here, here.visit() as visitor:
            content = b"".join(number.to_bytes(4, "big") for number in range(50_000))
            whole = GREETING + here.request + content
            sending = asyncio.ensure_future(
                send_all(visitor, [whole[at : at + 1000] for at in range(0, len(whole), 1000)])
            )
            received = await heard(visitor, 12 + len(content))
            await sending
            assert received[12:] == content

    in_process.run(scenario())


def test_after_the_handshake_no_python_of_the_connector_runs(data_dir: Path) -> None:
    """However much flows: bytes are the compiled relay's."""
    connector = str(Path(underpass.__file__).parent / "connector")
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_name
        if (
            event == "call"
            and frame.f_code.co_filename.startswith(connector)
            and "tick" not in name
        ):
            called.append(f"{frame.f_code.co_filename}:{name}")

    async def scenario() -> None:
        async with place(data_dir) as here, here.visit() as visitor:
            await visitor.send(GREETING + here.request + b"x")
            await heard(visitor, 2 + 10 + 1)
            sys.setprofile(note)
            try:
                messages = [bytes(16384)] * 100
                sending = asyncio.ensure_future(send_all(visitor, messages))
                await heard(visitor, 1638400)
                await sending
            finally:
                sys.setprofile(None)
            assert called == []

    in_process.run(scenario())


async def send_all(visitor: ClientConnection, messages: list[bytes]) -> None:
    for message in messages:
        await visitor.send(message)


def test_leaving_while_it_is_connected(data_dir: Path) -> None:
    """An address that takes connections late or never: the visitor goes, and the dial with it."""

    async def scenario() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1].to_bytes(2, "big")
            async with place(data_dir) as here:
                for _ in range(20):
                    async with here.visit() as visitor:
                        await visitor.send(GREETING + CONNECT + b"\x01\x7f\0\0\x01" + port)
                        assert await heard(visitor, 2) == b"\x05\x00"
                        visitor.transport.abort()

    in_process.run(scenario())

"""Looking at the beginning of connections: real sockets, and no server behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from rig.hellos import hello_for

from underpass.edge import front_door
from underpass.edge.client_hello import MAX_HELLO, ClientHello
from underpass.edge.front_door import Arrival, FrontDoor
from underpass.edge.trusted_hops import NO_HOPS, TrustedHops
from underpass.ops import event_loop

PATIENCE = 20.0
LOOPBACK = TrustedHops(("127.0.0.0/8",))
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a")


class Hall:
    """A door, and what has come through it."""

    def __init__(
        self, listener: socket.socket, trusted: TrustedHops, *, reads_hello: bool, seconds: float
    ) -> None:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.port: int = listener.getsockname()[1]
        self.arrived: asyncio.Queue[Arrival] = asyncio.Queue()
        self.began = 0
        self.door = FrontDoor(
            listener,
            self.arrived.put_nowait,
            seconds=seconds,
            trusted=trusted,
            reads_hello=reads_hello,
            begin=self._begin,
        )

    def _begin(self) -> int:
        self.began += 1
        return self.began

    async def next(self) -> Arrival:
        arrival = await asyncio.wait_for(self.arrived.get(), PATIENCE)
        arrival.sock.setblocking(False)
        return arrival

    async def connect(self) -> Caller:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Caller(sock)

    async def until_waiting(self, count: int) -> None:
        """Until so many connections wait for their beginning."""
        end = time.monotonic() + PATIENCE
        while self.door.waiting != count:
            assert time.monotonic() < end, f"{self.door.waiting} wait, not {count}"
            await asyncio.sleep(0)


class Caller:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def is_closed(self) -> bool:
        """Wait for the end. True, or time is over."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(loop.sock_recv(self.sock, 1), PATIENCE) == b""
        return True


Scenario = Callable[[Hall], Awaitable[None]]


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERPASS_LOOP", request.param)


def visit(
    scenario: Scenario,
    trusted: TrustedHops = NO_HOPS,
    *,
    reads_hello: bool = True,
    seconds: float = PATIENCE,
    listener: socket.socket | None = None,
) -> None:
    async def main() -> None:
        hall = Hall(listener or socket.socket(), trusted, reads_hello=reads_hello, seconds=seconds)
        try:
            await scenario(hall)
        finally:
            hall.door.abort()
            while not hall.arrived.empty():
                hall.arrived.get_nowait().sock.close()

    event_loop.run(main())


async def read(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        received += await asyncio.wait_for(
            asyncio.get_running_loop().sock_recv(sock, count - len(received)), PATIENCE
        )
    return received


@contextlib.asynccontextmanager
async def closing(*socks: socket.socket) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for sock in socks:
            sock.close()


pytestmark = pytest.mark.usefixtures("loop_kind")


class TestHello:
    def test_it_is_read_and_left_where_it_is(self) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            sent = hello_for("App.Example.com", "h2", "http/1.1")
            await caller.send(sent)
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.hello == ClientHello("app.example.com", (b"h2", b"http/1.1"))
                assert (arrival.address, arrival.began) == ("127.0.0.1", 1)
                assert 0 < arrival.seconds <= PATIENCE
                assert await read(arrival.sock, len(sent)) == sent
                # A single byte is told of again.
                await caller.send(b"x")
                assert await read(arrival.sock, 1) == b"x"

        visit(scenario)

    def test_it_may_come_byte_by_byte(self) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            sent = hello_for("app.example.com")
            for byte in sent:
                assert hall.arrived.empty()
                await caller.send(bytes([byte]))
                await asyncio.sleep(0)
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.hello == ClientHello("app.example.com")

        visit(scenario)

    @pytest.mark.parametrize(
        "sent",
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x00\x05\x01" + (MAX_HELLO + 1).to_bytes(3, "big") + b"x",
            b"\x16\x03\x01\x40\x01",
            b"\x80\x2e\x01\x00\x02",  # SSL 2
            b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n",  # and nobody is trusted
        ],
    )
    def test_what_is_none_is_for_tls_to_refuse(self, sent: bytes) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            await caller.send(sent)
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert (arrival.hello, arrival.address) == (None, "127.0.0.1")
                assert await read(arrival.sock, len(sent)) == sent

        visit(scenario)

    def test_whoever_leaves_before_its_end_is_forgotten(self) -> None:
        async def scenario(hall: Hall) -> None:
            for sent in (b"", hello_for("app.example.com")[:-1]):
                caller = await hall.connect()
                await hall.until_waiting(1)
                await caller.send(sent)
                caller.sock.close()
                await hall.until_waiting(0)
            assert hall.arrived.empty()

        visit(scenario)

    def test_one_that_does_not_come_is_given_up_in_time(self) -> None:
        async def scenario(hall: Hall) -> None:
            silent, slow = await hall.connect(), await hall.connect()
            async with closing(silent.sock, slow.sock):
                await hall.until_waiting(2)
                await slow.send(b"\x16\x03")
                ended = asyncio.gather(silent.is_closed(), slow.is_closed())
                while not ended.done():
                    hall.door.look()
                    await asyncio.sleep(0.01)
                assert hall.door.waiting == 0

        visit(scenario, seconds=0.1)

    def test_nobody_is_given_up_before_that(self) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            async with closing(caller.sock):
                await hall.until_waiting(1)
                hall.door.look()
                assert hall.door.waiting == 1

        visit(scenario)

    def test_of_too_many_the_oldest_goes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(front_door, "MAX_WAITING", 3)

        async def scenario(hall: Hall) -> None:
            callers = [await hall.connect() for _ in range(4)]
            async with closing(*(caller.sock for caller in callers)):
                assert await callers[0].is_closed()
                assert hall.door.waiting == 3
                await callers[1].send(hello_for("app.example.com"))
                (await hall.next()).sock.close()

        visit(scenario)

    def test_what_waits_at_the_end_may_still_come(self) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            await hall.until_waiting(1)
            hall.door.close()
            with pytest.raises(ConnectionRefusedError):
                await hall.connect()
            await caller.send(hello_for("app.example.com"))
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.hello is not None

        visit(scenario)

    def test_a_system_that_tells_only_of_any_byte(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(socket, "SO_RCVLOWAT")

        async def scenario(hall: Hall) -> None:
            sent = hello_for("app.example.com")
            caller = await hall.connect()
            await caller.send(sent[:100])
            await hall.until_waiting(1)
            await caller.send(sent[100:])
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.hello == ClientHello("app.example.com")

        visit(scenario)


class TestProxyHeader:
    HEADERS = pytest.mark.parametrize(
        ("header", "address"),
        [
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n", "192.0.2.7"),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", "2001:db8::7"),
            (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
            (V2 + bytes.fromhex("2111000cc00002077f000001126701bb"), "192.0.2.7"),
            # With an addition, and the address of an IPv4 visitor on a socket for both.
            (
                V2
                + bytes.fromhex("21210028")
                + bytes(10)
                + b"\xff\xff\xc0\x00\x02\x07"
                + bytes(20)
                + b"\x04\0\1x",
                "192.0.2.7",
            ),
            (V2 + bytes.fromhex("20000000"), "127.0.0.1"),
        ],
    )

    @HEADERS
    def test_it_says_who_the_visitor_is(self, header: bytes, address: str) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            sent = hello_for("app.example.com")
            await caller.send(header + sent)
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.address == address
                assert arrival.hello == ClientHello("app.example.com")
                assert await read(arrival.sock, len(sent)) == sent

        visit(scenario, LOOPBACK)

    @HEADERS
    def test_it_may_come_byte_by_byte(self, header: bytes, address: str) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            for byte in header + hello_for("app.example.com"):
                await caller.send(bytes([byte]))
                await asyncio.sleep(0)
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.address == address
                assert arrival.hello == ClientHello("app.example.com")

        visit(scenario, LOOPBACK)

    def test_without_tls_whatever_follows_is_left(self) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            await caller.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\nGET /")
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert (arrival.address, arrival.hello) == ("192.0.2.7", None)
                assert await read(arrival.sock, 5) == b"GET /"

        visit(scenario, LOOPBACK, reads_hello=False)

    @pytest.mark.parametrize(
        "sent",
        [
            hello_for("app.example.com"),
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80" + b" " * 100,
            V2 + bytes.fromhex("2111ffff"),
            V2 + bytes.fromhex("31110000"),
        ],
        ids=["TLS", "HTTP", "half a line", "no end", "64 kB of it", "another version"],
    )
    def test_a_trusted_hop_without_one_is_refused(self, sent: bytes) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            async with closing(caller.sock):
                await caller.send(sent)
                assert await caller.is_closed()
                assert hall.arrived.empty()

        visit(scenario, LOOPBACK)

    def test_others_are_served_as_they_come(self) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            await caller.send(hello_for("app.example.com"))
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.address == "127.0.0.1"
                assert arrival.hello == ClientHello("app.example.com")

        visit(scenario, TrustedHops(("10.0.0.0/8",)))

    def test_others_who_send_one_are_believed_nothing(self) -> None:
        async def scenario(hall: Hall) -> None:
            caller = await hall.connect()
            sent = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n"
            await caller.send(sent)
            arrival = await hall.next()
            async with closing(caller.sock, arrival.sock):
                assert arrival.address == "127.0.0.1"
                assert await read(arrival.sock, len(sent)) == sent

        visit(scenario, TrustedHops(("10.0.0.0/8",)), reads_hello=False)


class ExhaustedSocket(socket.socket):
    """A listener in a process that has no descriptors left, for a while."""

    refusals = 2

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_process_without_descriptors_accepts_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(front_door, "_PAUSE", 0.01)

    async def scenario(hall: Hall) -> None:
        caller = await hall.connect()
        await caller.send(hello_for("app.example.com"))
        arrival = await hall.next()
        async with closing(caller.sock, arrival.sock):
            assert [record.message for record in caplog.records] == [
                "cannot accept a connection",
                "cannot accept a connection",
            ]

    visit(scenario, listener=ExhaustedSocket())

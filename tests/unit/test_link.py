"""What both ends of a link do alike."""

from __future__ import annotations

import asyncio
import socket

import pytest
from rig.http2 import PING, RawServer, settings
from rig.transport import FakeTransport, ManualLoop

from underpass.core.endpoint import Endpoint
from underpass.wire.link import (
    KEEPALIVE_DEAD,
    KEEPALIVE_QUIET,
    LONGEST_DRAIN,
    PROBE_PATIENCE,
    UNSENT,
    LinkConnection,
    drain_seconds,
    drain_words,
)
from underpass.wire.turns import TICK, LoopTurn


class OnSocket(FakeTransport):
    """A transport that has a socket to show."""

    def __init__(self, loop: ManualLoop, endpoint: Endpoint, shown: socket.socket | None) -> None:
        super().__init__(loop, endpoint)
        self._shown = shown

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._shown if name == "socket" else super().get_extra_info(name, default)


def connected(shown: socket.socket | None) -> LinkConnection:
    """A link on a transport with this socket."""

    async def connect() -> LinkConnection:
        loop = ManualLoop()
        link = LinkConnection(LoopTurn(loop))  # type: ignore[arg-type]
        link.connection_made(OnSocket(loop, link, shown))  # type: ignore[arg-type]
        return link

    return asyncio.run(connect())


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system has no such thing")
def test_the_kernel_holds_little_that_it_has_not_sent() -> None:
    with socket.socket() as shown:
        connected(shown)
        assert shown.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT


def test_a_transport_without_a_socket_will_do() -> None:
    assert not connected(None).is_closed


class TestSilence:
    """Time is counted in ticks, of which there are none while the process stands still."""

    @pytest.fixture
    def wire(self) -> RawServer:
        async def make() -> RawServer:
            loop = ManualLoop()
            loop.turn = LoopTurn(loop)  # type: ignore[arg-type]
            return RawServer(loop=loop, connection=LinkConnection)

        wire = asyncio.run(make())
        self.tick(wire, TICK)  # what it has heard so far
        return wire

    def tick(self, wire: RawServer, seconds: float) -> None:
        assert isinstance(wire.connection, LinkConnection)
        for _ in range(round(seconds / TICK)):
            for look in tuple(wire.connection._loop_turn.on_tick):
                look()

    def asked(self, wire: RawServer) -> int:
        return sum(frame.kind == PING for frame in wire.sent())

    def probe(self, wire: RawServer) -> None:
        assert isinstance(wire.connection, LinkConnection)
        wire.connection.probe()

    def test_a_quiet_peer_is_asked_once(self, wire: RawServer) -> None:
        self.tick(wire, KEEPALIVE_QUIET - TICK)
        assert self.asked(wire) == 0
        self.tick(wire, TICK)
        assert self.asked(wire) == 1
        self.tick(wire, TICK)
        assert self.asked(wire) == 0

    def test_without_an_answer_the_link_is_given_up(self, wire: RawServer) -> None:
        self.tick(wire, KEEPALIVE_DEAD - TICK)
        assert not self.is_given_up(wire)
        self.tick(wire, TICK)
        assert self.is_given_up(wire)

    def test_an_answer_begins_the_count_anew(self, wire: RawServer) -> None:
        self.tick(wire, KEEPALIVE_DEAD - TICK)
        wire.feed(settings())
        self.tick(wire, KEEPALIVE_DEAD - TICK)
        assert not self.is_given_up(wire)

    def test_a_probe_is_patient_for_a_few_seconds_only(self, wire: RawServer) -> None:
        self.probe(wire)
        assert self.asked(wire) == 1
        self.tick(wire, PROBE_PATIENCE - TICK)
        assert not self.is_given_up(wire)
        self.tick(wire, TICK)
        assert self.is_given_up(wire)

    def test_a_probe_of_a_link_that_was_asked_shortens_the_wait(self, wire: RawServer) -> None:
        self.tick(wire, KEEPALIVE_QUIET)
        self.probe(wire)
        assert self.asked(wire) == 1
        self.tick(wire, PROBE_PATIENCE)
        assert self.is_given_up(wire)

    def test_an_answer_to_a_probe_keeps_the_link(self, wire: RawServer) -> None:
        self.probe(wire)
        self.tick(wire, PROBE_PATIENCE - TICK)
        wire.feed(settings())
        self.tick(wire, KEEPALIVE_QUIET)
        assert not self.is_given_up(wire)

    def test_time_without_ticks_does_not_count(self, wire: RawServer) -> None:
        wire.loop.now += 10 * KEEPALIVE_DEAD
        self.tick(wire, TICK)
        assert not self.is_given_up(wire)

    def is_given_up(self, wire: RawServer) -> bool:
        return wire.transport.aborted


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (drain_words(600), 600.0),
        (drain_words(10 * LONGEST_DRAIN), LONGEST_DRAIN),
        (b"", 0.0),
        (b"underpass-drain=", 0.0),
        (b"underpass-drain=-1", 0.0),
        (b"underpass-drain=1e9", 0.0),
        (b"underpass-drain=" + b"9" * 1000, 0.0),
        (b"600", 0.0),
        (b"underpass-drain=\xff", 0.0),
    ],
)
def test_how_long_an_edge_says_that_a_link_may_take_to_finish(said: bytes, seconds: float) -> None:
    assert drain_seconds(said) == seconds

"""What an HTTP/2 connection gives up by the clock: silent origins, uploads nobody wants, visitors
that take nothing. Time is set by hand and read by `Turn.tick`."""

from __future__ import annotations

import pytest
from rig.http2 import (
    GET,
    OK,
    POST,
    RST_STREAM,
    Asked,
    RawClient,
    RawServer,
    settings,
    window_update,
)

from underpass.core.frames import ErrorCode, Setting
from underpass.core.h2 import Limits
from underpass.core.relay import Patience

CANCEL, NO_ERROR = ErrorCode.CANCEL, ErrorCode.NO_ERROR


def pass_time(client: RawClient, seconds: float) -> None:
    client.loop.now += seconds
    client.loop.turn.tick()


def resets(client: RawClient) -> list[tuple[int, int]]:
    """(stream, error code) of the RST_STREAM frames sent since the last call."""
    return [(each.stream, each.code) for each in client.sent() if each.kind == RST_STREAM]


class TestAnUploadAfterItsAnswer:
    """With `linger`, the rest of a request is read and thrown away for a while."""

    def visitor(self, linger: int) -> RawClient:
        client = RawClient(Limits(linger=linger))
        client.feed(client.peer.headers(1, POST))
        client.exchanges[0].answer(status=413)
        return client

    def test_is_reset_at_once_without_linger(self) -> None:
        assert resets(self.visitor(0)) == [(1, NO_ERROR)]

    def test_is_left_alone_until_its_time_is_over(self) -> None:
        client = self.visitor(1000)
        assert resets(client) == []
        pass_time(client, 1.9)
        client.connection.sweep_streams(2.0, 60.0)
        assert resets(client) == []
        pass_time(client, 0.2)
        client.connection.sweep_streams(2.0, 60.0)
        assert resets(client) == [(1, NO_ERROR)]
        assert client.connection.active == 0

    @pytest.mark.parametrize(("size", "expected"), [(1000, []), (1001, [(1, NO_ERROR)])])
    def test_is_reset_once_too_much_was_thrown_away(
        self, size: int, expected: list[tuple[int, int]]
    ) -> None:
        client = self.visitor(1000)
        client.feed(client.peer.data(1, bytes(size)))
        assert resets(client) == expected

    def test_that_ends_in_time_is_forgotten_quietly(self) -> None:
        client = self.visitor(1000)
        client.feed(client.peer.data(1, bytes(500), end=True))
        assert resets(client) == []
        assert client.connection.active == 0


class TestAVisitorThatTakesNothing:
    """A window left at zero while content waits (CVE-2019-9517)."""

    def visitor(self) -> RawClient:
        client = RawClient()
        client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 10)))
        client.feed(client.peer.headers(1, GET, end=True))
        client.exchanges[0].answer(body=bytes(100))
        client.sent()
        return client

    def test_has_its_stream_reset_when_the_time_is_over(self) -> None:
        client = self.visitor()
        pass_time(client, 59.0)
        client.connection.sweep_streams(2.0, 60.0)
        assert resets(client) == []
        pass_time(client, 1.0)
        client.connection.sweep_streams(2.0, 60.0)
        assert resets(client) == [(1, CANCEL)]
        assert client.connection.active == 0

    def test_gains_time_with_every_byte_it_takes(self) -> None:
        client = self.visitor()
        for _ in range(5):
            pass_time(client, 59.0)
            client.feed(window_update(1, 1))
            client.connection.sweep_streams(2.0, 60.0)
            assert resets(client) == []

    def test_counts_from_when_content_began_to_wait(self) -> None:
        client = RawClient()
        client.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
        client.feed(client.peer.headers(1, GET, end=True))
        pass_time(client, 1000.0)
        client.exchanges[0].answer(body=b"late")
        client.connection.sweep_streams(2.0, 60.0)
        assert resets(client) == []

    def test_a_quiet_stream_with_nothing_to_take_stays(self) -> None:
        client = RawClient()
        client.feed(client.peer.headers(1, GET, end=True))
        pass_time(client, 1000.0)
        client.connection.sweep_streams(2.0, 60.0)
        assert resets(client) == []
        assert client.connection.active == 1


class TestARequestThatTakesTooLong:
    """Client role: what was sent on, and is waited for."""

    def asked(self, *, end: bool = True) -> tuple[RawServer, Asked]:
        server = RawServer()
        asked = server.request(GET if end else POST, end=end, times_out=True)
        server.sent()
        return server, asked

    def wait(self, server: RawServer, seconds: float) -> None:
        server.loop.now += seconds
        server.loop.turn.tick()

    def test_an_upload_that_goes_on_is_no_silence(self) -> None:
        server, asked = self.asked(end=False)
        for _ in range(5):
            self.wait(server, 9)
            asked.side.write(b"more")
            assert server.connection.sweep(10) == 0
        self.wait(server, 9)
        assert server.connection.sweep(10) == 0
        self.wait(server, 1)
        assert server.connection.sweep(10) == 1
        assert asked.abandoned is not None

    def test_may_have_a_patience_of_its_own(self) -> None:
        server, asked = self.asked()
        asked.exchange.patience = Patience(30, 5, 100)
        self.wait(server, 29)
        assert server.connection.sweep(10) == 0
        server.feed(server.peer.headers(1, [(b":status", b"200")]))
        assert server.connection.sweep(10) == 0
        self.wait(server, 5)
        assert server.connection.sweep(10) == 1, "idle, which the connection's own would not mind"
        assert asked.exchange.cause == "timeout_idle"

    def test_and_one_that_is_shorter(self) -> None:
        server, asked = self.asked()
        asked.exchange.patience = Patience(1)
        self.wait(server, 1)
        assert server.connection.sweep(10, 10, 10) == 1
        assert asked.abandoned is not None

    def test_a_response_may_pause_for_ever_unless_told_otherwise(self) -> None:
        server, asked = self.asked()
        server.feed(server.peer.headers(1, OK))
        self.wait(server, 1e6)
        assert server.connection.sweep(10) == 0
        assert asked.abandoned is None

    @pytest.mark.parametrize("direction", ["response", "request"])
    def test_a_response_that_stands_still_is_broken_off(self, direction: str) -> None:
        server, asked = self.asked(end=False)
        self.wait(server, 9)
        server.feed(server.peer.headers(1, OK))
        for _ in range(3):
            assert server.connection.sweep(10, 5) == 0
            self.wait(server, 4)
            if direction == "response":
                server.feed(server.peer.data(1, b"x"))
            else:
                asked.side.write(b"x")
        assert server.connection.sweep(10, 5) == 0
        server.sent()
        self.wait(server, 5)
        assert server.connection.sweep(10, 5) == 1
        assert [(each.kind, each.code) for each in server.sent()] == [(RST_STREAM, CANCEL)]
        assert asked.exchange.cause == "timeout_idle"
        assert (asked.abandoned, asked.ended) == (ErrorCode.INTERNAL_ERROR, False)
        assert server.counters.causes() == {"timeout_idle": 1}

    @pytest.mark.parametrize("begun", [False, True])
    def test_none_takes_longer_than_it_may_in_all(self, begun: bool) -> None:
        """Whatever moves. (That clock cannot be set by hand: no time at all is over at once.)"""
        server, asked = self.asked()
        if begun:
            server.feed(server.peer.headers(1, OK))
        assert server.connection.sweep(10, 0, 3600) == 0
        assert server.connection.sweep(10, 0, 1e-12) == 1
        assert asked.exchange.is_over
        # (What has not begun is the exchange's to answer, and there is nobody to answer here.)
        assert asked.exchange.cause == ("timeout_total" if begun else "broken_off")
        assert server.connection.active == 0

    def test_the_edges_own_requests_have_time(self) -> None:
        server = RawServer()
        server.request()
        self.wait(server, 1e6)
        assert server.connection.sweep(10, 5, 1e-12) == 0

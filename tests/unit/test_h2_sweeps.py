"""What an HTTP/2 connection gives up by the clock: silent origins, uploads nobody wants, visitors
that take nothing. Time is set by hand and read by `Turn.tick`."""

from __future__ import annotations

import pytest
from rig.http2 import GET, POST, RST_STREAM, RawClient, settings, window_update

from underpass.core.frames import ErrorCode, Setting
from underpass.core.h2 import Limits

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

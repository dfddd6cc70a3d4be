"""HTTP/2 toward origins: streams shared out, limits kept, connections replaced (RFC 9113)."""

from __future__ import annotations

import weakref

import pytest
from rig.http2 import (
    GOAWAY,
    PING,
    RST_STREAM,
    Frame,
    goaway,
    ping,
    rst_stream,
    settings,
)
from rig.http2origin import Origins

from underpass.core.h2 import Limits

MAX_CONCURRENT_STREAMS = 3
NO_ERROR, REFUSED_STREAM, CANCEL = 0, 7, 8
OK = [(b":status", b"200")]


def resets(frames: list[Frame]) -> dict[int, int]:
    return {each.stream: each.code for each in frames if each.kind == RST_STREAM}


class TestHeads:
    def test_pseudo_fields_come_first_and_the_scheme_is_the_origins(self) -> None:
        origins = Origins()
        origins.request(pairs=[(b"te", b"trailers"), (b"x", b"1"), (b"content-length", b"0")])
        (head,) = origins.connect().streams().values()
        assert head == [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"origin.test"),
            (b":path", b"/p?q"),
            (b"te", b"trailers"),
            (b"x", b"1"),
            (b"content-length", b"0"),
        ]

    def test_a_host_given_late_takes_its_place(self) -> None:
        """As `httpHostHeader` does; an empty one is none."""
        for pairs, wanted in (
            ([(b"host", b"inner.test")], [b"inner.test"]),
            ([(b"host", b"")], []),
        ):
            origins = Origins()
            ask = origins.request(authority=b"", pairs=pairs, end=False)
            ask.side.end()
            (head,) = origins.connect().streams().values()
            assert [value for name, value in head if name == b":authority"] in (wanted, [])
            assert not [value for name, value in head if name == b"host"]

    def test_fields_of_a_connection_stay_behind(self) -> None:
        """RFC 9113 §8.2.2."""
        origins = Origins()
        origins.request(
            pairs=[
                (b"connection", b"x"),
                (b"keep-alive", b"1"),
                (b"proxy-connection", b"1"),
                (b"transfer-encoding", b"chunked"),
                (b"upgrade", b"h2c"),
                (b"http2-settings", b""),
            ]
        )
        (head,) = origins.connect().streams().values()
        assert len(head) == 4

    def test_connect_is_not_for_origins(self) -> None:
        origins = Origins()
        ask = origins.request(b"CONNECT")
        assert (ask.statuses, origins.asked) == ([501], 0)


class TestSharing:
    def test_one_connection_carries_what_it_can(self) -> None:
        origins = Origins()
        asks = [origins.request() for _ in range(5)]
        assert origins.asked == 1
        server = origins.connect()
        assert list(server.streams()) == [1, 3, 5, 7, 9]
        asks.append(origins.request())
        assert list(server.streams()) == [11]
        assert origins.asked == 0
        for stream in range(1, 12, 2):
            server.feed(server.peer.headers(stream, OK, end=True))
        assert all(ask.statuses == [200] and ask.ended for ask in asks)
        assert (origins.pool.reused, origins.pool.dialled, len(origins.pool)) == (1, 1, 1)

    def test_the_origins_limit_is_kept_and_further_connections_made(self) -> None:
        origins = Origins()
        for _ in range(5):
            origins.request()
        first = origins.connect((MAX_CONCURRENT_STREAMS, 2))
        assert len(first.streams()) == 2
        # Three wait, two fit on each connection.
        assert origins.asked == 2
        second = origins.connect((MAX_CONCURRENT_STREAMS, 2))
        third = origins.connect((MAX_CONCURRENT_STREAMS, 2))
        assert (len(second.streams()), len(third.streams())) == (2, 1)
        assert origins.pool.session_count == 3

    def test_no_more_connections_than_allowed_the_rest_waits(self) -> None:
        origins = Origins(max_sessions=2)
        for _ in range(5):
            origins.request()
        server = origins.connect((MAX_CONCURRENT_STREAMS, 1))
        assert origins.asked == 1
        origins.connect((MAX_CONCURRENT_STREAMS, 1))
        assert origins.asked == 0
        assert len(server.streams()) == 1
        # A stream that ends gives its place to who has waited longest.
        server.feed(server.peer.headers(1, OK, end=True))
        assert list(server.streams()) == [3]
        server.feed(rst_stream(3, CANCEL))
        assert list(server.streams()) == [5]

    def test_a_limit_that_is_raised(self) -> None:
        origins = Origins(max_sessions=1)
        for _ in range(3):
            origins.request()
        server = origins.connect((MAX_CONCURRENT_STREAMS, 1))
        server.sent()
        server.feed(settings((MAX_CONCURRENT_STREAMS, 10)))
        origins.tick()
        assert len(server.streams()) == 2

    def test_an_origin_that_takes_no_stream(self) -> None:
        origins = Origins()
        ask = origins.request()
        server = origins.connect((MAX_CONCURRENT_STREAMS, 0))
        assert (ask.statuses, ask.cause) == ([502], "dial")
        assert [each.kind for each in server.sent() if each.kind == GOAWAY]
        assert origins.asked == 0

    def test_who_waits_goes_first(self) -> None:
        origins = Origins(max_sessions=1)
        origins.request()
        server = origins.connect((MAX_CONCURRENT_STREAMS, 1))
        origins.request(pairs=[(b"x", b"first")])
        server.sent()
        server.connection.data_received(server.peer.headers(1, OK, end=True))
        origins.request(pairs=[(b"x", b"second")])
        (head,) = server.streams().values()
        assert (b"x", b"first") in head

    def test_a_visitor_who_leaves_while_waiting_takes_no_place(self) -> None:
        origins = Origins()
        ask = origins.request()
        ask.side.reset()
        assert origins.connect().streams() == {}

    def test_dials_that_fail(self) -> None:
        origins = Origins()
        asks = [origins.request() for _ in range(3)]
        origins.refuse("dial_timeout", waited_since=2)
        assert [ask.cause for ask in asks] == ["dial_timeout", "dial_timeout", None]
        assert origins.asked == 1


class TestHttp1:
    """An origin that picks HTTP/1.1 when it is asked."""

    def test_gets_a_connection_for_each_request(self) -> None:
        origins = Origins()
        asks = [origins.request() for _ in range(3)]
        transport = origins.connect_http1()
        assert transport.take().startswith(b"GET /p?q HTTP/1.1\r\n")
        assert origins.asked == 2
        transport.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        origins.loop.run()
        assert asks[0].statuses == [200]
        assert transport.take()  # it serves the next at once

    def test_may_change_its_mind(self) -> None:
        origins = Origins()
        for _ in range(3):
            origins.request()
        origins.connect_http1()
        assert len(origins.connect().streams()) == 2
        origins.request()
        assert len(origins.servers[0].streams()) == 1


class TestLoss:
    def test_a_refused_stream_is_tried_on_another_connection(self) -> None:
        """RFC 9113 §8.7: it was certainly not processed, so any method will do."""
        origins = Origins()
        ask = origins.request(b"POST", body=b"content")
        first = origins.connect()
        first.sent()
        first.feed(rst_stream(1, REFUSED_STREAM))
        second = origins.connect()
        frames = [each for each in second.sent() if each.stream]
        assert frames[0].fields is not None
        assert (frames[1].payload, frames[1].ends) == (b"content", True)
        second.feed(second.peer.headers(1, OK, end=True))
        assert ask.statuses == [200]

    def test_trailers_are_sent_again_too(self) -> None:
        origins = Origins()
        ask = origins.request(b"POST", body=b"content", end=False)
        first = origins.connect()
        ask.side.write(b" and more")
        ask.side.end()
        first.sent()
        first.feed(rst_stream(1, REFUSED_STREAM))
        content = b"".join(each.payload for each in origins.connect().sent() if each.kind == 0)
        assert content == b"content and more"

    def test_content_that_is_still_coming_follows(self) -> None:
        origins = Origins()
        ask = origins.request(b"POST", body=b"one ", end=False)
        first = origins.connect()
        first.feed(rst_stream(1, REFUSED_STREAM))
        ask.side.write(b"two ")
        second = origins.connect()
        ask.side.write(b"three")
        ask.side.end()
        frames = [each for each in second.sent() if each.kind == 0]
        assert b"".join(each.payload for each in frames) == b"one two three"
        assert frames[-1].ends

    def test_more_content_than_is_kept_cannot_be_sent_again(self) -> None:
        origins = Origins()
        ask = origins.request(b"POST", body=bytes(16385))
        first = origins.connect()
        first.feed(rst_stream(1, REFUSED_STREAM))
        assert (ask.statuses, ask.cause) == ([502], "reset_by_origin")
        assert origins.asked == 0

    def test_as_much_as_is_kept_can(self) -> None:
        origins = Origins()
        origins.request(b"POST", body=bytes(16384))
        origins.connect().feed(rst_stream(1, REFUSED_STREAM))
        assert origins.asked == 1

    def test_it_is_not_tried_for_ever(self) -> None:
        origins = Origins()
        ask = origins.request()
        for _ in range(3):
            server = origins.connect()
            server.feed(rst_stream(1, REFUSED_STREAM))
        assert (ask.statuses, ask.cause, origins.asked) == ([502], "reset_by_origin", 0)

    def test_goaway_ends_what_it_does_not_name_and_the_rest_goes_on(self) -> None:
        origins = Origins()
        asks = [origins.request(b"POST", body=b"x") for _ in range(3)]
        first = origins.connect()
        first.sent()
        first.feed(goaway(1, NO_ERROR))
        assert (origins.asked, origins.pool.session_count) == (1, 0)
        second = origins.connect()
        assert len(second.streams()) == 2
        first.feed(first.peer.headers(1, OK, end=True))
        assert asks[0].statuses == [200]
        assert first.transport.closed
        for stream in (1, 3):
            second.feed(second.peer.headers(stream, OK, end=True))
        assert [ask.statuses for ask in asks[1:]] == [[200], [200]]

    def test_who_waits_is_served_elsewhere_after_a_goaway(self) -> None:
        origins = Origins(max_sessions=1)
        origins.request()
        first = origins.connect((MAX_CONCURRENT_STREAMS, 1))
        origins.request()
        assert origins.asked == 0
        first.feed(goaway(1, NO_ERROR))
        assert len(origins.connect().streams()) == 1

    @pytest.mark.parametrize(("method", "again"), [(b"GET", True), (b"POST", False)])
    def test_a_lost_connection(self, method: bytes, again: bool) -> None:
        """Only what is harmless to repeat is repeated (RFC 9110 §9.2.2)."""
        origins = Origins()
        ask = origins.request(method)
        server = origins.connect()
        server.transport.lose(ConnectionResetError())
        assert origins.asked == again
        assert ask.cause == (None if again else "reset_by_origin")

    def test_a_connection_lost_amid_the_response(self) -> None:
        origins = Origins()
        ask = origins.request()
        server = origins.connect()
        server.feed(server.peer.headers(1, OK))
        server.transport.lose(ConnectionResetError())
        assert (ask.statuses, ask.ended, ask.abandoned) == ([200], False, 2)
        assert origins.asked == 0

    def test_resets_pass_both_ways(self) -> None:
        origins = Origins()
        ask, other = origins.request(), origins.request()
        server = origins.connect()
        server.sent()
        server.feed(server.peer.headers(1, OK))
        server.feed(rst_stream(1, CANCEL))
        assert ask.abandoned == CANCEL
        other.side.reset(CANCEL)
        origins.loop.run()
        assert resets(server.sent()) == {3: CANCEL}


class TestSweep:
    def test_idle_connections_are_closed_in_good_order(self) -> None:
        origins = Origins()
        origins.request()
        server = origins.connect()
        server.feed(server.peer.headers(1, OK, end=True))
        origins.tick(80)
        assert origins.pool.session_count == 1
        origins.tick(10)
        assert origins.pool.session_count == 0
        assert [each.kind for each in server.sent() if each.stream == 0][-1] == GOAWAY
        assert server.transport.closed

    def test_a_connection_in_use_stays(self) -> None:
        origins = Origins()
        origins.request()
        server = origins.connect()
        for _ in range(10):
            server.feed(ping())
            origins.tick(20)
        assert origins.pool.session_count == 1

    def test_surplus_goes_after_a_second(self) -> None:
        origins = Origins(max_idle=1)
        for _ in range(3):
            origins.request()
        servers = [origins.connect((MAX_CONCURRENT_STREAMS, 1))]
        servers += [origins.connect((MAX_CONCURRENT_STREAMS, 1)) for _ in range(2)]
        for server in servers:
            server.feed(server.peer.headers(1, OK, end=True))
        origins.tick(1)
        assert [server.transport.closed for server in servers] == [False, True, True]

    def test_a_silent_origin_is_asked_and_given_up(self) -> None:
        origins = Origins()
        ask = origins.request(b"POST")
        server = origins.connect()
        server.sent()
        origins.tick(1)
        origins.tick(14)
        assert server.sent() == []
        origins.tick(1)
        assert [each.kind for each in server.sent()] == [PING]
        origins.tick(14)
        assert ask.statuses == []
        origins.tick(1)
        assert (ask.statuses, ask.cause) == ([502], "reset_by_origin")
        assert origins.pool.session_count == 0

    def test_it_is_not_asked_so_often_that_it_takes_offence(self) -> None:
        """gRPC servers take more than two pings without data for an attack."""
        origins = Origins()
        origins.request()
        server = origins.connect()
        server.sent()
        pings = 0
        for _ in range(20):
            origins.tick(15)
            asked = [each for each in server.sent() if each.kind == PING]
            pings += len(asked)
            for each in asked:
                server.feed(ping(each.payload, ack=True))
        assert pings == 2
        # Something new may be asked after once more; what has an answer, from the beginning.
        origins.request()
        server.feed(server.peer.headers(1, OK))
        origins.tick(1)
        server.sent()
        for _ in range(2):
            origins.tick(15)
            (asked_again,) = server.sent()
            server.feed(ping(asked_again.payload, ack=True))
            origins.tick(1)

    def test_an_idle_connection_is_not_asked(self) -> None:
        origins = Origins()
        origins.request()
        server = origins.connect()
        server.feed(server.peer.headers(1, OK, end=True))
        server.sent()
        for _ in range(5):
            origins.tick(16)
        assert server.sent() == []


class TestClose:
    def test_what_is_under_way_ends_what_waits_fails(self) -> None:
        origins = Origins(max_sessions=1)
        ask = origins.request()
        server = origins.connect((MAX_CONCURRENT_STREAMS, 1))
        waiting = origins.request()
        origins.pool.close()
        assert waiting.cause == "shutdown"
        assert not server.transport.closed
        server.feed(server.peer.headers(1, OK, end=True))
        assert ask.statuses == [200]
        assert server.transport.closed

    def test_idle_connections_go_at_once_and_new_ones_do_not_stay(self) -> None:
        origins = Origins()
        origins.request()
        server = origins.connect()
        server.feed(server.peer.headers(1, OK, end=True))
        origins.pool.close()
        assert server.transport.aborted
        late = origins.request()
        assert late.cause == "shutdown"


def test_flow_control_holds_the_origin_back() -> None:
    """A visitor that takes nothing leaves at most a window of it here."""
    origins = Origins(limits=Limits(stream_window=65535))
    ask = origins.request()
    ask.side.keeps_credit = True
    server = origins.connect()
    server.feed(server.peer.headers(1, OK))
    server.sent()
    for _ in range(4):
        server.feed(server.peer.data(1, bytes(16383)))
    assert [each for each in server.sent() if each.kind == 8 and each.stream == 1] == []
    ask.side.take(4 * 16383)
    origins.loop.run()
    (update,) = [each for each in server.sent() if each.kind == 8 and each.stream == 1]
    assert update.number == 4 * 16383


def test_a_trailers_only_response() -> None:
    """How gRPC refuses a call: one HEADERS frame that is head and end in one."""
    origins = Origins()
    ask = origins.request(b"POST", [(b"te", b"trailers")], body=b"message")
    server = origins.connect()
    head = [*OK, (b"content-type", b"application/grpc"), (b"grpc-status", b"12")]
    server.feed(server.peer.headers(1, head, end=True))
    assert (ask.statuses, ask.ended) == ([200], True)
    assert (b"grpc-status", b"12") in ask.fields


def test_an_end_before_the_requests_end_lets_the_origin_go() -> None:
    origins = Origins()
    ask = origins.request(b"POST", body=b"message", end=False)
    server = origins.connect()
    server.sent()
    server.feed(server.peer.headers(1, [*OK, (b"grpc-status", b"7")], end=True))
    assert ask.ended
    assert resets(server.sent()) == {1: CANCEL}
    assert origins.pool.session_count == 1


def test_pools_and_connections_are_let_go() -> None:
    """Without the help of the cycle collector, once the loop has let go of them."""
    origins = Origins()
    origins.request()
    server = origins.connect()
    server.feed(server.peer.headers(1, OK, end=True))
    gone = weakref.ref(server.connection)
    origins.tick(90)
    server.transport.collect()
    del server
    origins.servers.clear()
    assert gone() is None

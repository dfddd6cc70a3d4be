"""HTTP/1.1 toward a visitor: one request at a time, whatever is pipelined; answers and timeouts.

RFC 9112 §6.3, §7, §9; RFC 9110 §10.1.1 and §15.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from rig.cuts import every_cut
from rig.exchanges import Application, Call, alive
from rig.http1 import Visitor
from rig.upgrades import upgraded

from underpass.core.http1server import Http1Server
from underpass.core.relay import Exchange

SOURCE_CREDIT = 262144
MAX_HELD = 16384
MAX_UNSENT = 65536
MAX_THROWN_AWAY = 1048576

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST5 = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def answer(status: int = 204, *pairs: tuple[bytes, bytes]) -> Callable[[Call], None]:
    """Answer each call at once, without content."""

    def on_call(call: Call) -> None:
        call.exchange.respond(status, pairs)

    return on_call


class TestContent:
    @pytest.mark.parametrize(
        ("text", "body"),
        [
            (GET, b""),
            (POST5 + b"hello", b"hello"),
            (CHUNKED + b"0\r\n\r\n", b""),
            (CHUNKED + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: v\r\n\r\n", b"hello world"),
            (b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b""),
        ],
    )
    def test_reaches_the_application(self, text: bytes, body: bytes) -> None:
        for pieces in every_cut(text):
            visitor = Visitor()
            visitor.send(*pieces)
            call = visitor.app.last
            assert (call.body, call.ended) == (body, True)
            call.side.send_response(204, (), True)
            assert visitor.read().startswith(b"HTTP/1.1 204 No Content\r\n")

    def test_what_breaks_in_the_middle_of_chunks_is_400(self) -> None:
        for pieces in every_cut(CHUNKED + b"5\r\nhello\r\nnonsense\r\n"):
            visitor = Visitor()
            visitor.send(*pieces)
            call = visitor.app.last
            assert (call.body, call.ended) == (b"hello", False)
            assert call.abandoned is not None
            assert call.exchange.is_over
            assert visitor.read().startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert visitor.closed

    def test_what_breaks_after_the_answer_began_breaks_the_answer_off(self) -> None:
        visitor = Visitor()
        visitor.send(b"POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\n", b"x")
        visitor.app.last.side.send_response(200)
        visitor.app.last.side.write(b"half")
        assert visitor.read().endswith(b"half")
        visitor.transport.end()
        visitor.loop.run()
        assert visitor.transport.aborted
        assert b"400" not in visitor.transport.written

    def test_a_visitor_who_ends_within_a_request_is_told_400(self) -> None:
        for text in (POST5 + b"he", CHUNKED + b"5\r\nhello\r\n"):
            visitor = Visitor()
            visitor.send(text)
            visitor.transport.end()
            assert visitor.read().startswith(b"HTTP/1.1 400 ")
            assert visitor.closed
            assert visitor.app.last.abandoned is not None


class TestAnswers:
    def finish(self, text: bytes, status: int, *pairs: tuple[bytes, bytes], body: bytes) -> Visitor:
        visitor = Visitor()
        visitor.send(text)
        side = visitor.app.last.side
        side.send_response(status, pairs)
        side.write(body)
        side.end()
        return visitor

    def test_content_of_known_length(self) -> None:
        visitor = self.finish(GET, 200, (b"content-length", b"5"), (b"x-y", b"z"), body=b"hello")
        assert visitor.read() == (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y: z\r\n\r\nhello")
        assert not visitor.closed

    def test_content_of_unknown_length(self) -> None:
        visitor = self.finish(GET, 200, body=b"hello")
        assert visitor.read() == (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        )
        assert not visitor.closed

    def test_http_1_0_gets_no_chunks(self) -> None:
        text = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        visitor = self.finish(text, 200, body=b"hello")
        assert visitor.read() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
        assert visitor.closed
        assert not visitor.transport.aborted

    def test_http_1_0_may_stay(self) -> None:
        text = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        visitor = self.finish(text, 200, (b"content-length", b"1"), body=b"x")
        assert b"\r\nConnection: keep-alive\r\n" in visitor.read()
        assert not visitor.closed

    def test_connection_close_is_answered_in_kind(self) -> None:
        text = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        visitor = self.finish(text, 200, (b"content-length", b"1"), body=b"x")
        assert b"\r\nConnection: close\r\n" in visitor.read()
        assert visitor.closed

    @pytest.mark.parametrize("status", [204, 304])
    def test_no_content_for_some_statuses(self, status: int) -> None:
        visitor = self.finish(GET, status, body=b"stray")
        head, _, body = visitor.read().partition(b"\r\n\r\n")
        assert body == b""
        assert b"Transfer-Encoding" not in head
        assert not visitor.closed

    def test_204_announces_no_length(self) -> None:
        """RFC 9110 §8.6."""
        visitor = self.finish(GET, 204, (b"content-length", b"5"), body=b"")
        assert visitor.read() == NO_CONTENT

    def test_no_content_for_head(self) -> None:
        head = GET.replace(b"GET", b"HEAD")
        visitor = self.finish(head, 200, (b"content-length", b"5"), body=b"stray")
        assert visitor.read() == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        visitor = self.finish(head, 200, body=b"")
        assert visitor.read() == b"HTTP/1.1 200 OK\r\n\r\n"

    def test_an_answer_that_ends_with_its_head_says_so(self) -> None:
        visitor = Visitor()
        visitor.send(GET)
        visitor.app.last.side.send_response(404, (), True)
        assert visitor.read() == b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    def test_fields_of_a_connection_are_not_passed_on(self) -> None:
        visitor = self.finish(
            GET,
            200,
            (b"connection", b"close"),
            (b"keep-alive", b"x"),
            (b"transfer-encoding", b"gzip"),
            (b"upgrade", b"x"),
            (b"content-length", b"0"),
            body=b"",
        )
        assert visitor.read() == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def test_too_short_an_answer_is_broken_off(self) -> None:
        visitor = self.finish(GET, 200, (b"content-length", b"5"), body=b"four")
        visitor.loop.run()
        assert visitor.transport.aborted

    def test_too_long_an_answer_is_broken_off(self) -> None:
        """More than was announced would be read as the next answer."""
        visitor = self.finish(GET, 200, (b"content-length", b"5"), body=b"sixsix")
        visitor.loop.run()
        assert visitor.transport.aborted
        assert b"six" not in visitor.transport.written

    def test_an_answer_the_application_gives_up_is_broken_off(self) -> None:
        visitor = Visitor()
        visitor.send(GET)
        visitor.app.last.side.send_response(200)
        visitor.app.last.side.write(b"half")
        visitor.app.last.side.reset()
        visitor.loop.run()
        assert visitor.transport.aborted
        assert not visitor.transport.written.endswith(b"0\r\n\r\n")

    def test_one_write_a_turn(self) -> None:
        visitor = self.finish(GET, 200, body=b"hello")
        visitor.loop.run()
        assert visitor.transport.writes == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            (b"nonsense\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
            (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
            (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40000 + b"\r\n\r\n",
                b"HTTP/1.1 431 Request Header Fields Too Large",
            ),
            (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 501 Not Implemented"),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
                b"HTTP/1.1 501 Not Implemented",
            ),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"HTTP/1.1 505 HTTP Version Not Supported"),
        ],
    )
    def test_are_answered_and_end_the_connection(self, text: bytes, line: bytes) -> None:
        visitor = Visitor()
        visitor.send(text + GET)
        assert visitor.read() == line + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        assert visitor.closed
        assert visitor.app.calls == []

    def test_come_after_the_answers_to_what_came_before(self) -> None:
        visitor = Visitor(answer())
        visitor.send(GET + b"nonsense\r\n\r\n" + GET)
        assert visitor.read() == (
            NO_CONTENT
            + b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        assert len(visitor.app.calls) == 1

    def test_a_handler_that_raises_costs_one_request(self) -> None:
        def boom(call: Call) -> None:
            raise RuntimeError("a bug")

        seen: list[Exception] = []
        app = Application(boom)
        app.acceptor.__init__(app._accept, app.counters, lambda _, error: seen.append(error))  # type: ignore[misc]
        visitor = Visitor(acceptor=app.acceptor)
        visitor.send(GET)
        assert visitor.read() == (
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
        )
        assert [str(error) for error in seen] == ["a bug"]
        assert not visitor.closed


class TestPipelining:
    def test_one_at_a_time_and_in_order(self) -> None:
        text = GET + POST5 + b"hello" + CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + GET
        for pieces in every_cut(text):
            visitor = Visitor()
            visitor.send(*pieces)
            for number, body in enumerate((b"", b"hello", b"hi", b"")):
                assert len(visitor.app.calls) == number + 1
                call = visitor.app.last
                assert (call.body, call.ended) == (body, True)
                call.side.send_response(200 + number, (), True)
                visitor.loop.run()
            statuses = [part[:3] for part in visitor.read().split(b"HTTP/1.1 ")[1:]]
            assert statuses == [b"200", b"201", b"202", b"203"]
            assert not visitor.closed
            assert visitor.transport.reading

    def test_what_waits_is_bounded(self) -> None:
        visitor = Visitor()
        visitor.send(GET)
        assert visitor.app.calls
        visitor.send(b"x" * MAX_HELD)
        assert visitor.transport.reading
        visitor.send(b"x")
        assert not visitor.transport.reading

    def test_reading_goes_on_when_it_has_been_taken(self) -> None:
        visitor = Visitor()
        count = MAX_HELD // len(GET) + 2
        visitor.send(GET * count)
        assert not visitor.transport.reading
        for _ in range(count):
            visitor.app.last.side.send_response(204, (), True)
            visitor.loop.run()
        assert visitor.transport.reading
        assert visitor.read() == NO_CONTENT * count

    def test_a_flood_of_requests_is_not_a_flood_of_answers(self) -> None:
        """What is gathered in a turn stays within one answer of the bound."""
        body = b"x" * 5000
        visitor = Visitor(lambda call: call.exchange.respond(404, (), body))
        count = 5000
        visitor.transport.feed(GET * count)
        sizes = []
        while not visitor.loop.idle:
            visitor.loop.run_once()
            sizes.append(len(visitor.transport.take()))
        assert max(sizes) <= MAX_UNSENT + len(body) + 200
        assert len(visitor.app.calls) == count
        assert sum(sizes) > count * len(body)

    def test_a_visitor_who_does_not_read_is_not_served_on(self) -> None:
        body = b"x" * 5000
        visitor = Visitor(lambda call: call.exchange.respond(404, (), body))
        visitor.server.pause_writing()
        for _ in range(10):
            if visitor.transport.reading:
                visitor.send(GET * 1000)
        assert not visitor.transport.reading
        assert len(visitor.app.calls) == 0
        visitor.server.resume_writing()
        visitor.loop.run()
        assert len(visitor.app.calls) == 1000
        assert visitor.transport.reading

    def test_a_visitor_may_end_after_the_last_one(self) -> None:
        """RFC 9112 §9.6: its direction is done, ours is not."""
        for pieces in every_cut(GET * 3):
            visitor = Visitor()
            visitor.send(*pieces)
            visitor.transport.end()
            for _ in range(3):
                assert not visitor.closed
                visitor.app.last.side.send_response(204, (), True)
                visitor.loop.run()
            assert visitor.read() == NO_CONTENT * 3
            assert visitor.closed
            assert not visitor.transport.aborted

    def test_what_follows_a_closing_request_is_ignored(self) -> None:
        visitor = Visitor(answer())
        visitor.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        assert visitor.read().count(b"HTTP/1.1 ") == 1
        assert len(visitor.app.calls) == 1
        assert visitor.closed


class TestContinue:
    def test_is_sent_before_content_is_waited_for(self) -> None:
        for line in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
            head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + line + b"\r\n\r\n"
            for pieces in every_cut(head):
                visitor = Visitor()
                visitor.send(*pieces)
                assert visitor.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
                assert visitor.app.last.get(b"expect") is None

    @pytest.mark.parametrize(
        "text",
        [
            b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        ],
    )
    def test_is_not_sent_where_it_means_nothing(self, text: bytes) -> None:
        visitor = Visitor()
        visitor.send(text)
        assert visitor.read() == b""


class TestEarlyAnswers:
    def test_the_rest_is_thrown_away_and_the_connection_goes_on(self) -> None:
        for pieces in every_cut(POST5 + b"hello" + GET):
            visitor = Visitor(answer(413))
            visitor.send(*pieces)
            assert visitor.read().count(b"HTTP/1.1 413 ") == 2
            assert [call.head[0][1] for call in visitor.app.calls] == [b"POST", b"GET"]
            assert not visitor.closed

    def test_up_to_a_bound(self) -> None:
        length = 10 * MAX_THROWN_AWAY
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length
        visitor = Visitor(answer(413))
        visitor.send(head, b"x" * MAX_THROWN_AWAY)
        assert not visitor.closed
        visitor.send(b"x")
        assert visitor.closed
        assert visitor.read().startswith(b"HTTP/1.1 413 ")

    def test_a_closing_connection_lingers_too(self) -> None:
        """RFC 9112 §9.6: closed at once, the visitor's next bytes would reset the answer."""
        head = POST5.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        visitor = Visitor(answer(413))
        visitor.send(head)
        assert visitor.read().startswith(b"HTTP/1.1 413 ")
        assert not visitor.closed
        visitor.send(b"hello")
        assert visitor.closed

    def test_an_answer_that_ends_with_the_connection_does_not_linger(self) -> None:
        """Nothing else tells an HTTP/1.0 visitor that it is complete."""
        visitor = Visitor()
        visitor.send(b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n")
        visitor.app.last.side.send_response(200)
        visitor.app.last.side.write(b"x")
        visitor.app.last.side.end()
        assert visitor.read().endswith(b"\r\n\r\nx")
        assert visitor.closed
        assert not visitor.transport.aborted

    def test_lingering_ends(self) -> None:
        visitor = Visitor(answer(413))
        visitor.send(POST5)
        for seconds, closed in ((14.0, False), (1.0, True)):
            visitor.send(b"x")
            visitor.loop.now += seconds
            visitor.loop.turn.tick()
            visitor.server.sweep(15.0, 75.0)
            assert visitor.closed is closed
        assert visitor.read().count(b"HTTP/1.1 ") == 1

    def test_rubbish_after_the_answer_is_not_answered_again(self) -> None:
        visitor = Visitor(answer(413))
        visitor.send(CHUNKED + b"nonsense")
        assert visitor.read().count(b"HTTP/1.1 ") == 1
        assert visitor.closed
        assert not visitor.transport.aborted


class TestUpgrade:
    def switch(self, pieces: list[bytes]) -> Visitor:
        visitor = Visitor()
        visitor.send(*pieces)
        call = visitor.app.last
        assert call.exchange.wants_upgrade
        assert not call.ended
        pairs = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        call.side.send_response(101, pairs)
        call.side.write(b"greeting")
        return visitor

    def test_becomes_a_pipe(self) -> None:
        for pieces in every_cut(UPGRADE + b"early"):
            visitor = self.switch(pieces)
            assert visitor.read() == (
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\n\r\ngreeting"
            )

    def test_an_upgraded_exchange_carries_bytes_both_ways(self) -> None:
        visitor, call = upgraded(UPGRADE + b"early")
        assert call.body == b"early"
        visitor.send(b"GET / HTTP/1.1\r\n\r\n")
        assert call.body == b"earlyGET / HTTP/1.1\r\n\r\n"
        call.side.write(b"\x00raw")
        assert visitor.read().endswith(b"\x00raw")
        call.side.end()
        assert visitor.closed

    def test_the_visitor_ends_it(self) -> None:
        visitor, call = upgraded(UPGRADE)
        visitor.transport.end()
        assert call.ended
        call.side.end()
        assert visitor.closed
        assert not visitor.transport.aborted

    def test_the_visitor_ended_before_it_began(self) -> None:
        _, call = upgraded(UPGRADE + b"x", end_first=True)
        assert (call.body, call.ended) == (b"x", True)

    def test_an_answer_that_ends_at_once_closes(self) -> None:
        visitor = Visitor()
        visitor.send(UPGRADE)
        visitor.app.last.side.send_response(101, (), True)
        assert visitor.closed
        assert visitor.app.counters.active == 0

    def test_declined(self) -> None:
        for pieces in every_cut(UPGRADE + GET):
            visitor = Visitor()
            visitor.send(*pieces)
            visitor.app.last.side.send_response(426, (), True)
            assert visitor.read().startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
            assert len(visitor.app.calls) == 2
            assert not visitor.closed


class TestTimeouts:
    """`sweep(head_timeout, idle_timeout)`, here 15 and 75 seconds, by the coarse clock."""

    def look(self, visitor: Visitor, seconds: float) -> bool:
        visitor.loop.now += seconds
        visitor.loop.turn.tick()
        visitor.server.sweep(15.0, 75.0)
        return visitor.closed

    def test_a_head_that_takes_too_long_is_408(self) -> None:
        visitor = Visitor()
        visitor.send(GET[:5])
        for _ in range(14):
            visitor.send(b"x")
            assert not self.look(visitor, 1.0)
        assert self.look(visitor, 1.0)
        assert visitor.read() == (
            b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )

    def test_the_time_of_a_head_begins_with_it(self) -> None:
        visitor = Visitor(answer())
        assert not self.look(visitor, 60.0)
        visitor.send(GET[:5])
        assert not self.look(visitor, 14.0)
        visitor.send(GET[5:])
        assert visitor.read() == NO_CONTENT
        assert not self.look(visitor, 60.0)
        visitor.send(GET[:5])
        assert not self.look(visitor, 14.0)

    def test_nothing_at_all_closes_quietly(self) -> None:
        for text in (b"", b"\r\n\r\n", GET):
            visitor = Visitor(answer())
            visitor.send(text)
            visitor.read()
            assert not self.look(visitor, 74.0)
            visitor.send(b"\r\n")
            assert self.look(visitor, 1.0)
            assert visitor.read() == b""

    def test_content_that_stops_coming_is_408(self) -> None:
        visitor = Visitor()
        visitor.send(POST5)
        for _ in range(4):
            assert not self.look(visitor, 74.0)
            visitor.send(b"x")
        assert self.look(visitor, 75.0)
        assert visitor.read().startswith(b"HTTP/1.1 408 ")
        assert visitor.app.last.abandoned is not None
        assert visitor.app.counters.active == 0

    def test_content_we_hold_back_ourselves_is_not(self) -> None:
        visitor = Visitor(lambda call: None)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (SOURCE_CREDIT * 2)
        visitor.send(head, b"x" * SOURCE_CREDIT)
        assert not visitor.transport.reading
        assert not self.look(visitor, 1000.0)

    def test_a_request_being_answered_has_all_the_time_it_needs(self) -> None:
        for text, begin in ((GET, False), (GET, True), (POST5, True)):
            visitor = Visitor()
            visitor.send(text)
            if begin:
                visitor.app.last.side.send_response(200)
            assert not self.look(visitor, 1000.0)

    def test_a_pipe_has_too(self) -> None:
        visitor, _ = upgraded(UPGRADE)
        assert not self.look(visitor, 1000.0)


class TestBackpressure:
    def test_content_is_held_back_while_nobody_takes_it(self) -> None:
        visitor = Visitor(lambda call: None)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        visitor.send(head, b"x" * (SOURCE_CREDIT - 1))
        assert visitor.transport.reading
        visitor.send(b"x")
        assert not visitor.transport.reading
        visitor.app.last.join()
        assert visitor.app.last.body == b"x" * SOURCE_CREDIT
        assert visitor.transport.reading

    def test_reading_goes_on_at_half_the_credit(self) -> None:
        visitor = Visitor()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        visitor.send(head)
        side = visitor.app.last.side
        side.keeps_credit = True
        visitor.send(b"x" * SOURCE_CREDIT)
        assert not visitor.transport.reading
        side.take(SOURCE_CREDIT // 2 - 1)
        assert not visitor.transport.reading
        side.take(1)
        assert visitor.transport.reading

    def test_answers_are_released_as_the_transport_takes_them(self) -> None:
        visitor = Visitor()
        visitor.send(GET)
        side = visitor.app.last.side
        visitor.server.pause_writing()
        side.send_response(200)
        side.write(b"x" * 1000)
        visitor.loop.run()
        assert (side.unreleased, visitor.transport.written) == (1000, b"")
        visitor.server.resume_writing()
        visitor.loop.run()
        assert side.unreleased == 0
        assert b"x" * 1000 in visitor.transport.written

    def test_head_answers_release_what_they_do_not_send(self) -> None:
        visitor = Visitor()
        visitor.send(GET.replace(b"GET", b"HEAD"))
        side = visitor.app.last.side
        side.send_response(200)
        side.write(b"x" * 1000)
        assert side.unreleased == 0


class TestShutDown:
    def test_waits_for_the_answer_under_way(self) -> None:
        visitor = Visitor()
        visitor.send(GET)
        assert visitor.server.active == 1
        visitor.server.shut_down()
        assert not visitor.closed
        visitor.app.last.side.send_response(204, (), True)
        assert visitor.read() == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        assert visitor.closed

    def test_closes_an_idle_connection(self) -> None:
        visitor = Visitor()
        assert visitor.server.active == 0
        visitor.server.shut_down()
        assert visitor.closed


class TestAnnouncedEnd:
    def test_the_next_response_says_so(self) -> None:
        visitor = Visitor()
        visitor.server.announce_end()
        assert not visitor.closed
        visitor.send(GET)
        visitor.app.last.side.send_response(204, (), True)
        assert visitor.read() == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        assert visitor.closed

    def test_so_does_one_that_is_not_begun(self) -> None:
        visitor = Visitor()
        visitor.send(GET)
        visitor.server.announce_end()
        visitor.app.last.side.send_response(204, (), True)
        assert b"Connection: close" in visitor.read()
        assert visitor.closed

    def test_what_a_response_under_way_has_promised_is_kept(self) -> None:
        visitor = Visitor()
        visitor.send(GET)
        visitor.app.last.side.send_response(200, [(b"content-length", b"2")])
        assert b"close" not in visitor.read()
        visitor.server.announce_end()
        visitor.app.last.side.write(b"ok")
        visitor.app.last.side.end()
        assert visitor.read() == b"ok"
        assert not visitor.closed
        visitor.server.announce_end()
        visitor.send(GET)
        visitor.app.last.side.send_response(204, (), True)
        assert b"Connection: close" in visitor.read()
        assert visitor.closed


class TestNothingIsLeft:
    """Without the cycle collector: what an exchange was made of goes when it ends."""

    @pytest.mark.parametrize("lose", ["end", "lose"])
    @pytest.mark.parametrize("answered", ["no", "head", "half", "whole"])
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            GET[:9],
            GET,
            GET + GET,
            GET + GET[:9],
            POST5,
            POST5 + b"he",
            CHUNKED + b"5\r\nhe",
            UPGRADE,
            UPGRADE + b"x",
            b"nonsense\r\n\r\n",
        ],
    )
    def test_in_every_state(self, text: bytes, answered: str, lose: str) -> None:
        gc.collect()
        gc.disable()
        try:
            before = alive(Exchange, Http1Server, Call)
            visitor = Visitor()
            visitor.send(text)
            for call in visitor.app.calls[:1]:
                if answered != "no":
                    call.side.send_response(200, (), answered == "whole")
                if answered == "half":
                    call.side.write(b"x")
            visitor.loop.run()
            getattr(visitor.transport, lose)()
            visitor.loop.run()
            visitor.transport.lose()
            visitor.loop.run()
            assert visitor.server.gone
            assert visitor.app.counters.active == 0
            for call in visitor.app.calls:
                assert call.exchange.is_over
                call.side.on_data = call.side.on_end = call.side.on_abandoned = None
            # The fakes' own knot: the acceptor's handler is a method of its owner.
            visitor.app.acceptor = None  # type: ignore[assignment]
            visitor.app.calls.clear()
            visitor.loop.turn = None  # type: ignore[assignment]
            call = None  # type: ignore[assignment]
            del visitor
            assert alive(Exchange, Http1Server, Call) == before
        finally:
            gc.enable()

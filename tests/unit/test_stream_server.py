"""A visitor who speaks TCP (core.streamserver): what goes down the link, what comes back, and how
each of both ends reaches the other."""

from __future__ import annotations

import gc

import pytest
from rig.exchanges import alive
from rig.visitorstream import ORIGIN_CLOSE, Server, VisitorStream, server_frame
from websockets.frames import Opcode

from underpass.core.h2 import Limits
from underpass.core.relay import Exchange
from underpass.core.websocket import WebSocketReader

SOURCE_CREDIT = 262144
MAX_MESSAGE = 16384
HALF_CLOSED = 5
LINGER = 30
LINGER_BYTES = 1048576


def messages(data: bytes) -> list[tuple[object, ...]]:
    """What a connector reads out of the link's bytes."""
    return list(WebSocketReader().feed(data))


def content(data: bytes) -> bytes:
    return b"".join(event[1] for event in messages(data) if event[0] == "data")  # type: ignore[misc]


class TestOpening:
    def test_it_is_the_websocket_that_a_client_for_tcp_opens(self) -> None:
        head = dict(VisitorStream().head)
        assert head[b":method"] == b"GET"
        assert head[b":authority"] == b"ssh.example"
        assert head[b":path"] == b"/"
        assert head[b"cf-cloudflared-proxy-connection-upgrade"] == b"websocket"
        assert head[b"sec-websocket-version"] == b"13"
        assert len(head[b"sec-websocket-key"]) == 24
        assert b":protocol" not in head
        assert b"content-length" not in head

    def test_it_says_truly_who_comes(self) -> None:
        head = dict(VisitorStream().head)
        assert head[b"cf-connecting-ip"] == b"192.0.2.1"
        assert head[b"x-forwarded-for"] == b"192.0.2.1"
        assert head[b"cf-ray"].endswith(b"-HERE")

    def test_a_visitor_that_says_nothing_gets_the_origins_greeting(self) -> None:
        stream = VisitorStream()
        stream.write(server_frame(b"SSH-2.0-test\r\n"))
        assert stream.visitor.take() == b"SSH-2.0-test\r\n"
        assert stream.received == b""

    def test_what_has_been_read_goes_first(self) -> None:
        stream = VisitorStream(first=b"hello ")
        stream.say(b"world")
        assert content(stream.take()) == b"hello world"

    def test_what_comes_before_the_origin_is_there_waits_for_it(self) -> None:
        stream = VisitorStream(answers=False)
        stream.say(b"early")
        stream.answer()
        stream.run()
        stream.say(b" late")
        assert content(stream.take()) == b"early late"


class TestRefusals:
    def test_no_link_is_a_reset_at_once(self) -> None:
        stream = VisitorStream(links=0)
        assert stream.server.broken_off
        assert stream.visitor.aborted
        assert stream.exchange.cause == "no_link"
        assert stream.exchange.status == 503

    def test_a_connector_that_cannot_reach_the_origin(self) -> None:
        stream = VisitorStream(answers=False)
        stream.asked[0].fail(502, "dial")
        stream.run()
        assert stream.visitor.aborted
        assert (stream.exchange.cause, stream.exchange.told) == ("dial", True)
        assert stream.counters.causes() == {"dial": 1}
        assert stream.counters.active == 0

    def test_an_application_that_answers_in_http(self) -> None:
        stream = VisitorStream(answers=False)
        stream.asked[0].respond(200, (), b"<html>" * 1000)
        stream.run()
        assert stream.visitor.aborted
        assert stream.visitor.written == b""
        assert stream.exchange.cause == "not_a_websocket"

    @pytest.mark.parametrize("status", [101, 404])
    def test_an_answer_that_accepts_nothing(self, status: int) -> None:
        stream = VisitorStream(answers=False)
        side = stream.asked[0].open_python_side()
        side.send_response(status, ((b"sec-websocket-accept", b"wrong"),))
        stream.run()
        assert stream.visitor.aborted
        assert stream.exchange.cause == "not_a_websocket"
        assert stream.edge.active == 0

    def test_nobody_answers(self) -> None:
        stream = VisitorStream(answers=False)
        stream.tick(39, connect=40.0)
        assert not stream.visitor.closed
        stream.tick(2, connect=40.0)
        assert stream.visitor.aborted
        assert stream.exchange.cause == "timeout_first_byte"
        assert stream.edge.active == 0

    def test_a_link_that_closes_before_it_saw_the_stream_is_followed_by_another(self) -> None:
        stream = VisitorStream(answers=False, links=2)
        stream.say(b"what the visitor has said")
        # GOAWAY, last stream 0: RFC 9113 §6.8.
        stream.near.feed(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8))
        stream.run()
        assert len(stream.asked) == 2
        stream.answer()
        stream.run()
        assert content(stream.take()) == b"what the visitor has said"
        assert stream.exchange.attempts == 2


class TestFraming:
    def test_nothing_is_longer_than_a_connector_takes(self) -> None:
        stream = VisitorStream()
        sent = bytes(range(256)) * 300
        stream.say(sent)
        data = stream.take()
        sizes = []
        at = 0
        while at < len(data):
            assert data[at] == 0x82
            assert data[at + 1] & 0x80, "a client's frames are masked"
            size = data[at + 1] & 0x7F
            extended = 2 if size == 126 else 0
            if extended:
                size = int.from_bytes(data[at + 2 : at + 4], "big")
            sizes.append(size)
            at += 2 + extended + 4 + size
        assert max(sizes) == MAX_MESSAGE
        assert sum(sizes) == len(sent)
        assert content(data) == sent

    def test_masks_are_fresh(self) -> None:
        stream = VisitorStream()
        for _ in range(50):
            stream.say(b"same")
        data = stream.take()
        masks = {data[at + 2 : at + 6] for at in range(0, len(data), 10)}
        assert len(masks) == 50

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536, 200_000])
    def test_the_origins_messages_of_any_size(self, size: int) -> None:
        stream = VisitorStream()
        stream.write(server_frame(b"z" * size))
        assert stream.visitor.take() == b"z" * size

    def test_fragments_and_texts_are_bytes_too(self) -> None:
        stream = VisitorStream()
        stream.write(
            server_frame(b"a", Opcode.BINARY, final=False)
            + server_frame(b"p", Opcode.PING)
            + server_frame(b"b", Opcode.CONT)
            + server_frame(b"c", Opcode.TEXT)
        )
        assert stream.visitor.take() == b"abc"
        assert messages(stream.take()) == []  # a pong is nothing that the reader reports

    def test_pings_are_answered(self) -> None:
        stream = VisitorStream()
        stream.write(server_frame(b"are you there", Opcode.PING))
        data = stream.take()
        assert data[0] == 0x8A
        assert data[1] == 0x80 | 13
        mask = data[2:6]
        assert bytes(b ^ mask[i % 4] for i, b in enumerate(data[6:])) == b"are you there"

    def test_a_flood_of_pings_is_not_answered_without_end(self) -> None:
        """The connector takes nothing, so what it is answered has to wait at the edge."""
        stream = VisitorStream(limits=Limits(stream_window=65535))
        for _ in range(200):
            stream.write(server_frame(b"x" * 125, Opcode.PING) * 100)
        assert len(stream.received) <= 65535
        stream.take()
        total = 65535
        while stream.received:
            total += len(stream.take())
        assert total < SOURCE_CREDIT + 65535 + 1000

    @pytest.mark.parametrize(
        "broken",
        [
            b"\x82\x81\x00\x00\x00\x00a",  # masked, by a server
            b"\xc2\x01a",  # a reserved bit
            b"\x80\x01a",  # continues nothing
            b"\x83\x01a",  # no such opcode
            b"\x88\x7e\x00\x7e" + bytes(126),  # a control frame too long
            server_frame(b"\x03\xea", 8),  # 1002
            server_frame(b"\x03\xf3", 8),  # 1011
        ],
    )
    def test_what_is_no_message_ends_the_stream_as_broken(self, broken: bytes) -> None:
        stream = VisitorStream()
        stream.write(server_frame(b"before") + broken)
        assert stream.visitor.aborted
        assert stream.exchange.cause == "protocol_error"
        assert stream.edge.active == 0

    def test_what_is_counted_is_what_visitor_and_origin_sent(self) -> None:
        stream = VisitorStream()
        stream.say(b"x" * 100_000)
        stream.write(server_frame(b"y" * 70_000) + server_frame(b"", Opcode.PING))
        assert stream.exchange.request_bytes == 100_000
        assert stream.exchange.response_bytes == 70_000
        assert stream.counters.request_bytes == 100_000
        assert stream.counters.response_bytes == 70_000


class TestBackpressure:
    def test_a_visitor_is_not_read_while_the_link_takes_nothing(self) -> None:
        stream = VisitorStream(limits=Limits(stream_window=65535))
        while stream.visitor.reading:
            stream.visitor.feed(b"x" * 20_000)
            stream.run()
        held = int(stream.exchange.request_bytes)
        assert SOURCE_CREDIT <= held + 65536 <= SOURCE_CREDIT + 3 * 65536
        got = b""
        while not stream.visitor.reading:
            got += stream.take()
        while stream.received:
            got += stream.take()
        assert len(content(got)) == held

    def test_the_origin_is_released_as_the_visitor_takes(self) -> None:
        stream = VisitorStream()
        stream.server.pause_writing()
        sent = b"z" * 8_000_000
        stream.write(server_frame(sent))
        assert stream.side.unreleased > 6_000_000, "a window is all that comes"
        stream.server.resume_writing()
        stream.run()
        assert stream.visitor.take() == sent
        assert stream.side.unreleased == 0


class TestTheOriginsEnd:
    def end(self, stream: VisitorStream) -> None:
        stream.side.write(server_frame(b"goodbye") + ORIGIN_CLOSE)
        stream.side.end()
        stream.run()

    def test_all_it_wrote_comes_before_it(self) -> None:
        stream = VisitorStream()
        self.end(stream)
        assert stream.visitor.take() == b"goodbye"
        assert stream.visitor.said_end
        assert not stream.visitor.closed
        assert stream.exchange.is_over
        assert stream.exchange.cause is None

    def test_even_when_the_visitor_is_slow(self) -> None:
        stream = VisitorStream()
        stream.server.pause_writing()
        self.end(stream)
        assert not stream.visitor.said_end
        assert stream.visitor.written == b""
        stream.server.resume_writing()
        stream.run()
        assert stream.visitor.take() == b"goodbye"
        assert stream.visitor.said_end

    def test_a_connector_that_only_ends_the_stream(self) -> None:
        """As a stock one does."""
        stream = VisitorStream()
        stream.side.write(server_frame(b"goodbye"))
        stream.side.end()
        stream.run()
        assert (stream.visitor.take(), stream.visitor.said_end) == (b"goodbye", True)

    def test_a_connector_that_only_says_so(self) -> None:
        stream = VisitorStream()
        stream.write(server_frame(b"goodbye") + ORIGIN_CLOSE + server_frame(b"and more"))
        assert stream.visitor.take() == b"goodbye"
        stream.tick(HALF_CLOSED + 2)
        assert stream.visitor.said_end
        assert stream.exchange.is_over
        assert stream.edge.active == 0

    def test_what_the_visitor_still_sends_is_thrown_away(self) -> None:
        """To close at once would have the system reset what the visitor has not read yet."""
        stream = VisitorStream()
        self.end(stream)
        stream.say(b"x" * 100_000)
        assert not stream.visitor.closed
        stream.visitor.end()
        stream.run()
        assert stream.visitor.closed
        assert not stream.visitor.aborted

    def test_but_not_for_ever(self) -> None:
        stream = VisitorStream()
        self.end(stream)
        stream.tick(LINGER - 1)
        assert not stream.visitor.closed
        stream.tick(3)
        assert stream.visitor.closed

    def test_and_not_without_end(self) -> None:
        stream = VisitorStream()
        self.end(stream)
        stream.say(b"x" * (LINGER_BYTES + 1))
        assert stream.visitor.aborted

    def test_a_visitor_that_was_not_read_is_read_again(self) -> None:
        stream = VisitorStream(limits=Limits(stream_window=65535))
        while stream.visitor.reading:
            stream.visitor.feed(b"x" * 20_000)
            stream.run()
        self.end(stream)
        assert stream.visitor.reading


class TestTheVisitorsEnd:
    def test_is_told_to_a_connector_that_can_tell_it(self) -> None:
        stream = VisitorStream(agrees=True)
        stream.say(b"all of it")
        stream.visitor.end()
        stream.run()
        data = stream.take()
        assert content(data) == b"all of it"
        assert messages(data)[-1] == ("close", b"\x03\xe8")
        assert not stream.said_end, "the stream itself goes on"

    def test_and_the_origin_may_go_on_for_long(self) -> None:
        stream = VisitorStream(agrees=True)
        stream.visitor.end()
        stream.run()
        stream.tick(1000)
        stream.write(server_frame(b"the sum is 42") + ORIGIN_CLOSE)
        stream.side.end()
        stream.run()
        assert stream.visitor.take() == b"the sum is 42"
        assert stream.visitor.closed
        assert not stream.visitor.aborted
        assert stream.exchange.cause is None

    def test_one_that_came_before_the_origin_was_there(self) -> None:
        stream = VisitorStream(agrees=True, answers=False)
        stream.say(b"GET")
        stream.visitor.end()
        stream.run()
        stream.answer()
        stream.run()
        assert [event[0] for event in messages(stream.take())] == ["data", "close"]

    def test_is_kept_from_a_connector_that_cannot_while_the_origin_speaks(self) -> None:
        stream = VisitorStream()
        stream.visitor.end()
        stream.run()
        for _ in range(10):
            stream.tick(HALF_CLOSED - 1)
            stream.write(server_frame(b"."))
        assert stream.take() == b""
        assert stream.visitor.take() == b"." * 10

    def test_until_the_origin_is_silent(self) -> None:
        stream = VisitorStream()
        stream.visitor.end()
        stream.run()
        stream.tick(HALF_CLOSED + 1)
        assert messages(stream.take()) == [("close", b"\x03\xe8")]
        stream.write(ORIGIN_CLOSE)
        stream.side.end()
        stream.run()
        assert stream.visitor.closed
        assert not stream.visitor.aborted
        assert stream.exchange.cause is None

    def test_or_for_ever_if_the_connector_does_not_answer(self) -> None:
        stream = VisitorStream()
        stream.visitor.end()
        stream.run()
        stream.tick(2 * HALF_CLOSED + 3)
        assert stream.visitor.closed
        assert stream.edge.active == 0


class TestBreaking:
    def test_a_visitor_that_resets(self) -> None:
        stream = VisitorStream()
        stream.visitor.lose(ConnectionResetError())
        stream.run()
        assert stream.abandoned is not None
        assert stream.exchange.cause == "reset_by_client"
        assert stream.edge.active == 0

    def test_a_connector_that_resets(self) -> None:
        stream = VisitorStream()
        stream.write(server_frame(b"half of i"))
        stream.side.reset()
        stream.run()
        assert stream.visitor.aborted
        assert not stream.visitor.said_end

    def test_a_link_that_is_lost(self) -> None:
        stream = VisitorStream()
        stream.near.lose(ConnectionResetError())
        stream.loop.run()
        assert stream.server.broken_off
        assert stream.visitor.aborted
        assert stream.exchange.cause == "link_lost"
        assert stream.counters.active == 0

    def test_nothing_happens_for_too_long(self) -> None:
        stream = VisitorStream()
        stream.tick(9, idle=10.0)
        stream.say(b"still here")
        stream.tick(9, idle=10.0)
        stream.write(server_frame(b"so am I"))
        stream.tick(9, idle=10.0)
        assert not stream.visitor.closed
        stream.write(server_frame(b"", Opcode.PING))  # is nobody's word
        stream.tick(3, idle=10.0)
        assert stream.visitor.aborted
        assert stream.exchange.cause == "timeout_idle"
        assert stream.edge.active == 0

    def test_for_ever_is_an_answer(self) -> None:
        stream = VisitorStream()
        stream.tick(5000, idle=0.0)
        assert not stream.visitor.closed

    def test_a_visitor_that_had_gone_before(self) -> None:
        stream = VisitorStream(answers=False)
        stream.visitor.lose(None)
        stream.answer()
        stream.run()
        assert stream.edge.active == 0


class TestThroughAConnector:
    def test_both_directions(self) -> None:
        stream = VisitorStream(relays=True, agrees=True)
        sent = bytes(range(256)) * 1000
        stream.say(sent)
        assert stream.origin.take() == sent
        stream.origin.feed(sent)
        stream.run()
        assert stream.visitor.take() == sent

    def test_half_close_from_end_to_end(self) -> None:
        stream = VisitorStream(relays=True, agrees=True)
        stream.say(b"question")
        stream.visitor.end()
        stream.run()
        assert stream.origin.take() == b"question"
        assert stream.origin.said_end
        assert not stream.origin.closed
        stream.origin.feed(b"answer")
        stream.origin.end()
        stream.run()
        assert stream.visitor.take() == b"answer"
        assert stream.visitor.closed
        assert stream.origin.closed
        assert not stream.visitor.aborted
        assert not stream.origin.aborted
        assert stream.counters.causes() == {}

    def test_the_other_way_round(self) -> None:
        stream = VisitorStream(relays=True, agrees=True)
        stream.origin.feed(b"answer")
        stream.origin.end()
        stream.run()
        assert stream.visitor.take() == b"answer"
        assert stream.visitor.said_end
        stream.visitor.end()
        stream.run()
        assert stream.visitor.closed
        assert stream.counters.causes() == {}

    def test_without_half_close_the_visitors_end_is_the_end(self) -> None:
        stream = VisitorStream(relays=True)
        stream.say(b"question")
        stream.visitor.end()
        stream.run()
        assert not stream.origin.closed
        stream.tick(HALF_CLOSED + 1)
        assert stream.origin.closed
        assert stream.visitor.closed
        assert stream.counters.causes() == {}

    def test_an_origin_that_resets(self) -> None:
        stream = VisitorStream(relays=True, agrees=True)
        stream.origin.feed(b"half of i")
        stream.origin.lose(ConnectionResetError())
        stream.run()
        assert stream.visitor.aborted


@pytest.mark.parametrize("then", ["end", "lose", "origin", "link", "refuse", "idle"])
@pytest.mark.parametrize("answers", [True, False])
def test_nothing_is_left(then: str, answers: bool) -> None:
    """Without the cycle collector: what a stream was made of goes when it ends."""
    gc.collect()
    gc.disable()
    try:
        before = alive(Exchange, Server)
        stream = VisitorStream(answers=answers, links=0 if then == "refuse" else 1)
        if then in ("end", "lose") and not stream.visitor.closed:
            getattr(stream.visitor, then)()
        elif then == "origin" and answers:
            stream.side.end()
        elif then == "link":
            stream.near.lose()
            stream.far.lose()
        stream.run()
        stream.tick(100, idle=10.0)
        if stream.visitor.endpoint is not None:
            stream.visitor.lose()
        stream.run()
        assert stream.counters.active == 0
        side = stream.side
        side.on_head = side.on_data = side.on_end = side.on_abandoned = None
        del stream, side
        gc.collect()
        assert alive(Exchange, Server) == before
    finally:
        gc.enable()

"""HTTP/1.1 toward an origin: framing, keep-alive, retries, upgrades, backpressure, leftovers.

RFC 9112 §6.3 and §9; docs: wire protocol §2.4 to §2.7.
"""

from __future__ import annotations

import gc

import pytest
from rig.cuts import every_cut
from rig.exchanges import Client, alive
from rig.http1 import Dials, respond

from underpass.core.http1client import Http1Client, OriginPool
from underpass.core.relay import Exchange

SOURCE_CREDIT = 262144
"""Response bytes an exchange may hold before the origin is not read any further."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"GET / HTTP/1.1\r\nHost: origin.test\r\nConnection: keep-alive\r\n\r\n"
WEBSOCKET = [(b"upgrade", b"websocket")]
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def is_complete(client: Client) -> bool:
    return client.ended and client.abandoned is None and bool(client.exchange.is_over)


def is_broken_off(client: Client) -> bool:
    return not client.ended and client.abandoned is not None and bool(client.exchange.is_over)


class TestRequests:
    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PROPFIND"])
    def test_without_content(self, method: bytes) -> None:
        dials = Dials()
        dials.request(method, b"/p?q", [(b"accept", b"*/*")])
        assert dials.origin.take() == method + (
            b" /p?q HTTP/1.1\r\nHost: origin.test\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n"
        )

    @pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"FOO"])
    def test_methods_that_mean_content_say_that_there_is_none(self, method: bytes) -> None:
        """RFC 9110 §8.6."""
        dials = Dials()
        dials.request(method)
        assert b"\r\nContent-Length: 0\r\n" in dials.origin.take()

    def test_content_of_known_length(self) -> None:
        dials = Dials()
        dials.request(b"POST", pairs=[(b"content-length", b"5")], body=b"body1")
        assert dials.origin.take() == (
            b"POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 5\r\n"
            b"Connection: keep-alive\r\n\r\nbody1"
        )

    def test_content_of_unknown_length(self) -> None:
        dials = Dials()
        client = dials.request(b"POST", body=b"body1", end=False)
        client.side.write(b"2")
        client.side.end()
        dials.loop.run()
        assert dials.origin.take() == (
            b"POST / HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: keep-alive\r\n\r\n5\r\nbody1\r\n1\r\n2\r\n0\r\n\r\n"
        )

    def test_get_with_an_open_stream_waits_for_what_comes(self) -> None:
        """Its framing is not known before: most end without content, and then have none."""
        dials = Dials()
        client = dials.request(end=False)
        assert dials.origin.take() == b""
        client.side.end()
        dials.loop.run()
        assert dials.origin.take() == HEAD

        dials = Dials()
        dials.request(body=b"x", end=False)
        assert dials.origin.take().endswith(
            b"Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n1\r\nx\r\n"
        )

    def test_one_write_a_turn(self) -> None:
        dials = Dials()
        dials.request(b"POST", pairs=[(b"content-length", b"5")], body=b"body1")
        assert dials.origin.writes == 1

    @pytest.mark.parametrize("content", [b"1234", b"123456"])
    def test_content_that_is_not_as_long_as_announced_ends_the_connection(
        self, content: bytes
    ) -> None:
        """More would be read as the next request, and the next request as the rest of less."""
        dials = Dials()
        client = dials.request(b"POST", pairs=[(b"content-length", b"5")], body=content)
        assert (client.status, dials.origin.aborted) == (502, True)
        assert len(dials.pool) == 0

    def test_connect_is_not_for_origins(self) -> None:
        dials = Dials()
        client = dials.request(b"CONNECT")
        assert client.status == 501
        assert dials.transports == []


class TestResponses:
    @pytest.mark.parametrize(
        ("text", "status", "body"),
        [
            (OK, 200, b"ok"),
            (b"HTTP/1.1 404 Nope\r\nContent-Length: 0\r\n\r\n", 404, b""),
            (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b""),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"5\r\nhello\r\n6;x\r\n world\r\n0\r\nT: v\r\n\r\n",
                200,
                b"hello world",
            ),
            (
                b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
                200,
                b"ok",
            ),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK,
                200,
                b"ok",
            ),
        ],
    )
    def test_leave_the_connection_for_the_next(self, text: bytes, status: int, body: bytes) -> None:
        for pieces in every_cut(text):
            client, dials = respond(pieces)
            assert (client.status, client.body) == (status, body)
            assert is_complete(client)
            assert (len(dials.pool), dials.origin.closed) == (1, False)

    @pytest.mark.parametrize(
        "text",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nok\r\n0\r\n\r\n",
        ],
    )
    def test_connections_the_origin_will_not_keep_are_closed(self, text: bytes) -> None:
        for pieces in every_cut(text):
            client, dials = respond(pieces)
            assert client.body == b"ok"
            assert is_complete(client)
            assert (len(dials.pool), dials.origin.closed) == (0, True)

    def test_until_close(self) -> None:
        for pieces in every_cut(b"HTTP/1.1 200 OK\r\n\r\nuntil close"):
            client, dials = respond(pieces)
            assert (client.status, client.body, client.ended) == (200, b"until close", False)
            dials.origin.end()
            dials.loop.run()
            assert is_complete(client)
            assert dials.origin.closed

    @pytest.mark.parametrize("reason", [None, ConnectionResetError()])
    def test_until_close_is_only_complete_when_the_origin_says_so(
        self, reason: Exception | None
    ) -> None:
        client, dials = respond([b"HTTP/1.1 200 OK\r\n\r\nuntil"])
        dials.origin.lose(reason)
        assert is_broken_off(client)

    def test_until_close_is_broken_off_when_we_are_shut_down(self) -> None:
        client, dials = respond([b"HTTP/1.1 200 OK\r\n\r\nuntil"])
        dials.connections[0].abort()
        dials.loop.run()
        assert is_broken_off(client)

    def test_head_has_no_content_whatever_it_announces(self) -> None:
        for lines in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""):
            for pieces in every_cut(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n"):
                client, dials = respond(pieces, b"HEAD")
                assert (client.status, client.body) == (200, b"")
                assert is_complete(client)
                assert len(dials.pool) == 1

    def test_204_announces_no_length(self) -> None:
        """RFC 9110 §8.6: what would wait for it would wait for the next response."""
        client, _ = respond([b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"])
        assert client.get(b"content-length") is None

    def test_one_connection_carries_one_after_another(self) -> None:
        dials = Dials()
        texts = [
            OK,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20000,
            b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ]
        for text in texts * 2:
            client = dials.request()
            dials.origin.feed(text)
            dials.loop.run()
            assert is_complete(client)
        assert len(dials.transports) == 1
        assert (dials.pool.dialled, dials.pool.reused) == (1, 11)
        assert dials.connections[0].uses == 12

    def test_interim_responses_are_bounded(self) -> None:
        for count, status in ((16, 200), (17, 502)):
            client, dials = respond([b"HTTP/1.1 102 Processing\r\n\r\n" * count + OK])
            assert client.status == status
            assert dials.origin.closed is (status == 502)

    def test_heads_are_bounded(self) -> None:
        limit = 131072
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "
        for over, status in ((-1, 200), (0, 200), (1, 502)):
            text = start + b"x" * (limit + over - len(start) - 4) + b"\r\n\r\n"
            for pieces in ([text], [text[:1000], text[1000:]], [text[:-1], text[-1:]]):
                assert respond(pieces)[0].status == status


class TestOriginsThatLie:
    def test_too_short(self) -> None:
        for pieces in every_cut(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart"):
            client, dials = respond(pieces)
            dials.origin.end()
            dials.loop.run()
            assert client.body == b"part"
            assert is_broken_off(client)
            assert dials.origin.closed

    @pytest.mark.parametrize("text", [b"5\r\nhel", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b""])
    def test_chunks_that_do_not_end(self, text: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for pieces in every_cut(head + text):
            client, dials = respond(pieces)
            dials.origin.end()
            dials.loop.run()
            assert is_broken_off(client)

    def test_chunks_that_are_none(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for pieces in every_cut(head + b"2\r\nok\r\nhello"):
            client, dials = respond(pieces)
            assert client.body == b"ok"
            assert is_broken_off(client)
            assert dials.origin.aborted

    def test_too_long(self) -> None:
        """What is left over reaches nobody, and nobody else is sent down that connection."""
        for pieces in every_cut(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"):
            client, dials = respond(pieces)
            assert client.body == b"ok"
            assert is_complete(client)
            assert dials.origin.closed
            second = dials.request()
            assert len(dials.transports) == 2
            dials.origin.feed(OK)
            dials.loop.run()
            assert second.body == b"ok"

    def test_unasked_bytes_while_waiting(self) -> None:
        _, dials = respond([OK])
        dials.origin.feed(b"H")
        dials.loop.run()
        assert dials.origin.closed
        assert len(dials.pool) == 0

    def test_content_where_there_is_none(self) -> None:
        client, dials = respond([b"HTTP/1.1 204 No Content\r\n\r\nstray"])
        assert is_complete(client)
        assert (client.body, dials.origin.closed, len(dials.pool)) == (b"", True, 0)

    def test_bytes_before_anything_was_asked(self) -> None:
        dials = Dials(at_once=False)
        client = dials.request()
        dials.connect()
        dials.origin.feed(b"220 smtp.test ESMTP\r\n\r\n")
        dials.loop.run()
        assert (client.status, dials.origin.aborted) == (502, True)
        assert client.exchange.is_over


class TestLosses:
    def test_no_response_at_all(self) -> None:
        for lose in ("end", "lose"):
            dials = Dials()
            client = dials.request()
            getattr(dials.origin, lose)()
            dials.loop.run()
            assert client.status == 502
            assert client.exchange.cause == "reset_by_origin"  # type: ignore[attr-defined]

    def test_within_the_head(self) -> None:
        for pieces in every_cut(OK[:30]):
            client, dials = respond(pieces)
            dials.origin.end()
            dials.loop.run()
            assert client.status == 502
            assert len(dials.transports) == 1

    @pytest.mark.parametrize("lose", ["end", "lose"])
    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
    def test_a_kept_connection_found_dead_is_replaced(self, method: bytes, lose: str) -> None:
        dials = Dials()
        dials.request()
        dials.origin.feed(OK)
        dials.loop.run()
        client = dials.request(method, b"/second")
        assert len(dials.transports) == 1
        getattr(dials.origin, lose)()
        dials.loop.run()
        assert (client.status, len(dials.transports)) == (None, 2)
        assert dials.origin.written.startswith(method + b" /second HTTP/1.1\r\n")
        dials.origin.feed(b"HTTP/1.1 204 No Content\r\n\r\n")
        dials.loop.run()
        assert client.status == 204

    def test_once_only(self) -> None:
        dials = Dials()
        dials.request()
        dials.origin.feed(OK)
        dials.loop.run()
        client = dials.request()
        dials.origin.end()
        dials.loop.run()
        dials.origin.end()
        dials.loop.run()
        assert (client.status, len(dials.transports)) == (502, 2)

    def test_not_for_requests_that_change_something_or_have_content(self) -> None:
        """RFC 9110 §9.2.2; content is gone once sent."""
        for method, body in ((b"POST", None), (b"PATCH", None), (b"POST", b"x"), (b"GET", b"x")):
            dials = Dials()
            dials.request()
            dials.origin.feed(OK)
            dials.loop.run()
            client = dials.request(method, body=body)
            dials.origin.end()
            dials.loop.run()
            assert (client.status, len(dials.transports)) == (502, 1)

    def test_not_once_something_has_come(self) -> None:
        dials = Dials()
        dials.request()
        dials.origin.feed(OK)
        dials.loop.run()
        client = dials.request()
        dials.origin.feed(b"H")
        dials.origin.end()
        dials.loop.run()
        assert (client.status, len(dials.transports)) == (502, 1)

    def test_a_connection_that_waited_unused_counts_as_kept(self) -> None:
        dials = Dials(at_once=False)
        first = dials.request()
        first.side.reset()
        dials.connect()
        assert (len(dials.pool), dials.connections[0].uses) == (1, 0)
        dials.at_once = True
        client = dials.request()
        dials.origin.end()
        dials.loop.run()
        assert (client.status, len(dials.transports)) == (None, 2)

    def test_a_visitor_who_goes_away_takes_the_connection_along(self) -> None:
        for fed in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart"):
            dials = Dials()
            client = dials.request()
            dials.origin.feed(fed)
            client.side.reset()
            dials.loop.run()
            assert dials.origin.aborted
            assert len(dials.pool) == 0


class TestPool:
    def test_the_connection_used_last_is_used_first(self) -> None:
        dials = Dials()
        dials.request()
        dials.request()
        for transport in dials.transports:
            transport.feed(OK)
        dials.loop.run()
        assert len(dials.pool) == 2
        dials.request()
        assert dials.connections[1].uses == 2

    def test_keeps_no_more_than_it_may_for_more_than_a_second(self) -> None:
        dials = Dials(max_idle=1)
        for _ in range(3):
            dials.request()
        for transport in dials.transports:
            transport.feed(OK)
        dials.loop.run()
        for seconds, closed in ((0.9, [False] * 3), (1.0, [True, True, False])):
            dials.pool.sweep(dials.loop.now + seconds)
            dials.loop.run()
            assert [transport.closed for transport in dials.transports] == closed

    def test_keeps_none_if_it_may_keep_none(self) -> None:
        dials = Dials(max_idle=0)
        dials.request()
        dials.origin.feed(OK)
        dials.loop.run()
        assert dials.origin.closed

    def test_closes_what_has_waited_too_long(self) -> None:
        dials = Dials()
        dials.request()
        dials.origin.feed(OK)
        dials.loop.run()
        assert dials.connections[0].idle_since == dials.loop.now
        for seconds, kept in ((89.9, 1), (90.0, 0)):
            dials.pool.sweep(dials.loop.now + seconds)
            assert len(dials.pool) == kept
        dials.loop.run()
        assert dials.origin.closed

    def test_timeout_0_keeps_for_ever(self) -> None:
        dials = Dials()
        dials.pool.idle_timeout = 0.0
        dials.request()
        dials.origin.feed(OK)
        dials.loop.run()
        dials.pool.sweep(1e9)
        assert len(dials.pool) == 1

    def test_forgets_connections_the_origin_closes(self) -> None:
        for lose in ("end", "lose"):
            _, dials = respond([OK])
            getattr(dials.origin, lose)()
            assert len(dials.pool) == 0
            dials.request()
            assert len(dials.transports) == 2

    def test_close(self) -> None:
        dials = Dials()
        dials.request()
        busy = dials.request()
        dials.transports[0].feed(OK)
        dials.loop.run()
        dials.pool.close()
        dials.loop.run()
        assert [transport.closed for transport in dials.transports] == [True, False]
        dials.transports[1].feed(OK)
        dials.loop.run()
        assert is_complete(busy)
        assert dials.transports[1].closed

    def test_a_dialled_connection_nobody_wants_any_more_is_kept(self) -> None:
        dials = Dials(at_once=False)
        dials.request().side.reset()
        dials.connect()
        assert (len(dials.pool), dials.origin.closed) == (1, False)

    def test_a_dialled_connection_that_is_already_lost_answers_502(self) -> None:
        dials = Dials(at_once=False)
        client = dials.request()
        lone = Http1Client(dials.loop.turn, dials.pool)
        lone.connection_lost(None)
        dials.pool.arrived(lone)
        assert (client.status, client.exchange.cause) == (502, "dial")  # type: ignore[attr-defined]


class TestWaitingForAConnection:
    def test_whichever_comes_free_first_is_taken(self) -> None:
        dials = Dials(at_once=False)
        dials.request()
        dials.connect()
        second = dials.request()
        dials.origin.feed(OK)
        dials.origin.feed(OK)
        dials.loop.run()
        assert is_complete(second)
        assert dials.connections[0].uses == 2
        dials.connect()
        assert len(dials.pool) == 2

    def test_first_come_first_served(self) -> None:
        dials = Dials(at_once=False)
        clients = [dials.request(path=b"/%d" % number) for number in range(3)]
        for number in range(3):
            dials.connect()
            dials.loop.run()
            assert dials.origin.take().startswith(b"GET /%d " % number)
        assert not any(client.status for client in clients)

    def test_a_limit_to_connections_in_the_making(self) -> None:
        dials = Dials(at_once=False, max_dials=2)
        clients = [dials.request() for _ in range(5)]
        assert (dials.asked, dials.pool.dialling) == (2, 2)
        dials.connect()
        assert (dials.asked, dials.pool.dialling) == (2, 2)
        for _ in clients:
            dials.transports[0].feed(OK)
            dials.loop.run()
        assert all(map(is_complete, clients))
        assert dials.pool.dialled == 3

    def test_a_failure_is_one_requests(self) -> None:
        dials = Dials(at_once=False, max_dials=1)
        first, second = dials.request(), dials.request()
        dials.asked -= 1
        dials.pool.dial_failed(502, "dial", "refused")
        dials.loop.run()
        assert (first.status, first.exchange.context) == (502, "refused")
        assert (second.status, dials.asked) == (None, 1)

    def test_a_failure_nobody_has_to_be_told_of(self) -> None:
        dials = Dials(at_once=False)
        dials.request()
        dials.connect()
        second = dials.request()
        dials.origin.feed(OK)
        dials.pool.dial_failed(502, "dial")
        dials.origin.feed(OK)
        dials.loop.run()
        assert is_complete(second)
        assert second.status == 200

    def test_who_waited_through_all_of_an_attempt_has_waited_enough(self) -> None:
        dials = Dials(at_once=False, max_dials=1)
        before = [dials.request(), dials.request()]
        began = dials.pool.arrivals
        after = dials.request()
        dials.pool.dial_failed(502, "dial_timeout", "no answer", began)
        dials.loop.run()
        assert [client.status for client in (*before, after)] == [502, 502, None]

    def test_who_is_gone_waits_no_longer(self) -> None:
        dials = Dials(at_once=False)
        gone, here = dials.request(), dials.request()
        gone.side.reset()
        dials.connect().feed(OK)
        dials.loop.run()
        assert is_complete(here)

    def test_a_second_try_waits_for_a_connection_without_a_past(self) -> None:
        _, dials = respond([OK])
        dials.at_once = False
        again = dials.request()
        busy = dials.request()
        dials.connect()
        dials.transports[0].lose()
        assert dials.asked == 1
        dials.transports[1].feed(OK)
        dials.loop.run()
        assert is_complete(busy)
        assert not is_complete(again)
        dials.connect().feed(OK)
        dials.loop.run()
        assert is_complete(again)

    def test_close_fails_them(self) -> None:
        dials = Dials(at_once=False)
        clients = [dials.request(), dials.request()]
        dials.pool.close()
        dials.loop.run()
        assert [client.exchange.cause for client in clients] == ["shutdown"] * 2  # type: ignore[attr-defined]
        assert dials.request().status == 502
        dials.connect()
        dials.loop.run()
        assert dials.origin.closed


class TestEarlyResponses:
    """RFC 9112 §9.5: the answer comes before the request is complete."""

    @pytest.mark.parametrize(
        "text", [OK, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]
    )
    def test_is_passed_on_and_ends_the_connection(self, text: bytes) -> None:
        for pieces in every_cut(text):
            dials = Dials()
            client = dials.request(b"POST", body=b"x" * 100, end=False)
            for piece in pieces:
                dials.origin.feed(piece)
            dials.loop.run()
            assert is_complete(client)
            assert client.status == int(text[9:12])
            assert dials.origin.aborted
            assert len(dials.pool) == 0

    def test_content_may_flow_both_ways_at_once(self) -> None:
        dials = Dials()
        client = dials.request(b"POST", body=b"a", end=False)
        dials.origin.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n")
        dials.origin.take()
        client.side.write(b"b")
        dials.loop.run()
        assert dials.origin.take() == b"1\r\nb\r\n"
        dials.origin.feed(b"1\r\nB\r\n")
        client.side.end()
        dials.loop.run()
        assert dials.origin.take() == b"0\r\n\r\n"
        dials.origin.feed(b"0\r\n\r\n")
        dials.loop.run()
        assert client.body == b"AB"
        assert is_complete(client)
        assert len(dials.pool) == 1


class TestUpgrade:
    def test_becomes_a_pipe(self) -> None:
        for pieces in every_cut(SWITCHING + b"greeting"):
            dials = Dials()
            client = dials.request(pairs=WEBSOCKET, end=False)
            assert dials.origin.take() == (
                b"GET / HTTP/1.1\r\nHost: origin.test\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n\r\n"
            )
            for piece in pieces:
                dials.origin.feed(piece)
            assert (client.status, client.body) == (101, b"greeting")
            assert client.get(b"upgrade") == b"websocket"
            client.side.write(b"\x00\r\nraw")
            dials.loop.run()
            assert dials.origin.take() == b"\x00\r\nraw"
            dials.origin.feed(b"HTTP/1.1 raw")
            assert client.body == b"greetingHTTP/1.1 raw"

    def test_the_origin_ends_it(self) -> None:
        dials = Dials()
        client = dials.request(pairs=WEBSOCKET, end=False)
        dials.origin.feed(SWITCHING)
        dials.origin.end()
        dials.loop.run()
        assert is_complete(client)
        assert dials.origin.closed
        assert len(dials.pool) == 0

    def test_the_origin_resets_it(self) -> None:
        dials = Dials()
        client = dials.request(pairs=WEBSOCKET, end=False)
        dials.origin.feed(SWITCHING)
        dials.origin.lose(ConnectionResetError())
        assert is_broken_off(client)

    def test_the_visitor_ends_it(self) -> None:
        """docs: wire protocol §2.7: no half-close; what was written goes out first."""
        dials = Dials()
        client = dials.request(pairs=WEBSOCKET, end=False)
        dials.origin.feed(SWITCHING)
        dials.origin.take()
        client.side.write(b"bye")
        client.side.end()
        dials.loop.run()
        assert dials.origin.take() == b"bye"
        assert dials.origin.closed
        assert is_complete(client)

    def test_content_before_the_answer_waits_for_it(self) -> None:
        dials = Dials()
        client = dials.request(pairs=WEBSOCKET, body=b"early", end=False)
        client.side.write(b" bird")
        dials.loop.run()
        assert b"early" not in dials.origin.take()
        assert client.side.unreleased == 10
        dials.origin.feed(SWITCHING)
        dials.loop.run()
        assert dials.origin.take() == b"early bird"
        assert client.side.unreleased == 0

    def test_an_end_before_the_answer_ends_it(self) -> None:
        for body in (None, b"early"):
            dials = Dials()
            client = dials.request(pairs=WEBSOCKET, body=body)
            dials.origin.take()
            dials.origin.feed(SWITCHING)
            dials.loop.run()
            assert dials.origin.take() == (body or b"")
            assert dials.origin.closed
            assert is_complete(client)

    @pytest.mark.parametrize("end", [True, False])
    def test_declined(self, end: bool) -> None:
        """An ordinary answer, and the connection is not used again."""
        for text in (OK, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"):
            for pieces in every_cut(text):
                dials = Dials()
                client = dials.request(pairs=WEBSOCKET, body=b"early", end=end)
                for piece in pieces:
                    dials.origin.feed(piece)
                dials.loop.run()
                assert client.status == int(text[9:12])
                assert is_complete(client)
                assert dials.origin.closed
                assert b"early" not in dials.origin.written
                assert len(dials.pool) == 0

    def test_declined_with_an_endless_answer_gives_the_credit_back(self) -> None:
        dials = Dials()
        client = dials.request(pairs=WEBSOCKET, body=b"early", end=False)
        dials.origin.feed(b"HTTP/1.1 200 OK\r\n\r\nendless")
        assert client.side.unreleased == 0
        client.side.write(b"more")
        dials.loop.run()
        assert client.side.unreleased == 0
        assert b"early" not in dials.origin.written
        assert b"more" not in dials.origin.written

    def test_101_that_nobody_asked_for(self) -> None:
        for pieces in every_cut(SWITCHING):
            client, dials = respond(pieces)
            assert (client.status, dials.origin.aborted) == (502, True)


class TestBackpressure:
    def test_the_origin_is_not_read_while_nobody_takes(self) -> None:
        """At most the credit and one read are held; reading goes on at half of it."""
        dials = Dials()
        client = dials.request()
        client.side.keeps_credit = True
        dials.origin.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        dials.origin.feed(b"x" * (SOURCE_CREDIT - 1))
        assert dials.origin.reading
        dials.origin.feed(b"x")
        assert not dials.origin.reading
        client.side.take(SOURCE_CREDIT // 2 - 1)
        assert not dials.origin.reading
        client.side.take(1)
        assert dials.origin.reading
        assert dials.origin.pauses == 1

    def test_a_response_that_ends_while_paused_leaves_a_connection_that_reads(self) -> None:
        dials = Dials()
        client = dials.request()
        client.side.keeps_credit = True
        size = SOURCE_CREDIT + 10
        dials.origin.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        dials.origin.feed(b"x" * SOURCE_CREDIT)
        assert not dials.origin.reading
        dials.origin.feed(b"x" * 10)
        dials.loop.run()
        assert is_complete(client)
        assert dials.origin.reading
        assert len(dials.pool) == 1
        client.side.take(size)
        second = dials.request()
        dials.origin.feed(OK)
        assert second.body == b"ok"

    def test_request_content_is_released_as_the_transport_takes_it(self) -> None:
        dials = Dials()
        client = dials.request(b"POST", body=b"1234", end=False)
        assert client.side.unreleased == 0
        dials.connections[0].pause_writing()
        client.side.write(b"5678")
        dials.loop.run()
        assert client.side.unreleased == 4
        dials.connections[0].resume_writing()
        dials.loop.run()
        assert client.side.unreleased == 0

    def test_in_a_pipe_as_well(self) -> None:
        dials = Dials()
        client = dials.request(pairs=WEBSOCKET, end=False)
        client.side.keeps_credit = True
        dials.origin.feed(SWITCHING)
        dials.origin.feed(b"x" * SOURCE_CREDIT)
        assert not dials.origin.reading
        client.side.take(SOURCE_CREDIT)
        assert dials.origin.reading


class TestNothingIsLeft:
    """Without the cycle collector: what an exchange was made of goes when it ends."""

    def scenarios(self) -> list[tuple[str, list[bytes], str | None]]:
        close = b"HTTP/1.1 200 OK\r\n\r\n"
        return [
            ("before the head", [], "lose"),
            ("within the head", [OK[:9]], "lose"),
            ("within content", [OK[:-1]], "lose"),
            (
                "within chunks",
                [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nh"],
                "lose",
            ),
            ("until close", [close + b"x"], "lose"),
            ("until close, ended", [close + b"x"], "end"),
            ("complete", [OK], None),
            ("complete, then lost", [OK], "lose"),
            ("complete, then ended", [OK], "end"),
            ("broken", [b"nonsense\r\n\r\n"], None),
            ("too long", [OK + b"x"], None),
            ("reset by the visitor", [OK[:-1]], "reset"),
        ]

    @pytest.mark.parametrize("pairs", [[], WEBSOCKET])
    @pytest.mark.parametrize("end", [True, False])
    def test_in_every_state(self, pairs: list[tuple[bytes, bytes]], end: bool) -> None:
        gc.collect()
        gc.disable()
        try:
            for name, pieces, then in [
                *self.scenarios(),
                ("pipe", [SWITCHING], "lose"),
                ("pipe ended", [SWITCHING], "end"),
                ("pipe reset", [SWITCHING], "reset"),
            ]:
                before = alive(Exchange, Http1Client, Client)
                dials = Dials()
                client = dials.request(b"POST" if not pairs else b"GET", pairs=pairs, end=end)
                for piece in pieces:
                    dials.origin.feed(piece)
                dials.loop.run()
                if then == "reset":
                    client.side.reset()
                elif then is not None:
                    getattr(dials.origin, then)()
                dials.loop.run()
                dials.pool.close()
                for transport in dials.transports:
                    transport.lose()
                dials.loop.run()
                assert client.exchange.is_over, name
                assert client.exchange.counters.active == 0
                # The fakes' own knots: callbacks that are methods of their owner, and the dialler.
                client.side.on_head = client.side.on_data = None
                client.side.on_end = client.side.on_abandoned = None
                dials.connections.clear()
                dials.pool = None  # type: ignore[assignment]
                del client, dials, transport
                assert alive(Exchange, Http1Client, Client) == before, name
        finally:
            gc.enable()


class TestProxies:
    """A pool that asks its origin through a forward proxy (RFC 9112 §3.2.2)."""

    def pool(self) -> Dials:
        dials = Dials()
        dials.pool = OriginPool(
            dials._dial,
            absolute=b"http://app.test:8080",
            proxy_authorization=b"Basic eDp5",
        )
        return dials

    def test_the_target_is_absolute_and_names_the_service(self) -> None:
        dials = self.pool()
        dials.request(path=b"/p?q", pairs=[(b"proxy-authorization", b"the visitor's")])
        assert dials.origin.take() == (
            b"GET http://app.test:8080/p?q HTTP/1.1\r\nHost: origin.test\r\n"
            b"Proxy-Authorization: Basic eDp5\r\nConnection: keep-alive\r\n\r\n"
        )

    def test_options_for_the_server_itself(self) -> None:
        """RFC 9112 §3.2.4."""
        dials = self.pool()
        dials.request(b"OPTIONS", b"*")
        assert dials.origin.take().startswith(b"OPTIONS http://app.test:8080 HTTP/1.1\r\n")

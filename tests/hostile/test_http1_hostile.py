"""HTTP/1.1 from somebody who means harm: smuggling, splitting, slowness, floods.

Each attack goes through a whole tunnel in memory. It must reach the origin as nothing, or as one
request that h11 reads as we meant it; and cost no more than a named bound.
"""

from __future__ import annotations

from base64 import b64encode

import pytest
from rig.cuts import every_cut
from rig.http1 import Visitor
from rig.http2 import RawServer
from rig.oracle import read_requests, read_response
from rig.transport import ManualLoop
from rig.tunnel import Tunnel

from underpass.core.headerblock import serialize_pairs
from underpass.core.relay import Counters
from underpass.core.tunnel import VisitorAcceptor

MAX_HEAD = 32768
MAX_FIELDS = 1000
MAX_HELD = 16384
MAX_OVERHEAD = 16384
MAX_UNSENT = 65536

INNER = b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
"""What an attacker would have somebody believe to be a request of its own."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def post(*lines: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    return b"\r\n".join([line, host, *lines, b"", b""])


def refused(pieces: list[bytes], *statuses: int) -> None:
    """The visitor is told so and closed on, and the origin learns nothing."""
    tunnel = Tunnel()
    assert tunnel.request(*pieces) == b""
    text = tunnel.visitor.read()
    assert int(text[9:12]) in statuses, text
    assert text.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in text
    assert tunnel.visitor.closed
    assert tunnel.streams == 0
    assert tunnel.at_edge.counters.active == 0


CHUNKED = b"Transfer-Encoding: chunked"


class TestSmuggledRequests:
    """Two parties that disagree about where a request ends (RFC 9112 §11.2)."""

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(
                post(b"Content-Length: 6", CHUNKED) + b"0\r\n\r\nG", id="CL.TE"
            ),
            pytest.param(
                post(b"Content-Length: 4", CHUNKED) + b"5c\r\n" + INNER + b"0\r\n\r\n", id="TE.CL"
            ),
            pytest.param(post(CHUNKED, b"Content-Length: 0") + INNER, id="TE.0"),
            pytest.param(post(CHUNKED, b"Transfer-Encoding: x") + b"0\r\n\r\n", id="TE.TE twice"),
            pytest.param(post(b"Transfer-Encoding: x", CHUNKED) + b"0\r\n\r\n", id="TE.TE first"),
            pytest.param(post(b"Transfer-Encoding: xchunked") + INNER, id="xchunked"),
            pytest.param(post(b"Transfer-Encoding : chunked") + INNER, id="space before colon"),
            pytest.param(post(b"Transfer-Encoding\t: chunked") + INNER, id="tab before colon"),
            pytest.param(post(b"Transfer-Encoding:\x0bchunked") + INNER, id="vertical tab"),
            pytest.param(post(b"Transfer-Encoding:\x0cchunked") + INNER, id="form feed"),
            pytest.param(post(b"Transfer-Encoding: \x00chunked") + INNER, id="NUL"),
            pytest.param(post(b"Transfer-Encoding: chunked\x00") + INNER, id="NUL after"),
            pytest.param(post(b"Transfer-Encoding: chunk\xe9d") + INNER, id="obs-text"),
            pytest.param(post(b'Transfer-Encoding: "chunked"') + INNER, id="quoted"),
            pytest.param(post(b"Transfer-Encoding: chunked;q=1") + INNER, id="parameter"),
            pytest.param(post(b"Transfer-Encoding: chunked, identity") + INNER, id="gone last"),
            pytest.param(post(b"Transfer-Encoding: identity, chunked") + INNER, id="gone first"),
            pytest.param(post(b"Transfer-Encoding: identity") + INNER, id="identity"),
            pytest.param(post(b"Transfer-Encoding:\r\n chunked") + INNER, id="folded"),
            pytest.param(post(b"X: y\nTransfer-Encoding: chunked") + INNER, id="bare LF"),
            pytest.param(post(b"X: y\rTransfer-Encoding: chunked") + INNER, id="bare CR"),
            pytest.param(post(b" Transfer-Encoding: chunked") + INNER, id="leading space"),
            pytest.param(post(b"Foo: bar\r\n\tTransfer-Encoding: chunked") + INNER, id="as a fold"),
            pytest.param(post(CHUNKED, line=b"POST / HTTP/1.0") + INNER, id="chunks in 1.0"),
            pytest.param(post(b"Content-Length: 0", b"Content-Length: 34") + INNER, id="CL.CL"),
            pytest.param(post(b"Content-Length: 34, 0") + INNER, id="CL list"),
            pytest.param(post(b"Content-Length: 0 34") + INNER, id="CL twice in one"),
            pytest.param(post(b"Content-Length: +34") + INNER, id="CL plus"),
            pytest.param(post(b"Content-Length: -1") + INNER, id="CL minus"),
            pytest.param(post(b"Content-Length: 0x22") + INNER, id="CL hex"),
            pytest.param(post(b"Content-Length: 3 4") + INNER, id="CL space"),
            pytest.param(post(b"Content-Length: 34\x00") + INNER, id="CL NUL"),
            pytest.param(post(b"Content-Length: 18446744073709551616") + INNER, id="CL 2^64"),
            pytest.param(post(b"Content-Length: 9223372036854775808") + INNER, id="CL 2^63"),
            pytest.param(post(b"Content-Length : 34") + INNER, id="CL space before colon"),
            pytest.param(post(b"Content-Length:\r\n 34") + INNER, id="CL folded"),
            pytest.param(post(b"Content-Length: \xd9\xa3") + INNER, id="CL in other digits"),
            pytest.param(post(host=b"Host: a\r\nHost: b"), id="Host twice"),
            pytest.param(post(host=b"Host: a@b"), id="Host with user"),
            pytest.param(post(host=b"Host: a/b"), id="Host with path"),
            pytest.param(post(host=b"Host: a b"), id="Host with space"),
            pytest.param(post(host=b"Host: a#b"), id="Host with fragment"),
            pytest.param(post(host=b"Host : a"), id="Host space before colon"),
            pytest.param(post(host=b" Host: a"), id="Host leading space"),
            pytest.param(post(host=b"X: y"), id="no Host"),
            pytest.param(post(host=b"Host: a", line=b"POST http://u@b/ HTTP/1.1"), id="URL user"),
            pytest.param(post(line=b"POST /\rX HTTP/1.1"), id="CR in target"),
            pytest.param(post(line=b"POST / HTTP/1.1\rX"), id="CR in version"),
            pytest.param(post(line=b"POST / x HTTP/1.1"), id="space in target"),
            pytest.param(post(line=b"POST /\x00 HTTP/1.1"), id="NUL in target"),
            pytest.param(post(line=b"POST / HTTP/1.1 HTTP/1.0"), id="version twice"),
            pytest.param(b"POST / HTTP/1.1\nHost: a\n\n" + INNER, id="LF alone"),
            pytest.param(post(b"X: a\x00b"), id="NUL in value"),
            pytest.param(post(b"X\x00: b"), id="NUL in name"),
            pytest.param(post(b": b"), id="no name"),
        ],
    )  # fmt: skip
    def test_are_refused(self, text: bytes) -> None:
        for pieces in every_cut(text):
            refused(pieces, 400, 501)

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"0x1\r\na\r\n0\r\n\r\n", id="hex prefix"),
            pytest.param(b"+1\r\na\r\n0\r\n\r\n", id="plus"),
            pytest.param(b" 1\r\na\r\n0\r\n\r\n", id="leading space"),
            pytest.param(b"1 1\r\na\r\n0\r\n\r\n", id="inner space"),
            pytest.param(b"1\na\r\n0\r\n\r\n", id="bare LF"),
            pytest.param(b"1;x\na\r\n0\r\n\r\n", id="bare LF after extension"),
            pytest.param(b"1;x\ry\r\na\r\n0\r\n\r\n", id="bare CR in extension"),
            pytest.param(b"1\r\naX\r\n0\r\n\r\n", id="longer than it says"),
            pytest.param(b"1\r\na0\r\n\r\n" + INNER, id="no CR LF after data"),
            pytest.param(b"1\r\na\n0\r\n\r\n" + INNER, id="bare LF after data"),
            pytest.param(b"10000000000000001\r\na\r\n0\r\n\r\n", id="2^64 + 1"),
            pytest.param(b"fffffffffffffffe\r\na\r\n0\r\n\r\n", id="2^64 - 2"),
            pytest.param(b"0000000000000001\r\na\r\n0\r\n\r\n", id="zeros"),
            pytest.param(b"\r\n0\r\n\r\n", id="empty size"),
            pytest.param(b"0\r\n\n" + INNER, id="bare LF at the end"),
            pytest.param(b"0\r\nX: y\n\r\n" + INNER, id="bare LF in trailers"),
            pytest.param(b"0\r\n" + INNER, id="a request as trailers"),
        ],
    )
    def test_chunks_that_could_be_read_in_two_ways(self, body: bytes) -> None:
        """The link's stream is reset, so the origin's connection ends with the request."""
        for pieces in every_cut(post(CHUNKED) + body):
            tunnel = Tunnel()
            got = tunnel.request(*pieces)
            messages, _ = read_requests(got)
            assert not any(message.ended for message in messages)
            assert b"/admin" not in got
            assert tunnel.visitor.read().startswith(b"HTTP/1.1 400 ")
            assert tunnel.visitor.closed
            assert all(transport.closed for transport in tunnel.dials.transports)
            assert tunnel.streams == 0

    def test_content_that_looks_like_a_request_is_content(self) -> None:
        for framed in (
            post(b"Content-Length: %d" % len(INNER)) + INNER,
            post(CHUNKED) + b"%x\r\n" % len(INNER) + INNER + b"\r\n0\r\n\r\n",
            post(b"Connection: Content-Length", b"Content-Length: %d" % len(INNER)) + INNER,
            post(
                b"Connection: Transfer-Encoding, close, Host",
                CHUNKED,
            ) + b"%x\r\n" % len(INNER) + INNER + b"\r\n0\r\n\r\n",
        ):  # fmt: skip
            for pieces in every_cut(framed):
                tunnel = Tunnel()
                (message,), was_refused = read_requests(tunnel.request(*pieces))
                assert not was_refused
                assert (message.start[1], message.body, message.ended) == (b"/", INNER, True)

    @pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
    def test_an_upgrade_hides_nothing(self, upgrade: bytes) -> None:
        """What follows a request to upgrade is a pipe's only if the origin agrees; else it is the
        next request, and looked at as one."""
        tunnel = Tunnel()
        text = post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + upgrade,
                    b"HTTP2-Settings: AAMAAABk", line=b"GET / HTTP/1.1")  # fmt: skip
        got = tunnel.request(text + INNER)
        assert got.count(b"HTTP/1.1\r\n") == 1
        assert b"h2c" not in got
        assert b"Http2-Settings" not in got
        tunnel.respond(OK)
        tunnel.run()
        assert [exchange.start[1] for exchange in read_requests(
            b"".join(transport.take() for transport in tunnel.dials.transports))[0]
        ] == [b"/admin"]  # fmt: skip


class TestSlowness:
    def test_a_head_octet_by_octet(self) -> None:
        visitor = Visitor()
        for octet in post()[:14]:
            visitor.send(bytes([octet]))
            visitor.loop.now += 1.0
            visitor.loop.turn.tick()
            visitor.server.sweep(15.0, 75.0)
        assert not visitor.closed
        visitor.loop.now += 1.0
        visitor.loop.turn.tick()
        visitor.server.sweep(15.0, 75.0)
        assert visitor.read().startswith(b"HTTP/1.1 408 ")
        assert visitor.closed

    def test_empty_lines_for_ever(self) -> None:
        """They are no head, so the time of an idle connection is all they have."""
        visitor = Visitor()
        for _ in range(75):
            visitor.send(b"\r\n" * 1000)
            visitor.loop.now += 1.0
            visitor.loop.turn.tick()
            visitor.server.sweep(15.0, 75.0)
        assert visitor.closed

    def test_content_that_does_not_come(self) -> None:
        visitor = Visitor()
        visitor.send(post(b"Content-Length: 1000000"))
        visitor.loop.now += 75.0
        visitor.loop.turn.tick()
        visitor.server.sweep(15.0, 75.0)
        assert visitor.read().startswith(b"HTTP/1.1 408 ")
        assert visitor.closed


class TestSize:
    def test_heads(self) -> None:
        for over, status in ((-1, b"200"), (0, b"200"), (1, b"431")):
            start = post(b"X: ", line=b"GET / HTTP/1.1")[:-4]
            text = start + b"x" * (MAX_HEAD + over - len(start) - 4) + b"\r\n\r\n"
            tunnel = Tunnel()
            got = tunnel.request(text)
            assert bool(got) is (status == b"200")
            answer = tunnel.respond(OK) if got else tunnel.visitor.read()
            assert answer[9:12] == status

    def test_fields_up_to_the_bound_do_not_break_the_link(self) -> None:
        """HPACK and the header block count fields too: what one visitor sends must not cost
        everybody the link."""
        for count, status in (
            (MAX_FIELDS - 1, b"200"),
            (MAX_FIELDS, b"200"),
            (MAX_FIELDS + 1, b"431"),
        ):
            tunnel = Tunnel()
            got = tunnel.request(post(*[b"a:"] * (count - 1), line=b"GET / HTTP/1.1"))
            assert bool(got) is (status == b"200")
            if got:
                many = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"b:\r\n" * (MAX_FIELDS - 1)
                answer = tunnel.respond(many + b"\r\nok")
                assert answer.count(b"\r\nB: \r\n") + answer.count(b"B: \r\nB: ") > 0
            else:
                answer = tunnel.visitor.read()
            assert answer[9:12] == status
            other = Visitor(loop=tunnel.loop, acceptor=tunnel.at_edge)
            other.send(INNER)
            tunnel.run()
            assert b"/admin" in tunnel.dials.origin.written

    def test_a_target_as_long_as_a_head(self) -> None:
        tunnel = Tunnel()
        path = b"/" + b"a" * (MAX_HEAD - 100)
        (message,), _ = read_requests(tunnel.request(post(line=b"GET " + path + b" HTTP/1.1")))
        assert message.start[1] == path

    @pytest.mark.parametrize(
        "endless",
        [
            pytest.param(b"1;" + b"x" * 2 * MAX_OVERHEAD, id="one extension"),
            pytest.param(b"1;xxxxxxxxxxxxxxx\r\na\r\n" * 2000, id="an extension each"),
            pytest.param(b"1" + b" " * 2 * MAX_OVERHEAD, id="whitespace"),
            pytest.param(b"0\r\nX: " + b"x" * 2 * MAX_OVERHEAD, id="one trailer"),
            pytest.param(b"0\r\n" + b"X: y\r\n" * 2000, id="many trailers"),
        ],
    )
    def test_extensions_and_trailers_without_end(self, endless: bytes) -> None:
        tunnel = Tunnel()
        tunnel.request(post(CHUNKED) + endless)
        assert tunnel.visitor.read().startswith(b"HTTP/1.1 400 ")
        assert tunnel.visitor.closed
        assert tunnel.streams == 0

    def test_trailers_up_to_the_bound_do_not_break_the_link(self) -> None:
        tunnel = Tunnel()
        got = tunnel.request(post(CHUNKED) + b"0\r\n" + b"a:\r\n" * 100 + b"\r\n")
        (message,), _ = read_requests(got)
        assert len(message.trailers) == 100

    def test_interim_responses_without_end(self) -> None:
        tunnel = Tunnel()
        tunnel.request(INNER)
        answer = tunnel.respond(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert tunnel.streams == 0


class TestFloods:
    def test_pipelined_requests_reach_the_origin_one_at_a_time(self) -> None:
        tunnel = Tunnel()
        for _ in range(20):
            if tunnel.visitor.transport.reading:
                tunnel.visitor.transport.feed(INNER * 1000)
        assert not tunnel.visitor.transport.reading
        tunnel.run()
        assert tunnel.at_edge.counters.active == 1
        assert tunnel.dials.origin.take().count(b"/admin") == 1
        for _ in range(50):
            tunnel.respond(OK)
            assert tunnel.at_edge.counters.opened == tunnel.at_connector.counters.opened
            assert tunnel.at_edge.counters.active <= 1

    def test_pipelined_requests_answered_by_the_edge(self) -> None:
        """Whoever asks much and reads nothing is not answered much."""
        page = b"x" * 4096
        visitor = Visitor(lambda call: call.exchange.respond(404, (), page))
        visitor.server.pause_writing()
        for _ in range(100):
            if visitor.transport.reading:
                visitor.transport.feed(INNER * 8000)
            visitor.loop.run()
        assert visitor.transport.written == b""
        assert visitor.app.counters.opened * len(page) <= MAX_UNSENT + len(page)

    def test_resets_in_the_middle_leave_nothing(self) -> None:
        tunnel = Tunnel()
        loop = tunnel.loop
        for cut in range(1, 60):
            visitor = Visitor(loop=loop, acceptor=tunnel.at_edge)
            visitor.send((post(b"Content-Length: 100") + b"x" * 40)[: cut + 20])
            tunnel.run()
            visitor.transport.lose(ConnectionResetError())
            tunnel.run()
        assert tunnel.streams == 0
        assert tunnel.at_edge.counters.active == tunnel.at_connector.counters.active == 0
        assert all(transport.closed for transport in tunnel.dials.transports)


class TestSplitResponses:
    """A connector is no friend of other people's visitors."""

    @pytest.mark.parametrize(
        "pair",
        [
            (b"X", b"a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
            (b"X", b"a\r\nSet-Cookie: evil=1"),
            (b"X", b"a\nSet-Cookie: evil=1"),
            (b"X", b"a\rSet-Cookie: evil=1"),
            (b"X", b"evil\x00"),
            (b"X\r\nSet-Cookie", b"evil=1"),
            (b"X: evil\r\nY", b"z"),
            (b"X Y", b"evil"),
            (b":status", b"evil"),
            (b"", b"evil"),
        ],
    )
    def test_by_a_header_block(self, pair: tuple[bytes, bytes]) -> None:
        name, value = (b64encode(part).rstrip(b"=") for part in pair)
        answer = self.answer(name + b":" + value, b"", [])
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"evil" not in answer
        assert read_response(answer) is not None

    @pytest.mark.parametrize(
        ("inner", "outer"),
        [([b"0"], []), ([b"0"], [b"4"]), ([b"4", b"0"], [b"4"]), ([b"0x4"], [b"4"]), ([b"9"], [])],
    )
    def test_by_a_length(self, inner: list[bytes], outer: list[bytes]) -> None:
        block = serialize_pairs([(b"Content-Length", value) for value in inner])
        answer = self.answer(block, b"evil", [(b"content-length", value) for value in outer])
        message = read_response(answer)
        assert message is not None
        assert (message.body, message.ended) == (b"evil", True)

    def test_by_a_coding(self) -> None:
        block = serialize_pairs([(b"Transfer-Encoding", b"chunked"), (b"Connection", b"X")])
        message = read_response(self.answer(block, b"0\r\n\r\nevil", []))
        assert message is not None
        assert (message.body, message.ended) == (b"0\r\n\r\nevil", True)

    def answer(self, block: bytes, body: bytes, outer: list[tuple[bytes, bytes]]) -> bytes:
        loop = ManualLoop()
        connector = RawServer(loop=loop)
        acceptor = VisitorAcceptor(
            connector.connection.forward, Counters(), None, None, b"192.0.2.1", b"https"
        )
        visitor = Visitor(loop=loop, acceptor=acceptor)
        visitor.send(INNER)
        head = [
            (b":status", b"200"),
            *outer,
            (b"cf-cloudflared-response-headers", block),
            (b"cf-cloudflared-response-meta", b'{"src":"origin"}'),
        ]
        connector.feed(connector.peer.headers(1, head, end=not body))
        if body:
            connector.feed(connector.peer.data(1, body, end=True))
        return visitor.read()

    def test_by_an_origin_that_says_more_than_it_announced(self) -> None:
        tunnel = Tunnel()
        tunnel.request(INNER)
        answer = tunnel.respond(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert b"evil" not in answer
        assert tunnel.request(INNER) != b""
        assert len(tunnel.dials.transports) == 2
        assert b"evil" not in tunnel.respond(OK)

    def test_by_an_origin_that_answers_before_it_is_asked(self) -> None:
        tunnel = Tunnel()
        tunnel.request(INNER)
        tunnel.respond(OK)
        tunnel.dials.origin.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        tunnel.run()
        assert tunnel.request(INNER) != b""
        assert b"evil" not in tunnel.respond(OK)

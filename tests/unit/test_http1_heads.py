"""HTTP/1.1 heads: what is accepted, how content is delimited, what is hidden, what is written.

RFC 9112 §2 to §6, RFC 9110 §5 and §7.6.1. Every case is fed whole, byte by byte, and cut at every
offset.
"""

from __future__ import annotations

import pytest
from rig.cuts import every_cut
from rig.http1 import respond, visit

from underpass.core.fields import Fields
from underpass.core.http1 import read_head, write_request, write_response

Pairs = list[tuple[bytes, bytes]]


def request(text: bytes, max_head: int = 65536) -> tuple[Pairs, dict[str, object]]:
    """The fields and facts of a request head, however it is cut; nothing may be left over."""
    answer = read_head(text, True, max_head)
    assert answer is not None
    pairs, facts, left = answer
    assert left == 0
    for cut in range(len(text)):
        assert read_head(text[:cut], True, max_head) is None
    return pairs, facts


def response(text: bytes) -> tuple[Pairs, dict[str, object]]:
    """The same for a response head."""
    answer = read_head(text, False)
    assert answer is not None
    pairs, facts, left = answer
    assert left == 0
    for cut in range(len(text)):
        assert read_head(text[:cut], False) is None
    return pairs, facts


def get(
    fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n"
) -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n"


class TestRequestLine:
    def test_becomes_pseudo_fields(self) -> None:
        pairs, facts = request(b"GET /p?q=1 HTTP/1.1\r\nHost: a.test:81\r\nX-Name: value\r\n\r\n")
        assert pairs == [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"a.test:81"),
            (b":path", b"/p?q=1"),
            (b"X-Name", b"value"),
        ]
        assert facts["minor"] == 1
        assert facts["keep_alive"] is True

    @pytest.mark.parametrize(
        ("target", "authority", "path"),
        [
            (b"/", b"a", b"/"),
            (b"*", b"a", b"*"),
            (b"/a%2Fb//../c;d?e=%zz#f", b"a", b"/a%2Fb//../c;d?e=%zz#f"),
            (b"http://b.test/x?y", b"b.test", b"/x?y"),
            (b"HTTP://B.test:8080/", b"B.test:8080", b"/"),
            (b"https://b.test", b"b.test", b"/"),
            (b"http://b.test?y=z", b"b.test", b"/?y=z"),
            (b"http://[::1]:80/x", b"[::1]:80", b"/x"),
        ],
    )
    def test_target_forms(self, target: bytes, authority: bytes, path: bytes) -> None:
        """RFC 9112 §3.2: the authority of an absolute form goes before Host."""
        pairs, _ = request(get(line=b"OPTIONS " + target + b" HTTP/1.1"))
        assert dict(pairs)[b":authority"] == authority
        assert dict(pairs)[b":path"] == path

    @pytest.mark.parametrize(
        "line",
        [
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b"GET / x HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET HTTP/1.1",
            b"GET /",
            b"GET / HTTP/11",
            b"GET / http/1.1",
            b"GET / HTTP/1.1\x00",
            b"GET /\x7f HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET ftp://b/ HTTP/1.1",
            b"GET b.test/ HTTP/1.1",
            b"GET http://u@b/ HTTP/1.1",
            b"GET http:///x HTTP/1.1",
            b"GET http:// HTTP/1.1",
            b"GET http://b\\c/ HTTP/1.1",
            b"CONNECT b:443 HTTP/1.1",
        ],
    )
    def test_malformed(self, line: bytes) -> None:
        for pieces in every_cut(get(line=line)):
            result = visit(pieces)
            assert (result.heads, result.refused, result.closed) == ((), 400, True)

    @pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/1.2", b"HTTP/3.0", b"HTTP/0.9"])
    def test_other_versions_are_505(self, version: bytes) -> None:
        for pieces in every_cut(get(line=b"GET / " + version)):
            assert visit(pieces).refused == 505

    @pytest.mark.parametrize("method", [b"FOO", b"get", b"GETX", b"G"])
    def test_unknown_methods_are_501(self, method: bytes) -> None:
        """RFC 9110 §9.1."""
        for pieces in every_cut(get(line=method + b" / HTTP/1.1")):
            assert visit(pieces).refused == 501

    def test_empty_lines_before_a_request_are_skipped(self) -> None:
        """RFC 9112 §2.2."""
        for pieces in every_cut(b"\r\n\r\n" + get()):
            assert len(visit(pieces).heads) == 1

    def test_http_1_0_may_lack_a_host(self) -> None:
        pairs, facts = request(b"GET / HTTP/1.0\r\n\r\n")
        assert dict(pairs)[b":authority"] == b""
        assert (facts["minor"], facts["keep_alive"]) == (0, False)


class TestHost:
    @pytest.mark.parametrize(
        "lines",
        [
            b"",
            b"Host: a\r\nHost: a\r\n",
            b"Host: a\r\nhost: b\r\n",
            b"Host: a b\r\n",
            b"Host: a/b\r\n",
            b"Host: u@a\r\n",
            b"Host: a,b\r\n X: y\r\n",
            b"Host: a\\b\r\n",
            b"Host: a?b\r\n",
            b'Host: "a"\r\n',
            b"Host: \xe4\r\n",
        ],
    )
    def test_must_be_one_and_sound(self, lines: bytes) -> None:
        """RFC 9112 §3.2."""
        for pieces in every_cut(get(host=lines)):
            assert visit(pieces).refused == 400

    def test_is_needed_beside_an_absolute_form(self) -> None:
        with pytest.raises(ValueError, match="missing Host"):
            read_head(b"GET http://b/ HTTP/1.1\r\n\r\n", True)

    def test_may_be_empty(self) -> None:
        assert dict(request(get(host=b"Host:\r\n"))[0])[b":authority"] == b""


class TestFieldLines:
    @pytest.mark.parametrize(
        "line",
        [
            b"X : y",
            b"X\t: y",
            b" X: y",
            b": y",
            b"X",
            b"X(: y",
            b"X\x00: y",
            b"X\x80: y",
            b"X: y\x00",
            b"X: y\rz",
            b"X: y\x0bz",
            b"X: y\x7f",
            b"X: y\r\n z",
            b"X: y\r\n\tz",
            b"X: y\nZ: w",
            b":path: /x",
        ],
    )
    def test_malformed(self, line: bytes) -> None:
        for pieces in every_cut(get(line + b"\r\n")):
            result = visit(pieces)
            assert (result.heads, result.refused) == ((), 400)
        with pytest.raises(ValueError, match=r"\w"):
            read_head(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n", False)

    def test_bare_line_feeds_end_no_line(self) -> None:
        for text in (b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\nHost: a\r\n\r\n"):
            for pieces in every_cut(text + b"\r\n\r\n"):
                assert visit(pieces).refused == 400

    @pytest.mark.parametrize("blank", [b"", b" ", b"\t", b" \t ", b"  "])
    def test_whitespace_around_values_is_no_part_of_them(self, blank: bytes) -> None:
        """RFC 9112 §5.1, for the fields we read ourselves as for those we pass on."""
        text = get(
            b"X:" + blank + b"y z" + blank + b"\r\n"
            b"Content-Length:" + blank + b"3" + blank + b"\r\n"
            b"Empty:" + blank + b"\r\n",
            host=b"Host:" + blank + b"a" + blank + b"\r\n",
            line=b"POST / HTTP/1.1",
        )
        pairs, facts = request(text)
        assert pairs[2] == (b":authority", b"a")
        assert pairs[4:] == [(b"X", b"y z"), (b"Content-Length", b"3"), (b"Empty", b"")]
        assert facts["length"] == 3
        pairs, facts = request(
            get(b"Transfer-Encoding:" + blank + b"chunked \r\n", b"POST / HTTP/1.1")
        )
        assert facts["framing"] == "chunks"

    def test_other_octets_and_order_are_kept(self) -> None:
        lines = b'B: caf\xe9\r\na: "\t"\r\nB: 2\r\nCookie: x=1\r\nCookie: y\r\n'
        assert request(get(lines))[0][4:] == [
            (b"B", b"caf\xe9"),
            (b"a", b'"\t"'),
            (b"B", b"2"),
            (b"Cookie", b"x=1"),
            (b"Cookie", b"y"),
        ]


class TestRequestFraming:
    @pytest.mark.parametrize(
        ("lines", "framing", "length"),
        [
            (b"", "none", -1),
            (b"Content-Length: 0\r\n", "none", 0),
            (b"Content-Length: 000\r\n", "none", 0),
            (b"Content-Length: 5\r\n", "length", 5),
            (b"content-length: 123456789012345678\r\n", "length", 123456789012345678),
            (b"Transfer-Encoding: chunked\r\n", "chunks", -1),
            (b"transfer-encoding: Chunked\r\n", "chunks", -1),
        ],
    )
    def test_sound(self, lines: bytes, framing: str, length: int) -> None:
        """RFC 9112 §6.3."""
        _, facts = request(get(lines, b"POST / HTTP/1.1"))
        assert (facts["framing"], facts["length"]) == (framing, length)

    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
            (b"Content-Length: 5\r\nContent-Length: 5\r\n", 400),
            (b"Content-Length: 5, 5\r\n", 400),
            (b"Content-Length: 5,6\r\n", 400),
            (b"Content-Length: +5\r\n", 400),
            (b"Content-Length: -5\r\n", 400),
            (b"Content-Length: 0x5\r\n", 400),
            (b"Content-Length: 5 5\r\n", 400),
            (b"Content-Length: 5;\r\n", 400),
            (b"Content-Length:\r\n", 400),
            (b"Content-Length: 1234567890123456789\r\n", 400),
            (b"Content-Length: 99999999999999999999999\r\n", 400),
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 400),
            (b"Transfer-Encoding: gzip, chunked\r\n", 501),
            (b"Transfer-Encoding: gzip\r\n", 501),
            (b"Transfer-Encoding: identity\r\n", 501),
            (b"Transfer-Encoding: xchunked\r\n", 501),
            (b"Transfer-Encoding: chunked, chunked\r\n", 400),
            (b"Transfer-Encoding: chunked,\r\n", 400),
            (b"Transfer-Encoding: chunked\t\r\n", 501),
            (b"Transfer-Encoding: ,chunked\r\n", 501),
            (b"Transfer-Encoding: chunked;a=b\r\n", 501),
            (b'Transfer-Encoding: "chunked"\r\n', 501),
            (b"Transfer-Encoding:\r\n", 400),
            (b"Transfer-Encoding: \x0bchunked\r\n", 400),
            (b"Transfer-Encoding : chunked\r\n", 400),
            (b"Transfer-Encoding\t: chunked\r\n", 400),
            (b"Transfer-Encoding:\r\n chunked\r\n", 400),
        ],
    )
    def test_unsound(self, lines: bytes, status: int) -> None:
        for pieces in every_cut(get(lines, b"POST / HTTP/1.1")):
            result = visit(pieces)
            assert (result.heads, result.refused, result.closed) == ((), status, True)

    def test_no_chunks_in_http_1_0(self) -> None:
        text = get(b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.0")
        for pieces in every_cut(text):
            assert visit(pieces).refused == 400


class TestResponseFraming:
    @pytest.mark.parametrize(
        ("line", "lines", "framing", "length"),
        [
            (b"HTTP/1.1 200 OK", b"", "close", -1),
            (b"HTTP/1.1 200", b"", "close", -1),
            (b"HTTP/1.1 200 ", b"Content-Length: 0\r\n", "none", 0),
            (b"HTTP/1.1 200 Fine \xe9\t!", b"Content-Length: 7\r\n", "length", 7),
            (b"HTTP/1.0 200 OK", b"Content-Length: 7\r\n", "length", 7),
            (b"HTTP/1.1 599 x", b"Transfer-Encoding: CHUNKED \r\n", "chunks", -1),
        ],
    )
    def test_sound(self, line: bytes, lines: bytes, framing: str, length: int) -> None:
        pairs, facts = response(line + b"\r\n" + lines + b"\r\n")
        assert pairs[0] == (b":status", line[9:12])
        assert (facts["framing"], facts["length"]) == (framing, length)

    @pytest.mark.parametrize(
        "line",
        [
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 099 OK",
            b"HTTP/1.1 000 OK",
            b"HTTP/1.1 2x0 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1\t200 OK",
            b"HTTP/2.0 200 OK",
            b"HTTP/1.2 200 OK",
            b"HTTP/0.9 200 OK",
            b"http/1.1 200 OK",
            b"ICY 200 OK",
            b"SSH-2.0-OpenSSH_9.2",
            b"200 OK",
            b"",
            b"HTTP/1.1 200 O\x00K",
            b"HTTP/1.1 200 O\rK",
            b"HTTP/1.1 200 O\nX: y",
        ],
    )
    def test_malformed_status_lines(self, line: bytes) -> None:
        for pieces in every_cut(line + b"\r\nContent-Length: 0\r\n\r\n"):
            client, dials = respond(pieces)
            assert (client.status, dials.origin.closed) == (502, True)

    @pytest.mark.parametrize(
        "lines",
        [
            b"Content-Length: 5\r\nContent-Length: 6\r\n",
            b"Content-Length: 5, 5\r\n",
            b"Content-Length: 5x\r\n",
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: gzip, chunked\r\n",
            b"Transfer-Encoding: gzip\r\n",
            b"Transfer-Encoding: identity\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ],
    )
    def test_unsound(self, lines: bytes) -> None:
        """A coding we did not ask for (RFC 9110 §10.1.4) would reach the visitor as content."""
        for pieces in every_cut(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n"):
            client, dials = respond(pieces)
            assert (client.status, dials.origin.closed) == (502, True)

    def test_no_chunks_in_http_1_0(self) -> None:
        text = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        client, dials = respond([text])
        assert (client.status, dials.origin.closed) == (502, True)


class TestConnection:
    @pytest.mark.parametrize(
        ("line", "lines", "stays"),
        [
            (b"GET / HTTP/1.1", b"", True),
            (b"GET / HTTP/1.1", b"Connection: keep-alive\r\n", True),
            (b"GET / HTTP/1.1", b"Connection: close\r\n", False),
            (b"GET / HTTP/1.1", b"Connection: foo, CLOSE\r\n", False),
            (b"GET / HTTP/1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
            (b"GET / HTTP/1.1", b"Connection: closed\r\n", True),
            (b"GET / HTTP/1.0", b"", False),
            (b"GET / HTTP/1.0", b"Connection: Keep-Alive\r\n", True),
            (b"GET / HTTP/1.0", b"Connection: keep-alive, close\r\n", False),
        ],
    )
    def test_says_whether_it_stays(self, line: bytes, lines: bytes, stays: bool) -> None:
        """RFC 9112 §9.3."""
        assert request(get(lines, line))[1]["keep_alive"] is stays

    def test_its_own_fields_are_hidden(self) -> None:
        lines = (
            b"Connection: keep-alive, X-Hop\r\n"
            b"Keep-Alive: timeout=5\r\n"
            b"Proxy-Connection: keep-alive\r\n"
            b"TE: gzip\r\n"
            b"Trailer: X-T\r\n"
            b"HTTP2-Settings: AAMAAABk\r\n"
            b"X-Hop: here only\r\n"
            b"x-hop: here too\r\n"
            b"X-End: to end\r\n"
        )
        assert request(get(lines))[0][4:] == [(b"X-End", b"to end")]
        assert response(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")[0] == [
            (b":status", b"200"),
            (b"X-End", b"to end"),
        ]

    def test_te_trailers_is_kept(self) -> None:
        assert request(get(b"TE: trailers\r\n"))[0][4:] == [(b"TE", b"trailers")]

    def test_nominating_a_field_does_not_unframe_a_message(self) -> None:
        text = get(
            b"Connection: Content-Length, Transfer-Encoding, Host\r\nContent-Length: 2\r\n",
            b"POST / HTTP/1.1",
        )
        pairs, facts = request(text)
        assert (facts["framing"], facts["length"]) == ("length", 2)
        assert dict(pairs)[b":authority"] == b"a"

    @pytest.mark.parametrize(
        ("line", "lines", "upgrade"),
        [
            (b"GET / HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", True),
            (b"GET / HTTP/1.1", b"Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n", True),
            (b"GET / HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n", True),
            (b"GET / HTTP/1.1", b"Upgrade: websocket\r\n", False),
            (b"GET / HTTP/1.1", b"Connection: Upgrade\r\n", False),
            (b"GET / HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
            (b"GET / HTTP/1.0", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", False),
            (b"POST / HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", False),
        ],
    )
    def test_only_a_websocket_is_an_upgrade(self, line: bytes, lines: bytes, upgrade: bool) -> None:
        """RFC 9110 §7.8, RFC 6455 §4.1: what else is asked for is served without it."""
        pairs, facts = request(get(lines, line))
        assert facts["upgrade"] is upgrade
        assert any(name == b"Upgrade" for name, _ in pairs) is upgrade

    def test_expect_continue_is_for_us(self) -> None:
        pairs, facts = request(get(b"Expect: 100-Continue\r\n", b"POST / HTTP/1.1"))
        assert facts["expects_continue"] is True
        assert pairs[4:] == []


class TestLimits:
    def test_the_size_of_a_head_is_bounded(self) -> None:
        """At the limit it passes; one byte more is 431, however it comes."""
        limit = 200
        for over in (-1, 0, 1):
            text = get(b"X: ")[:-2]
            text += b"x" * (limit + over - len(text) - 4) + b"\r\n\r\n"
            assert len(text) == limit + over
            for pieces in every_cut(text):
                result = visit(pieces, max_head=limit)
                if over <= 0:
                    assert (len(result.heads), result.refused) == (1, 0)
                else:
                    assert (result.heads, result.refused, result.closed) == ((), 431, True)

    def test_a_head_without_end_is_given_up_at_the_limit(self) -> None:
        for pieces in ([b"x" * 201], [b"x"] * 201, [b"x" * 200, b"x"]):
            assert visit([b"GET /", *pieces][1:], max_head=200).refused == 431
        assert visit([b"x" * 200], max_head=200).refused == 0

    def test_the_number_of_fields_is_bounded(self) -> None:
        """A thousand fit, beside our own, into what HPACK and the header block carry."""
        for count, refused in ((999, 0), (1000, 0), (1001, 431)):
            text = get(b"a:\r\n" * (count - 1))
            assert visit([text]).refused == refused
            status = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"a:\r\n" * (count - 1) + b"\r\n"
            assert respond([status])[0].status == (502 if refused else 200)


class TestWriting:
    def test_request(self) -> None:
        fields = Fields(
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"a.test"),
                (b":path", b"/x"),
                (b"x-custom-name", b"1"),
                (b"www-authenticate", b"2"),
                (b"content-length", b"5"),
                (b"host", b"other"),
            ]
        )
        assert write_request(fields) == (
            b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-Custom-Name: 1\r\nWww-Authenticate: 2\r\n\r\n"
        )

    def test_request_takes_host_where_there_is_no_authority(self) -> None:
        fields = Fields([(b":method", b"GET"), (b":path", b"/"), (b"host", b"a")])
        assert write_request(fields) == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        fields.remove(b"host")
        assert write_request(fields) == b"GET / HTTP/1.1\r\nHost: \r\n\r\n"

    def test_request_needs_a_method(self) -> None:
        with pytest.raises(ValueError, match="without a method"):
            write_request(Fields([(b":path", b"/")]))

    def test_response(self) -> None:
        fields = Fields(
            [
                (b":status", b"404"),
                (b"content-type", b"text/plain"),
                (b"connection", b"close"),
                (b"transfer-encoding", b"chunked"),
                (b"keep-alive", b"timeout=5"),
                (b"upgrade", b"h2c"),
            ]
        )
        assert write_response(fields, 404) == (
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n"
        )

    def test_upgrade_response_keeps_its_connection_fields(self) -> None:
        fields = Fields([(b"connection", b"Upgrade"), (b"upgrade", b"websocket")])
        assert write_response(fields, 101, True) == (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )

    def test_status_without_a_phrase(self) -> None:
        assert write_response(Fields(), 599) == b"HTTP/1.1 599 \r\n\r\n"

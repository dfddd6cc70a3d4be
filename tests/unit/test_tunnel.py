"""How an exchange crosses a link: what each end makes of it (docs: wire protocol §2.2 to §2.10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from rig.http1 import Dials, Visitor
from rig.http2 import DATA, HEADERS, RST_STREAM, Frame, RawClient, RawServer, rst_stream
from rig.transport import ManualLoop

from underpass.connector.services.handshake import accept_key
from underpass.core.frames import ErrorCode
from underpass.core.h2 import Limits
from underpass.core.headerblock import parse_block, serialize_pairs
from underpass.core.relay import Counters
from underpass.core.stream import StreamClient
from underpass.core.tunnel import (
    Kind,
    OriginAcceptor,
    OriginExchange,
    VisitorAcceptor,
    VisitorExchange,
)

Pairs = Iterable[tuple[bytes, bytes]]

TAG = b"01234567-89ab-cdef-0123-456789abcdef"
GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.test"),
    (b":path", b"/p"),
]
POST = [(b":method", b"POST"), *GET[1:]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPGRADE = (b"cf-cloudflared-proxy-connection-upgrade", b"websocket")
META_ORIGIN = b'{"src":"origin"}'
META_CONNECTOR = b'{"src":"cloudflared"}'


class Connector:
    """A raw edge before the connector's end of a link, an origin behind it."""

    def __init__(
        self,
        handler: Callable[[OriginExchange], object] | None = None,
        tags: Pairs = (),
        host: bytes | None = None,
    ) -> None:
        self.loop = ManualLoop()
        self.dials = Dials(self.loop)
        self.exchanges: list[OriginExchange] = []
        self.failures: list[tuple[int, str]] = []
        self.host = host
        self.acceptor = OriginAcceptor(
            handler if handler is not None else self.forward,
            Counters(),
            None,
            TAG,
            tags,
            lambda _, status, cause: self.failures.append((status, cause)),
        )
        self.edge = RawClient.over(self.loop, self.acceptor)
        self.streams = -1

    def forward(self, exchange: OriginExchange) -> None:
        self.exchanges.append(exchange)
        exchange.host = self.host
        self.dials.pool.forward(exchange)

    def request(self, fields: Pairs, *, end: bool = True) -> int:
        self.streams += 2
        self.edge.feed(self.edge.peer.headers(self.streams, fields, end=end))
        return self.streams

    def origin_head(self) -> list[bytes]:
        """The lines of the request head the origin got."""
        return self.dials.origin.take().partition(b"\r\n\r\n")[0].split(b"\r\n")

    def answer(self, text: bytes) -> list[Frame]:
        self.dials.origin.feed(text)
        return [each for each in self.edge.sent() if each.stream]


def field(frame: Frame, name: bytes) -> bytes | None:
    assert frame.fields is not None
    return dict(frame.fields).get(name)


def block(frame: Frame) -> list[tuple[bytes, bytes]]:
    """The origin's fields in a response head of a link."""
    value = field(frame, b"cf-cloudflared-response-headers")
    assert value is not None
    return parse_block(value)


class TestKinds:
    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ([], Kind.HTTP),
            ([(b"cf-cloudflared-proxy-connection-upgrade", b"weird")], Kind.HTTP),
            ([(b"cf-cloudflared-proxy-connection-upgrade", b"WebSocket")], Kind.HTTP),
            ([(b"cf-cloudflared-proxy-src", b"")], Kind.HTTP),
            ([UPGRADE], Kind.WEBSOCKET),
            ([(b"cf-cloudflared-proxy-src", b"1.2.3.4")], Kind.STREAM),
            ([UPGRADE, (b"cf-cloudflared-proxy-src", b"1.2.3.4")], Kind.WEBSOCKET),
            ([(b"cf-cloudflared-proxy-connection-upgrade", b"control-stream")], Kind.CONTROL),
            (
                [(b"cf-cloudflared-proxy-connection-upgrade", b"update-configuration")],
                Kind.CONFIGURATION,
            ),
        ],
    )
    def test_are_told_apart(self, fields: list[tuple[bytes, bytes]], kind: Kind) -> None:
        seen: list[int] = []
        connector = Connector(lambda exchange: seen.append(exchange.kind))
        connector.request([*GET, *fields])
        assert seen == [kind]


class TestRequestsToOrigins:
    def test_fields_of_the_tunnel_stay_in_it(self) -> None:
        connector = Connector(tags=[(b"cf-warp-tag-name", b"v")])
        connector.request(
            [
                *GET,
                (b"x-custom", b"1"),
                (b"cf-ray", b"ray"),
                (b"cf-trace-id", b"t:r:0:1"),
                (b"cf-warp-tag-id", b"forged"),
                (b"cf-cloudflared-proxy-connection-upgrade", b"weird"),
                (b"te", b"trailers"),
            ]
        )
        assert connector.origin_head() == [
            b"GET /p HTTP/1.1",
            b"Host: a.test",
            b"X-Custom: 1",
            b"Cf-Ray: ray",
            b"Te: trailers",
            b"Cf-Warp-Tag-Id: " + TAG,
            b"Cf-Warp-Tag-Name: v",
            b"Connection: keep-alive",
        ]

    def test_cookie_crumbs_are_joined(self) -> None:
        """RFC 9113 §8.2.3."""
        connector = Connector()
        connector.request([*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")])
        lines = connector.origin_head()
        assert b"Cookie: a=1; b=2" in lines
        assert sum(line.startswith(b"Cookie") for line in lines) == 1

    def test_another_host(self) -> None:
        """docs: configuration §4, httpHostHeader."""
        for fields in (GET, [*GET[:2], GET[3], (b"host", b"a.test")]):
            connector = Connector(host=b"inner.test")
            connector.request([*fields, (b"x-forwarded-host", b"forged")])
            lines = connector.origin_head()
            assert lines[1] == b"Host: inner.test"
            assert [line for line in lines if line.startswith(b"X-Forwarded-Host")] == [
                b"X-Forwarded-Host: a.test"
            ]

    def test_host_stands_in_for_the_authority(self) -> None:
        """RFC 9113 §8.3.1."""
        seen: list[bytes] = []
        connector = Connector(lambda exchange: seen.append(exchange.authority))
        connector.request([*GET[:2], GET[3], (b"host", b"a.test:8443")])
        connector.request(GET)
        assert seen == [b"a.test:8443", b"a.test"]

    def test_expect_is_answered_once_there_is_somewhere_to_go(self) -> None:
        connector = Connector()
        connector.dials.at_once = False
        stream = connector.request(
            [*POST, (b"expect", b"100-continue"), (b"content-length", b"2")], end=False
        )
        assert [each for each in connector.edge.sent() if each.stream] == []
        connector.dials.connect()
        (interim,) = [each for each in connector.edge.sent() if each.stream]
        assert (interim.fields, interim.ends) == (((b":status", b"100"),), False)
        assert not any(line.startswith(b"Expect") for line in connector.origin_head())
        connector.edge.feed(connector.edge.peer.data(stream, b"hi", end=True))
        assert connector.dials.origin.take() == b"hi"
        head, _ = connector.answer(OK)
        assert field(head, b":status") == b"200"

    def test_expect_without_content_is_not_answered(self) -> None:
        for expect, end in ((b"100-continue", True), (b"something-else", False)):
            connector = Connector()
            connector.request([*POST, (b"expect", expect)], end=end)
            assert [each for each in connector.edge.sent() if each.stream] == []

    def test_trailers_go_along(self) -> None:
        connector = Connector()
        stream = connector.request(POST, end=False)
        connector.edge.feed(connector.edge.peer.data(stream, b"x"))
        connector.edge.feed(connector.edge.peer.headers(stream, [(b"x-t", b"v")], end=True))
        assert connector.dials.origin.take().endswith(b"\r\n1\r\nx\r\n0\r\nX-T: v\r\n\r\n")


class TestResponsesFromOrigins:
    def test_fields_are_serialized(self) -> None:
        connector = Connector()
        connector.request(GET)
        head, data = connector.answer(
            b"HTTP/1.1 404 Nope\r\nContent-Length: 2\r\nset-cookie: a=1\r\nSet-Cookie: b\r\n"
            b"Cf-Int-Secret: s\r\nCF-Cloudflared-X: s\r\nCf-Proxy-X: s\r\nCf-Ray: r\r\n"
            b"Connection: keep-alive, X-Hop\r\nX-Hop: h\r\nKeep-Alive: timeout=5\r\n\r\nok"
        )
        assert head.fields is not None
        assert [pair for pair in head.fields if b"response-headers" not in pair[0]] == [
            (b":status", b"404"),
            (b"content-length", b"2"),
            (b"cf-cloudflared-response-meta", META_ORIGIN),
        ]
        assert block(head) == [
            (b"Content-Length", b"2"),
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b"),
            (b"Cf-Ray", b"r"),
        ]
        assert (data.kind, data.payload, data.ends) == (DATA, b"ok", True)

    def test_no_fields_at_all_are_an_empty_block(self) -> None:
        connector = Connector()
        connector.request(GET)
        (head,) = connector.answer(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert field(head, b"cf-cloudflared-response-headers") == b""
        assert head.ends

    def test_trailers_are_not_serialized(self) -> None:
        connector = Connector()
        connector.request(GET)
        frames = connector.answer(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
            b"1\r\nx\r\n0\r\nX-T: v\r\nKeep-Alive: x\r\n\r\n"
        )
        assert [each.kind for each in frames] == [HEADERS, DATA, HEADERS]
        assert frames[2].fields == ((b"x-t", b"v"),)
        assert frames[2].ends

    def test_failures_say_who_speaks(self) -> None:
        """docs: wire protocol §2.10."""
        connector = Connector()
        connector.request(GET)
        (head,) = connector.answer(b"nonsense\r\n\r\n")
        assert head.fields == (
            (b":status", b"502"),
            (b"content-length", b"0"),
            (b"cf-cloudflared-response-meta", META_CONNECTOR),
            (b"cf-cloudflared-cause", b"protocol_error"),
        )
        assert head.ends
        assert connector.failures == [(502, "protocol_error")]
        assert connector.acceptor.counters.failed == 1

    def test_a_stream_beyond_the_limit_is_told_as_such(self) -> None:
        """docs: configuration §6, `maxActiveFlows`."""
        connector = Connector(lambda exchange: exchange.fail(502, "flow_rate_limited"))
        connector.request(GET)
        (head,) = (each for each in connector.edge.sent() if each.stream)
        meta = b'{"src":"cloudflared","flow_rate_limited":true}'
        assert field(head, b"cf-cloudflared-response-meta") == meta

    def test_a_failure_after_the_answer_is_none(self) -> None:
        connector = Connector()
        connector.request(GET)
        connector.answer(OK)
        connector.exchanges[0].fail(502, "late")
        assert connector.failures == []
        assert connector.acceptor.counters.failed == 0

    def test_answers_of_a_rule_count_as_the_origins(self) -> None:
        connector = Connector(lambda exchange: exchange.respond(418, [(b"x", b"y")], b"tea"))
        connector.request(GET)
        head, data = (each for each in connector.edge.sent() if each.stream)
        assert field(head, b"cf-cloudflared-response-meta") == META_ORIGIN
        assert block(head) == [(b"X", b"y"), (b"Content-Length", b"3")]
        assert data.payload == b"tea"

    def test_what_breaks_off_is_reset(self) -> None:
        connector = Connector()
        connector.request(GET)
        connector.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
        connector.dials.origin.end()
        (reset,) = (each for each in connector.edge.sent() if each.stream)
        assert (reset.kind, reset.code) == (RST_STREAM, 2)


class TestWebSocketsToOrigins:
    def test_the_request_is_completed(self) -> None:
        """docs: wire protocol §2.7."""
        connector = Connector()
        connector.request(
            [
                *GET,
                UPGRADE,
                (b"sec-websocket-key", b"k"),
                (b"sec-websocket-version", b"8"),
                (b"sec-websocket-protocol", b"chat"),
                (b"content-length", b"5"),
            ],
            end=False,
        )
        assert connector.origin_head() == [
            b"GET /p HTTP/1.1",
            b"Host: a.test",
            b"Sec-Websocket-Key: k",
            b"Sec-Websocket-Protocol: chat",
            b"Cf-Warp-Tag-Id: " + TAG,
            b"Upgrade: websocket",
            b"Sec-Websocket-Version: 13",
            b"Connection: Upgrade",
        ]

    def test_101_is_200_on_the_link(self) -> None:
        connector = Connector()
        stream = connector.request([*GET, UPGRADE], end=False)
        head, data = connector.answer(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\nContent-Length: 0\r\n\r\nraw"
        )
        assert field(head, b":status") == b"200"
        assert field(head, b"content-length") is None
        assert sorted(block(head)) == [
            (b"Connection", b"Upgrade"),
            (b"Content-Length", b"0"),
            (b"Sec-Websocket-Accept", b"x"),
            (b"Upgrade", b"websocket"),
        ]
        assert (data.payload, data.ends) == (b"raw", False)
        connector.dials.origin.take()
        connector.edge.feed(connector.edge.peer.data(stream, b"more"))
        assert connector.dials.origin.take() == b"more"


class TestStreams:
    def test_acknowledgement(self) -> None:
        """docs: wire protocol §2.8."""
        connector = Connector(lambda exchange: StreamClient(connector.loop.turn).attach(exchange))
        connector.request([*GET, (b"cf-cloudflared-proxy-src", b"1.2.3.4")], end=False)
        (head,) = (each for each in connector.edge.sent() if each.stream)
        assert field(head, b"cf-cloudflared-response-headers") == b""
        assert field(head, b"cf-cloudflared-response-meta") == META_ORIGIN
        assert not head.ends

    def test_the_tunnels_own_answers_have_no_fields_of_it(self) -> None:
        def handle(exchange: OriginExchange) -> None:
            exchange.respond(200, [(b"content-type", b"text/plain")], b"{}")

        connector = Connector(handle)
        connector.request(
            [*GET, (b"cf-cloudflared-proxy-connection-upgrade", b"update-configuration")]
        )
        head, _ = (each for each in connector.edge.sent() if each.stream)
        assert head.fields == (
            (b":status", b"200"),
            (b"content-type", b"text/plain"),
            (b"content-length", b"2"),
        )


class Edge:
    """A visitor before the edge, and a raw connector behind it."""

    def __init__(
        self,
        *,
        scheme: bytes = b"https",
        on_failure: Callable[[VisitorExchange, int, str], object] | None = None,
    ) -> None:
        self.loop = ManualLoop()
        self.connector = RawServer(loop=self.loop)
        self.exchanges: list[VisitorExchange] = []
        self.failures: list[tuple[int, str]] = []
        self.on_failure = on_failure
        self.acceptor = VisitorAcceptor(
            self.route, Counters(), None, self.failed, b"192.0.2.1", scheme, b"HERE"
        )
        self.visitor = Visitor(loop=self.loop, acceptor=self.acceptor, scheme=scheme)
        self.streams = -1

    def route(self, exchange: VisitorExchange) -> None:
        self.exchanges.append(exchange)
        assert self.connector.connection.forward(exchange)

    def failed(self, exchange: VisitorExchange, status: int, cause: str) -> None:
        self.failures.append((status, cause))
        exchange.respond(status, [])

    def request(self, text: bytes) -> list[Frame]:
        self.visitor.send(text)
        return [each for each in self.connector.sent() if each.stream]

    def answer(
        self,
        fields: Pairs = (),
        *,
        status: bytes = b"200",
        outer: Pairs = (),
        body: bytes = b"",
        end: bool = True,
        raw: bytes | None = None,
    ) -> bytes:
        """Answer the next request; returns what the visitor reads."""
        self.streams += 2
        head = [
            (b":status", status),
            *outer,
            (b"cf-cloudflared-response-headers", serialize_pairs(fields) if raw is None else raw),
            (b"cf-cloudflared-response-meta", META_ORIGIN),
        ]
        peer = self.connector.peer
        self.connector.feed(peer.headers(self.streams, head, end=end and not body))
        if body:
            self.connector.feed(peer.data(self.streams, body, end=end))
        return self.visitor.read()

    @property
    def ray(self) -> bytes:
        return self.exchanges[-1].ray


VISIT = b"GET /p?q HTTP/1.1\r\nHost: a.test\r\n\r\n"


def visit(*lines: bytes) -> bytes:
    return VISIT[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


class TestRequestsFromVisitors:
    def test_get_what_only_an_edge_knows(self) -> None:
        edge = Edge()
        (head,) = edge.request(visit(b"X-Custom: 1"))
        assert head.fields == (
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"a.test"),
            (b":path", b"/p?q"),
            (b"x-custom", b"1"),
            (b"cf-connecting-ip", b"192.0.2.1"),
            (b"cf-ray", edge.ray),
            (b"x-forwarded-for", b"192.0.2.1"),
            (b"x-forwarded-proto", b"https"),
            (b"cdn-loop", b"underpass"),
        )
        assert head.ends

    @pytest.mark.parametrize(
        "path", [b"/%", b"/%4", b"/%zz", b"/%4g", b"/a%?b", b"/%%41", b"/%4?1", b"/%41/%"]
    )
    def test_a_path_with_a_broken_escape_goes_nowhere(self, path: bytes) -> None:
        edge = Edge()
        assert edge.request(b"GET " + path + b" HTTP/1.1\r\nHost: a.test\r\n\r\n") == []
        assert edge.failures == [(400, "bad_path")]

    @pytest.mark.parametrize(
        "path", [b"/%41", b"/%e2%82%AC", b"/?100%", b"/a?%zz=%", b"*", b"/%25?%2", b"/a/b%20"]
    )
    def test_other_escapes_are_the_applications_matter(self, path: bytes) -> None:
        edge = Edge()
        (head,) = edge.request(b"OPTIONS " + path + b" HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert field(head, b":path") == path

    @pytest.mark.parametrize("content", [b"", b"4\r\nsome\r\n"])
    @pytest.mark.parametrize("late", [True, False])
    def test_trailers_stay_behind_where_the_peer_does_not_stand_them(
        self, content: bytes, late: bool
    ) -> None:
        """Go ends the connection when they come on a stream that it has reset."""
        edge = Edge()
        edge.connector.connection.drops_trailers = True
        pieces = [visit(b"Transfer-Encoding: chunked"), content, b"0\r\nX-Sum: 1\r\n\r\n"]
        sent = (
            [frame for piece in pieces for frame in edge.request(piece)]
            if late
            else edge.request(b"".join(pieces))
        )
        assert [frame.kind for frame in sent if frame.fields is not None] == [HEADERS]
        assert sent[-1].ends
        assert b"".join(frame.payload for frame in sent if frame.kind == DATA) == content[3:7]
        assert edge.answer(body=b"ok").endswith(b"ok\r\n0\r\n\r\n")

    def test_who_has_passed_it_on_is_continued_in_order(self) -> None:
        """RFC 8586."""
        edge = Edge()
        (head,) = edge.request(visit(b"CDN-Loop: other.example; a=1", b"cdn-loop: underpass, b"))
        assert head.fields is not None
        assert [value for name, value in head.fields if name == b"cdn-loop"] == [
            b"other.example; a=1, underpass, b, underpass"
        ]

    @pytest.mark.parametrize(
        "lines",
        [
            [b"CDN-Loop: " + b", ".join([b"underpass"] * 8)],
            [b"CDN-Loop: underpass"] * 8,
            [b"cdn-loop: a,UnderPass;v=1 ,\tunderpass , b"] * 4,
        ],
    )
    def test_what_goes_in_circles_is_stopped(self, lines: list[bytes]) -> None:
        edge = Edge()
        assert edge.request(visit(*lines)) == []
        assert edge.failures == [(508, "loop")]

    @pytest.mark.parametrize(
        "lines",
        [
            [b"CDN-Loop: underpass"] * 7,
            [b"CDN-Loop: " + b", ".join([b"underpass.example", b"notunderpass", b"a;b=c"] * 9)],
            [b"Cdn-Loops: underpass"] * 9,
        ],
    )
    def test_what_has_only_come_far_goes_on(self, lines: list[bytes]) -> None:
        edge = Edge()
        assert edge.request(visit(*lines))[0].kind == HEADERS

    def test_rays_differ_and_name_the_edge(self) -> None:
        edge = Edge()
        edge.request(VISIT)
        edge.answer()
        edge.request(VISIT)
        rays = {exchange.ray for exchange in edge.exchanges}
        assert len(rays) == 2
        for ray in rays:
            digits, _, location = ray.partition(b"-")
            assert (len(digits), location) == (16, b"HERE")
            int(digits, 16)

    @pytest.mark.parametrize(
        "name",
        [
            b"CF-Connecting-IP", b"Cf-Connecting-IPv6", b"Cf-Ray", b"Cf-Visitor", b"Cf-IPCountry",
            b"Cf-Pseudo-IPv4", b"True-Client-IP", b"Cf-Trace-Id", b"Cf-Warp-Tag-Id",
            b"Cf-Cloudflared-Proxy-Src", b"Cf-Cloudflared-Proxy-Connection-Upgrade",
            b"Cf-Int-X", b"Cf-Proxy-X", b"Cf-Access-Jwt-Assertion",
            b"Cf-Access-Authenticated-User-Email", b"X-Forwarded-Proto",
            b"Cf_Connecting_Ip", b"cf-connecting_ip", b"CF_RAY", b"X_Forwarded_Proto",
            b"X_Forwarded_For", b"Cf_Access_Jwt_Assertion", b"True_Client_Ip",
            b"Forwarded", b"FORWARDED", b"Forwarded-For", b"Fastly-Client-IP", b"Client-IP",
            b"X-Forwarded", b"X-Real-IP", b"x_real_ip", b"X-Remote-IP", b"X-Remote-Addr",
            b"X-Client-IP", b"X-Cluster-Client-IP", b"X-Original-Forwarded-For",
            b"X-Originating-IP",
        ],
    )  # fmt: skip
    def test_nobody_else_may_say_it(self, name: bytes) -> None:
        """With "_" for "-" as well: behind CGI or WSGI both become the same variable."""
        edge = Edge()
        (head,) = edge.request(visit(name + b": forged"))
        assert head.fields is not None
        assert b"forged" not in dict(head.fields).values()

    @pytest.mark.parametrize(
        "name",
        [b"Cf-Access-Token", b"Cf-Access-Client-Id", b"Cf-Access-Jump-Destination", b"Cf-Custom",
         b"X-Forwarded-Host", b"X-Real-Ips", b"Cfg", b"True-Color", b"X_Under_Score",
         b"X-Client", b"Forwarded-To", b"Client-Ip-Hint", b"X-Originator"],
    )  # fmt: skip
    def test_what_visitors_may_say_goes_through(self, name: bytes) -> None:
        edge = Edge()
        (head,) = edge.request(visit(name + b": said"))
        assert field(head, name.lower()) == b"said"

    def test_forwarded_for_is_continued_in_order(self) -> None:
        edge = Edge(scheme=b"http")
        (head,) = edge.request(
            visit(b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-For:", b"X-Forwarded-For: 2.2.2.2, 3")
        )
        assert field(head, b"x-forwarded-for") == b"1.1.1.1, 2.2.2.2, 3, 192.0.2.1"
        assert field(head, b"x-forwarded-proto") == b"http"

    def test_what_belongs_to_the_connection_stays(self) -> None:
        edge = Edge()
        (head,) = edge.request(
            visit(
                b"Connection: keep-alive, X-Hop, Upgrade",
                b"X-Hop: 1",
                b"Keep-Alive: timeout=5",
                b"Proxy-Connection: keep-alive",
                b"Upgrade: h2c",
                b"HTTP2-Settings: AAMAAABk",
                b"TE: gzip",
                b"Trailer: X-T",
                b"Expect: 100-continue",
            )
        )
        assert head.fields is not None
        assert [name for name, _ in head.fields][4:] == [
            b"cf-connecting-ip",
            b"cf-ray",
            b"x-forwarded-for",
            b"x-forwarded-proto",
            b"cdn-loop",
        ]

    def test_trailers_say_nothing_only_an_edge_may(self) -> None:
        edge = Edge()
        frames = edge.request(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
            b"Cf-Connecting-Ip: forged\r\nX_Forwarded_For: forged\r\nX-Forwarded-For: forged\r\n"
            b"X-T: v\r\n\r\n"
        )
        assert frames[-1].fields == ((b"x-t", b"v"),)
        assert frames[-1].ends

    def test_an_http2_visitor_may_name_the_host_by_field(self) -> None:
        """RFC 9113 §8.3.1; on the link it is `:authority`, and comes first."""
        loop = ManualLoop()
        connector = RawServer(loop=loop)
        seen: list[bytes] = []

        def route(exchange: VisitorExchange) -> None:
            seen.append(exchange.authority)
            connector.connection.forward(exchange)

        acceptor = VisitorAcceptor(route, Counters(), None, None, b"192.0.2.1", b"https")
        visitor = RawClient.over(loop, acceptor)
        fields = [*GET[:2], GET[3], (b"x", b"y"), (b"host", b"h.test")]
        visitor.feed(visitor.peer.headers(1, fields, end=True))
        (head,) = (each for each in connector.sent() if each.stream)
        assert seen == [b"h.test"]
        assert head.fields is not None
        assert sorted(head.fields[:4]) == sorted([*GET[:2], GET[3], (b":authority", b"h.test")])
        assert field(head, b"host") is None

    def test_an_http2_visitor_is_told_to_continue(self) -> None:
        loop = ManualLoop()
        connector = RawServer(loop=loop)
        acceptor = VisitorAcceptor(
            connector.connection.forward, Counters(), None, None, b"192.0.2.1", b"https"
        )
        visitor = RawClient.over(loop, acceptor)
        visitor.feed(visitor.peer.headers(1, [*POST, (b"expect", b"100-continue")]))
        (interim,) = (each for each in visitor.sent() if each.stream)
        assert interim.fields == ((b":status", b"100"),)
        (head,) = (each for each in connector.sent() if each.stream)
        assert field(head, b"expect") is None


class TestResponsesToVisitors:
    def test_are_rebuilt_from_the_serialized_fields(self) -> None:
        """docs: wire protocol §2.5: what surrounds them is the connector's, not the origin's."""
        edge = Edge()
        edge.request(VISIT)
        text = edge.answer(
            [(b"Content-Type", b"text/plain"), (b"Content-Length", b"2"), (b"Set-Cookie", b"a"),
             (b"Set-Cookie", b"b")],
            status=b"404",
            outer=[(b"content-length", b"2"), (b"content-type", b"sniffed"), (b"date", b"now")],
            body=b"ok",
        )  # fmt: skip
        assert text == (
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n"
            b"Set-Cookie: a\r\nSet-Cookie: b\r\nCf-Ray: " + edge.ray + b"\r\n\r\nok"
        )

    def test_what_belongs_to_a_connection_stays_behind(self) -> None:
        edge = Edge()
        edge.request(VISIT)
        text = edge.answer(
            [
                (b"Connection", b"keep-alive, X-Hop"),
                (b"X-Hop", b"1"),
                (b"Keep-Alive", b"timeout=5"),
                (b"Proxy-Connection", b"x"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Trailer", b"x"),
                (b"Te", b"x"),
                (b"Upgrade", b"h2c"),
                (b"Http2-Settings", b"x"),
                (b"Cf-Ray", b"forged"),
                (b"X-End", b"2"),
            ]
        )
        assert text == (
            b"HTTP/1.1 200 OK\r\nX-End: 2\r\nCf-Ray: " + edge.ray + b"\r\nContent-Length: 0\r\n\r\n"
        )

    @pytest.mark.parametrize(
        ("inner", "outer"),
        [
            ([b"2"], []),
            ([b"9"], [b"2"]),
            ([b"1"], [b"2"]),
            ([b"9", b"2"], [b"2"]),
            ([b"+2"], [b"2"]),
        ],
    )
    def test_only_a_length_the_link_has_checked_is_believed(
        self, inner: list[bytes], outer: list[bytes]
    ) -> None:
        edge = Edge()
        edge.request(VISIT)
        text = edge.answer(
            [(b"Content-Length", value) for value in inner],
            outer=[(b"content-length", value) for value in outer],
            body=b"ok",
        )
        assert b"Content-Length" not in text
        assert text.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    def test_204_announces_no_length(self) -> None:
        edge = Edge()
        edge.request(VISIT)
        text = edge.answer(
            [(b"Content-Length", b"5")], status=b"204", outer=[(b"content-length", b"5")]
        )
        assert b"Content-Length" not in text

    def test_an_unreadable_block_is_an_answer_from_nobody(self) -> None:
        for raw in (b"nonsense", b"WA:WA=", b"WC1:", b"DQo:eA", b"WA:DQo", b"Ok:eA"):
            edge = Edge()
            edge.request(VISIT)
            assert edge.answer(raw=raw, end=False).startswith(b"HTTP/1.1 502 ")
            assert edge.failures == [(502, "protocol_error")]
            (reset,) = (each for each in edge.connector.sent() if each.stream)
            assert reset.kind == RST_STREAM
            assert edge.connector.connection.active == 0

    @pytest.mark.parametrize(
        ("fields", "status", "cause"),
        [
            (
                [(b":status", b"502"), (b"cf-cloudflared-response-meta", META_CONNECTOR)],
                502,
                "connector",
            ),
            (
                [
                    (b":status", b"502"),
                    (b"cf-cloudflared-response-meta", META_CONNECTOR),
                    (b"cf-cloudflared-cause", b"dial"),
                ],
                502,
                "dial",
            ),
            ([(b":status", b"400"), (b"content-type", b"text/plain")], 502, "connector"),
            ([(b":status", b"200")], 502, "connector"),
        ],
    )
    def test_the_connectors_own_failures_are_the_edges_to_answer(
        self, fields: list[tuple[bytes, bytes]], status: int, cause: str
    ) -> None:
        for end in (True, False):
            edge = Edge()
            edge.request(VISIT)
            edge.connector.feed(edge.connector.peer.headers(1, fields, end=end))
            assert edge.failures == [(status, cause)]
            assert edge.visitor.read().startswith(b"HTTP/1.1 %d " % status)
            assert edge.connector.connection.active == 0
            assert edge.acceptor.counters.active == 0


class TestEarlyHints:
    """RFC 8297."""

    HINTS = serialize_pairs([(b"Link", b"</a>")])

    def hint(self, edge: Edge, block: bytes = HINTS, status: bytes = b"103") -> bytes:
        head = [(b":status", status), (b"cf-cloudflared-response-headers", block)]
        edge.connector.feed(edge.connector.peer.headers(1, head))
        return edge.visitor.read()

    def test_reach_the_edge_only_if_it_wants_them(self) -> None:
        for wanted in (False, True):
            connector = Connector()
            connector.acceptor.passes_hints = wanted
            connector.request(GET)
            sent = connector.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            if wanted:
                (head,) = sent
                assert head.fields == (
                    (b":status", b"103"),
                    (b"cf-cloudflared-response-headers", self.HINTS),
                )
                assert not head.ends
            else:
                assert sent == []
            assert field(connector.answer(OK)[0], b":status") == b"200"

    @pytest.mark.parametrize("status", [100, 102, 199])
    def test_other_interim_responses_are_between_two_hops(self, status: int) -> None:
        connector = Connector()
        connector.acceptor.passes_hints = True
        connector.request(GET)
        assert connector.answer(b"HTTP/1.1 %d X\r\n\r\n" % status) == []
        edge = Edge()
        edge.request(VISIT)
        assert self.hint(edge, status=b"%d" % status) == b""

    def test_only_so_many_are_passed_on(self) -> None:
        """Or a connector could fill the memory for a visitor who reads nothing."""
        edge = Edge()
        edge.request(VISIT)
        heard = b"".join(self.hint(edge) for _ in range(20))
        assert heard == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 4
        assert edge.answer(body=b"x").startswith(b"HTTP/1.1 200 OK\r\n")

    @pytest.mark.parametrize(
        "block",
        [b"", b"!", serialize_pairs([(b"Link", b"x" * 8192)])],
        ids=["none", "bad", "large"],
    )
    def test_what_is_wrong_with_them_harms_nobody(self, block: bytes) -> None:
        edge = Edge()
        edge.request(VISIT)
        assert self.hint(edge, block) in (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")
        assert edge.answer(body=b"x").startswith(b"HTTP/1.1 200 OK\r\n")

    def test_say_nothing_of_connection_and_content(self) -> None:
        edge = Edge()
        edge.request(VISIT)
        names = (b"Connection", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"Cf-Ray",
                 b"Underpass-Cause")  # fmt: skip
        block = serialize_pairs([*((name, b"7") for name in names), (b"Link", b"</a>")])
        assert self.hint(edge, block) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    def test_a_connectors_own_are_none_of_the_visitors(self) -> None:
        edge = Edge()
        edge.request(VISIT)
        edge.connector.feed(edge.connector.peer.headers(1, [(b":status", b"103"), (b"x", b"y")]))
        assert edge.visitor.read() == b""


class TestStrictTransportSecurity:
    def test_is_said_where_the_application_does_not(self) -> None:
        edge = Edge()
        edge.acceptor.hsts = b"max-age=60"
        edge.request(VISIT)
        assert b"\r\nStrict-Transport-Security: max-age=60\r\n" in edge.answer(body=b"x")
        edge.request(VISIT)
        text = edge.answer([(b"Strict-Transport-Security", b"max-age=1")], body=b"x")
        assert text.lower().count(b"strict-transport-security") == 1
        assert b"max-age=1\r\n" in text

    def test_is_said_of_answers_of_our_own_too(self) -> None:
        edge = Edge()
        edge.acceptor.hsts = b"max-age=60"
        edge.request(VISIT.replace(b"/p?q", b"/%"))
        assert b"\r\nStrict-Transport-Security: max-age=60\r\n" in edge.visitor.read()

    def test_is_not_said_unless_asked_for(self) -> None:
        edge = Edge()
        edge.request(VISIT)
        assert b"strict" not in edge.answer(body=b"x").lower()


class TestWhatTheEdgeAdds:
    """To the response of an application, and to no other."""

    @staticmethod
    def edge(**attributes: Any) -> tuple[Edge, list[tuple[int, bytes | None]]]:
        told: list[tuple[int, bytes | None]] = []
        edge = Edge()
        route = edge.route

        def routed(exchange: VisitorExchange) -> None:
            for name, value in attributes.items():
                setattr(exchange, name, value)
            exchange.on_answer = lambda _, status, fields: told.append((status, fields.get(b"x")))
            route(exchange)

        edge.acceptor = VisitorAcceptor(
            routed, Counters(), None, edge.failed, b"192.0.2.1", b"https", b"HERE"
        )
        edge.visitor = Visitor(loop=edge.loop, acceptor=edge.acceptor, scheme=b"https")
        return edge, told

    def test_is_a_cookie_beside_the_applications_own(self) -> None:
        edge, _ = self.edge(set_cookie=b"a=b; Path=/")
        edge.request(VISIT)
        text = edge.answer([(b"Set-Cookie", b"own=1")], body=b"x")
        assert b"\r\nSet-Cookie: own=1\r\n" in text
        assert b"\r\nSet-Cookie: a=b; Path=/\r\n" in text

    def test_is_nothing_unless_it_is_set(self) -> None:
        edge, _ = self.edge()
        edge.request(VISIT)
        assert b"set-cookie" not in edge.answer(body=b"x").lower()

    def test_is_not_on_pages_of_the_edges_own(self) -> None:
        edge, told = self.edge(set_cookie=b"a=b")
        edge.request(VISIT)
        edge.connector.feed(edge.connector.peer.headers(1, [(b":status", b"502")], end=True))
        assert b"Set-Cookie" not in edge.visitor.read()
        assert told == []

    def test_and_it_tells_that_there_was_one(self) -> None:
        edge, told = self.edge()
        edge.request(VISIT)
        edge.answer([(b"X", b"1")], status=b"500", body=b"x")
        assert told == [(500, b"1")]


class Http2Edge(Edge):
    """A visitor who speaks HTTP/2, frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = RawClient.over(
            self.loop, self.acceptor, Limits(extended_connect=True, linger=1000)
        )

    def ask(self, fields: Pairs, *, end: bool = False) -> list[Frame]:
        """What goes down the link."""
        self.raw.feed(self.raw.peer.headers(1, fields, end=end))
        return [each for each in self.connector.sent() if each.stream]

    def told(self, *args: object, **fields: object) -> list[Frame]:
        """What the visitor gets for an answer of the connector."""
        self.answer(*args, **fields)  # type: ignore[arg-type]
        return [each for each in self.raw.sent() if each.stream]


class TestWebSocketsOverHttp2:
    """RFC 8441: to the application it is the handshake of RFC 6455."""

    ASKED = (
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":authority", b"a.test"),
        (b":path", b"/ws"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-protocol", b"chat"),
        (b"sec-websocket-key", b"the visitor's"),
    )

    def opened(self) -> tuple[Http2Edge, Frame, bytes]:
        """An edge, what it asked for, and what has to be answered to that."""
        edge = Http2Edge()
        (head,) = edge.ask(self.ASKED)
        key = field(head, b"sec-websocket-key")
        assert key is not None
        return edge, head, accept_key(key)

    def test_is_a_get_on_the_link_with_a_key_of_ours(self) -> None:
        _, head, _ = self.opened()
        assert head.fields is not None
        assert head.fields[:4] == (
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"a.test"),
            (b":path", b"/ws"),
        )
        assert field(head, b"cf-cloudflared-proxy-connection-upgrade") == b"websocket"
        assert field(head, b"sec-websocket-version") == b"13"
        assert field(head, b"sec-websocket-protocol") == b"chat"
        assert b":protocol" not in dict(head.fields)
        assert [name for name, _ in head.fields].count(b"sec-websocket-key") == 1
        assert not head.ends

    def test_keys_differ(self) -> None:
        assert self.opened()[2] != self.opened()[2]

    def test_yes_is_200_and_both_ways_are_open(self) -> None:
        edge, _, accept = self.opened()
        answer = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-Websocket-Accept", accept),
            (b"Sec-Websocket-Protocol", b"chat"),
        ]
        (head,) = edge.told(answer, end=False)
        assert head.fields == (
            (b":status", b"200"),
            (b"sec-websocket-protocol", b"chat"),
            (b"cf-ray", edge.ray),
        )
        assert not head.ends
        edge.raw.feed(edge.raw.peer.data(1, b"\x81up"))
        (data,) = (each for each in edge.connector.sent() if each.stream)
        assert (data.payload, data.ends) == (b"\x81up", False)
        edge.connector.feed(edge.connector.peer.data(1, b"\x81down"))
        (data,) = (each for each in edge.raw.sent() if each.stream)
        assert (data.payload, data.ends) == (b"\x81down", False)
        edge.raw.feed(edge.raw.peer.data(1, b"", end=True))
        assert [each.ends for each in edge.connector.sent() if each.stream] == [True]
        edge.connector.feed(edge.connector.peer.data(1, b"", end=True))
        assert [each.ends for each in edge.raw.sent() if each.stream] == [True]
        assert edge.acceptor.counters.active == 0

    def test_an_application_that_says_no_is_heard(self) -> None:
        edge, _, _ = self.opened()
        head, data = edge.told([(b"X", b"y")], status=b"403", body=b"no")
        assert field(head, b":status") == b"403"
        assert (data.payload, data.ends) == (b"no", True)

    @pytest.mark.parametrize("accept", [None, b"", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="])
    @pytest.mark.parametrize("status", [b"200", b"204"])
    def test_what_is_no_handshake_is_no_tunnel(self, accept: bytes | None, status: bytes) -> None:
        """Or a visitor would take an application's page for messages."""
        edge, _, _ = self.opened()
        fields = [(b"Upgrade", b"websocket")] if accept is None else []
        fields += [(b"Sec-Websocket-Accept", accept)] if accept is not None else []
        (head,) = edge.told(fields, status=status, end=False)
        assert field(head, b":status") == b"502"
        assert edge.failures == [(502, "not_a_websocket")]
        assert edge.connector.connection.active == 0
        assert edge.acceptor.counters.active == 0

    @pytest.mark.parametrize("protocol", [b"connect-udp", b"webtransport", b"websocket2", b"w"])
    def test_other_protocols_are_not_implemented(self, protocol: bytes) -> None:
        edge = Http2Edge()
        assert edge.ask([self.ASKED[0], (b":protocol", protocol), *self.ASKED[2:]]) == []
        assert edge.failures == [(501, "unsupported_connect")]

    @pytest.mark.parametrize(
        "asked",
        [
            [(b":method", b"CONNECT"), (b":authority", b"a.test:443")],
            [(b":method", b"CONNECT"), *GET[1:]],
        ],
    )
    def test_nor_is_a_proxy(self, asked: Pairs) -> None:
        edge = Http2Edge()
        assert edge.ask(asked) == []
        assert edge.failures == [(501, "unsupported_connect")]

    @pytest.mark.parametrize(
        ("asked", "end"),
        [
            ([(b":method", b"GET"), *ASKED[1:]], False),
            ([*ASKED, (b"content-length", b"0")], False),
            ([*ASKED, (b"upgrade", b"websocket")], False),
            ([ASKED[0], *ASKED[1:2], *ASKED[1:]], False),
            (ASKED, True),
            ([*ASKED[:2], *ASKED[3:]], False),
            ([*ASKED[:4], *ASKED[5:]], False),
        ],
        ids=["GET", "a length", "an upgrade", "two protocols", "an end", "no scheme", "no path"],
    )
    def test_malformed_ones_cost_their_stream(self, asked: Pairs, end: bool) -> None:
        edge = Http2Edge()
        assert edge.ask(asked, end=end) == []
        assert [(each.kind, each.code) for each in edge.raw.sent()] == [
            (RST_STREAM, ErrorCode.PROTOCOL_ERROR)
        ]
        assert edge.exchanges == []

    def test_it_must_have_been_offered(self) -> None:
        """On a link it is not."""
        connector = Connector()
        connector.request(self.ASKED, end=False)
        assert [(each.kind, each.code) for each in connector.edge.sent()] == [
            (RST_STREAM, ErrorCode.PROTOCOL_ERROR)
        ]
        assert connector.exchanges == []


class TestWebSocketsOfVisitors:
    UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: k")

    def test_travel_as_a_field(self) -> None:
        edge = Edge()
        (head,) = edge.request(visit(*self.UPGRADE))
        assert field(head, b"cf-cloudflared-proxy-connection-upgrade") == b"websocket"
        assert field(head, b"sec-websocket-key") == b"k"
        assert field(head, b"upgrade") is None
        assert not head.ends

    def test_200_becomes_101(self) -> None:
        edge = Edge()
        edge.request(visit(*self.UPGRADE))
        text = edge.answer(
            [(b"Sec-Websocket-Accept", b"x"), (b"Content-Length", b"0"), (b"Upgrade", b"x")],
            end=False,
        )
        assert text == (
            b"HTTP/1.1 101 Switching Protocols\r\nSec-Websocket-Accept: x\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nCf-Ray: " + edge.ray + b"\r\n\r\n"
        )
        edge.visitor.send(b"\x00raw")
        (data,) = (each for each in edge.connector.sent() if each.stream)
        assert data.payload == b"\x00raw"
        edge.connector.feed(edge.connector.peer.data(1, b"back", end=True))
        assert edge.visitor.read() == b"back"
        assert edge.visitor.closed

    def test_any_other_answer_is_an_answer(self) -> None:
        for status, fields in ((b"200", [(b"X", b"y")]), (b"403", [(b"Upgrade", b"websocket")])):
            edge = Edge()
            edge.request(visit(*self.UPGRADE))
            text = edge.answer(fields, status=status, body=b"no")
            assert text.startswith(b"HTTP/1.1 " + status)
            assert b"Upgrade" not in text
            assert not edge.visitor.closed
            assert edge.connector.connection.active == 0


class TestContentThatComesWhole:
    """For origins that can do nothing without a length (`disableChunkedEncoding`)."""

    def connector(self, most: int = 10) -> Connector:
        connector = Connector(lambda exchange: exchange.when_whole(most, connector.forward))
        return connector

    def head(self, connector: Connector) -> bytes:
        return connector.dials.origin.take()

    def test_is_given_its_length(self) -> None:
        connector = self.connector()
        stream = connector.request(POST, end=False)
        connector.edge.feed(connector.edge.peer.data(stream, b"12345"))
        assert connector.dials.transports == []
        connector.edge.feed(connector.edge.peer.data(stream, b"67890", end=True))
        head, _, body = self.head(connector).partition(b"\r\n\r\n")
        assert b"\r\nContent-Length: 10\r\n" in head
        assert b"Transfer-Encoding" not in head
        assert body == b"1234567890"

    def test_with_a_length_it_is_not_waited_for(self) -> None:
        connector = self.connector()
        connector.request([*POST, (b"content-length", b"100")], end=False)
        assert b"\r\nContent-Length: 100\r\n" in self.head(connector)

    def test_without_content_it_goes_on_when_that_is_known(self) -> None:
        for method, length in ((GET, False), (POST, True)):
            connector = self.connector()
            stream = connector.request(method, end=False)
            assert connector.dials.transports == []
            connector.edge.feed(connector.edge.peer.data(stream, b"", end=True))
            head = self.head(connector)
            assert (b"\r\nContent-Length: 0\r\n" in head) is length
            connector = self.connector()
            connector.request(method)
            assert self.head(connector)

    def test_trailers_have_no_place_then(self) -> None:
        connector = self.connector()
        stream = connector.request(POST, end=False)
        connector.edge.feed(connector.edge.peer.data(stream, b"12"))
        connector.edge.feed(connector.edge.peer.headers(stream, [(b"x-t", b"v")], end=True))
        assert self.head(connector).endswith(b"\r\n\r\n12")
        connector = self.connector()
        stream = connector.request(POST, end=False)
        connector.edge.feed(connector.edge.peer.headers(stream, [(b"x-t", b"v")], end=True))
        assert b"\r\nContent-Length: 0\r\n" in self.head(connector)

    def test_more_than_the_bound_is_refused(self) -> None:
        connector = self.connector()
        stream = connector.request(POST, end=False)
        connector.edge.feed(connector.edge.peer.data(stream, bytes(10)))
        assert [each for each in connector.edge.sent() if each.stream] == []
        connector.edge.feed(connector.edge.peer.data(stream, b"1"))
        head, *_, reset = (each for each in connector.edge.sent() if each.stream)
        assert field(head, b":status") == b"411"
        assert field(head, b"cf-cloudflared-response-meta") == META_ORIGIN
        assert reset.kind == RST_STREAM
        assert connector.dials.transports == []

    def test_who_leaves_meanwhile_is_forgotten(self) -> None:
        connector = self.connector()
        stream = connector.request(POST, end=False)
        connector.edge.feed(connector.edge.peer.data(stream, b"12"))
        connector.edge.feed(rst_stream(stream, 8))
        assert connector.dials.transports == []
        assert connector.acceptor.counters.active == 0

    def test_upgrades_are_not_waited_for(self) -> None:
        connector = self.connector()
        connector.request([*GET, UPGRADE], end=False)
        assert b"\r\nUpgrade: websocket\r\n" in self.head(connector)

    def test_expect_is_answered_before_it_is_waited_for(self) -> None:
        """Else both would wait for the other."""
        connector = self.connector()
        stream = connector.request([*POST, (b"expect", b"100-continue")], end=False)
        (interim,) = [each for each in connector.edge.sent() if each.stream]
        assert interim.fields == ((b":status", b"100"),)
        connector.edge.feed(connector.edge.peer.data(stream, b"12", end=True))
        assert self.head(connector).endswith(b"\r\n\r\n12")

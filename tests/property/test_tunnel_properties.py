"""A request and its response through the whole tunnel: visitor, edge, link, connector, origin.

What goes in comes out, but for what belongs to one connection (RFC 9110 §7.6.1) and what only an
edge may say; and nothing a connector sends can end a response or begin another.
"""

from __future__ import annotations

import re
from base64 import b64encode

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rig.http1 import Visitor
from rig.http2 import RawServer
from rig.oracle import pieces_of, read_requests, read_response, write
from rig.transport import ManualLoop
from rig.tunnel import Tunnel

from underpass.core.headerblock import canonical
from underpass.core.relay import Counters
from underpass.core.tunnel import VisitorAcceptor

Pairs = list[tuple[bytes, bytes]]

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

HOP_BY_HOP = [
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"trailer",
    b"upgrade", b"http2-settings",
]  # fmt: skip

EDGE_ONLY = [b"cf-connecting-ip", b"cf-ray", b"cf-warp-tag-id", b"x-forwarded-proto"]

names = st.one_of(
    st.text(TOKEN, min_size=1, max_size=16).map(lambda text: text.encode("ascii")),
    st.sampled_from([b"Cookie", b"Accept", b"Authorization", b"Set-Cookie", b"X-Dup", b"Via"]),
)
octets = st.sampled_from([bytes([c]) for c in (*range(0x21, 0x7F), *range(0x80, 0x100))])
words = st.lists(octets, min_size=1, max_size=8).map(b"".join)
values = st.lists(words, max_size=3).map(b" ".join)
SPECIAL = {
    *HOP_BY_HOP, *EDGE_ONLY, b"host", b"expect", b"content-length", b"x-forwarded-for", b"date",
    b"cdn-loop",
}  # fmt: skip
fields = st.lists(
    st.tuples(names, values).filter(
        lambda pair: pair[0].lower() not in SPECIAL and not pair[0].lower().startswith(b"cf-")
    ),
    max_size=10,
)
hops = st.lists(st.tuples(st.sampled_from(HOP_BY_HOP[1:3]), words), max_size=3)
forged = st.lists(st.tuples(st.sampled_from(EDGE_ONLY), words), max_size=3)
methods = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"])
targets = st.from_regex(
    r"/(?:[/abcXYZ09\-._~!$&'()*+,;=:@#\[\]]|%[0-9a-fA-F]{2}){0,20}"
    r"(?:\?[/abcXYZ09\-._~%!$&'()*+,;=:@?#\[\]]{0,20})?",
    fullmatch=True,
).map(lambda text: text.encode("ascii"))
bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=3)
cuts = st.lists(st.integers(0, 10000), max_size=4)


def passed(pairs: Pairs, *, cookies: bool = False) -> Pairs:
    """What arrives of `pairs`: in canonical case, in order; cookies of a request as one."""
    crumbs = [value for name, value in pairs if name.lower() == b"cookie"]
    kept = [(canonical(name), value) for name, value in pairs]
    if cookies and len(crumbs) > 1:
        kept = [(name, value) for name, value in kept if name != b"Cookie"]
        kept.append((b"Cookie", b"; ".join(crumbs).strip()))
    return kept


def shown(pairs: Pairs, *without: bytes) -> Pairs:
    return [(canonical(name), value) for name, value in pairs if name not in without]


class TestRequests:
    @settings(deadline=None)
    @given(methods, targets, fields, hops, forged, bodies, st.booleans(), cuts)
    def test_reach_the_origin_as_they_were_sent(
        self,
        method: bytes,
        target: bytes,
        pairs: Pairs,
        hop: Pairs,
        lies: Pairs,
        pieces: list[bytes],
        sized: bool,
        at: list[int],
    ) -> None:
        body = b"".join(pieces)
        framing = (
            (b"Content-Length", b"%d" % len(body)) if sized else (b"Transfer-Encoding", b"chunked")
        )
        connection = h11.Connection(h11.CLIENT)
        head = h11.Request(
            method=method,
            target=target,
            headers=[(b"Host", b"a.test"), *hop, *pairs, *lies, framing],
        )
        tunnel = Tunnel()
        text = tunnel.request(*pieces_of(write(connection, head, pieces), at))
        (message,), refused = read_requests(text)
        assert not refused
        assert message.start == (method, target, b"1.1")
        assert (message.body, message.ended) == (body, True)
        assert message.get(b"host") == b"a.test"
        got = dict(message.fields)
        assert got[b"cf-connecting-ip"] == b"192.0.2.1"
        assert got[b"x-forwarded-for"] == b"192.0.2.1"
        assert got[b"x-forwarded-proto"] == b"https"
        assert got[b"cf-warp-tag-id"] == b"connector"
        assert got[b"cdn-loop"] == b"underpass"
        assert b"keep-alive" not in got
        assert b"proxy-connection" not in got
        assert got[b"connection"] == b"keep-alive"
        added = (*EDGE_ONLY, b"x-forwarded-for", b"host", b"connection", b"transfer-encoding",
                 b"content-length", b"cdn-loop")  # fmt: skip
        assert shown(message.fields, *added) == passed(pairs, cookies=True)


class TestResponses:
    @settings(deadline=None)
    @given(
        methods,
        st.sampled_from([200, 201, 204, 302, 304, 404, 500, 599]),
        fields,
        hops,
        bodies,
        st.sampled_from(["length", "chunks", "close"]),
        cuts,
    )
    def test_reach_the_visitor_as_they_were_sent(
        self,
        method: bytes,
        status: int,
        pairs: Pairs,
        hop: Pairs,
        pieces: list[bytes],
        framing: str,
        at: list[int],
    ) -> None:
        tunnel = Tunnel()
        assert tunnel.request(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.next_event()
        connection.next_event()
        bodiless = method == b"HEAD" or status in (204, 304)
        pieces = [] if bodiless else pieces
        body = b"".join(pieces)
        head = {
            "length": [(b"Content-Length", b"%d" % len(body))] if not bodiless else [],
            "chunks": [(b"Transfer-Encoding", b"chunked")],
            "close": [(b"Connection", b"close")],
        }[framing]
        text = write(
            connection, h11.Response(status_code=status, headers=[*hop, *pairs, *head]), pieces
        )
        got = tunnel.respond(*pieces_of(text, at), end=connection.our_state is h11.MUST_CLOSE)
        message = read_response(got, method)
        assert message is not None
        assert message.start == (b"%d" % status,)
        assert (message.body, message.ended) == (body, True)
        assert shown(message.fields, b"cf-ray", b"content-length", b"transfer-encoding") == passed(
            pairs
        )
        assert tunnel.streams == 0
        assert tunnel.at_edge.counters.active == tunnel.at_connector.counters.active == 0
        assert not tunnel.visitor.closed


# A connector is a stranger to the edge's visitors: what it sends may be made to split responses.
CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")

nasty = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"a\r\nX-Injected: 1",
            b"a\nX-Injected: 1",
            b"a\rX-Injected: 1",
            b"\0",
            b"chunked",
            b"0",
            b"5",
            b"close",
            b"websocket",
            b"Upgrade",
        ]
    ),
)
nasty_names = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from(
        [
            b"Content-Length",
            b"Transfer-Encoding",
            b"Connection",
            b"Upgrade",
            b"Keep-Alive",
            b"Trailer",
            b":status",
            b"Set-Cookie",
            b"X:",
            b"X\r\nY",
            b"Sec-Websocket-Accept",
        ]
    ),
)


def unpadded(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


class TestNothingSplits:
    @settings(deadline=None)
    @given(
        st.lists(st.tuples(nasty_names, nasty), max_size=6),
        st.sampled_from([200, 204, 304, 404]),
        st.sampled_from([None, 0, 4]),
        st.sampled_from([b"GET", b"HEAD"]),
        st.booleans(),
    )
    @example([(b"X", b"a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")], 200, None, b"GET", False)
    @example([(b"X", b"\x0b")], 200, None, b"GET", False)
    @example([(b"Content-Length", b"0")], 200, 4, b"GET", False)
    @example([(b"Content-Length", b"4"), (b"Content-Length", b"0")], 200, 4, b"GET", False)
    def test_one_request_has_one_response(
        self, pairs: Pairs, status: int, length: int | None, method: bytes, upgrade: bool
    ) -> None:
        loop = ManualLoop()
        connector = RawServer(loop=loop)
        acceptor = VisitorAcceptor(
            connector.connection.forward, Counters(), None, None, b"192.0.2.1", b"https"
        )
        visitor = Visitor(loop=loop, acceptor=acceptor)
        lines = b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if upgrade else b""
        visitor.send(method + b" / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
        block = b";".join(unpadded(name) + b":" + unpadded(value) for name, value in pairs)
        outer = [] if length is None else [(b"content-length", b"%d" % length)]
        bodiless = method == b"HEAD" or status in (204, 304) or length == 0
        head = [
            (b":status", b"%d" % status),
            *outer,
            (b"cf-cloudflared-response-headers", block),
            (b"cf-cloudflared-response-meta", b'{"src":"origin"}'),
        ]
        connector.feed(connector.peer.headers(1, head, end=bodiless))
        if not bodiless:
            connector.feed(connector.peer.data(1, b"body", end=True))
        text = visitor.read()
        if text.startswith(b"HTTP/1.1 101 "):
            assert upgrade
            head_text, _, rest = text.partition(b"\r\n\r\n")
            assert rest == (b"" if bodiless else b"body")
        else:
            # RFC 9110 §5.5 lets other control characters pass, h11 does not.
            message = read_response(CONTROL.sub(b"?", text), method, end=visitor.closed)
            assert message is not None, text
            assert message.ended
            assert message.start in ((b"%d" % status,), (b"502",))
            if message.start != (b"502",):
                assert message.body == (b"" if bodiless else b"body")
            assert b"x-injected" not in dict(message.fields)
            head_text = text.partition(b"\r\n\r\n")[0]
        assert b"X-Injected" not in head_text
        assert acceptor.counters.active == 0
        assert connector.connection.active == 0

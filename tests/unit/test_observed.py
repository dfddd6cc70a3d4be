"""What cloudflared was seen to do, done again by our connector's core.

`tests/vectors/http2_observed.json` records an edge's frames, the bytes an HTTP/1.1 origin got, and
what came back. The same requests go down our link to an origin that answers as that one did; what
the origin gets and what the edge gets must mean the same. Where we differ on purpose is in
`DELIBERATE`, by case, and in the rules of `origin_saw` and `edge_saw`, for all cases:

- The order of fields is the visitor's, not sorted: order between names has no meaning.
- No `Accept-Encoding: gzip` is added, so nothing is decompressed on the way: content passes as the
  origin sent it.
- A request that ends with its head has `Content-Length: 0` instead of an empty chunked body.
- Fields of the connection to the origin (Connection, Keep-Alive) are not serialized: RFC 9110
  §7.6.1; edges have to drop them anyway.
- No outer `date` and no sniffed outer `content-type`: edges ignore them (docs: wire protocol §2.5).
- END_STREAM is on the last frame that there is, instead of on an empty one after it.
- Failures of our own carry `cf-cloudflared-cause`, which no user sees.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rig.edge import Edge, Reply
from rig.http1 import Dials
from rig.transport import ManualLoop

from underpass.core.relay import Counters
from underpass.core.tunnel import OriginAcceptor, OriginExchange

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "http2_observed.json").read_text("utf-8")
)
TAG = b"<connector-id>"
INTERNAL_ERROR, PROTOCOL_ERROR = 2, 1
RESETS = {"NO_ERROR": None, "INTERNAL_ERROR": INTERNAL_ERROR, "PROTOCOL_ERROR": PROTOCOL_ERROR}

ADDED_BY_GO = (b"Accept-Encoding", b"gzip")

Event = dict[str, Any]
Lines = list[tuple[bytes, bytes]]

DELIBERATE = {
    "GET open stream 400ms": "cloudflared waits 200 ms for content, then sends the head with "
    "chunked framing. We send the head with the first content or the end, and then know better.",
    "GET with transfer-encoding header (illegal)": "RST_STREAM PROTOCOL_ERROR (RFC 9113 §8.2.2) "
    "instead of Go's 400 page, which no edge may show for an origin either.",
    "GET with connection header (illegal)": "The same.",
    "authority + host header": "Two names for one request are how a filter is fooled: "
    "PROTOCOL_ERROR (RFC 9113 §8.3.1) instead of ignoring one of them.",
    "path odd": "A space within `:path` is a PROTOCOL_ERROR, not repaired: RFC 9113 §8.3.1.",
    "path /x?a=b c": "The same: written down as it is, it would be a malformed request line.",
    "path odd2": "The path passes octet for octet; Go decodes and encodes it anew where it finds "
    "an octet that should have been encoded.",
    "path /a|b": "The same.",
    "path /%zz": "The same: what it means is the origin's to say.",
    "GET /gzip": "Nothing is decompressed, so a truncated gzip stream is the visitor's to notice.",
    "GET /abort": "What came before the origin broke off is passed on first; cloudflared had not "
    "flushed it.",
    "trace": "No tracing: no cf-int-cloudflared-tracing comes back.",
    "CONNECT without proxy-src": "501 instead of asking an origin to be a proxy.",
    "request trailers": "The Trailer announcement is not framing and keeps its place and case.",
}

SKIPPED = {
    "dead origin": "dialling is not the core's",
    "catchall": "ingress is not the core's",
    "status service": "ingress is not the core's (test_tunnel covers the answer)",
    "missing authority": "ingress is not the core's",
    "nochunk POST without CL": "an upstream defect that corrupts the next request",
    "nochunk POST with CL": "what the defect left behind",
    "PING": "test_h2 covers it",
    "GOAWAY from edge": "test_h2 covers it",
    "ws big": "WebSocket framing for stream origins: test_connector_websocket",
    "ws text then bye": "the same",
    "websocket to tcp:// service (TCP over WS)": "the same",
    "plain http (no upgrade) to tcp:// service": "the same",
}

CASES = [
    pytest.param(case, id=case["case"])
    for group in ("http", "path", "ws")
    for case in VECTORS["vectors"][group]
    if case["case"] not in SKIPPED
]


def latin(text: str) -> bytes:
    return text.encode("latin-1")


class Origin:
    """Answers as the recorded one did; pauses within an answer are where `go_on` is called."""

    def __init__(self, dials: Dials) -> None:
        self._dials = dials
        self.got = b""
        self._rest: list[bytes] = []
        self._ends = False

    def read(self) -> bytes:
        """What has come since the last time."""
        came = b"".join(transport.take() for transport in self._dials.transports)
        self.got += came
        return came

    def answer(self, path: str, *, is_head: bool) -> None:
        text = VECTORS["origin_responses_by_path"].get(path)
        if text is None:
            text = VECTORS["origin_responses_by_path"]["other paths"]
        self._ends = "[connection closed" in text
        if path == "/ws":
            text = text.partition(" then ")[0]
        elif path == "/big":
            text = text.partition(" + ")[0] + "x" * 20000
        elif path == "/gzip":
            text = text.partition(" + ")[0] + "\x1f\x8b\x08"
        elif path == "/cl":
            text = text.replace("hello (no body for HEAD)", "" if is_head else "hello")
        text = re.sub(r" ?\[connection closed[^]]*\]$", "", text)
        self._rest = [latin(part) for part in re.split(r" \[\d+ ms pause\] ", text)]
        self.go_on()

    def go_on(self) -> None:
        while self._rest:
            self._dials.origin.feed(self._rest.pop(0))
            self._dials.loop.run()
        if self._ends:
            self._dials.origin.end()
            self._dials.loop.run()

    def echo(self, data: bytes) -> None:
        """What the origin does on an upgraded connection."""
        self._dials.origin.feed(b"echo:" + data)
        if b"bye" in data:
            self._dials.origin.end()
        self._dials.loop.run()


class Scene:
    def __init__(self, host: bytes | None = None) -> None:
        self.loop = ManualLoop()
        self.dials = Dials(self.loop)
        self.origin = Origin(self.dials)
        self._host = host
        self.acceptor = OriginAcceptor(self._forward, Counters(), None, TAG)
        self.edge = Edge(self.loop, self.acceptor)

    def _forward(self, exchange: OriginExchange) -> None:
        exchange.host = self._host
        self.dials.pool.forward(exchange)


def play(case: dict[str, Any]) -> tuple[Scene, Reply]:
    """Send what the recorded edge sent, and let the origin answer as the recorded one did."""
    events: list[Event] = case["events"]
    opening = events[0]
    fields = [(latin(name), latin(value)) for name, value in opening["fields"]]
    host = b"inner.local" if case["case"] == "http host header" else None
    scene = Scene(host)
    edge, origin = scene.edge, scene.origin
    stream = edge.request(fields, end=opening["end_stream"])
    pseudo = dict(fields)
    path = pseudo.get(b":path", b"").decode("latin-1").partition("?")[0]
    trailers = case["case"] == "request trailers"
    answered = False

    def answer_if_complete() -> None:
        nonlocal answered
        origin.read()
        head, end, body = origin.got.partition(b"\r\n\r\n")
        if answered or not end:
            return
        lines = head.lower().split(b"\r\n")
        length = [line for line in lines if line.startswith(b"content-length: ")]
        if b"transfer-encoding: chunked" in lines and not body.endswith(b"\r\n\r\n"):
            return
        if length and len(body) < int(length[0][16:]):
            return
        answered = True
        origin.answer(path, is_head=pseudo[b":method"] == b"HEAD")
        edge.run()

    answer_if_complete()
    for event in events[1:]:
        if event.get("edge_sends") != "DATA":
            continue
        before = len(origin.got)
        edge.data(stream, latin(event.get("data", "")), end=event.get("end_stream", False))
        if answered and "websocket" in case["case"]:
            origin.read()
            if origin.got[before:]:
                origin.echo(origin.got[before:])
                edge.run()
        answer_if_complete()
    if trailers:
        edge.trailers(stream, [(b"x-req-trail", b"tv")])
        answer_if_complete()
    edge.run()
    origin.read()
    return scene, edge.replies[stream]


def origin_saw(text: bytes) -> tuple[bytes, Lines, bytes]:
    """(request line, fields without what is deliberately different, content)."""
    head, _, body = text.partition(b"\r\n\r\n")
    line, *rest = head.split(b"\r\n")
    fields = sorted((name, value) for name, _, value in (each.partition(b": ") for each in rest))
    if (b"Transfer-Encoding", b"chunked") in fields:
        fields.remove((b"Transfer-Encoding", b"chunked"))
        if body == b"0\r\n\r\n":
            fields.append((b"Content-Length", b"0"))
            fields.sort()
            body = b""
        else:
            content, _, tail = body.partition(b"0\r\n")
            chunks = re.findall(rb"([0-9a-f]+)\r\n(.*?)\r\n", content, re.DOTALL)
            assert all(int(size, 16) == len(part) for size, part in chunks)
            body = b"".join(part for _, part in chunks) + b"|" + tail
    return line, fields, body


def recorded_origin(events: list[Event]) -> bytes:
    text = ""
    for event in events:
        for key in ("origin_receives_head", "origin_receives_chunked_raw", "origin_receives_body"):
            text += event.get(key, "")
    return latin(text)


def edge_saw(events: list[Event]) -> Reply:
    """The recorded answer as a `Reply`, without what is deliberately different."""
    reply = Reply()
    for event in events:
        kind = event.get("edge_receives")
        if kind == "HEADERS":
            fields = dict(event["fields"])
            if ":status" not in fields:
                reply.trailers = [(latin(n), latin(v)) for n, v in event["fields"]]
            elif fields[":status"] == "100":
                reply.interim.append(100)
            else:
                reply.status = int(fields[":status"])
                reply.fields = [
                    (latin(name), latin(value))
                    for name, value in event["fields"]
                    if name not in ("date", "content-type", "x-content-type-options")
                    and not name.startswith("cf-int-")
                ]
        if kind == "DATA":
            reply.body += latin(event.get("data", "x" * event["len"]))
        if kind == "RST_STREAM":
            reply.reset = {"NO_ERROR": None, "INTERNAL_ERROR": 2, "PROTOCOL_ERROR": 1}[
                event["code"]
            ]
        if event.get("end_stream") and kind:
            reply.ended = True
    return reply


def users(events: list[Event]) -> Lines | None:
    """The origin's fields that the recorded edge got."""
    for event in events:
        if "user_headers_sorted" in event:
            return sorted(
                (latin(name), latin(value))
                for name, value in event["user_headers_sorted"]
                if name != "Connection" or value == "Upgrade"
            )
    return None


def without_cause(fields: Lines) -> Lines:
    return sorted(
        (name, value)
        for name, value in fields
        if name not in (b"cf-cloudflared-cause", b"cf-cloudflared-response-headers")
    )


def test_every_case_is_accounted_for() -> None:
    names = {case["case"] for group in ("http", "path", "ws") for case in VECTORS["vectors"][group]}
    assert set(DELIBERATE) | set(SKIPPED) <= names


@pytest.mark.parametrize(
    "case", [param for param in CASES if param.values[0]["case"] not in DELIBERATE]
)
def test_as_observed(case: dict[str, Any]) -> None:
    events = case["events"]
    scene, reply = play(case)
    recorded = edge_saw(events)
    expected = recorded_origin(events)
    got = scene.origin.got
    assert bool(got) == bool(expected)
    if expected:
        stream = b"".join(latin(event.get("origin_receives_stream", "")) for event in events)
        line, fields, body = origin_saw(got)
        expected_line, expected_fields, expected_body = origin_saw(expected)
        if ADDED_BY_GO not in fields and ADDED_BY_GO in expected_fields:
            expected_fields.remove(ADDED_BY_GO)
        assert line == expected_line
        assert fields == expected_fields
        assert body == expected_body + stream
    assert reply.status == recorded.status
    assert reply.body == recorded.body
    assert reply.interim == recorded.interim
    assert reply.trailers == recorded.trailers
    assert reply.ended == recorded.ended
    assert (reply.reset or None) == recorded.reset
    assert without_cause(reply.fields) == without_cause(recorded.fields)
    observed_users = users(events)
    if observed_users is None:
        assert reply.user_fields is None
    else:
        assert reply.user_fields is not None
        assert sorted(reply.user_fields) == observed_users


def deliberate(name: str) -> tuple[Scene, Reply]:
    assert name in DELIBERATE
    (case,) = (param.values[0] for param in CASES if param.values[0]["case"] == name)
    return play(case)


class TestDeliberateDifferences:
    """One for each entry of `DELIBERATE`: what we do instead."""

    def test_get_with_an_open_stream(self) -> None:
        scene, reply = deliberate("GET open stream 400ms")
        assert origin_saw(scene.origin.got)[1] == [
            (b"Cf-Warp-Tag-Id", TAG),
            (b"Connection", b"keep-alive"),
            (b"Host", b"a.example.com"),
        ]
        assert (reply.status, reply.body) == (200, b"hello")

    @pytest.mark.parametrize(
        "name",
        [
            "GET with transfer-encoding header (illegal)",
            "GET with connection header (illegal)",
            "authority + host header",
            "path odd",
            "path /x?a=b c",
        ],
    )
    def test_refused(self, name: str) -> None:
        scene, reply = deliberate(name)
        assert (reply.status, reply.reset) == (None, PROTOCOL_ERROR)
        assert scene.origin.got == b""

    @pytest.mark.parametrize(
        ("name", "target"),
        [
            ("path odd2", b"/cl/%2F/../\xc3\xa9?q=%zz#frag"),
            ("path /a|b", b"/a|b"),
            ("path /%zz", b"/%zz"),
        ],
    )
    def test_paths_pass_as_they_are(self, name: str, target: bytes) -> None:
        scene, reply = deliberate(name)
        assert scene.origin.got.startswith(b"GET " + target + b" HTTP/1.1\r\n")
        assert reply.ended

    def test_compressed_content_passes_as_it_is(self) -> None:
        _, reply = deliberate("GET /gzip")
        assert (reply.status, reply.body, reply.ended) == (200, b"\x1f\x8b\x08", True)
        assert reply.user_fields == [(b"Content-Encoding", b"gzip"), (b"Content-Length", b"3")]

    def test_what_came_before_a_break_is_passed_on(self) -> None:
        _, reply = deliberate("GET /abort")
        assert (reply.status, reply.body) == (200, b"partial")
        assert (reply.ended, reply.reset) == (False, INTERNAL_ERROR)

    def test_tracing(self) -> None:
        scene, reply = deliberate("trace")
        assert b"cf-trace-id" not in scene.origin.got.lower()
        assert reply.get(b"cf-int-cloudflared-tracing") is None
        assert (reply.status, reply.body) == (200, b"hello")

    def test_connect(self) -> None:
        scene, reply = deliberate("CONNECT without proxy-src")
        assert (scene.origin.got, reply.status) == (b"", 501)

    def test_request_trailers(self) -> None:
        scene, reply = deliberate("request trailers")
        line, fields, body = origin_saw(scene.origin.got)
        assert line == b"POST /cl HTTP/1.1"
        assert (b"Trailer", b"x-req-trail") in fields
        assert body == b"body1|X-Req-Trail: tv\r\n\r\n"
        assert (reply.status, reply.body) == (200, b"hello")

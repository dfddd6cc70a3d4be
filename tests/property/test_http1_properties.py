"""HTTP/1.1 against h11: what one writes the other reads, and both refuse the same bytes.

Where we are stricter or looser than h11 is in `STRICTER` and `LOOSER`, with the reason; we are
never looser about where a message ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import h11
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from rig.http1 import Dials, Visitor, respond, visit
from rig.oracle import pieces_of, read_requests, read_response, write

from underpass.core.chunked import ChunkedReader
from underpass.core.http1 import read_head

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# Names the codecs act on themselves; each has its own cases in the unit tests.
OURS = {
    b"host", b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade",
    b"te", b"trailer", b"http2-settings", b"expect", b"content-length", b"date",
}  # fmt: skip

names = (
    st.text(TOKEN, min_size=1, max_size=20)
    .map(lambda text: text.encode("ascii"))
    .filter(lambda name: name.lower() not in OURS)
)
octets = st.sampled_from([bytes([c]) for c in (*range(0x21, 0x7F), *range(0x80, 0x100))])
words = st.lists(octets, min_size=1, max_size=12).map(b"".join)
values = st.lists(words, max_size=4).map(b" \t ".join)
fields = st.lists(st.tuples(names, values), max_size=12)
methods = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"])
targets = st.text("/abcXYZ0189-._~%!$&'()*+,;=:@?#[]|\"<>\\^`{}", min_size=0, max_size=30).map(
    lambda text: b"/" + text.encode("ascii")
)
hosts = st.sampled_from([b"a", b"a.test:8080", b"[::1]:80", b"xn--bcher-kva.example", b""])
bodies = st.lists(st.binary(max_size=200), max_size=4)
trailers = st.lists(st.tuples(names, values), max_size=3).filter(
    lambda pairs: all(
        name.lower() not in (b"cookie", b"set-cookie", b"authorization", b"range", b"cache-control")
        and not name.lower().startswith((b"content-", b"proxy-"))
        for name, _ in pairs
    )
)
cuts = st.lists(st.integers(0, 10000), max_size=6)


def lowered(pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in pairs if name.lower() not in OURS]


class TestRequestsWeWrite:
    @settings(deadline=None)
    @given(methods, targets, fields, bodies, st.booleans())
    def test_are_read_by_h11_as_they_were_meant(
        self,
        method: bytes,
        target: bytes,
        pairs: list[tuple[bytes, bytes]],
        pieces: list[bytes],
        sized: bool,
    ) -> None:
        dials = Dials()
        body = b"".join(pieces)
        length = [(b"content-length", b"%d" % len(body))] if sized and body else []
        client = dials.request(method, target, [*pairs, *length], end=not body)
        for piece in pieces:
            client.side.write(piece)
        if body:
            client.side.end()
        dials.loop.run()
        (message,), refused = read_requests(dials.origin.written)
        assert not refused
        assert message.start == (method, target, b"1.1")
        assert message.get(b"host") == b"origin.test"
        assert lowered(message.fields) == lowered(pairs)
        assert (message.body, message.ended) == (body, True)


class TestRequestsH11Writes:
    @settings(deadline=None)
    @given(methods, targets, hosts, fields, bodies, trailers, st.booleans(), cuts)
    def test_are_read_by_us_as_they_were_meant(
        self,
        method: bytes,
        target: bytes,
        host: bytes,
        pairs: list[tuple[bytes, bytes]],
        pieces: list[bytes],
        tail: list[tuple[bytes, bytes]],
        sized: bool,
        at: list[int],
    ) -> None:
        body = b"".join(pieces)
        framing = (
            (b"Content-Length", b"%d" % len(body)) if sized else (b"Transfer-Encoding", b"chunked")
        )
        connection = h11.Connection(h11.CLIENT)
        head = h11.Request(method=method, target=target, headers=[(b"Host", host), *pairs, framing])
        text = write(connection, head, pieces, () if sized else tail)
        result = visit(pieces_of(text, at))
        assert (result.refused, result.closed, len(result.heads)) == (0, False, 1)
        assert list(result.heads[0][:4]) == [
            (b":method", method),
            (b":scheme", b"http"),
            (b":authority", host),
            (b":path", target),
        ]
        # h11 writes names in the case it was given.
        assert [
            (name, value) for name, value in result.heads[0][4:] if name.lower() not in OURS
        ] == pairs
        assert result.bodies == (body,)
        assert result.ended == (True,)


class TestResponsesWeWrite:
    @settings(deadline=None)
    @given(
        st.sampled_from([b"GET", b"HEAD", b"POST"]),
        st.sampled_from([200, 204, 206, 301, 304, 404, 500, 599]),
        fields,
        bodies,
        st.booleans(),
        st.booleans(),
    )
    def test_are_read_by_h11_as_they_were_meant(
        self,
        method: bytes,
        status: int,
        pairs: list[tuple[bytes, bytes]],
        pieces: list[bytes],
        sized: bool,
        old: bool,
    ) -> None:
        visitor = Visitor()
        version = b"1.0" if old else b"1.1"
        visitor.send(method + b" / HTTP/" + version + b"\r\nHost: a\r\n\r\n")
        body = b"".join(pieces)
        side = visitor.app.last.side
        length = [(b"content-length", b"%d" % len(body))] if sized else []
        side.send_response(status, [*pairs, *length])
        for piece in pieces:
            side.write(piece)
        side.end()
        visitor.loop.run()
        bodiless = method == b"HEAD" or status in (204, 304)
        text = visitor.transport.written
        message = read_response(text, method, end=visitor.transport.closed)
        assert message is not None
        assert message.start == (b"%d" % status,)
        assert lowered(message.fields) == lowered(pairs)
        assert (message.body, message.ended) == (b"" if bodiless else body, True)


class TestResponsesH11Writes:
    @settings(deadline=None)
    @given(
        methods,
        st.sampled_from([200, 204, 206, 301, 304, 404, 500, 599]),
        fields,
        bodies,
        trailers,
        st.sampled_from(["length", "chunks", "close"]),
        cuts,
    )
    def test_are_read_by_us_as_they_were_meant(
        self,
        method: bytes,
        status: int,
        pairs: list[tuple[bytes, bytes]],
        pieces: list[bytes],
        tail: list[tuple[bytes, bytes]],
        framing: str,
        at: list[int],
    ) -> None:
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
            connection,
            h11.Response(status_code=status, headers=[*pairs, *head]),
            pieces,
            tail if framing == "chunks" and not bodiless else (),
        )
        client, dials = respond(pieces_of(text, at), method)
        if connection.our_state is h11.MUST_CLOSE:
            dials.origin.end()
            dials.loop.run()
        assert client.status == status
        assert lowered(client.head[1:]) == lowered(pairs)
        assert (client.body, client.ended, client.abandoned) == (body, True, None)


class TestChunks:
    @settings(deadline=None)
    @given(bodies, trailers, cuts)
    def test_h11_reads_what_was_cut_into_pieces(
        self, pieces: list[bytes], tail: list[tuple[bytes, bytes]], at: list[int]
    ) -> None:
        connection = h11.Connection(h11.CLIENT)
        head = h11.Request(
            method="POST", target="/", headers=[("Host", "a"), ("Transfer-Encoding", "chunked")]
        )
        text = write(connection, head, pieces, tail).partition(b"\r\n\r\n")[2]
        reader = ChunkedReader()
        content = b""
        state = "more"
        for piece in pieces_of(text + b"next", at):
            part, state, left = reader.feed(piece)
            content += part
            if state == "end":
                assert piece[len(piece) - left :] == b"next"[:left]
                break
        assert (state, content) == ("end", b"".join(pieces))
        assert reader.trailer_pairs == tail


# What becomes of damaged bytes.

# Fault -> why h11 lets it pass and we do not. No fault: we wait for an end that does not come.
STRICTER = {
    None: "A bare LF ends no line (RFC 9112 §2.2 allows both), so the head is not complete.",
    "Missing expected CR after header value": "The same.",
    "Invalid header field char": "The same.",
    "Expected CRLF after version": "The same.",
    "Unexpected whitespace after header value": "A folded line: a server may refuse it (§5.2).",
    "Invalid header value char": "A control character (RFC 9110 §5.5: may be refused).",
    "invalid field value": "The same.",
    "unsupported method": "A method nobody knows is answered with 501 (RFC 9110 §9.1).",
    "invalid Host": "A Host that is no authority: MUST be refused (§3.2); h11 does not look.",
    "Unexpected start char in url": "A target in none of the four forms (§3.2); the same.",
    "Unexpected char in url schema": "The same.",
    "Unexpected char in url server": "The same.",
    "Invalid characters in url": "The same.",
    "unsupported request target": "The same.",
    "unsupported HTTP version": "505 (RFC 9110 §15.6.6); h11 takes any two digits.",
    "chunks": "The same about bare LF and control characters, within a chunked body.",
    "Transfer-Encoding in HTTP/1.0": "Its framing is to be taken for faulty (§6.1).",
    "Content-Length can't be present with Transfer-Encoding": "Smuggling, or a mistake (§6.1).",
    "Transfer-Encoding can't be present with Content-Length": "The same.",
    "Duplicate Content-Length": "Even if they agree (§6.3 allows both).",
    "Invalid character in Content-Length": "A list of equal lengths; the same.",
    "invalid Content-Length": "More than 18 digits.",
    "unsupported Transfer-Encoding": "A tab after `chunked`, which llhttp takes for a part of it.",
}

# What `Reading.leniencies` notes -> why we let pass what h11 does not.
LOOSER = {
    "empty lines": "Before a request, CR and LF mean nothing (RFC 9112 §2.2).",
    "chunk whitespace": "Before a chunk's extension it is bad but to be parsed (§7.1.1).",
    "kept 1.0": "HTTP/1.0 connections may be kept when asked (§9.3); h11 never does.",
}

SOUND = (
    b"GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
    b"PUT /d HTTP/1.0\r\nHost: d\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx",
    b"HEAD * HTTP/1.1\r\nhost:e\r\nConnection: close\r\n\r\n",
)
PIECES = (
    b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b",", b";", b"0", b"5", b"a", b"\x0b", b"\x7f",
    b"\xff", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked", b"identity",
    b"Content-Length", b"Transfer-Encoding", b"Host: x\r\n", b"HTTP/1.0", b"HTTP/1.1", b"+", b"-",
    b"0\r\n\r\n", b"\r\n\r\n", b"1\r\nx\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"/", b"*",
    b"http://h/", b"Connection: close\r\n", b"ffff", b"000", b"0x", b'"',
)  # fmt: skip

damage = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete", "double"]),
        st.integers(0, 400),
        st.sampled_from(PIECES),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=4,
)


def damaged(text: bytes, steps: list[tuple[str, int, bytes, int]]) -> bytes:
    for step, place, piece, size in steps:
        at = place % (len(text) + 1)
        if step == "insert":
            text = text[:at] + piece + text[at:]
        elif step == "replace":
            text = text[:at] + piece + text[at + len(piece) :]
        elif step == "delete":
            text = text[:at] + text[at + size :]
        else:
            text = text[: at + size] + text[at:]
    return text


@dataclass
class Reading:
    """Requests as far as they are complete, and what is wrong with the next."""

    messages: list[tuple[bytes, bytes, bytes]]
    fault: str | None = None
    leniencies: set[str] = field(default_factory=set)


def ours(text: bytes) -> Reading:
    """What our parts make of `text`, put together as the server does, but telling the fault."""
    found = Reading([])
    while True:
        if text.startswith((b"\r", b"\n")):
            found.leniencies.add("empty lines")
            text = text.lstrip(b"\r\n")
        try:
            answer = read_head(text, True)
        except ValueError as error:
            found.fault = str(error)
            return found
        if answer is None:
            return found
        pairs, facts, left = answer
        rest = text[len(text) - left :] if left else b""
        body = b""
        if facts["framing"] == "length":
            body, rest = rest[: facts["length"]], rest[facts["length"] :]
            if len(body) < facts["length"]:
                return found
        elif facts["framing"] == "chunks":
            body, state, left = ChunkedReader().feed(rest)
            if state != "end":
                found.fault = "chunks" if state == "broken" else None
                return found
            if re.search(rb"(?:\A|\r\n)[0-9A-Fa-f]+[ \t]+;", rest):
                found.leniencies.add("chunk whitespace")
            rest = rest[len(rest) - left :] if left else b""
        head = dict(pairs[:4])
        found.messages.append((head[b":method"], head[b":path"], body))
        if not facts["keep_alive"]:
            return found
        if facts["minor"] == 0:
            found.leniencies.add("kept 1.0")
        text = rest


def theirs(text: bytes) -> Reading:
    messages, refused = read_requests(text)
    complete = [
        (message.start[0], message.start[1], message.body) for message in messages if message.ended
    ]
    return Reading(complete, "refused" if refused else None)


class TestDamagedRequests:
    @settings(max_examples=1000, deadline=None)
    @given(st.lists(st.sampled_from(SOUND), min_size=1, max_size=2), damage, cuts)
    @example([SOUND[0]], [("insert", 0, b"\r\n", 1)], [])
    @example([SOUND[1]], [("insert", 38, b"Transfer-Encoding: chunked\r\n", 1)], [])
    @example([SOUND[1]], [("insert", 38, b"Content-Length: 5\r\n", 1)], [])
    def test_end_where_h11_says_or_are_refused(
        self, texts: list[bytes], steps: list[tuple[str, int, bytes, int]], at: list[int]
    ) -> None:
        text = damaged(b"".join(texts), steps)
        we, they = ours(text), theirs(text)
        # The server makes the same of them, however they come.
        result = visit(pieces_of(text, at))
        assert list(result.bodies[: len(we.messages)]) == [body for _, _, body in we.messages]
        assert bool(result.refused) == (we.fault is not None)
        if len(we.messages) < len(they.messages):
            assert we.fault in STRICTER, (we.fault, text)
        elif len(we.messages) > len(they.messages):
            assert we.leniencies & LOOSER.keys(), text
        for (method, path, body), (their_method, target, their_body) in zip(
            we.messages, they.messages, strict=False
        ):
            assert (method, body) == (their_method, their_body), text
            assert target.endswith(path) or path == b"/", text

    @settings(deadline=None)
    @given(st.binary(max_size=300), cuts)
    def test_rubbish_is_never_a_request(self, text: bytes, at: list[int]) -> None:
        assume(not re.search(rb"HTTP/1", text))
        assert visit(pieces_of(text, at)).heads == ()


# Causes a response is refused for, by octets that h11 lets pass: the pattern of what is wrong, and
# why. (Ours are 502 to a visitor.)
STRICTER_RESPONSES = {
    rb"(?<!\r)\n|\r(?!\n)": "A bare LF ends no line, and a CR stands nowhere else.",
    rb"\r\n[ \t]": "A folded line: a proxy may not pass it on (RFC 9112 §5.2).",
    rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]": "A control character (RFC 9110 §5.5).",
    rb"HTTP/(?!1\.[01] )": "Another version than 1.0 and 1.1.",
    rb"(?is)content-length:.*content-length:": "Several lengths, even if they agree.",
    rb"(?i)content-length:[^\r]*,": "A list of lengths.",
    rb"(?is)content-length:.*transfer-encoding:|transfer-encoding:.*content-length:": (
        "Splitting, or a mistake (RFC 9112 §6.3)."
    ),
    rb"(?is)HTTP/1\.0.*transfer-encoding:": "Its framing is to be taken for faulty (§6.1).",
    rb"(?is)transfer-encoding:[^\r]*\t": "llhttp takes a tab for a part of the coding's name.",
    rb"HTTP/1\.[01] [0-9]{3}[^ \r]": "A status line without its space.",
    rb"HTTP/1\.[01] [01][0-9]{2} ": "101 that nobody asked for.",
}

SOUND_RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;x\r\nabc\r\n0\r\nT: v\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\nuntil close",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
)  # fmt: skip


def response_outcomes(
    text: bytes, at: list[int]
) -> tuple[tuple[bytes, bytes] | None, tuple[bytes, bytes] | None]:
    """(ours, theirs): status and content of a complete response, or None."""
    client, dials = respond(pieces_of(text, at))
    dials.origin.end()
    dials.loop.run()
    we = None
    if client.ended and client.exchange.cause is None:  # type: ignore[attr-defined]
        we = (b"%d" % (client.status or 0), client.body)
    message = read_response(text, end=True, alone=False)
    they = (message.start[0], message.body) if message is not None and message.ended else None
    return we, they


class TestDamagedResponses:
    @settings(max_examples=1000, deadline=None)
    @given(st.sampled_from(SOUND_RESPONSES), damage, cuts)
    def test_end_where_h11_says_or_are_refused(
        self, text: bytes, steps: list[tuple[str, int, bytes, int]], at: list[int]
    ) -> None:
        text = damaged(text, steps)
        we, they = response_outcomes(text, at)
        if we is None:
            assert they is None or any(re.search(each, text) for each in STRICTER_RESPONSES), text
        else:
            assert we == they, text

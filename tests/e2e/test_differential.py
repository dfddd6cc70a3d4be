"""Our connector and a stock cloudflared, side by side before one recording origin.

The same requests are sent to both through one edge; what the origin was sent, and what the visitor
got, is compared head by head. Where the two differ on purpose a `Difference` says so; every one of
these has its row in docs/moving-from-cloudflared.md.

Runs when UNDERPASS_CLOUDFLARED names a binary; needs no network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import random
import re
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import pytest
import trustme
import yaml
from peers.cloudflared import Cloudflared, binary
from peers.patience import PATIENCE
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running
from peers.recorder import ANSWERS, GOODBYE, Record, Recorder
from rig.oracle import read_response

from underpass.wire.credentials import Credentials, write_credentials_file

__all__ = ["binary"]

pytestmark = pytest.mark.interop

OURS, THEIRS = "ours.test", "them.test"
"""Domains of the two tunnels; as long as each other, so that nothing depends on it."""

REQUESTS: Final = 400
SEED: Final = 20260802

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Case:
    """One request, up to the host's domain."""

    variant: str
    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes | None
    framing: str  # "none", "length", "chunked", "trailers", "upgrade"
    number: int

    def text(self, domain: str) -> bytes:
        """As a visitor sends it."""
        host = f"{self.variant}.{domain}".encode()
        lines = [self.method + b" " + self.target + b" HTTP/1.1", b"Host: " + host]
        lines += [name + b": " + value for name, value in self.fields]
        body = self.body or b""
        if self.framing == "upgrade":
            lines += [b"Connection: Upgrade", b"Upgrade: websocket"]
        else:
            lines.append(b"Connection: close")
        if self.framing == "length":
            lines.append(b"Content-Length: %d" % len(body))
        elif self.framing in ("chunked", "trailers"):
            lines.append(b"Transfer-Encoding: chunked")
            trailer = b"X-Trailer: t\r\n" if self.framing == "trailers" else b""
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk + b"0\r\n" + trailer + b"\r\n"
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def has(self, name: bytes) -> bool:
        return any(key.lower() == name for key, _ in self.fields)


@dataclass
class Seen:
    """What became of a case with one of the connectors."""

    line: bytes = b""
    fields: Pairs = field(default_factory=list)
    content: bytes = b""
    trailers: Pairs = field(default_factory=list)
    tls: tuple[str | None, str | None] = (None, None)
    status: bytes = b""
    answer_fields: Pairs = field(default_factory=list)
    answer: bytes = b""
    answer_trailers: Pairs = field(default_factory=list)
    answer_ended: bool = False

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key.lower() == name), None)

    def without(self, *names: bytes) -> Seen:
        kept = [(key, value) for key, value in self.fields if key.lower() not in names]
        return replace(self, fields=kept)


METHODS = [b"GET"] * 6 + [
    *(b"HEAD", b"POST", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"),
    *(b"PROPFIND", b"SEARCH", b"REPORT"),
]
PATHS = [
    *(b"/", b"/a/b", b"/a%2Fb", b"/a//b", b"//a", b"/./x/../y", b"/%7euser", b"/a;b=c", b"/a:b@c"),
    *(b"/!$&'()*+,=", b"/%C3%BC", b"/~", b"/a%20b", b"/%2e%2e/x", b"/-._~", b"/index.html"),
    *(b"/a|b", b"/[x]", b"/{x}", b"/^x`", b"/a%zz", b"/%", b"/a\\b", b'/"x"', b"/<x>"),
]
QUERIES = [b"", b"&x=1&y=%20z", b"&a=b%zz", b"&?x=/../", b"&a[]=1&a[]=2", b"&p=|^`{}"]
FIELDS: list[tuple[tuple[bytes, bytes], ...]] = [
    ((b"User-Agent", b"ua/1.0 (x; y)"),),
    ((b"User-Agent", b""),),
    ((b"Accept", b"*/*"), (b"Accept-Language", b"de, en;q=0.5")),
    ((b"Accept-Encoding", b"gzip, br"),),
    ((b"Accept-Encoding", b"identity"),),
    ((b"Range", b"bytes=0-1"),),
    ((b"If-None-Match", b'"x", W/"y"'), (b"If-Modified-Since", b"Mon, 01 Jun 2026 10:00:00 GMT")),
    ((b"Cookie", b"a=1; b=2"),),
    ((b"Cookie", b"a=1"), (b"Cookie", b"b=2")),
    ((b"X-Dup", b"1"), (b"X-Other", b"o"), (b"X-Dup", b"2"), (b"x-dup", b"3")),
    ((b"X-Forwarded-For", b"203.0.113.9"),),
    ((b"Authorization", b"Basic eDp5"), (b"Proxy-Authorization", b"Basic eDp5")),
    ((b"x_under_score", b"1"), (b"X.dot", b"2"), (b"DNT", b"1"), (b"x-ALL-caps", b"3")),
    ((b"X-Empty", b""),),
    ((b"X-Latin", b"caf\xe9"), (b"X-Utf8", "ü".encode())),
    ((b"TE", b"trailers"),),
    ((b"Via", b"1.1 somebody"), (b"Max-Forwards", b"3")),
    ((b"Cf-Access-Client-Id", b"id"), (b"Cf-Custom", b"c")),
    (
        (b"Origin", b"https://a.test"),
        (b"Referer", b"https://a.test/"),
        (b"Sec-Fetch-Mode", b"cors"),
    ),
    ((b"X-Forwarded-Host", b"forged.test"),),
    ((b"Content-Type", b"text/plain"), (b"Content-Language", b"de")),
    ((b"Expect", b"100-continue"),),
    ((b"Cache-Control", b"no-cache"), (b"Pragma", b"no-cache")),
    ((b"X-Spaces", b"a  b\tc"),),
    ((b"Date", b"Mon, 01 Jun 2026 10:00:00 GMT"), (b"Warning", b'199 - "x"')),
]
VARIANTS = ["plain"] * 6 + [
    *("host", "nochunk", "nochunk", "tls", "named", "match", "matchhost", "http2", "unix"),
    *("unixtls", "ws", "kept", "matchport", "unixhost"),
]


def cases() -> Iterator[Case]:
    dice = random.Random(SEED)
    names = sorted(ANSWERS)
    for number in range(REQUESTS):
        method = dice.choice(METHODS)
        variant = dice.choice(VARIANTS)
        framing = dice.choice(["none", "none", "length", "chunked", "trailers"])
        body = None if framing == "none" else bytes(dice.randbytes(dice.choice([0, 1, 10, 20000])))
        if dice.random() < 0.06:
            method, framing, body = b"GET", "upgrade", None
            if variant.startswith("unix"):
                variant = "plain"  # cloudflared cannot
        some_fields = dice.sample(FIELDS, dice.randrange(5))
        if FIELDS[0] in some_fields and FIELDS[1] in some_fields:
            some_fields.remove(FIELDS[1])  # one User-Agent is enough
        fields = [pair for some in some_fields for pair in some]
        if framing == "upgrade":
            fields += [
                (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
                (b"Sec-WebSocket-Version", dice.choice([b"13", b"8"])),
                (b"Sec-WebSocket-Protocol", b"chat, superchat"),
            ]
        target = dice.choice(PATHS) + b"?answer=" + dice.choice(names) + dice.choice(QUERIES)
        yield Case(variant, method, target, tuple(fields), body, framing, number)


@dataclass(frozen=True)
class Pair:
    """Both connectors behind one edge, and the origins they share."""

    edge: EdgeProcess
    recorders: dict[str, dict[str, Recorder]]

    def seen(self, case: Case, domain: str) -> Seen:
        """Send the case by one of them."""
        port = self.edge.http_port
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as visitor:
            visitor.sendall(case.text(domain))
            answer = b""
            if case.framing == "upgrade":
                while not refused(answer) and b"hello" not in answer:
                    data = visitor.recv(65536)
                    if not data:
                        break
                    answer += data
                if refused(answer):
                    # A page, on a connection that stays.
                    seen = Seen(status=answer.split(b" ")[1])
                    self.note(case, domain, seen)
                    return tidied(seen, domain)
                with contextlib.suppress(OSError):  # the other end may be done already
                    visitor.sendall(GOODBYE)
                    visitor.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while data := visitor.recv(65536):
                    answer += data
        seen = Seen()
        if case.framing == "upgrade":
            head, _, seen.answer = answer.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            seen.status = lines[0].split(b" ")[1]
            seen.answer_fields = [_pair(line) for line in lines[1:]]
        else:
            message = read_response(answer, case.method, end=True)
            if message is not None:
                (seen.status,) = message.start
                seen.answer_fields = message.fields
                seen.answer, seen.answer_trailers = message.body, message.trailers
                seen.answer_ended = message.ended
        self.note(case, domain, seen)
        return tidied(seen, domain)

    def note(self, case: Case, domain: str, seen: Seen) -> None:
        """What the origin has recorded of it."""
        records = self.recorders[domain][case.variant].take()
        assert len(records) <= 1, f"asked {len(records)} times: {case}"
        for record in records:
            self.take(record, seen)

    @staticmethod
    def take(record: Record, seen: Seen) -> None:
        head, _, rest = record.data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        seen.line = lines[0]
        seen.fields = [_pair(line) for line in lines[1:]]
        seen.tls = (record.server_name, record.alpn)
        if (seen.get(b"transfer-encoding") or b"").lower() == b"chunked":
            while True:
                size, _, rest = rest.partition(b"\r\n")
                length = int(size, 16)
                if length == 0:
                    break
                seen.content += rest[:length]
                rest = rest[length + 2 :]
            trailers, _, rest = rest.rpartition(b"\r\n")
            seen.trailers = [_pair(line) for line in trailers.split(b"\r\n") if line]
        seen.content += rest


def refused(answer: bytes) -> bool:
    """Whether an answer that has begun is none to an upgrade."""
    return b"\r\n\r\n" in answer and not answer.startswith(b"HTTP/1.1 101 ")


def _pair(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


def tidied(seen: Seen, domain: str) -> Seen:
    """Without what is another each time: names of the tunnel, connector and request."""

    def same(value: bytes) -> bytes:
        value = value.replace(domain.encode(), b"app.test")
        return re.sub(rb"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", b"<connector>", value)

    def pairs(fields: Pairs, *moving: bytes) -> Pairs:
        return [
            (name, b"<another>" if name.lower() in moving else same(value))
            for name, value in fields
        ]

    name, alpn = seen.tls
    return replace(
        seen,
        fields=pairs(seen.fields, b"cf-ray"),
        answer_fields=pairs(seen.answer_fields, b"cf-ray"),
        tls=(name.replace(domain, "app.test") if name else name, alpn),
    )


def rules(domain: str, recorders: dict[str, Recorder], ca: Path) -> list[dict[str, Any]]:
    """An ingress rule for each variant."""
    http = f"http://127.0.0.1:{recorders['plain'].port}"
    secure = f"https://127.0.0.1:{recorders['tls'].port}"
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": (http, {}),
        "ws": (http.replace("http", "ws"), {}),
        "host": (http, {"httpHostHeader": "inner.test:8080"}),
        "nochunk": (http, {"disableChunkedEncoding": True}),
        "kept": (http, {"keepAliveConnections": 0, "keepAliveTimeout": "0s"}),
        "tls": (secure, {"noTLSVerify": True}),
        "named": (secure, {"originServerName": "app.test", "caPool": str(ca)}),
        "match": (secure, {"matchSNItoHost": True, "noTLSVerify": True}),
        "matchhost": (
            secure,
            {"matchSNItoHost": True, "httpHostHeader": "app.test", "caPool": str(ca)},
        ),
        "http2": (secure, {"http2Origin": True, "noTLSVerify": True}),
        "matchport": (
            secure,
            {"matchSNItoHost": True, "httpHostHeader": "app.test:8443", "noTLSVerify": True},
        ),
        "unix": (f"unix:{recorders['unix'].path}", {}),
        "unixhost": (f"unix:{recorders['unix'].path}", {"httpHostHeader": "inner.test"}),
        "unixtls": (f"unix+tls:{recorders['unixtls'].path}", {"noTLSVerify": True}),
    }
    found = [
        {"hostname": f"{name}.{domain}", "service": service, "originRequest": settings}
        for name, (service, settings) in variants.items()
    ]
    return [*found, {"service": "http_status:404"}]


def configuration(files: Path, domain: str, credentials: Credentials, ingress: Any) -> Path:
    keys = files / f"{domain}.json"
    write_credentials_file(keys, credentials)
    path = files / f"{domain}.yml"
    document = {
        "tunnel": str(credentials.tunnel_id),
        "credentials-file": str(keys),
        "ingress": ingress,
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def pair(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    files = tmp_path_factory.mktemp("differential")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    leaf = authority.issue_cert("app.test")

    def context() -> ssl.SSLContext:
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(fresh)
        return fresh

    tunnels = {domain: new_tunnel(files / "data", f"*.{domain}") for domain in (OURS, THEIRS)}
    with contextlib.ExitStack() as stack:
        recorders: dict[str, dict[str, Recorder]] = {}
        paths = {}
        for domain, credentials in tunnels.items():
            plain = stack.enter_context(Recorder())
            secure = stack.enter_context(Recorder(context()))
            recorders[domain] = {
                **dict.fromkeys(("plain", "ws", "host", "nochunk", "kept"), plain),
                **dict.fromkeys(
                    ("tls", "named", "match", "matchhost", "matchport", "http2"), secure
                ),
                **dict.fromkeys(
                    ("unix", "unixhost"),
                    stack.enter_context(Recorder(path=files / f"{domain}.sock")),
                ),
                "unixtls": stack.enter_context(
                    Recorder(context(), path=files / f"{domain}.tls.sock")
                ),
            }
            ingress = rules(domain, recorders[domain], files / "ca.pem")
            paths[domain] = configuration(files, domain, credentials, ingress)
        edge = EdgeProcess(files / "data")
        stack.enter_context(running(edge))
        ours = ConnectorProcess([f"--config={paths[OURS]}", *edge.edge_arguments, "run"])
        stack.enter_context(running(ours))
        theirs = Cloudflared(binary, edge, [f"--config={paths[THEIRS]}", "run"])
        stack.enter_context(running(theirs))
        ours.ready()
        theirs.ready()
        yield Pair(edge, recorders)


# What differs on purpose.

Level = Callable[[Case, Seen, Seen], bool]


@dataclass(frozen=True)
class Difference:
    """`level` takes it out of what both have seen, and says whether it was there; `row` is the
    beginning of its row in docs/moving-from-cloudflared.md."""

    row: str
    level: Level


DIFFERENCES: Final[list[Difference]] = []


def difference(row: str) -> Callable[[Level], Level]:
    def add(level: Level) -> Level:
        DIFFERENCES.append(Difference(row, level))
        return level

    return add


def drop(fields: Pairs, name: bytes, value: bytes) -> bool:
    """Take a field out; whether it was there."""
    for at, (key, text) in enumerate(fields):
        if key.lower() == name and text == value:
            del fields[at]
            return True
    return False


def take_over(ours: Seen, theirs: Seen) -> None:
    """Leave nothing of theirs to be compared."""
    for each in dataclasses.fields(Seen):
        setattr(theirs, each.name, getattr(ours, each.name))


@difference("`disableChunkedEncoding` without a length")
def _unframed(case: Case, ours: Seen, theirs: Seen) -> bool:
    if case.variant != "nochunk" or case.framing not in ("chunked", "trailers") or not case.body:
        return False
    if theirs.get(b"content-length") or theirs.get(b"transfer-encoding"):
        return False
    assert ours.get(b"content-length") == b"%d" % len(case.body)
    assert ours.content == case.body
    # The origin cannot know that content follows: what comes of it depends on who is faster.
    take_over(ours, theirs)
    return True


@difference("The request target goes to the origin byte for byte")
def _target(case: Case, ours: Seen, theirs: Seen) -> bool:
    if ours.line == theirs.line:
        return False
    assert ours.line.split(b" ")[1] == case.target
    if unquote_to_bytes(ours.line) != unquote_to_bytes(theirs.line):
        return False
    theirs.line = ours.line
    return True


@difference("Fields reach the origin in the order they came in")
def _order(case: Case, ours: Seen, theirs: Seen) -> bool:
    def by_name(pair: tuple[bytes, bytes]) -> bytes:
        return pair[0].lower()

    # (Sorting leaves fields of one name in their order, which counts.)
    before = [by_name(each) for each in ours.fields] != [by_name(each) for each in theirs.fields]
    for seen in (ours, theirs):
        for fields in (seen.fields, seen.answer_fields):
            fields.sort(key=by_name)
    return before


@difference("`Accept-Encoding` is the visitor's")
def _accept_encoding(case: Case, ours: Seen, theirs: Seen) -> bool:
    if case.has(b"accept-encoding") or not drop(theirs.fields, b"accept-encoding", b"gzip"):
        return False
    if b"answer=gzip" in case.target and case.framing != "upgrade" and theirs.answer:
        assert gzip.decompress(ours.answer) == theirs.answer
        theirs.answer = ours.answer
        drop(ours.answer_fields, b"content-encoding", b"gzip")
        drop(ours.answer_fields, b"content-length", b"%d" % len(ours.answer))
        drop(theirs.answer_fields, b"transfer-encoding", b"chunked")
    return True


@difference("An empty `User-Agent`")
def _user_agent(case: Case, ours: Seen, theirs: Seen) -> bool:
    return (b"User-Agent", b"") in case.fields and drop(ours.fields, b"user-agent", b"")


@difference("A request without content")
def _no_content(case: Case, ours: Seen, theirs: Seen) -> bool:
    if ours.content or theirs.content:
        return False
    if ours.trailers:
        return False  # they come in chunks, even if there is nothing else
    zero = drop(ours.fields, b"content-length", b"0")
    chunked = drop(theirs.fields, b"transfer-encoding", b"chunked")
    if not chunked:
        drop(theirs.fields, b"content-length", b"0")
    return zero or chunked


@difference("Trailers of requests")
def _trailers(case: Case, ours: Seen, theirs: Seen) -> bool:
    if case.framing != "trailers" or theirs.trailers or ours.trailers != [(b"X-Trailer", b"t")]:
        return False
    ours.trailers = []
    return True


@difference("A response with two `Content-Length` fields")
def _two_lengths(case: Case, ours: Seen, theirs: Seen) -> bool:
    if b"answer=two-lengths" not in case.target or (ours.status, theirs.status) != (b"502", b"200"):
        return False
    for name in ("status", "answer", "answer_fields", "answer_ended"):
        setattr(theirs, name, getattr(ours, name))
    return True


@difference("`matchSNItoHost` leaves the port out")
def _port_in_name(case: Case, ours: Seen, theirs: Seen) -> bool:
    if ours.tls[0] != "app.test" or theirs.tls[0] != "app.test:8443":
        return False
    theirs.tls = (ours.tls[0], theirs.tls[1])
    return True


@difference("`httpHostHeader` counts for unix sockets too")
def _unix_host(case: Case, ours: Seen, theirs: Seen) -> bool:
    if case.variant != "unixhost" or ours.get(b"host") != b"inner.test":
        return False
    ours.fields[:] = [pair for pair in ours.fields if pair[0].lower() != b"x-forwarded-host"]
    theirs.fields[:] = [pair for pair in theirs.fields if pair[0].lower() != b"x-forwarded-host"]
    drop(ours.fields, b"host", b"inner.test")
    return drop(theirs.fields, b"host", b"unixhost.app.test")


def compare(case: Case, ours: Seen, theirs: Seen) -> set[str]:
    """The rows of the differences that there are; fails for any that has none."""
    text = f"{case}\nours: {ours}\ntheirs: {theirs}"
    if ours.status == theirs.status == b"502":
        # Pages are the edge's, and name the cause as each connector told it.
        for seen in (ours, theirs):
            seen.answer, seen.answer_fields = b"", []
    if all((b"underpass-cause", b"bad_path") in seen.answer_fields for seen in (ours, theirs)):
        # Refused before any connector saw it; the page has the host and the ray in it.
        ours.answer = theirs.answer = b""
        assert ours == theirs, text
        return set()
    found = {each.row for each in DIFFERENCES if each.level(case, ours, theirs)}
    for each in dataclasses.fields(Seen):
        ours_has, theirs_has = getattr(ours, each.name), getattr(theirs, each.name)
        assert ours_has == theirs_has, f"{each.name}: {ours_has!r} != {theirs_has!r}\n{text}"
    return found


def test_the_origin_and_the_visitor_see_the_same(pair: Pair) -> None:
    seen: Counter[str] = Counter()
    for case in cases():
        seen.update(compare(case, pair.seen(case, OURS), pair.seen(case, THEIRS)))
    # What was mended, or never was, has no place in the table.
    assert set(seen) == {each.row for each in DIFFERENCES}


def test_every_difference_has_its_row() -> None:
    document = Path(__file__).parents[2] / "docs" / "moving-from-cloudflared.md"
    rows = [line.removeprefix("- **") for line in document.read_text().splitlines()]
    for each in DIFFERENCES:
        assert any(row.startswith(each.row) for row in rows), each.row

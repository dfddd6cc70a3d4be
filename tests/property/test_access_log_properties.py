"""Whatever a visitor sends, a line of the access log is one line, and says what happened."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rig.http2 import RawClient
from rig.transport import ManualLoop

from underpass.connector.access_log import AccessLog
from underpass.connector.ingress import single_rule
from underpass.connector.origins import parse_service
from underpass.connector.routes import RouteTable
from underpass.core.tunnel import OriginAcceptor, OriginExchange
from underpass.ops.access_log_options import AccessLogOptions

# What may be in a field's value (RFC 9110 §5.5), and in a request's target as it is read here.
VALUES = st.binary(max_size=60).map(lambda text: text.translate(None, bytes(range(32)) + b"\x7f"))
PATHS = VALUES.map(lambda text: b"/" + text.replace(b" ", b""))


def ok(exchange: OriginExchange) -> None:
    exchange.respond(200, (), b"hello")


def line_of(path: bytes, agent: bytes, referer: bytes, form: str, query: str) -> str | None:
    """The line that a request leaves; None if it is no request that gets here."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "log"
        log = AccessLog(AccessLogOptions(str(target), form, query))
        table = RouteTable(log.observe)
        (handler,) = table.handlers(single_rule(parse_service("http://h:1")), (ok,))
        client = RawClient.over(ManualLoop(), OriginAcceptor(handler, table.unrouted))
        head = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"a.test"),
            (b":path", path),
            (b"user-agent", agent.strip()),
            (b"referer", referer.strip()),
        ]
        client.feed(client.peer.headers(1, head, end=True))
        log.close()
        text = target.read_text("ascii")
    if not table.total().opened:
        assert text == ""
        return None
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    return text[:-1]


@given(PATHS, VALUES, VALUES, st.sampled_from(["omit", "mask", "keep"]))
def test_json_is_json(path: bytes, agent: bytes, referer: bytes, query: str) -> None:
    line = line_of(path, agent, referer, "json", query)
    if line is not None:
        found = json.loads(line)
        assert (found["status"], found["method"], found["host"]) == (200, "GET", "a.test")
        assert ("?" in found["path"]) == (b"?" in path and query != "omit")


@given(PATHS, VALUES, VALUES, st.sampled_from(["omit", "mask", "keep"]))
def test_combined_has_its_fields(path: bytes, agent: bytes, referer: bytes, query: str) -> None:
    line = line_of(path, agent, referer, "combined", query)
    if line is not None:
        assert re.fullmatch(r'- - - \[[^\]]+\] "GET [^" ]+ HTTP/2\.0" 200 5 "[^"]*" "[^"]*"', line)

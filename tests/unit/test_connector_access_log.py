"""The access log: what a line says, and that nobody can make it say something else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from rig.http2 import RawClient, rst_stream
from rig.transport import ManualLoop

from underpass.connector.access_log import AccessLog, AccessLogError
from underpass.connector.ingress import single_rule
from underpass.connector.origins import parse_service
from underpass.connector.routes import RouteTable
from underpass.core.frames import ErrorCode
from underpass.core.tunnel import OriginAcceptor, OriginExchange
from underpass.ops.access_log import MAX_TEXT
from underpass.ops.access_log_options import AccessLogOptions

Pairs = Iterable[tuple[bytes, bytes]]
Handler = Callable[[OriginExchange], object]

ABOUT = (
    (b"cf-connecting-ip", b"192.0.2.7"),
    (b"cf-ray", b"0123456789abcdef-LOCAL"),
    (b"user-agent", b"curl/8.5.0"),
    (b"referer", b"https://a.test/from?token=secret"),
)


def request(path: bytes = b"/p?q=1&secret=2", method: bytes = b"GET") -> list[tuple[bytes, bytes]]:
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"a.test"),
        (b":path", path),
    ]


class Logged:
    """One link's requests, and the lines they leave."""

    def __init__(self, path: Path, handler: Handler, **options: str) -> None:
        self._path = path
        self.log = AccessLog(AccessLogOptions(str(path), **options))
        table = RouteTable(self.log.observe)
        service = single_rule(parse_service("http://localhost:8000"))
        (forward,) = table.handlers(service, (lambda exchange: handler(exchange) and None,))
        acceptor = OriginAcceptor(forward, table.unrouted, None, b"tag", (), None, 3)
        self.client = RawClient.over(ManualLoop(), acceptor)
        self._stream = -1

    def request(self, fields: Pairs, content: bytes | None = None) -> None:
        self._stream += 2
        peer = self.client.peer
        self.client.feed(peer.headers(self._stream, fields, end=content is None))
        if content is not None:
            self.client.feed(peer.data(self._stream, content, end=True))

    def lines(self) -> list[str]:
        self.log.close()
        return self._path.read_text("ascii").splitlines()

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        found: dict[str, Any] = json.loads(line)
        return found


def ok(exchange: OriginExchange) -> None:
    exchange.respond(200, [(b"content-type", b"text/plain")], b"hello")


class TestJson:
    def test_a_request(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", ok)
        logged.request([*request(), *ABOUT])
        line = logged.line()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
        assert 0 <= line.pop("firstByteSeconds") <= line.pop("seconds")
        assert line == {
            "client": "192.0.2.7",
            "kind": "http",
            "method": "GET",
            "host": "a.test",
            "path": "/p",
            "status": 200,
            "requestBytes": 0,
            "responseBytes": 5,
            "connIndex": 3,
            "originService": "http://localhost:8000",
            "ingressRule": 0,
            "cfRay": "0123456789abcdef-LOCAL",
            "referer": "https://a.test/from",
            "userAgent": "curl/8.5.0",
        }

    def test_what_is_not_known_is_left_out(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", ok)
        logged.request(request())
        line = logged.line()
        assert line["client"] == ""
        assert not {"cfRay", "referer", "userAgent", "cause", "hop"} & line.keys()

    def test_content(self, tmp_path: Path) -> None:
        def answer_later(exchange: OriginExchange) -> None:
            side = exchange.open_python_side()
            side.on_end = lambda: (side.send_response(201), side.write(b"12"), side.end())
            exchange.deliver_waiting()

        logged = Logged(tmp_path / "log", answer_later)
        logged.request(request(method=b"POST"), b"x" * 1000)
        line = logged.line()
        assert (line["method"], line["status"]) == ("POST", 201)
        assert (line["requestBytes"], line["responseBytes"]) == (1000, 2)

    def test_a_failure_says_why_and_where(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", lambda exchange: exchange.fail(502, "dial"))
        logged.request(request())
        line = logged.line()
        assert (line["status"], line["cause"], line["hop"]) == (502, "dial", "origin")

    def test_a_visitor_that_left_got_no_status(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", lambda _: None)
        logged.request(request())
        logged.client.feed(rst_stream(1, ErrorCode.CANCEL))
        line = logged.line()
        assert line["status"] is None
        assert (line["cause"], line["hop"]) == ("reset_by_client", "visitor")
        assert "firstByteSeconds" not in line

    @pytest.mark.parametrize(
        ("field", "kind"),
        [
            ((b"cf-cloudflared-proxy-connection-upgrade", b"websocket"), "websocket"),
            ((b"cf-cloudflared-proxy-src", b"192.0.2.7"), "stream"),
        ],
    )
    def test_other_kinds(self, tmp_path: Path, field: tuple[bytes, bytes], kind: str) -> None:
        logged = Logged(tmp_path / "log", ok)
        logged.request([*request(), field])
        assert logged.line()["kind"] == kind

    def test_one_line_each_when_it_has_ended(self, tmp_path: Path) -> None:
        waiting: list[OriginExchange] = []
        logged = Logged(tmp_path / "log", waiting.append)
        for number in range(3):
            logged.request(request(b"/%d" % number))
        for exchange in reversed(waiting):
            ok(exchange)
        assert [json.loads(line)["path"] for line in logged.lines()] == ["/2", "/1", "/0"]


class TestQueries:
    @pytest.mark.parametrize(
        ("what", "path"),
        [("omit", "/p"), ("mask", "/p?q=*&secret=*&flag&=*"), ("keep", "/p?q=1&secret=a=b&flag&=")],
    )
    def test_are_kept_as_far_as_wanted(self, tmp_path: Path, what: str, path: str) -> None:
        logged = Logged(tmp_path / "log", ok, query=what)
        logged.request(request(b"/p?q=1&secret=a=b&flag&="))
        assert logged.line()["path"] == path

    def test_of_referers_too(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", ok, query="mask")
        logged.request([*request(), *ABOUT])
        assert logged.line()["referer"] == "https://a.test/from?token=*"


class TestHostileText:
    NASTY = (
        b'"', b"\\", b'\\", "status": 999, "x": "', b"\x80\xff", b"\xc2\x9b31m", b"<script>", b"%0a"
    )  # fmt: skip

    @pytest.mark.parametrize("text", NASTY)
    @pytest.mark.parametrize("format", ["json", "combined"])
    def test_stays_in_its_place(self, tmp_path: Path, text: bytes, format: str) -> None:  # noqa: A002
        logged = Logged(tmp_path / "log", ok, format=format, query="keep")
        logged.request([*request(), (b"user-agent", text), (b"referer", text)])
        (line,) = logged.lines()
        assert line.isprintable()
        if format == "json":
            assert json.loads(line)["status"] == 200
        else:
            found = re.fullmatch(
                r'- - - \[[^]]+\] "GET \S+ HTTP/2.0" 200 5 "([^"]*)" "([^"]*)"', line
            )
            assert found is not None
            assert found.group(1) == found.group(2)

    def test_is_bounded(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", ok, query="keep")
        logged.request([*request(b"/" + b"a" * 9000), (b"user-agent", b"b" * 9000)])
        line = logged.line()
        assert len(line["path"]) == len(line["userAgent"]) == MAX_TEXT


class TestCombined:
    def test_a_request(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", ok, format="combined")
        logged.request([*request(), *ABOUT])
        (line,) = logged.lines()
        assert re.fullmatch(
            r"192\.0\.2\.7 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "
            r'"GET /p HTTP/2\.0" 200 5 "https://a\.test/from" "curl/8\.5\.0"',
            line,
        )

    def test_a_visitor_that_left(self, tmp_path: Path) -> None:
        logged = Logged(tmp_path / "log", lambda _: None, format="combined")
        logged.request(request())
        logged.client.feed(rst_stream(1, ErrorCode.CANCEL))
        assert '" 499 0 "-" "-"' in logged.lines()[0]


def test_a_file_that_cannot_be_written_is_told_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(AccessLogError, match=r"access log .*/no/log: No such file or directory"):
        AccessLog(AccessLogOptions(str(tmp_path / "no" / "log")))


def test_lost_lines_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged = Logged(tmp_path / "log", ok)
    writer = logged.log._file._writer
    writer._lost = 3
    logged.log.flush()
    (record,) = caplog.records
    assert "lost" in record.getMessage()
    assert record.__dict__["count"] == 3
    logged.log.flush()
    assert len(caplog.records) == 1
    logged.log.close()

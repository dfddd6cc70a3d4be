"""Requests in the log at level debug, in cloudflared's words."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest
from rig.http2 import RawClient
from rig.transport import ManualLoop

from underpass.connector.ingress import single_rule
from underpass.connector.observers import Observers
from underpass.connector.options import ConnectorOptions
from underpass.connector.origins import parse_service
from underpass.connector.request_log import observe_requests
from underpass.connector.routes import RouteTable
from underpass.core.tunnel import OriginAcceptor, OriginExchange
from underpass.ops.logging import JsonFormatter

REQUEST = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"a.test"),
    (b":path", b"/p?q=1"),
    (b"accept", b"*/*"),
    (b"cookie", b"session=1"),
    (b"authorization", b"Bearer x"),
    (b"x-twice", b"1"),
    (b"x-twice", b"2"),
]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "underpass.connector.requests")
    return caplog


def serve(
    forward: Callable[[OriginExchange], object],
    *more: tuple[bytes, bytes],
    service: str = "http://localhost:8080",
    private: bool = False,
) -> None:
    table = RouteTable(observe_requests)

    def carry(exchange: OriginExchange) -> None:
        forward(exchange)

    (handler,) = table.handlers(single_rule(parse_service(service)), (carry,))
    if private:
        handler = table.private_network(carry)
    acceptor = OriginAcceptor(handler, table.unrouted, None, b"tag", (), None, 2)
    client = RawClient.over(ManualLoop(), acceptor)
    client.feed(client.peer.headers(1, [*REQUEST, *more], end=True))


def ok(exchange: OriginExchange) -> None:
    exchange.respond(200, (), b"hello")


def test_a_request_and_its_answer(log: pytest.LogCaptureFixture) -> None:
    serve(ok)
    asked, answered = log.records
    assert asked.getMessage() == "GET http://localhost:8080/p?q=1 HTTP/2.0"
    fields = vars(asked)
    assert (fields["host"], fields["path"], fields["content-length"]) == ("a.test", "/p", 0)
    assert fields["headers"]["Accept"] == ["*/*"]
    assert fields["headers"]["X-Twice"] == ["1", "2"]
    assert not any(name.startswith(":") for name in fields["headers"])
    assert answered.getMessage() == "200 OK"
    assert vars(answered)["content-length"] == 5
    for record in log.records:
        context = vars(record)
        assert record.levelno == logging.DEBUG
        assert context["connIndex"] == 2
        assert context["originService"] == "http://localhost:8080"
        assert context["ingressRule"] == 0
        assert context["event"] == 1


def test_secrets_are_masked_by_the_log(log: pytest.LogCaptureFixture) -> None:
    serve(ok)
    headers = json.loads(JsonFormatter().format(log.records[0]))["headers"]
    assert headers["Cookie"] == headers["Authorization"] == "*****"
    assert headers["Accept"] == ["*/*"]


def test_a_failure_is_answered_too(log: pytest.LogCaptureFixture) -> None:
    serve(lambda exchange: exchange.fail(502, "dial"))
    assert log.records[1].getMessage() == "502 Bad Gateway"


def test_a_status_without_a_name(log: pytest.LogCaptureFixture) -> None:
    serve(lambda exchange: exchange.respond(599, ()))
    assert log.records[1].getMessage() == "599"


def test_a_length_that_is_none(log: pytest.LogCaptureFixture) -> None:
    serve(ok, (b"content-length", b"0"))
    assert vars(log.records[0])["content-length"] == 0
    assert vars(log.records[0])["headers"]["Content-Length"] == ["0"]


def test_a_service_without_an_address(log: pytest.LogCaptureFixture) -> None:
    serve(ok, service="http_status:200")
    assert log.records[0].getMessage() == "GET http://a.test/p?q=1 HTTP/2.0"


def test_a_stream(log: pytest.LogCaptureFixture) -> None:
    source = (b"cf-cloudflared-proxy-src", b"192.0.2.1")
    serve(ok, source, private=True)
    started, _, finished = log.records
    assert started.getMessage() == "tcp proxy stream started"
    assert finished.getMessage() == "tcp proxy stream finished successfully"
    fields = vars(started)
    assert (fields["originService"], fields["destAddr"]) == ("warp-routing", "a.test")
    assert fields["event"] == 2
    assert "ingressRule" not in fields


def options() -> ConnectorOptions:
    return ConnectorOptions(single_rule(parse_service("http://localhost:8080")))


@pytest.mark.parametrize(("level", "looks"), [(logging.DEBUG, True), (logging.INFO, False)])
def test_only_level_debug_looks_at_requests(
    level: int, looks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "underpass.connector.requests")
    observers = Observers(options())
    assert (observers.observe is not None) is looks
    observers.close()

"""The dashboard's public hostname: how the gateway hands requests to the application and back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from rig.http1 import Visitor

from underpass.core.relay import Counters
from underpass.core.tunnel import VisitorAcceptor, VisitorExchange
from underpass.edge.dashboard import public as public_module
from underpass.edge.dashboard.public import (
    MAX_BODY,
    MAX_REQUESTS,
    AskDashboard,
    DashboardAnswer,
    PublicDashboard,
    ask_application,
)

HOST = b"dash.example.com"
OK = DashboardAnswer(
    200, [(b"content-type", b"text/html"), (b"content-length", b"9")], b"<p>hi</p>"
)


class Name:
    """The hostname, and visitors of it; `asked` has what the application was asked."""

    def __init__(self, answer: Callable[[AskDashboard], Awaitable[DashboardAnswer]]) -> None:
        self.asked: list[AskDashboard] = []
        self._answer = answer
        self.dashboard = PublicDashboard("dash.example.com", 8443, self._ask)
        self.elsewhere: list[VisitorExchange] = []

    async def _ask(self, request: AskDashboard) -> DashboardAnswer:
        self.asked.append(request)
        return await self._answer(request)

    def visitor(self, scheme: bytes = b"https") -> Visitor:
        def route(exchange: VisitorExchange) -> None:
            if not self.dashboard.take(exchange):
                self.elsewhere.append(exchange)
                exchange.fail(404, "unknown_host")

        acceptor = VisitorAcceptor(route, Counters(), None, None, b"192.0.2.9", scheme, b"TEST")
        return Visitor(acceptor=acceptor, scheme=scheme)

    async def read(self, visitor: Visitor) -> bytes:
        """What has come when the application has had its turns."""
        for _ in range(5):
            await asyncio.sleep(0)
        return visitor.read()


async def fine(request: AskDashboard) -> DashboardAnswer:
    return OK


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def get(target: bytes, host: bytes = HOST, *more: bytes, method: bytes = b"GET") -> bytes:
    head = [method + b" " + target + b" HTTP/1.1", b"Host: " + host, *more]
    return b"\r\n".join(head) + b"\r\n\r\n"


def test_a_request_goes_whole_and_so_does_its_answer() -> None:
    async def scenario() -> None:
        name = Name(fine)
        visitor = name.visitor()
        visitor.send(
            get(b"/dashboard?a=b", b"Dash.Example.com:8443", b"Cookie: x=1", b"Content-Length: 4",
                method=b"POST"),
            b"a=",
        )  # fmt: skip
        assert await name.read(visitor) == b""
        assert name.asked == []
        visitor.send(b"bc")
        answer = await name.read(visitor)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n<p>hi</p>")
        assert answer.lower().count(b"content-length") == 1
        (asked,) = name.asked
        assert (asked.method, asked.target) == ("POST", b"/dashboard?a=b")
        assert (asked.client, asked.body) == ("192.0.2.9", b"a=bc")
        assert (b"cookie", b"x=1") in asked.fields
        visitor.send(get(b"/again"))
        assert (await name.read(visitor)).startswith(b"HTTP/1.1 200 "), "the connection goes on"

    run(scenario)


@pytest.mark.parametrize("host", [b"app.example.com", b"x.dash.example.com", b"dash.example.com.x"])
def test_other_hosts_are_none_of_its_business(host: bytes) -> None:
    async def scenario() -> None:
        name = Name(fine)
        visitor = name.visitor()
        visitor.send(get(b"/dashboard", host))
        await name.read(visitor)
        assert len(name.elsewhere) == 1
        assert name.asked == []

    run(scenario)


@pytest.mark.parametrize(
    ("request_head", "scheme", "status"),
    [
        (get(b"/dashboard"), b"http", b"308"),
        (get(b"/tunnel", method=b"POST"), b"https", b"404"),
        (get(b"/tunnel?x", method=b"POST"), b"https", b"404"),
        (
            get(
                b"/x",
                HOST,
                b"Connection: Upgrade",
                b"Upgrade: websocket",
                b"Sec-WebSocket-Version: 13",
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
            b"https",
            b"501",
        ),
    ],
    ids=["plain", "quick-tunnel", "quick-tunnel-query", "websocket"],
)
def test_what_is_answered_at_once(request_head: bytes, scheme: bytes, status: bytes) -> None:
    async def scenario() -> None:
        name = Name(fine)
        visitor = name.visitor(scheme)
        visitor.send(request_head)
        answer = await name.read(visitor)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert name.asked == []
        if status == b"308":
            assert b"https://dash.example.com:8443/dashboard\r\n" in answer

    run(scenario)


def test_a_body_that_is_too_large_or_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        name = Name(fine)
        visitor = name.visitor()
        visitor.send(get(b"/", HOST, b"Content-Length: %d" % (MAX_BODY * 2), method=b"POST"))
        for _ in range(MAX_BODY // 65536 + 1):
            visitor.send(b"x" * 65536)
        assert (await name.read(visitor)).startswith(b"HTTP/1.1 413 ")
        monkeypatch.setattr(public_module, "BODY_SECONDS", 0.0)
        slow = name.visitor()
        slow.send(get(b"/", HOST, b"Content-Length: 4", method=b"POST"), b"a")
        await asyncio.sleep(0.001)
        assert (await name.read(slow)).startswith(b"HTTP/1.1 408 ")
        assert name.asked == []

    run(scenario)


def test_an_application_that_fails_is_one_request_s_trouble() -> None:
    async def broken(request: AskDashboard) -> DashboardAnswer:
        raise RuntimeError("the inside")

    async def scenario() -> None:
        name = Name(broken)
        visitor = name.visitor()
        visitor.send(get(b"/"))
        answer = await name.read(visitor)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"inside" not in answer

    run(scenario)


def test_whoever_leaves_is_not_waited_for_and_makes_room() -> None:
    async def scenario() -> None:
        given_up: list[str] = []

        async def waits(request: AskDashboard) -> DashboardAnswer:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                given_up.append(request.method)
                raise
            raise AssertionError

        name = Name(waits)
        visitors = [name.visitor() for _ in range(MAX_REQUESTS)]
        for visitor in visitors:
            visitor.send(get(b"/login/transfer/x"))
            await name.read(visitor)
        one_more = name.visitor()
        one_more.send(get(b"/"))
        assert (await name.read(one_more)).startswith(b"HTTP/1.1 503 ")
        visitors[0].transport.lose()
        await name.read(visitors[0])
        assert given_up == ["GET"]
        one_more.send(get(b"/"))
        assert await name.read(one_more) == b"", "it waits, as the others do"
        for visitor in (*visitors[1:], one_more):
            visitor.transport.lose()
        await name.read(one_more)
        assert len(given_up) == MAX_REQUESTS + 1

    run(scenario)


def test_what_an_application_is_told() -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, await receive(), await receive()))
        await send({"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b"y"})

    async def scenario() -> None:
        request = AskDashboard(
            "POST", b"/a%20b?c=d", HOST, "192.0.2.9", [(b"host", b"evil"), (b"x", b"y")], b"body"
        )
        answer = await ask_application(application, request)
        assert (answer.status, answer.fields, answer.body) == (201, [(b"a", b"b")], b"xy")

    run(scenario)
    scope, body, end = seen[0]
    assert (scope["scheme"], scope["path"], scope["query_string"]) == ("https", "/a b", b"c=d")
    assert scope["headers"] == [(b"host", HOST), (b"x", b"y")], "there is one host"
    assert scope["client"] == ("192.0.2.9", 0)
    assert body == {"type": "http.request", "body": b"body", "more_body": False}
    assert end == {"type": "http.disconnect"}

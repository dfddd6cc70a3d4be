"""The API under its real server, asked over real sockets by the standard library's client."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from underpass.edge.api import requests, server
from underpass.edge.api.application import create_application
from underpass.edge.api.control import Control
from underpass.edge.api.requests import MAX_BODY_BYTES
from underpass.edge.api.server import ApiServer
from underpass.edge.api.token_bucket import TokenBucket
from underpass.edge.listening import bound_address, listen
from underpass.edge.options import Address
from underpass.edge.registry import Registry
from underpass.edge.router import NoLink, Router
from underpass.edge.store.sqlite import SqliteStore
from underpass.wire.quick_tunnel import decode_quick_tunnel

ANSWER_SECONDS = 20.0
"""For one answer; long, so that only a hang fails."""

Answer = tuple[int, dict[str, str], Any]


class Api:
    """A running API and blocking requests to it, made off the loop."""

    def __init__(self, port: int, registry: Registry, router: Router, store: SqliteStore) -> None:
        self.port = port
        self.registry = registry
        self.router = router
        self.store = store

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        def blocking() -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
            try:
                connection.request(method, path, body=body, headers=headers or {})
                response = connection.getresponse()
                found = {name.lower(): value for name, value in response.getheaders()}
                content = response.read()
                return response.status, found, json.loads(content) if content else None
            finally:
                connection.close()

        return await asyncio.to_thread(blocking)

    async def send_raw(self, *pieces: bytes) -> bytes:
        """Everything the server says to these bytes until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await asyncio.wait_for(reader.read(), ANSWER_SECONDS)
        finally:
            writer.close()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    def run_scenario(scenario: Callable[[Api], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            store = await SqliteStore.open(tmp_path / "edge.db")
            router = Router()
            registry = await Registry.load(store, router)
            listener = listen(Address("127.0.0.1", 0))
            port = bound_address(listener).port
            running = ApiServer(
                create_application(Control(registry, "localhost", **options)), listener
            )
            await running.start()
            try:
                await scenario(Api(port, registry, router, store))
            finally:
                await running.stop()
                await store.close()
            assert listener.fileno() == -1, "the server closes its socket"
            # No task of the server outlives it.
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    return run_scenario


Run = Callable[..., None]

CLOUDFLARED_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": "cloudflared/2026.8.2",
    "Content-Length": "0",
}


def test_a_quick_tunnel_as_cloudflared_asks_for_one(run: Run) -> None:
    async def scenario(api: Api) -> None:
        status, headers, answer = await api.ask("POST", "/tunnel", headers=CLOUDFLARED_HEADERS)
        assert status == 200
        assert headers["content-type"] == "application/json"
        assert answer["success"] is True
        assert answer["errors"] == []
        result = answer["result"]
        tunnel_id = UUID(result["id"])
        assert re.fullmatch(r"[a-z]+(-[a-z]+){3}\.localhost", result["hostname"])
        secret = base64.b64decode(result["secret"], validate=True)
        assert api.registry.authenticate(result["account_tag"], secret, tunnel_id).quick
        assert api.router.route(result["hostname"].encode()) == NoLink(tunnel_id)
        created = decode_quick_tunnel(status, json.dumps(answer).encode())
        assert created.credentials.tunnel_id == tunnel_id

    run(scenario)


def test_the_public_port_is_told_unless_it_is_the_usual_one(run: Run) -> None:
    async def scenario(api: Api) -> None:
        _, _, answer = await api.ask("POST", "/tunnel")
        hostname = answer["result"]["hostname"]
        assert hostname.endswith(".localhost:8443")
        assert isinstance(api.router.route(hostname.encode()), NoLink)

    run(scenario, public_port=8443)


def test_a_small_body_is_read_and_forgotten(run: Run) -> None:
    async def scenario(api: Api) -> None:
        status, _, _ = await api.ask("POST", "/tunnel", body=b"x" * MAX_BODY_BYTES)
        assert status == 200

    run(scenario)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_and_creates_nothing(run: Run, chunked: bool) -> None:
    async def scenario(api: Api) -> None:
        size = MAX_BODY_BYTES + 1
        body = iter([b"x" * size]) if chunked else b"x" * size
        status, headers, answer = await api.ask("POST", "/tunnel", body=body)
        assert status == 413
        assert headers["connection"] == "close"
        assert answer["success"] is False
        assert "16384 bytes" in answer["errors"][0]["message"]
        assert (await api.store.snapshot()).tunnels == ()

    run(scenario)


def test_a_body_that_does_not_come_is_not_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.05)

    async def scenario(api: Api) -> None:
        said = await api.send_raw(
            b"POST /tunnel HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\n12345"
        )
        assert said.startswith(b"HTTP/1.1 408 ")
        assert (await api.store.snapshot()).tunnels == ()

    run(scenario)


def test_a_flood_is_told_when_to_come_back(run: Run) -> None:
    async def scenario(api: Api) -> None:
        statuses = [(await api.ask("POST", "/tunnel"))[0] for _ in range(3)]
        assert statuses == [200, 200, 429]
        _, headers, answer = await api.ask("POST", "/tunnel")
        assert 0 < int(headers["retry-after"]) <= 1000
        assert answer["errors"][0]["code"] == 429
        assert answer["result"] is None
        assert len((await api.store.snapshot()).tunnels) == 2

    run(scenario, quick_tunnel_rate=TokenBucket(2, 0.001))


def test_an_edge_that_is_full_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underpass.edge.registry.MAX_QUICK_TUNNELS", 1)

    async def scenario(api: Api) -> None:
        assert (await api.ask("POST", "/tunnel"))[0] == 200
        status, _, answer = await api.ask("POST", "/tunnel")
        assert status == 503
        assert "as many as it may" in answer["errors"][0]["message"]

    run(scenario)


def test_a_web_page_cannot_create_one(run: Run) -> None:
    async def scenario(api: Api) -> None:
        status, _, answer = await api.ask(
            "POST", "/tunnel", headers={"Origin": "https://elsewhere.example"}
        )
        assert status == 403
        assert "web page" in answer["errors"][0]["message"]
        assert (await api.store.snapshot()).tunnels == ()

    run(scenario)


def test_a_store_that_fails_is_told_without_its_paths(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(api: Api) -> None:
        await api.store.close()
        status, _, answer = await api.ask("POST", "/tunnel")
        assert status == 503
        assert "edge.db" not in json.dumps(answer)
        assert "edge.db" in caplog.text

    run(scenario)


def test_health(run: Run) -> None:
    async def scenario(api: Api) -> None:
        status, _, answer = await api.ask("GET", "/healthz")
        assert status == 200
        assert answer["result"] == {"status": "ok", "revision": 0}

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", 404),
        ("GET", "/accounts/a/nothing", 404),
        ("PUT", "/accounts/a/cfd_tunnel", 405),
        ("POST", "/tunnel/", 404),
        ("GET", "/tunnel", 405),
        ("DELETE", "/healthz", 405),
    ],
)
def test_whatever_else_is_asked_is_answered_in_the_envelope(
    run: Run, method: str, path: str, expected: int
) -> None:
    async def scenario(api: Api) -> None:
        status, headers, answer = await api.ask(method, path)
        assert status == expected
        assert headers["content-type"] == "application/json"
        assert answer["success"] is False
        assert answer["result"] is None
        assert answer["messages"] == []
        (error,) = answer["errors"]
        assert error["code"] == expected
        assert path in error["message"]

    run(scenario)


def test_an_unexpected_failure_is_logged_whole_and_answered_bare(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(api: Api) -> None:
        async def broken(*arguments: Any) -> None:
            raise ZeroDivisionError("the inside of the edge")

        monkeypatch.setattr(api.registry, "create_quick_tunnel", broken)
        status, headers, answer = await api.ask("POST", "/tunnel")
        assert status == 500
        assert headers["content-type"] == "application/json"
        assert "inside" not in json.dumps(answer)
        assert "ZeroDivisionError: the inside of the edge" in caplog.text

    run(scenario)


def test_several_requests_on_one_connection(run: Run) -> None:
    async def scenario(api: Api) -> None:
        def blocking() -> list[int]:
            connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=ANSWER_SECONDS)
            statuses = []
            for _ in range(3):
                connection.request("GET", "/healthz")
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            connection.close()
            return statuses

        assert await asyncio.to_thread(blocking) == [200, 200, 200]

    run(scenario)


def test_a_malformed_request_is_refused(run: Run) -> None:
    async def scenario(api: Api) -> None:
        assert (await api.send_raw(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await api.ask("GET", "/healthz"))[0] == 200

    run(scenario)


def test_a_huge_head_is_refused(run: Run) -> None:
    async def scenario(api: Api) -> None:
        head = b"GET /healthz HTTP/1.1\r\nX: " + b"x" * (server.MAX_HEAD_BYTES + 1)
        assert (await api.send_raw(head)).startswith(b"HTTP/1.1 400 ")

    run(scenario)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHo",
        b"GET /healthz HTTP/1.1\r\nHost: api\r\n\r\nGET /healthz HTT",
    ],
)
def test_a_head_that_does_not_come_is_not_waited_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0)

    async def scenario(api: Api) -> None:
        try:
            said = await api.send_raw(beginning)
        except ConnectionResetError:
            said = b""
        assert said.count(b"HTTP/1.1") <= 1

    run(scenario)


def test_signal_handlers_are_left_alone(run: Run) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async def scenario(api: Api) -> None:
        await api.ask("GET", "/healthz")
        # asyncio.run has a SIGINT handler of its own.
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]

    run(scenario)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_request_under_way_is_finished_when_the_server_stops(tmp_path: Path) -> None:
    async def main() -> None:
        store = await SqliteStore.open(tmp_path / "edge.db")
        registry = await Registry.load(store, Router())
        listener = listen(Address("127.0.0.1", 0))
        port = bound_address(listener).port
        entered, release = asyncio.Event(), asyncio.Event()
        create = registry.create_quick_tunnel

        async def slow(*arguments: Any) -> Any:
            entered.set()
            await release.wait()
            return await create(*arguments)

        registry.create_quick_tunnel = slow  # type: ignore[method-assign]
        running = ApiServer(create_application(Control(registry, "localhost")), listener)
        await running.start()
        api = Api(port, registry, Router(), store)
        asking = asyncio.create_task(api.ask("POST", "/tunnel"))
        await entered.wait()
        stopping = asyncio.create_task(running.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        release.set()
        assert (await asking)[0] == 200
        await stopping
        await running.stop()
        await store.close()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass

    asyncio.run(main())


def test_a_server_that_never_started_can_be_stopped() -> None:
    async def main() -> None:
        listener = listen(Address("127.0.0.1", 0))

        async def nothing(scope: Any, receive: Any, send: Any) -> None:
            raise AssertionError("never called")

        await ApiServer(nothing, listener).stop()
        assert listener.fileno() == -1

    asyncio.run(main())

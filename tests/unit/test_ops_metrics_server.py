"""The operators' HTTP server: its answers and its bounds."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest

from underpass.ops import metrics_server as module
from underpass.ops.metrics import Metrics
from underpass.ops.metrics_server import (
    MAX_CONNECTIONS,
    MAX_HEAD,
    MetricsAddressError,
    MetricsServer,
    Page,
    Readiness,
    json_page,
    parse_address,
)

ID = "6ff42ae2-765d-4adf-8112-31c55c1551ef"


class Bench:
    """A server on loopback and a way to send it bytes."""

    def __init__(self, ready: int = 1, read_timeout: float = 10.0) -> None:
        self.ready = ready
        self.server = MetricsServer(
            Metrics([lambda: {"cloudflared_tunnel_total_requests": 42}]),
            lambda: Readiness(self.ready, ID),
            lambda: "x.localhost",
            {b"/more": self._more, b"/broken": self._broken},
            read_timeout=read_timeout,
        )

    async def _more(self) -> Page:
        return json_page({"ä": [1]}, 503)

    async def _broken(self) -> Page:
        raise RuntimeError("no such thing")

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = parse_address(self.server.address)
        return await asyncio.open_connection(host, port)

    async def send(self, request: bytes) -> tuple[str, dict[str, str], bytes]:
        reader, writer = await self.open()
        writer.write(request)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return status, dict(line.split(": ", 1) for line in lines), body

    async def get(self, target: str, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
        return await self.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def scenario(body: Callable[[Bench], Awaitable[None]], bench: Bench | None = None) -> None:
    bench = bench or Bench()

    async def main() -> None:
        await bench.server.start("127.0.0.1:0")
        try:
            await asyncio.wait_for(body(bench), 20)
        finally:
            await bench.server.stop()

    asyncio.run(main())


def test_ready_is_200_with_a_link_and_503_without() -> None:
    async def body(bench: Bench) -> None:
        status, headers, content = await bench.get("/ready")
        assert status == "HTTP/1.1 200 OK"
        assert headers["Connection"] == "close"
        assert content == b'{"status":200,"readyConnections":1,"connectorId":"%s"}' % ID.encode()
        bench.ready = 0
        status, _, content = await bench.get("/ready")
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert content == b'{"status":503,"readyConnections":0,"connectorId":"%s"}' % ID.encode()

    scenario(body)


def test_healthcheck_quicktunnel_and_metrics() -> None:
    async def body(bench: Bench) -> None:
        assert (await bench.get("/healthcheck"))[2] == b"OK\n"
        assert (await bench.get("/quicktunnel"))[2] == b'{"hostname":"x.localhost"}'
        status, headers, content = await bench.get("/metrics?x=1")
        assert status == "HTTP/1.1 200 OK"
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert int(headers["Content-Length"]) == len(content)
        assert b"\ncloudflared_tunnel_total_requests 42\n" in content

    scenario(body)


def test_more_pages_can_be_given() -> None:
    async def body(bench: Bench) -> None:
        status, headers, content = await bench.get("/more?x=1")
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert headers["Content-Type"] == "application/json"
        assert content == b'{"\\u00e4":[1]}'
        assert (await bench.get("/more/"))[0] == "HTTP/1.1 404 Not Found"

    scenario(body)


def test_a_page_that_fails_is_500_and_the_server_lives_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench) -> None:
        status, _, content = await bench.get("/broken")
        assert status == "HTTP/1.1 500 Internal Server Error"
        assert content == b"ERR: no such thing\n"
        assert (await bench.get("/healthcheck"))[0] == "HTTP/1.1 200 OK"

    monkeypatch.setattr(logging.getLogger("underpass"), "propagate", True)
    scenario(body)
    # The same one twice, where a handler is there for loggers that hand nothing on.
    (record,) = dict.fromkeys(caplog.records)
    assert record.message == "unexpected error in a page"


def test_head_has_the_length_and_no_body() -> None:
    async def body(bench: Bench) -> None:
        _, headers, content = await bench.get("/healthcheck", "HEAD")
        assert headers["Content-Length"] == "3"
        assert content == b""

    scenario(body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", "404 Not Found"),
        (b"POST /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405 Method Not Allowed"),
        (b"\x16\x03\x01\x00\x00", "400 Bad Request"),
        (
            b"GET /ready HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            "200 OK",
        ),
        (
            b"GET /ready HTTP/1.1\r\nX: " + b"a" * MAX_HEAD + b"\r\n\r\n",
            "431 Request Header Fields Too Large",
        ),
    ],
)
def test_other_requests(request_bytes: bytes, status: str) -> None:
    async def body(bench: Bench) -> None:
        assert (await bench.send(request_bytes))[0] == f"HTTP/1.1 {status}"

    scenario(body)


def test_a_request_in_single_bytes_is_a_request() -> None:
    async def body(bench: Bench) -> None:
        reader, writer = await bench.open()
        for byte in b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.read()).endswith(b"OK\n")
        writer.close()

    scenario(body)


def test_a_peer_that_sends_nothing_is_dropped() -> None:
    async def body(bench: Bench) -> None:
        reader, writer = await bench.open()
        assert await reader.read() == b""
        writer.close()

    scenario(body, Bench(read_timeout=0.01))


def test_connections_beyond_the_bound_are_turned_away() -> None:
    async def body(bench: Bench) -> None:
        waiting = [await bench.open() for _ in range(MAX_CONNECTIONS)]
        reader, writer = await bench.open()  # accepted after those that wait
        assert await reader.read() == b""
        assert len(bench.server._connections) == MAX_CONNECTIONS
        for _, one in [*waiting, (reader, writer)]:
            one.close()

    scenario(body)


def test_stopping_leaves_no_task() -> None:
    async def main() -> set[asyncio.Task[object]]:
        bench = Bench()
        await bench.server.start("127.0.0.1:0")
        _, writer = await bench.open()
        await bench.get("/healthcheck")  # accepted after the one that waits
        assert bench.server._connections
        await bench.server.stop()
        writer.close()
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(main()) == set()


class TestAddress:
    def test_the_default_takes_the_first_known_port_that_is_free(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as one,
            socket.create_server(("127.0.0.1", 0)) as two,
        ):
            free = two.getsockname()[1]
            two.close()
            monkeypatch.setattr(module, "KNOWN_PORTS", (one.getsockname()[1], free))

            async def main() -> str:
                bench = Bench()
                await bench.server.start(module.DEFAULT_ADDRESS)
                address = bench.server.address
                await bench.server.stop()
                return address

            assert asyncio.run(main()) == f"127.0.0.1:{free}"

    def test_the_default_takes_any_port_when_all_known_ones_are_taken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            monkeypatch.setattr(module, "KNOWN_PORTS", (port,))

            async def main() -> str:
                bench = Bench()
                await bench.server.start(module.DEFAULT_ADDRESS)
                address = bench.server.address
                await bench.server.stop()
                return address

            assert asyncio.run(main()) not in (f"127.0.0.1:{port}", "127.0.0.1:0")

    def test_an_address_that_was_asked_for_is_not_replaced(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(MetricsAddressError, match=f"metrics address {address}: "):
                asyncio.run(Bench().server.start(address))

    @pytest.mark.parametrize(
        ("text", "parsed"),
        [("localhost:1", ("localhost", 1)), ("[::1]:2", ("::1", 2)), (":3", ("", 3))],
    )
    def test_addresses(self, text: str, parsed: tuple[str, int]) -> None:
        assert parse_address(text) == parsed

    @pytest.mark.parametrize("text", ["", "host", "host:", "::1:1", "h:x", "h:65536"])
    def test_texts_that_are_no_address(self, text: str) -> None:
        with pytest.raises(MetricsAddressError, match="metrics address"):
            parse_address(text)

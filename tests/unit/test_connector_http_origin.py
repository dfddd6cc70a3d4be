"""How connections to HTTP origins are made and shared: names, protocols, bounds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trustme
from peers.patience import eventually_async
from rig.http2 import RawClient, settings
from rig.transport import ManualLoop

from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import HttpService, UnixService
from underpass.connector.services import connections, http
from underpass.connector.services.connections import OriginSettingError
from underpass.connector.services.http import HttpOrigin, _server_name
from underpass.core.relay import Counters
from underpass.core.tunnel import OriginAcceptor, OriginExchange
from underpass.wire.turns import LoopTurn

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"App.test", "app.test"),
        (b"app.test:8443", "app.test"),
        (b"app.test.", "app.test"),
        (b"a_b.test", "a_b.test"),
        (b"192.0.2.1:80", "192.0.2.1"),
        (b"[2001:db8::1]:80", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"", None),
        (b":80", None),
        (b"a..b", None),
        (b".a", None),
        (b"-a.test", None),
        (b"a b", None),
        (b"\xff.test", None),
        (b"x" * 64, None),
        (b".".join([b"x" * 60] * 5), None),
    ],
)
def test_the_name_in_a_host(host: bytes, name: str | None) -> None:
    assert _server_name(host) == name


class Asking:
    """Requests as they come from a link, for a service of the test's."""

    def __init__(self) -> None:
        self.failures: list[tuple[int, str, object]] = []
        self.exchanges: list[OriginExchange] = []
        acceptor = OriginAcceptor(
            self.exchanges.append,
            Counters(),
            on_failure=lambda exchange, status, cause: self.failures.append(
                (status, cause, exchange.context)
            ),
        )
        self._edge = RawClient.over(ManualLoop(), acceptor)
        self._streams = -1

    def request(self, authority: bytes) -> OriginExchange:
        self._streams += 2
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", authority),
            (b":path", b"/"),
        ]
        self._edge.feed(self._edge.peer.headers(self._streams, fields, end=True))
        return self.exchanges[-1]

    async def over(self, exchange: OriginExchange) -> None:
        await eventually_async(lambda: exchange.is_over, "the request is over")


def run(scenario: Callable[[LoopTurn], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(scenario(LoopTurn(asyncio.get_running_loop())), 60)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """While this holds, `serve` has each connection to the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            # The other end leaves, or the test ends.
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports that were aborted, those below TLS too, let go of their sockets in turns.
        for _ in range(4):
            await asyncio.sleep(0)


def test_names_are_bounded_and_those_used_last_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_NAMES", 2)

    async def scenario(turn: LoopTurn) -> None:
        asking = Asking()
        with socket.create_server(("127.0.0.1", 0)) as silent:  # it never even accepts
            origin = HttpOrigin(
                turn,
                HttpService("https", "127.0.0.1", silent.getsockname()[1]),
                OriginRequest(match_sni_to_host=True, no_tls_verify=True, tls_timeout=60.0),
            )
            for host in (b"a.test", b"b.test"):
                origin.forward(asking.request(host))
            # Both are being dialled, so neither can be let go.
            origin.forward(asking.request(b"c.test"))
            assert [cause for _, cause, _ in asking.failures] == ["too_many_names"]
            assert origin.is_busy
            origin.close()
            await eventually_async(lambda: not origin.is_busy, "the dials are given up")
            assert list(origin._named) == ["a.test", "b.test"]
            origin.forward(asking.request(b"a.test"))  # of a closed pool: it fails, and is the last
            origin.forward(asking.request(b"c.test"))
            assert list(origin._named) == ["a.test", "c.test"]
            origin.close()

    run(scenario)


async def _hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything and say nothing."""
    while await reader.read(65536):
        pass
    writer.close()


def test_an_origin_that_says_nothing_of_http2_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "SETTINGS_SECONDS", 0.01)

    async def scenario(turn: LoopTurn) -> None:
        asking = Asking()
        async with listening(_hold) as port:
            service = HttpService("http", "127.0.0.1", port)
            origin = HttpOrigin(turn, service, OriginRequest(http2_origin=True))
            exchange = asking.request(b"a.test")
            origin.forward(exchange)
            await asking.over(exchange)
            ((status, cause, context),) = asking.failures
            assert (status, cause) == (502, "dial_timeout")
            assert "leave out originRequest.http2Origin" in str(context)
            assert not origin.is_busy
            origin.close()

    run(scenario)


@pytest.mark.parametrize("hangs_up", [False, True])
def test_an_origin_without_http2_is_remembered_for_a_while(hangs_up: bool) -> None:
    prefaces = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal prefaces
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"PRI"):
            prefaces += 1
            if not hangs_up:
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        else:
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.close()

    async def scenario(turn: LoopTurn) -> None:
        asking = Asking()
        async with listening(serve) as port:
            service = HttpService("http", "127.0.0.1", port)
            origin = HttpOrigin(turn, service, OriginRequest(http2_origin=True))
            for _ in range(3):
                exchange = asking.request(b"a.test")
                origin.forward(exchange)
                await asking.over(exchange)
                assert exchange.status == 200
            assert prefaces == 1
            (only,) = origin._all()
            patience = only._http1_until - turn.coarse
            assert patience == (
                connections.RESTARTED_SECONDS if hangs_up else connections.RELEARN_SECONDS
            )
            only._http1_until = turn.coarse
            exchange = asking.request(b"a.test")
            origin.forward(exchange)
            await asking.over(exchange)
            assert prefaces == 2
            origin.close()

    run(scenario)


def test_an_origin_that_agrees_on_http2_and_does_not_speak_it() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def scenario(turn: LoopTurn) -> None:
        asking = Asking()
        async with listening(serve, context) as port:
            service = HttpService("https", "127.0.0.1", port)
            origin = HttpOrigin(turn, service, OriginRequest(http2_origin=True, no_tls_verify=True))
            exchanges = [asking.request(b"a.test") for _ in range(3)]
            for exchange in exchanges:
                origin.forward(exchange)
            for exchange in exchanges:
                await asking.over(exchange)
            assert [cause for _, cause, _ in asking.failures] == ["protocol_error"] * 3
            origin.close()

    run(scenario)


def test_an_origin_that_grants_one_stream_a_connection_gets_more_connections() -> None:

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(settings((3, 1)))
        await _hold(reader, writer)

    async def scenario(turn: LoopTurn) -> None:
        asking = Asking()
        async with listening(serve) as port:
            service = HttpService("http", "127.0.0.1", port)
            origin = HttpOrigin(turn, service, OriginRequest(http2_origin=True))
            for _ in range(3):
                origin.forward(asking.request(b"a.test"))
            (only,) = origin._all()
            await eventually_async(lambda: only._http2.session_count == 3, "each has a connection")
            assert origin.is_busy
            origin.close()

    run(scenario)


def test_a_host_header_that_is_none_is_refused_at_once() -> None:
    async def scenario(turn: LoopTurn) -> None:
        for text, sent in (("a..b", b"a..b"), ("büro.test", b"xn--bro-hoa.test"), ("", None)):
            origin = HttpOrigin(turn, UnixService("/s"), OriginRequest(http_host_header=text))
            assert origin._host == sent
            origin.close()
        with pytest.raises(OriginSettingError, match="httpHostHeader"):
            HttpOrigin(turn, UnixService("/s"), OriginRequest(http_host_header="ü" + "x" * 70))

    run(scenario)

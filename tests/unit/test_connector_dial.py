"""Connections to origins: which address is tried when, how long, and what is said of a failure."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from underpass.connector.origin_request import OriginRequest
from underpass.connector.services import dial
from underpass.connector.services.dial import Dialer, OriginDialError, Tls
from underpass.ops import event_loop

PATIENCE = 30.0


class Network(asyncio.SelectorEventLoop):
    """A loop whose names and addresses are made up.

    `names` are answers of DNS; `behaviour` of an address is "ok", "hang" (the default) or an errno.
    `asked` are names that were looked up; `tried` are addresses in the order of the attempts,
    `given_up` those that were cancelled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, Sequence[str]] = {}
        self.behaviour: dict[str, str | int] = {}
        self.tried: list[str] = []
        self.asked: list[str] = []
        self.given_up: list[str] = []
        self.second_try = asyncio.Event()

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        self.asked.append(host)
        if host not in self.names:
            await asyncio.Future()
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.names[host]
        ]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        host = address[0]
        self.tried.append(host)
        if len(self.tried) == 2:
            self.second_try.set()
        behaviour = self.behaviour.get(host, "hang")
        if isinstance(behaviour, int):
            raise OSError(behaviour, f"Connect call failed {address}")
        if behaviour == "hang":
            try:
                await asyncio.Future()
            except asyncio.CancelledError:
                self.given_up.append(host)
                raise


@pytest.fixture
def network() -> Iterator[Network]:
    loop = Network()
    yield loop
    loop.close()


def connect(
    network: Network,
    host: str,
    settings: OriginRequest | None = None,
    permit: dial.Permit | None = None,
) -> str | tuple[str, str]:
    """The address that took the connection, or the cause and the text of the failure."""

    async def main() -> str | tuple[str, str]:
        dialer = Dialer(settings or OriginRequest())
        try:
            sock = await dialer.connect_tcp("tcp://origin:22", host, 22, permit)
        except OriginDialError as error:
            return error.cause, str(error)
        finally:
            await asyncio.sleep(0)
        sock.close()
        return network.tried[-1] if network.behaviour.get(network.tried[-1]) == "ok" else "?"

    return network.run_until_complete(asyncio.wait_for(main(), PATIENCE))


class TestAddresses:
    def test_an_address_is_not_looked_up(self, network: Network) -> None:
        network.behaviour["127.0.0.1"] = "ok"
        assert connect(network, "127.0.0.1") == "127.0.0.1"

    def test_families_take_turns_after_the_systems_first(self, network: Network) -> None:
        network.names["origin"] = ["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"]
        network.behaviour = dict.fromkeys(network.names["origin"], errno.ECONNREFUSED)
        connect(network, "origin")
        assert network.tried == ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"]

    def test_a_refusal_is_followed_by_the_next_at_once(self, network: Network) -> None:
        network.names["origin"] = ["::1", "127.0.0.1"]
        network.behaviour = {"::1": errno.ECONNREFUSED, "127.0.0.1": "ok"}
        assert connect(network, "origin") == "127.0.0.1"
        assert network.given_up == []

    def test_one_that_is_silent_is_overtaken_and_given_up(self, network: Network) -> None:
        network.names["origin"] = ["::1", "127.0.0.1"]
        network.behaviour = {"127.0.0.1": "ok"}
        assert connect(network, "origin") == "127.0.0.1"
        assert network.given_up == ["::1"]

    def test_without_the_race_they_come_one_after_the_other(self, network: Network) -> None:
        network.names["origin"] = ["::1", "127.0.0.1"]
        network.behaviour = {"::1": errno.ENETUNREACH, "127.0.0.1": "ok"}
        assert connect(network, "origin", OriginRequest(no_happy_eyeballs=True)) == "127.0.0.1"

    def test_without_the_race_a_silent_one_has_its_share_of_the_time(
        self, network: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dial, "SHORTEST_SHARE", 0.01)
        network.names["origin"] = ["::1", "127.0.0.1"]
        network.behaviour = {"127.0.0.1": "ok"}
        settings = OriginRequest(no_happy_eyeballs=True, connect_timeout=0.5)
        assert connect(network, "origin", settings) == "127.0.0.1"
        assert network.given_up == ["::1"]

    def test_no_more_are_tried_than_the_bound(self, network: Network) -> None:
        network.names["origin"] = [f"10.0.0.{number}" for number in range(100)]
        network.behaviour = dict.fromkeys(network.names["origin"], errno.ECONNREFUSED)
        connect(network, "origin")
        assert len(network.tried) == dial.MAX_ADDRESSES == 16

    def test_one_address_told_twice_is_tried_once(self, network: Network) -> None:
        network.names["origin"] = ["10.0.0.1", "10.0.0.1"]
        network.behaviour["10.0.0.1"] = errno.ECONNREFUSED
        connect(network, "origin")
        assert network.tried == ["10.0.0.1"]


class TestRules:
    def test_only_allowed_addresses_are_tried(self, network: Network) -> None:
        network.names["origin"] = ["10.0.0.1", "10.0.0.2"]
        network.behaviour = dict.fromkeys(network.names["origin"], "ok")
        assert connect(network, "origin", permit=lambda host, port: host == "10.0.0.2")
        assert network.tried == ["10.0.0.2"]

    @pytest.mark.parametrize("host", ["origin", "10.0.0.1"])
    def test_none_allowed(self, network: Network, host: str) -> None:
        network.names["origin"] = ["10.0.0.1"]
        asked = []

        def permit(address: str, port: int) -> bool:
            asked.append((address, port))
            return False

        cause, text = connect(network, host, permit=permit)
        assert (cause, text) == ("denied", "originRequest.ipRules do not allow tcp://origin:22")
        assert asked == [("10.0.0.1", 22)]
        assert network.tried == []


class TestFailures:
    def test_refused(self, network: Network) -> None:
        network.behaviour["10.0.0.1"] = errno.ECONNREFUSED
        assert connect(network, "10.0.0.1") == (
            "dial",
            "cannot connect to tcp://origin:22: Connection refused",
        )

    def test_several_failures_are_told_apart(self, network: Network) -> None:
        network.names["origin"] = ["::1", "127.0.0.1"]
        network.behaviour = {"::1": errno.ENETUNREACH, "127.0.0.1": errno.ECONNREFUSED}
        _, text = connect(network, "origin")
        assert "[::1]:22 Network is unreachable; 127.0.0.1:22 Connection refused" in text

    def test_many_failures_are_cut_short(self, network: Network) -> None:
        network.names["origin"] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        network.behaviour = dict.fromkeys(network.names["origin"], errno.ECONNREFUSED)
        network.behaviour["10.0.0.4"] = errno.ENETUNREACH
        _, text = connect(network, "origin")
        assert text.endswith("10.0.0.3:22 Connection refused; …")

    @pytest.mark.parametrize("race", [True, False])
    def test_nobody_answers(self, network: Network, race: bool) -> None:
        network.names["origin"] = ["::1", "127.0.0.1"]
        settings = OriginRequest(connect_timeout=0.01, no_happy_eyeballs=not race)
        assert connect(network, "origin", settings) == (
            "dial_timeout",
            "tcp://origin:22 did not answer within 0.01 s",
        )
        assert network.given_up == network.tried

    def test_a_resolver_that_does_not_answer_counts_too(self, network: Network) -> None:
        cause, _ = connect(network, "unknown", OriginRequest(connect_timeout=0.01))
        assert cause == "dial_timeout"

    def test_the_systems_number_is_kept(self, network: Network) -> None:
        async def main() -> int:
            network.behaviour["10.0.0.1"] = errno.ENETUNREACH
            with pytest.raises(OriginDialError) as failed:
                await Dialer(OriginRequest()).connect_tcp("it", "10.0.0.1", 22)
            return failed.value.errno

        assert network.run_until_complete(main()) == errno.ENETUNREACH

    def test_names_that_strangers_choose_are_looked_up_a_few_at_a_time(
        self, network: Network
    ) -> None:
        async def main() -> None:
            dialer = Dialer(OriginRequest(connect_timeout=0), lookups=2)
            names = [f"slow-{number}.example" for number in range(5)]
            dialling = [asyncio.ensure_future(dialer.connect_tcp(n, n, 22)) for n in names]
            fast = asyncio.ensure_future(dialer.connect_tcp("fast", "10.0.0.1", 22))
            network.behaviour["10.0.0.1"] = "ok"
            (await fast).close()
            assert network.asked == names[:2]
            # One that gives up makes room for the next.
            dialling[0].cancel()
            await asyncio.wait([dialling[0]])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert network.asked == names[:3]
            for each in dialling:
                each.cancel()
            await asyncio.gather(*dialling, return_exceptions=True)

        network.run_until_complete(main())

    def test_cancelled_while_it_dials(self, network: Network) -> None:
        async def main() -> None:
            network.names["origin"] = ["::1", "127.0.0.1"]
            dialling = asyncio.ensure_future(
                Dialer(OriginRequest()).connect_tcp("it", "origin", 22)
            )
            await network.second_try.wait()
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            await asyncio.sleep(0)
            assert network.given_up == ["::1", "127.0.0.1"]

        network.run_until_complete(main())


# With the system's own sockets, on every kind of loop there is.


@pytest.fixture(params=["asyncio", "fast"])
def run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Coroutine[Any, Any, None]], None]:
    if request.param == "asyncio":
        monkeypatch.setenv("UNDERPASS_LOOP", "asyncio")

    def run_it(main: Coroutine[Any, Any, None]) -> None:
        event_loop.run(_in_time(main))

    async def _in_time(main: Coroutine[Any, Any, None]) -> None:
        await asyncio.wait_for(main, PATIENCE)

    return run_it


@contextlib.asynccontextmanager
async def greeter(
    tls: ssl.SSLContext | None = None, first: bytes = b"hello"
) -> AsyncIterator[tuple[int, list[asyncio.StreamReader]]]:
    """A server that speaks first, or with `first` empty only listens."""
    readers: list[asyncio.StreamReader] = []
    writers: list[asyncio.StreamWriter] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        readers.append(reader)
        writers.append(writer)
        writer.write(first)

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], readers
    finally:
        server.close()
        for writer in writers:
            writer.close()


class Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.heard.done():
            self.heard.set_result(data)

    def option(self, level: int, name: int) -> int:
        assert self.transport is not None
        value = self.transport.get_extra_info("socket").getsockopt(level, name)
        assert isinstance(value, int)
        return value

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_the_server_says_first_is_heard(run: Run, host: str) -> None:
    async def main() -> None:
        async with greeter() as (port, _):
            client = await Dialer(OriginRequest()).open_tcp("it", host, port, Client)
            assert await client.heard == b"hello"
            assert client.option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()

    run(main())


def test_a_protocol_that_aborts_as_it_is_connected(run: Run) -> None:
    """The descriptor is closed once: by then it may be another connection's."""

    class Leaver(Client):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.abort()  # type: ignore[attr-defined]

    async def main() -> None:
        async with greeter(first=b"") as (port, _):
            dialer = Dialer(OriginRequest())
            sock = await dialer.connect_tcp("it", "127.0.0.1", port)
            await dialer.open_socket("it", sock, Leaver)
            assert sock.fileno() == -1

    run(main())


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="needs TCP_KEEPIDLE")
@pytest.mark.parametrize(
    ("period", "seconds"), [(30.0, 30), (0.2, 1), (1e9, 32767), (0.0, None), (-1.0, None)]
)
def test_keep_alive(run: Run, period: float, seconds: int | None) -> None:
    async def main() -> None:
        async with greeter() as (port, _):
            with socket.socket() as fresh:
                systems = fresh.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            dialer = Dialer(OriginRequest(tcp_keep_alive=period))
            client = await dialer.open_tcp("it", "127.0.0.1", port, Client)
            assert client.option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == (period >= 0)
            idle = client.option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert idle == (systems if seconds is None else seconds)
            client.close()

    run(main())


@pytest.mark.parametrize(
    "name", ["nowhere.invalid", "x" * 64 + ".example", "a..b", "nul\0.example", "é" * 300]
)
def test_a_name_that_is_none(run: Run, name: str) -> None:
    async def main() -> None:
        with pytest.raises(OriginDialError) as failed:
            await Dialer(OriginRequest()).open_tcp("tcp://it", name, 22, Client)
        assert failed.value.cause == "dns"
        assert str(failed.value).startswith("the name of tcp://it cannot be resolved: ")

    run(main())


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_tls_with_a_server_that_says_nothing(run: Run) -> None:
    async def main() -> None:
        async with greeter(first=b"") as (port, readers):
            dialer = Dialer(OriginRequest(tls_timeout=0.05))
            with pytest.raises(OriginDialError) as failed:
                await dialer.open_tcp(
                    "https://it", "127.0.0.1", port, Client, Tls(client_context(), "it")
                )
            assert failed.value.cause == "tls_timeout"
            assert str(failed.value) == "TLS with https://it was not agreed on within 0.05 s"
            # It hangs up, and does not leave the server waiting.
            with contextlib.suppress(ConnectionError):
                await readers[0].read()

    run(main())


@pytest.mark.parametrize("first", [b"SSH-2.0-server\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_tls_with_a_server_that_speaks_something_else(run: Run, first: bytes) -> None:
    async def main() -> None:
        async with greeter(first=first) as (port, _):
            with pytest.raises(OriginDialError) as failed:
                await Dialer(OriginRequest()).open_tcp(
                    "https://it", "127.0.0.1", port, Client, Tls(client_context(), "it")
                )
            assert failed.value.cause == "tls"
            assert str(failed.value).startswith("TLS with https://it: ")

    run(main())


def test_tls_with_a_server_that_hangs_up(run: Run) -> None:
    async def main() -> None:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OriginDialError) as failed:
            await Dialer(OriginRequest()).open_tcp(
                "https://it", "127.0.0.1", port, Client, Tls(client_context(), "it")
            )
        server.close()
        assert failed.value.cause == "tls"

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
class TestUnixSockets:
    def test_bytes_come(self, run: Run, tmp_path: Path) -> None:
        async def main() -> None:
            async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"hello")
                writer.close()

            path = str(tmp_path / "socket")
            server = await asyncio.start_unix_server(greet, path)
            client = await Dialer(OriginRequest()).open_unix(f"unix:{path}", path, Client)
            assert await client.heard == b"hello"
            client.close()
            server.close()

        run(main())

    @pytest.mark.parametrize("path", ["nothing", "x" * 300, "nul\0"])
    def test_nobody_there(self, run: Run, tmp_path: Path, path: str) -> None:
        async def main() -> None:
            with pytest.raises(OriginDialError) as failed:
                await Dialer(OriginRequest()).open_unix("unix:it", str(tmp_path / path), Client)
            assert failed.value.cause == "dial"
            assert str(failed.value).startswith("cannot connect to unix:it: ")

        run(main())

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")
    def test_a_full_queue_is_waited_for(self, run: Run, tmp_path: Path) -> None:
        async def main() -> None:
            path = str(tmp_path / "socket")
            with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as others:
                listener.bind(path)
                listener.listen(0)
                while True:
                    other = others.enter_context(socket.socket(socket.AF_UNIX))
                    other.setblocking(False)
                    try:
                        other.connect(path)
                    except BlockingIOError:
                        break
                with pytest.raises(OriginDialError) as failed:
                    await Dialer(OriginRequest(connect_timeout=0.1)).open_unix("it", path, Client)
                assert failed.value.cause == "dial_timeout"
                dialling = asyncio.ensure_future(
                    Dialer(OriginRequest()).open_unix("it", path, Client)
                )
                await asyncio.sleep(0)
                listener.accept()[0].close()
                (await dialling).close()

        run(main())

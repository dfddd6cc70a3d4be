"""Proxies toward the edge: how they are written, for whom they are, and bad ones."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from underpass.connector.config import Config
from underpass.connector.edge_proxy import (
    MAX_CREDENTIAL,
    ProxyUrl,
    is_exempt,
    parse_proxy,
    proxy_for,
    proxy_of,
)
from underpass.connector.edges import EdgeSlot
from underpass.connector.home_dialer import HomeDialer
from underpass.connector.homes import Home
from underpass.connector.links import DialError, DialErrorKind
from underpass.connector.options import build_options
from underpass.connector.proxy_dialer import MAX_HEAD, ProxyError, connect_through
from underpass.connector.settings import SettingError, resolve
from underpass.ops import event_loop


class TestUrls:
    @pytest.mark.parametrize(
        ("text", "proxy"),
        [
            ("http://proxy:3128", ProxyUrl("http", "proxy", 3128)),
            ("proxy:3128", ProxyUrl("http", "proxy", 3128)),
            ("proxy", ProxyUrl("http", "proxy", 80)),
            ("https://proxy/", ProxyUrl("https", "proxy", 443)),
            ("socks5://[::1]", ProxyUrl("socks5", "::1", 1080)),
            ("SOCKS5h://proxy:1", ProxyUrl("socks5h", "proxy", 1)),
            ("http://me:p%40ss@proxy", ProxyUrl("http", "proxy", 80, "me", "p@ss")),
        ],
    )
    def test_good_ones(self, text: str, proxy: ProxyUrl) -> None:
        assert parse_proxy(text) == proxy

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("ftp://u:s3cret@proxy", "a ftp proxy is not supported"),
            ("http://u:s3cret@", "is not SCHEME"),
            ("http://u:s3cret@proxy:0", "is not SCHEME"),
            ("http://u:s3cret@proxy/path", "is not SCHEME"),
            ("http://u:s3cret@proxy?x", "is not SCHEME"),
            ("http://u:s3cret@proxy:99999", "is no URL"),
            ("http://u:s3cret@[proxy", "is no URL"),
            ("http://u:s3cret%0d%0a@proxy", "control characters"),
            (f"http://u:s3cret{'x' * MAX_CREDENTIAL}@proxy", "longer than 255 bytes"),
        ],
    )
    def test_bad_ones_are_not_shown(self, text: str, why: str) -> None:
        with pytest.raises(ValueError, match=f"--edge-proxy.*{why}") as error:
            parse_proxy(text)
        assert "s3cret" not in str(error.value)

    def test_a_proxy_is_shown_without_its_password(self) -> None:
        proxy = parse_proxy("socks5://me:s3cret@[::1]:1080")
        assert str(proxy) == repr(proxy) == "socks5://[::1]:1080"

    def test_a_bad_setting_ends_the_start(self) -> None:
        settings = resolve([{"edge-proxy": "ftp://u:s3cret@x"}], {}, {})
        with pytest.raises(SettingError, match="not supported"):
            build_options(settings, Config())
        assert settings.shown()["edge-proxy"] == "*****"


def chosen(given: str = "", host: str = "edge.example.com", **environment: str) -> str | None:
    proxy = proxy_for(given, environment, [host], 7844)
    return None if proxy is None else proxy.host


class TestChoice:
    def test_the_flag_comes_before_the_environment(self) -> None:
        assert chosen("http://flag", HTTPS_PROXY="http://env") == "flag"
        assert chosen(HTTPS_PROXY="http://env") == "env"
        assert chosen("none", HTTPS_PROXY="http://env") is None
        assert chosen() is None

    def test_variables_in_their_order(self) -> None:
        names = {"HTTPS_PROXY": "a", "https_proxy": "b", "ALL_PROXY": "c", "all_proxy": "d"}
        for name, host in list(names.items()):
            assert chosen(**names) == host
            names[name] = ""

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "a.LOCALHOST."])
    def test_this_machine_is_outside_of_nothing(self, host: str) -> None:
        assert chosen(host=host, ALL_PROXY="http://env") is None
        assert chosen("http://flag", host=host) == "flag"

    def test_exemptions_are_for_the_environments_proxy(self) -> None:
        assert chosen(HTTPS_PROXY="http://env", NO_PROXY="example.com") is None
        assert chosen(HTTPS_PROXY="http://env", no_proxy="example.com") is None
        assert chosen("http://flag", NO_PROXY="example.com") == "flag"

    def test_a_discovered_edge_is_known_by_its_domain_too(self) -> None:
        environment = {"HTTPS_PROXY": "http://env", "NO_PROXY": "argotunnel.com"}
        assert proxy_of(Home(), environment, "198.51.100.7", 7844) is None
        given = Home(edges=(("198.51.100.7", 7844),))
        assert proxy_of(given, environment, "198.51.100.7", 7844) is not None

    def test_a_bad_variable_is_named(self) -> None:
        with pytest.raises(ValueError, match="ALL_PROXY: a gopher proxy is not supported"):
            chosen(ALL_PROXY="gopher://proxy")

    @pytest.mark.parametrize(
        ("rules", "host", "exempt"),
        [
            ("*", "anything", True),
            ("example.com", "example.com", True),
            ("example.com", "edge.EXAMPLE.com.", True),
            (".example.com", "edge.example.com", True),
            ("*.example.com", "edge.example.com", True),
            ("example.com", "notexample.com", False),
            ("example.com:7844", "example.com", True),
            ("example.com:443", "example.com", False),
            ("example.com:x", "example.com", True),
            (f"example.com:{'9' * 5000}", "example.com", True),
            ("other, example.com", "example.com", True),
            ("10.0.0.0/8", "10.1.2.3", True),
            ("10.0.0.0/8", "11.1.2.3", False),
            ("10.1.2.3", "10.1.2.3", True),
            ("10.1.2.3:7844", "10.1.2.3", True),
            ("2001:db8::/32", "2001:db8::1", True),
            ("[2001:db8::1]:7844", "2001:db8::1", True),
            ("[2001:db8::1]:443", "2001:db8::1", False),
            ("10.0.0.0/8", "2001:db8::1", False),
            ("example.com", "10.1.2.3", False),
            (",,", "example.com", False),
            ("," * 100_000 + "example.com", "example.com", False),  # a bound, not a wish
        ],
    )
    def test_exemptions(self, rules: str, host: str, exempt: bool) -> None:
        assert is_exempt(host, 7844, rules) == exempt


def through(scheme: str, *says: bytes, credentials: str = "", closes: bool = True) -> str:
    """The error that comes of a proxy that says these things, one after each thing it hears."""

    async def scenario() -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                for piece in says:
                    await reader.read(4096)
                    writer.write(piece)
                if not closes:
                    await reader.read()
            except ConnectionError:
                pass  # the dialer has had enough
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        proxy = parse_proxy(f"{scheme}://{credentials}127.0.0.1:{port}")
        try:
            with pytest.raises((ProxyError, OSError)) as error:
                await connect_through(
                    proxy,
                    "edge.example.com",
                    7844,
                    asyncio.Protocol,
                    ssl.create_default_context(),
                    "h2.cftunnel.com",
                    timeout=10.0 if closes else 0.2,
                )
        finally:
            server.close()
        assert "s3cret" not in str(error.value)
        return str(error.value).replace(str(port), "PORT")

    return asyncio.run(scenario())


class TestBadProxies:
    @pytest.mark.parametrize(
        ("says", "told"),
        [
            (b"", "closed the connection instead of connecting us"),
            (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.1 OK\r\n\r\n", "does not speak HTTP"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "does not connect us to edge.example.com:7844"),
            (
                b"HTTP/1.1 503 Busy\r\n\r\n",
                "does not connect us to edge.example.com:7844: 503 Busy",
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nHello", "sent bytes that nobody asked for"),
            (b"HTTP/1.1 200 OK\r\nX: " + bytes(2 * MAX_HEAD), "says more than 16384 bytes"),
            (b"HTTP/1.1 503 " + b"\xff" * 1000 + b"\r\n\r\n", "\ufffd" * 96),
        ],
    )
    def test_http(self, says: bytes, told: str) -> None:
        error = through("http", says)
        assert error.startswith("the proxy http://127.0.0.1:PORT ")
        assert told in error
        assert len(error) < 300

    @pytest.mark.parametrize(
        ("says", "told"),
        [
            ((b"",), "closed the connection instead"),
            ((b"\x04\x00",), "does not speak SOCKS5"),
            ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "does not speak SOCKS5"),
            ((b"\x05\x01",), "chose the method 1, which was not offered"),
            ((b"\x05\x02",), "chose the method 2, which was not offered"),
            ((b"\x05\xff",), "wants a user and a password"),
            ((b"\x05\x00", b"\x04\x00\x00\x01"), "does not speak SOCKS5"),
            ((b"\x05\x00", b"\x05\x05\x00\x01"), "edge.example.com:7844: connection refused"),
            ((b"\x05\x00", b"\x05\x63\x00\x01"), "edge.example.com:7844: reply 99"),
            ((b"\x05\x00", b"\x05\x00\x00\x01" + bytes(7)), "sent bytes that nobody asked for"),
            ((b"\x05\x00", b"\x05\x00\x00\x01" + bytes(2 * MAX_HEAD)), "sent bytes that nobody"),
        ],
    )
    def test_socks(self, says: tuple[bytes, ...], told: str) -> None:
        error = through("socks5h", *says)
        assert error.startswith("the proxy socks5h://127.0.0.1:PORT ")
        assert told in error

    def test_socks_credentials(self) -> None:
        error = through("socks5h", b"\x05\x02", b"\x01\x01", credentials="me:s3cret@")
        assert "does not take the password" in error
        error = through("socks5h", b"\x05\xff", credentials="me:s3cret@")
        assert "takes none of our methods" in error

    @pytest.mark.parametrize("scheme", ["http", "socks5h"])
    def test_one_that_says_nothing(self, scheme: str) -> None:
        assert "does not say whether it connects us" in through(scheme, closes=False)

    def test_one_that_breaks_off_amid_the_tls_handshake(self) -> None:
        through("http", b"HTTP/1.1 200 OK\r\n\r\n", b"")

    def test_one_that_is_not_there(self) -> None:
        async def scenario() -> None:
            server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            server.close()
            await server.wait_closed()
            await connect_through(
                parse_proxy(f"127.0.0.1:{port}", "HTTPS_PROXY"),
                "edge",
                7844,
                asyncio.Protocol,
                ssl.create_default_context(),
                "h2.cftunnel.com",
                timeout=10.0,
            )

        with pytest.raises(ProxyError, match=r"cannot be reached: .*that of HTTPS_PROXY; .*none"):
            asyncio.run(scenario())

    def test_a_loop_that_has_no_tls_within_tls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def cannot(*_: object, **__: object) -> None:
            raise TypeError("transport is not supported by start_tls()")

        monkeypatch.setattr(asyncio.BaseEventLoop, "start_tls", cannot)
        assert "needs TLS within TLS" in through("http", b"HTTP/1.1 200 OK\r\n\r\n")


class Greeted(asyncio.Protocol):
    """What hears the first words of an edge, if they are not lost."""

    def __init__(self) -> None:
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.made
        if not self.heard.done():
            self.heard.set_result(data)


@pytest.mark.parametrize("loop", ["asyncio", ""])
def test_an_edge_that_speaks_first_is_heard(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge begins as soon as TLS is there, maybe before anybody here has noticed that it is."""
    monkeypatch.setenv("UNDERPASS_LOOP", loop)
    authority = trustme.CA()
    served, trusts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("h2.cftunnel.com").configure_cert(served)
    authority.configure_trust(trusts)

    async def scenario() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"PRI * HTTP/2.0")
            await reader.read()
            writer.close()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"CONNECT edge:7844 HTTP/1.1\r\nHost: edge:7844\r\n")
            port = edge.sockets[0].getsockname()[1]
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

        edge = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=served)
        proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
        url = parse_proxy(f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        for _ in range(20):
            link = await connect_through(
                url, "edge", 7844, Greeted, trusts, "h2.cftunnel.com", timeout=10.0
            )
            assert await asyncio.wait_for(link.heard, 10) == b"PRI * HTTP/2.0"
            link.transport.abort()  # type: ignore[attr-defined]
        edge.close()
        proxy.close()

    event_loop.run(scenario())


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(4096):
            writer.write(data)
    except ConnectionError:
        pass  # as good as an end
    finally:
        writer.close()


def test_a_variable_that_is_no_url_is_a_lasting_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://u:s3cret@proxy")
    dialer = HomeDialer(Home(edges=(("edge.example.com", 7844),)))
    slot = EdgeSlot("edge.example.com", 7844, 0)
    with pytest.raises(DialError, match="HTTPS_PROXY: a gopher proxy") as error:
        asyncio.run(dialer.connect(slot, asyncio.Protocol))
    assert (error.value.kind, error.value.is_lasting) == (DialErrorKind.PROXY, True)

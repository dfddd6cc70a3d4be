"""HTTP_PROXY, HTTPS_PROXY, NO_PROXY (docs: configuration §5; the rules of Go's httpproxy)."""

from __future__ import annotations

import asyncio
import socket

import pytest

from underpass.connector.origins import HttpService
from underpass.connector.services.connections import OriginSettingError
from underpass.connector.services.dial import OriginDialError
from underpass.connector.services.proxy import Proxy, ask_for_tunnel, proxy_for

HTTP = {"HTTP_PROXY": "http://proxy.test:3128"}
APP = HttpService("http", "app.test", 8080)


def service(address: str) -> HttpService:
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    return HttpService(scheme, host.strip("[]"), int(port))


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        (HTTP, Proxy("proxy.test", 3128)),
        ({"http_proxy": "http://proxy.test:3128"}, Proxy("proxy.test", 3128)),
        ({"http_proxy": "http://b.test", **HTTP}, Proxy("proxy.test", 3128)),
        ({"HTTP_PROXY": "proxy.test"}, Proxy("proxy.test", 80)),
        ({"HTTP_PROXY": "[::1]:3128"}, Proxy("::1", 3128)),
        ({"HTTPS_PROXY": "http://proxy.test"}, None),
        ({**HTTP, "REQUEST_METHOD": "GET"}, None),
        (
            {"HTTP_PROXY": "http://us%40er:p%3Aw@proxy.test"},
            Proxy("proxy.test", 80, b"Basic dXNAZXI6cDp3"),
        ),
    ],
)
def test_which_proxy(environment: dict[str, str], proxy: Proxy | None) -> None:
    assert proxy_for(APP, environment) == proxy


def test_https_has_a_variable_of_its_own() -> None:
    environment = {**HTTP, "HTTPS_PROXY": "http://secure.test"}
    assert proxy_for(service("https://app.test:443"), environment) == Proxy("secure.test", 80)


@pytest.mark.parametrize(
    ("address", "exceptions", "direct"),
    [
        ("http://localhost:80", "", True),
        ("http://127.1.2.3:80", "", True),
        ("http://[::1]:80", "", True),
        ("http://192.0.2.1:80", "", False),
        ("http://app.test:80", "*", True),
        ("http://app.test:80", "app.test", True),
        ("http://APP.test:80", " other.test , APP.TEST ", True),
        ("http://a.app.test:80", "app.test", True),
        ("http://myapp.test:80", "app.test", False),
        ("http://app.test:80", ".app.test", False),
        ("http://a.app.test:80", ".app.test", True),
        ("http://a.app.test:80", "*.app.test", True),
        ("http://app.test:80", "app.test:80", True),
        ("http://app.test:81", "app.test:80", False),
        ("http://192.0.2.1:80", "192.0.2.1", True),
        ("http://192.0.2.1:80", "192.0.2.0/24", True),
        ("http://192.0.3.1:80", "192.0.2.0/24", False),
        ("http://192.0.2.1:80", "192.0.2.1:80", True),
        ("http://192.0.2.1:80", "192.0.2.1:81", False),
        ("http://[2001:db8::1]:80", "2001:db8::1", True),
        ("http://[2001:db8::1]:80", "[2001:db8::1]:80", True),
        ("http://[2001:db8::1]:80", "2001:db8::/32", True),
        ("http://192.0.2.1:80", "300.0.0.0/8,,", False),
    ],
)
def test_which_way(address: str, exceptions: str, direct: bool) -> None:
    found = proxy_for(service(address), {**HTTP, "NO_PROXY": exceptions})
    assert (found is None) is direct


@pytest.mark.parametrize(
    "text", ["socks5://proxy.test:1080", "https://proxy.test", "http://:80", "a:b"]
)
def test_a_proxy_that_cannot_be_used_is_named(text: str) -> None:
    with pytest.raises(OriginSettingError, match="proxy"):
        proxy_for(APP, {"HTTP_PROXY": text})


async def asked(*answers: bytes, end: bool = False) -> tuple[bytes, bytes]:
    """What the proxy is asked, and what can be read behind its answer."""
    ours, proxys = socket.socketpair()
    ours.setblocking(False)
    with ours, proxys:
        for answer in answers:
            proxys.sendall(answer)
        if end:
            proxys.shutdown(socket.SHUT_WR)
        await ask_for_tunnel(
            ours,
            Proxy("proxy.test", 80, b"Basic eDp5"),
            HttpService("https", "app.test", 443),
            None if end else 60.0,
        )
        return proxys.recv(1000), ours.recv(1000)


def test_a_tunnel_is_asked_for_and_what_follows_is_left_alone() -> None:
    request, rest = asyncio.run(
        asked(b"HTTP/1.1 200 Conn", b"ection established\r\nVia: x\r\n\r\nfirst")
    )
    assert request == (
        b"CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n"
        b"Proxy-Authorization: Basic eDp5\r\n\r\n"
    )
    assert rest == b"first"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication"),
        (b"HTTP/1.1 502 Bad Gateway\r\nX: y\r\n\r\n", "502"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 twohundred\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, "has no end"),
        (b"HTTP/1.1 200", "closed the connection"),
    ],
)
def test_a_proxy_that_refuses_is_quoted(answer: bytes, why: str) -> None:
    with pytest.raises(OriginDialError, match=why) as caught:
        asyncio.run(asked(answer, end=True))
    assert caught.value.cause == "dial"


def test_a_proxy_that_says_nothing_is_not_waited_for_for_ever() -> None:
    async def scenario() -> None:
        ours, proxys = socket.socketpair()
        ours.setblocking(False)
        with ours, proxys:
            service = HttpService("https", "app.test", 443)
            with pytest.raises(OriginDialError) as caught:
                await ask_for_tunnel(ours, Proxy("proxy.test", 80), service, 0.01)
            assert caught.value.cause == "dial_timeout"
            assert ours.fileno() == -1

    asyncio.run(scenario())

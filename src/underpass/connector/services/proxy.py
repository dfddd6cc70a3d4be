"""The way out through a proxy: HTTP_PROXY, HTTPS_PROXY and NO_PROXY (docs: configuration §5).

The rules are those of Go's `net/http`, which cloudflared goes by, but for one: the proxy is always
asked for the service's host, never for the one the visitor named.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
from collections.abc import Mapping
from functools import cache
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from underpass.connector.origins import HttpService
from underpass.connector.services.connections import OriginSettingError

__all__ = ["Proxy", "ProxyRefusedError", "Tunnel", "proxy_for"]

MAX_ANSWER: Final = 16384
"""Bytes of a proxy's answer to CONNECT."""


class ProxyRefusedError(OSError):
    """The proxy answered and does not connect us."""


class Proxy(Struct, frozen=True):
    """Where an HTTP proxy listens, and what it wants to be told."""

    host: str
    port: int
    authorization: bytes | None = None

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


def proxy_for(service: HttpService, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy to reach `service` by; None for the direct way, which loopback always goes.

    Without an `environment` it is the process's, as it was at the first call. Raises
    OriginSettingError.
    """
    settings = _process_settings() if environment is None else _Settings.read(environment)
    proxy = settings.https if service.scheme == "https" else settings.http
    if not proxy or _is_loopback(service.host) or settings.excepts(service.host, service.port):
        return None
    return _read_proxy(proxy)


class Tunnel(asyncio.Protocol):
    """Asks a proxy to connect us, on a transport just made. `connected` then has what came behind
    its answer, or raises ProxyRefusedError; the transport is another protocol's to take."""

    def __init__(self, proxy: Proxy, service: HttpService) -> None:
        self._proxy = proxy
        self._target = f"{_bracketed(service.host)}:{service.port}"
        self._answer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.connected: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        request = f"CONNECT {self._target} HTTP/1.1\r\nHost: {self._target}\r\n".encode("idna")
        if self._proxy.authorization is not None:
            request += b"Proxy-Authorization: " + self._proxy.authorization + b"\r\n"
        self.transport.write(request + b"\r\n")

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, rest = bytes(self._answer).partition(b"\r\n\r\n")
        if not end:
            if len(self._answer) > MAX_ANSWER:
                self._refuse("answers without an end")
            return
        line = head.partition(b"\r\n")[0].decode("latin-1")
        version, _, status = line.partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            self._refuse("does not speak HTTP")
        elif not status.startswith("2"):
            self._refuse(f"answers {status!r}")
        elif not self.connected.done():
            self.connected.set_result(rest)

    def connection_lost(self, reason: Exception | None) -> None:
        self._refuse("closed the connection")

    def _refuse(self, why: str) -> None:
        if not self.connected.done():
            text = f"the proxy {self._proxy} {why} when asked for {self._target}"
            self.connected.set_exception(ProxyRefusedError(text))
            # Whoever gave up waiting does not want to hear of it.
            self.connected.exception()


class _Settings(Struct, frozen=True):
    """The three variables."""

    http: str
    https: str
    exceptions: tuple[str, ...]

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> _Settings:
        def value(name: str) -> str:
            return environment.get(name.upper()) or environment.get(name) or ""

        # A CGI program's HTTP_PROXY is what its visitor sent as "Proxy".
        http = "" if environment.get("REQUEST_METHOD") else value("http_proxy")
        exceptions = tuple(
            entry
            for entry in (part.strip().lower() for part in value("no_proxy").split(","))
            if entry
        )
        return cls(http, value("https_proxy"), exceptions)

    def excepts(self, host: str, port: int) -> bool:
        """Whether NO_PROXY names the host: by name (its subdomains too, or they alone after a
        dot), by address, by network, with or without a port; `*` is everything."""
        host = host.lower().rstrip(".")
        address = _address(host)
        for entry in self.exceptions:
            if entry == "*":
                return True
            if address is not None and "/" in entry:
                try:
                    if address in ipaddress.ip_network(entry, strict=False):
                        return True
                except ValueError:
                    pass  # no network, and so none that it is in
                continue
            name, colon, digits = entry.rpartition(":")
            if colon and digits.isdigit() and (name.startswith("[") or ":" not in name):
                if int(digits) != port:
                    continue
            else:
                name = entry
            name = name.removeprefix("[").removesuffix("]")
            if address is not None:
                if _address(name) == address:
                    return True
                continue
            name = name.removeprefix("*")
            if host == name or host.endswith(name if name.startswith(".") else f".{name}"):
                return True
        return False


@cache
def _process_settings() -> _Settings:
    return _Settings.read(os.environ)


def _read_proxy(text: str) -> Proxy:
    url = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = url.port or 80
    except ValueError:
        raise OriginSettingError(f"the proxy {text!r} has no valid port") from None
    if url.scheme != "http":
        raise OriginSettingError(
            f"a proxy of the kind {url.scheme}:// cannot be used; give HTTP_PROXY and HTTPS_PROXY "
            "an http:// address, or except the service with NO_PROXY"
        )
    if not url.hostname:
        raise OriginSettingError(f"the proxy {text!r} has no host")
    authorization = None
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = b"Basic " + base64.b64encode(pair.encode())
    return Proxy(url.hostname, port, authorization)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address is not None else host.lower().rstrip(".") == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

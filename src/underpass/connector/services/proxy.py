"""The way out through a proxy: HTTP_PROXY, HTTPS_PROXY and NO_PROXY (docs: configuration §5).

The rules are those of Go's `net/http`, which cloudflared goes by, but for one: the proxy is always
asked for the service's host, never for the one the visitor named.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import socket
from collections.abc import Mapping
from functools import cache
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from underpass.connector.origins import HttpService
from underpass.connector.services.connections import OriginSettingError
from underpass.connector.services.dial import OriginDialError, host_and_port

__all__ = ["Proxy", "ask_for_tunnel", "proxy_for"]

MAX_ANSWER: Final = 16384
"""Bytes of a proxy's answer to CONNECT."""


class Proxy(Struct, frozen=True):
    """Where an HTTP proxy listens, and what it wants to be told."""

    host: str
    port: int
    authorization: bytes | None = None

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)


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


async def ask_for_tunnel(
    sock: socket.socket, proxy: Proxy, service: HttpService, timeout: float | None
) -> None:
    """Have the proxy at the other end of `sock` connect it with `service`; in `timeout` seconds.

    Raises OriginDialError; the socket is closed then.
    """
    target = host_and_port(service.host, service.port)
    try:
        head = await asyncio.wait_for(_asked(sock, proxy, target.encode("idna")), timeout)
        line = head.partition(b"\r\n")[0].decode("latin-1")
        version, _, status = line.partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            raise OSError("it does not speak HTTP")
        if not status.startswith("2"):
            raise OSError(f"it answers {status!r}")
    except asyncio.TimeoutError:
        sock.close()
        text = f"the proxy {proxy} did not connect us with {target} within {timeout:g} s"
        raise OriginDialError("dial_timeout", text) from None
    except (OSError, ValueError) as error:  # ValueError: what is no name for a host
        sock.close()
        text = f"the proxy {proxy} does not connect us with {target}: {error}"
        raise OriginDialError("dial", text) from error
    except BaseException:
        sock.close()
        raise


async def _asked(sock: socket.socket, proxy: Proxy, target: bytes) -> bytes:
    """The head of the proxy's answer, and not a byte more: what follows is the service's."""
    loop = asyncio.get_running_loop()
    request = b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n"
    if proxy.authorization is not None:
        request += b"Proxy-Authorization: " + proxy.authorization + b"\r\n"
    await loop.sock_sendall(sock, request + b"\r\n")
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n"):
        byte = await loop.sock_recv(sock, 1)
        if not byte:
            raise OSError("it closed the connection")
        answer += byte
        if len(answer) > MAX_ANSWER:
            raise OSError("its answer has no end")
    return bytes(answer)


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

"""What stands behind a rule: the `service` text as a typed value (docs: configuration §3.2)."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from underpass.connector.origin_request import IPRule

__all__ = [
    "Bastion",
    "HelloWorld",
    "HttpService",
    "HttpStatus",
    "Service",
    "SocksProxy",
    "StreamService",
    "UnixService",
    "parse_service",
    "parse_url_flag",
]

_HTTP_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_HTTP_PORTS = {"http": 80, "https": 443}
_STREAM_PORTS = {"tcp": 7864, "ssh": 22, "rdp": 3389, "smb": 445}
_URL_FLAG_SCHEMES = ("http", "https", "rdp", "ssh", "smb", "tcp")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_STATUS_PREFIX = "http_status:"


class HttpService(Struct, frozen=True):
    """HTTP over TCP; `scheme` is `http` or `https`, `host` a name or a bare address."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


class UnixService(Struct, frozen=True):
    """HTTP over a unix socket, inside TLS when `tls`."""

    path: str
    tls: bool = False

    def __str__(self) -> str:
        return f"unix{'+tls' if self.tls else ''}:{self.path}"


class StreamService(Struct, frozen=True):
    """Bytes over TCP. `port` is 0 when the scheme has no port of its own and none was written."""

    host: str
    port: int
    scheme: str = "tcp"

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{_bracketed(self.host)}{port}"


class HelloWorld(Struct, frozen=True):
    """The built-in test application."""

    def __str__(self) -> str:
        return "hello_world"


class HttpStatus(Struct, frozen=True):
    """A fixed status without a body."""

    code: int

    def __str__(self) -> str:
        return f"{_STATUS_PREFIX}{self.code}"


class Bastion(Struct, frozen=True):
    """Bytes to the address the visitor's client names."""

    def __str__(self) -> str:
        return "bastion"


class SocksProxy(Struct, frozen=True):
    """A SOCKS5 server for the visitor; what no rule allows is denied."""

    rules: tuple[IPRule, ...] = ()

    def __str__(self) -> str:
        return "socks-proxy"


Service = HttpService | UnixService | StreamService | HelloWorld | HttpStatus | Bastion | SocksProxy


def parse_service(
    text: str, *, bastion_mode: bool = False, ip_rules: tuple[IPRule, ...] = ()
) -> Service:
    """Read the `service` of a rule. Raises ValueError saying what is wrong with it."""
    if text.startswith("unix:"):
        return UnixService(text.removeprefix("unix:"))
    if text.startswith("unix+tls:"):
        return UnixService(text.removeprefix("unix+tls:"), tls=True)
    if text.startswith(_STATUS_PREFIX):
        return _status(text.removeprefix(_STATUS_PREFIX))
    if text in ("hello_world", "hello-world"):
        return HelloWorld()
    if text == "socks-proxy":
        return SocksProxy(ip_rules)
    if text == "bastion" or bastion_mode:
        return Bastion()
    url = _split(text)
    if not url.scheme or not url.hostname:
        raise ValueError(f"{text!r} needs a scheme and a host, like http://localhost:8000")
    if url.path:
        raise ValueError(
            f"{text!r} has a path; requests keep the path the visitor asked for, so write "
            f"{url.scheme}://{url.netloc} without one"
        )
    return _url_service(url)


def parse_url_flag(text: str) -> HttpService | StreamService:
    """Read `--url`: a scheme may be missing (http is meant) and a path is dropped.

    Raises ValueError for an empty address or a scheme other than http, https, rdp, ssh, smb, tcp.
    """
    if not text:
        raise ValueError("the URL is empty; write one like http://localhost:8000")
    text = unquote(text)
    if "://" not in text:
        is_ipv6 = text.count(":") > 1 and not text.startswith("[")
        text = f"http://[{text}]" if is_ipv6 else f"http://{text}"
    url = _split(text)
    if url.scheme not in _URL_FLAG_SCHEMES:
        schemes = ", ".join(_URL_FLAG_SCHEMES)
        raise ValueError(f"{text!r}: the scheme {url.scheme!r} is not one of {schemes}")
    if not url.hostname:
        raise ValueError(f"{text!r} names no host; write one like http://localhost:8000")
    return _url_service(url)


def _split(text: str) -> SplitResult:
    if _UNPRINTABLE.search(text):
        raise ValueError(f"{text!r} holds a space or a control character")
    try:
        url = urlsplit(text)
        _ = url.port  # raises for a port that is no number or out of range
    except ValueError as error:
        raise ValueError(f"{text!r} is not a valid address: {error}") from None
    return url


def _url_service(url: SplitResult) -> HttpService | StreamService:
    host = url.hostname or ""
    scheme = _HTTP_SCHEMES.get(url.scheme)
    if scheme is not None:
        return HttpService(scheme, host, url.port or _HTTP_PORTS[scheme])
    return StreamService(host, url.port or _STREAM_PORTS.get(url.scheme, 0), url.scheme)


def _status(text: str) -> HttpStatus:
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise ValueError(f"http_status:{text}: {text!r} is not a status code")
    if not 100 <= int(text) <= 999:
        raise ValueError(f"http_status:{text}: a status code is between 100 and 999")
    return HttpStatus(int(text))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""The address of an application, as a visitor writes it (docs: access §1)."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from underpass.visitor.errors import VisitorError

__all__ = ["Application", "ConnectTo", "parse_application", "parse_connect_to"]


class Application(Struct, frozen=True):
    """An https address. `host` is ASCII, without brackets; `port` None means 443.

    `target` is path and query as they were written, at least `/`.
    """

    host: str
    port: int | None = None
    target: str = "/"

    @property
    def authority(self) -> str:
        """Host and port as they stand in an address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}{self.target}"

    @property
    def websocket_url(self) -> str:
        return f"wss://{self.authority}{self.target}"


class ConnectTo(Struct, frozen=True):
    """Where to connect in an application's stead; `server_name` None means its own host."""

    host: str
    port: int | None = None
    server_name: str | None = None


def parse_application(text: str) -> Application:
    """Read `HOST`, `HOST:PORT`, or an http or https address. Raises VisitorError.

    https is used whatever is written; a bare IPv6 address needs no brackets.
    """
    text = text.strip()
    if not text:
        raise VisitorError("the application's address is empty; give it with --hostname")
    bare = _bare_ipv6(text)
    if bare is not None:
        return Application(bare)
    url = _split(text if "://" in text else f"https://{text}")
    if url.scheme not in ("http", "https"):
        raise VisitorError(f"{text!r} is not an https address")
    try:
        host, port = url.hostname or "", url.port
    except ValueError as error:
        raise VisitorError(f"{text!r} is not an address: {error}") from None
    if not host:
        raise VisitorError(f"{text!r} has no host")
    if url.username is not None:
        raise VisitorError("an application's address has no user name in it")
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if not target.isascii() or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in target):
        raise VisitorError(f"{text!r} has characters that an address cannot have")
    return Application(_ascii(host), port, target)


def parse_connect_to(text: str) -> ConnectTo:
    """Read `HOST`, `HOST:PORT` or `SNI:PORT:HOST`. Raises VisitorError."""
    parts = text.split(":")
    if len(parts) == 3:
        server_name, port, host = parts
        return ConnectTo(host, _port(text, port), server_name)
    if len(parts) == 2:
        return ConnectTo(parts[0], _port(text, parts[1]))
    if len(parts) == 1 and text:
        return ConnectTo(text)
    raise VisitorError(f"--connect-to {text!r} is not HOST, HOST:PORT or SNI:PORT:HOST")


def _port(text: str, port: str) -> int:
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise VisitorError(f"--connect-to {text!r}: {port!r} is not a port")
    return int(port)


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise VisitorError(f"{text!r} is not an address: {error}") from None


def _bare_ipv6(text: str) -> str | None:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return None


def _ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise VisitorError(f"{host!r} is not a host name: {error}") from None

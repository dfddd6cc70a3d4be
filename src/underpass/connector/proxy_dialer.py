"""A connection through a proxy: HTTP CONNECT (RFC 9110 §9.3.6), or SOCKS5 (RFC 1928, RFC 1929).

A proxy is believed no more than anybody on the way: what it says is bounded in length and in time,
and the TLS to the edge is checked as ever.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar, cast

from underpass.connector.discovery import is_address
from underpass.connector.edge_proxy import ProxyUrl

__all__ = ["MAX_HEAD", "ProxyError", "connect_through"]

MAX_HEAD: Final = 16 * 1024
"""Bytes a proxy may say before the connection is through."""

_SOCKS_REPLIES: Final = {
    1: "general failure",
    2: "its rules do not allow it",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "it knows no CONNECT",
    8: "it does not know this kind of address",
}
_NO_AUTHENTICATION, _USER_AND_PASSWORD, _NONE_OF_THEM = 0, 2, 255
_IPV4, _NAME, _IPV6 = 1, 3, 4

P = TypeVar("P", bound=asyncio.BaseProtocol)


class ProxyError(OSError):
    """A proxy does not let us through; the text says at which hop, and what it said."""

    def __init__(self, proxy: ProxyUrl, what: str) -> None:
        super().__init__(f"the proxy {proxy} {what}{_advice(proxy)}")


def _advice(proxy: ProxyUrl) -> str:
    if not proxy.variable:
        return ""
    return (
        f" (it is that of {proxy.variable}; to dial the edge without it, name the edge in NO_PROXY "
        "or give --edge-proxy none)"
    )


async def connect_through(
    proxy: ProxyUrl,
    host: str,
    port: int,
    make: Callable[[], P],
    context: ssl.SSLContext,
    server_name: str,
    *,
    timeout: float,
    local_address: tuple[str, int] | None = None,
) -> P:
    """A protocol of `make`'s, connected by TLS to `host`:`port` at the other side of `proxy`.

    Each step may take `timeout` seconds. Raises ProxyError, ssl.SSLError (of the edge's TLS),
    OSError and asyncio.TimeoutError.
    """
    talk = await _reach(proxy, timeout, local_address)
    try:
        try:
            await asyncio.wait_for(_ask(talk, proxy, host, port), timeout)
        except asyncio.TimeoutError:
            raise ProxyError(proxy, "does not say whether it connects us") from None
        transport = await _start_tls(talk, context, server_name, timeout)
        return talk.hand_over(transport, make)
    except BaseException:
        talk.transport.abort()
        raise


async def _reach(proxy: ProxyUrl, timeout: float, local_address: tuple[str, int] | None) -> _Talk:
    loop = asyncio.get_running_loop()
    try:
        _, talk = await asyncio.wait_for(
            loop.create_connection(
                lambda: _Talk(proxy),
                proxy.host,
                proxy.port,
                ssl=ssl.create_default_context() if proxy.scheme == "https" else None,
                local_addr=local_address,
            ),
            timeout,
        )
    except asyncio.TimeoutError:
        raise ProxyError(proxy, "did not answer in time") from None
    except OSError as error:
        raise ProxyError(proxy, f"cannot be reached: {error}") from error
    return talk


async def _ask(talk: _Talk, proxy: ProxyUrl, host: str, port: int) -> None:
    if proxy.scheme in ("http", "https"):
        await _http_connect(talk, proxy, host, port)
    else:
        await _socks_connect(talk, proxy, host, port)
    if talk.unread:
        # The edge has nothing to say before we have.
        raise ProxyError(proxy, "sent bytes that nobody asked for")


async def _start_tls(
    talk: _Talk, context: ssl.SSLContext, server_name: str, timeout: float
) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    try:
        transport = await loop.start_tls(
            talk.transport,
            talk,
            context,
            server_hostname=server_name,
            ssl_handshake_timeout=timeout,
        )
    except TypeError as error:
        # asyncio before Python 3.11 cannot do TLS within TLS; uvloop can.
        raise ProxyError(talk.proxy, "needs TLS within TLS, which needs uvloop here") from error
    if transport is None:
        raise ConnectionResetError("the connection was lost during the TLS handshake")
    return transport


class _Talk(asyncio.Protocol):
    """What is said to a proxy and what it says; then, what the edge says before a link is there."""

    def __init__(self, proxy: ProxyUrl) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport
        self.unread = bytearray()
        self._is_closed = False
        self._changed: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        if len(self.unread) > MAX_HEAD:
            self.transport.abort()
        self._wake()

    def connection_lost(self, reason: Exception | None) -> None:
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def exactly(self, size: int) -> bytes:
        """So many bytes. Raises ProxyError when they do not come."""
        while len(self.unread) < size:
            await self._more()
        found = bytes(self.unread[:size])
        del self.unread[:size]
        return found

    async def head(self) -> bytes:
        """An HTTP head. Raises ProxyError when there is none."""
        while (end := self.unread.find(b"\r\n\r\n")) < 0:
            await self._more()
        found = bytes(self.unread[:end])
        del self.unread[: end + 4]
        return found

    async def _more(self) -> None:
        if len(self.unread) > MAX_HEAD:
            raise ProxyError(self.proxy, f"says more than {MAX_HEAD} bytes before it connects us")
        if self._is_closed:
            raise ProxyError(self.proxy, "closed the connection instead of connecting us")
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed

    def hand_over(self, transport: asyncio.Transport, make: Callable[[], P]) -> P:
        """Have a protocol of `make`'s go on, with what has come already."""
        if self._is_closed:
            raise ConnectionResetError("the connection was lost after the TLS handshake")
        protocol = make()
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        if self.unread:
            protocol.data_received(bytes(self.unread))  # type: ignore[attr-defined]
        return protocol


async def _http_connect(talk: _Talk, proxy: ProxyUrl, host: str, port: int) -> None:
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user or proxy.password:
        token = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    talk.transport.write("\r\n".join([*lines, "", ""]).encode())
    line, _, _ = (await talk.head()).partition(b"\r\n")
    version, _, rest = line.partition(b" ")
    status, _, _ = rest.partition(b" ")
    if not version.startswith(b"HTTP/1.") or len(status) != 3 or not status.isdigit():
        raise ProxyError(proxy, "does not speak HTTP")
    if status.startswith(b"2"):
        return
    said = rest[:100].decode("ascii", "replace")
    if status in (b"401", b"407"):
        what = "wants a user and a password" if not proxy.user else "does not take the password"
        raise ProxyError(proxy, f"{what}: {said}")
    hint = "; many allow no port but 443" if status == b"403" and port != 443 else ""
    raise ProxyError(proxy, f"does not connect us to {target}: {said}{hint}")


async def _socks_connect(talk: _Talk, proxy: ProxyUrl, host: str, port: int) -> None:
    has_credentials = bool(proxy.user or proxy.password)
    methods = bytes([_NO_AUTHENTICATION, _USER_AND_PASSWORD][: 2 if has_credentials else 1])
    talk.transport.write(b"\x05" + bytes([len(methods)]) + methods)
    version, method = await talk.exactly(2)
    if version != 5:
        raise ProxyError(proxy, "does not speak SOCKS5")
    if method == _USER_AND_PASSWORD and has_credentials:
        user, password = proxy.user.encode(), proxy.password.encode()
        talk.transport.write(
            b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
        )
        _, status = await talk.exactly(2)
        if status:
            raise ProxyError(proxy, "does not take the password")
    elif method == _NONE_OF_THEM:
        what = "takes none of our methods" if has_credentials else "wants a user and a password"
        raise ProxyError(proxy, what)
    elif method != _NO_AUTHENTICATION:
        raise ProxyError(proxy, f"chose the method {method}, which was not offered")
    address = await _socks_address(proxy, host)
    talk.transport.write(b"\x05\x01\x00" + address + port.to_bytes(2, "big"))
    version, reply, _, kind = await talk.exactly(4)
    if version != 5:
        raise ProxyError(proxy, "does not speak SOCKS5")
    if reply:
        said = _SOCKS_REPLIES.get(reply, f"reply {reply}")
        raise ProxyError(proxy, f"does not connect us to {host}:{port}: {said}")
    if kind == _NAME:
        (size,) = await talk.exactly(1)
    else:
        size = {_IPV4: 4, _IPV6: 16}.get(kind, 0)
    await talk.exactly(size + 2)


async def _socks_address(proxy: ProxyUrl, host: str) -> bytes:
    """The address as SOCKS has it: `socks5` looks a name up here, `socks5h` leaves that to the
    proxy."""
    address = host
    if not is_address(host):
        if proxy.scheme == "socks5h":
            name = host.encode("idna") if not host.isascii() else host.encode()
            if len(name) > 255:
                raise ProxyError(proxy, "cannot be told a name of more than 255 bytes")
            return bytes([_NAME, len(name)]) + name
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
    packed = ipaddress.ip_address(address.partition("%")[0]).packed
    return bytes([_IPV4 if len(packed) == 4 else _IPV6]) + packed

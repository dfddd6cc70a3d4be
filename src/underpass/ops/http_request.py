"""One HTTP request and its answer, for commands that ask a service something now and then.

Standard library, blocking, one connection a request. What a peer may take is bounded: time as a
whole, from the first look-up to the last byte of the answer, and the answer's length. Redirects are
answers like others, never followed: a request carries credentials. Proxies in the environment are
used where asked for.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from underpass.ops.trust_store import system_context

__all__ = ["Answer", "RequestError", "request", "require_http_url"]

_CHUNK: Final = 64 * 1024


class RequestError(Exception):
    """There was no answer, or none that can be taken. The text says why, without the address."""


class Answer(Struct, frozen=True):
    """`content_type` is lower-case and has no parameters; `location` is where a redirect leads."""

    status: int
    content_type: str
    location: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str:
        """The first field of that name; "" if there is none."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), "")


def require_http_url(text: str) -> None:
    """Check the address of a service, to which paths are appended. Raises ValueError."""
    url = urlsplit(text)  # ValueError: not an address at all
    _ = url.port  # ValueError: no number
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("it is not an http or https address")
    if url.username is not None or url.password is not None:
        raise ValueError("it has a user name in it")
    if "?" in text or "#" in text:
        raise ValueError("it has a query")
    if not text.isascii() or any(character.isspace() for character in text):
        raise ValueError("it has characters that an address cannot have")


def request(
    method: str,
    address: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    timeout: float,
    max_bytes: int,
    cacert: Path | None = None,
    use_proxy: bool = False,
) -> Answer:
    """Send a request to `address`, an http or https one (see `require_http_url`).

    With `use_proxy` an https one goes through the proxy that the environment names for it.

    `timeout` is for everything together, in seconds, but for the name's look-up. A certificate is
    believed by the system's roots, and by those in the file `cacert`. Raises RequestError.
    """
    url = urlsplit(address)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    proxy = _proxy_for(host) if use_proxy and url.scheme == "https" else None
    connection = _Connection(
        *((host, port) if proxy is None else proxy.address),
        _tls_context(cacert) if url.scheme == "https" else None,
        time.monotonic() + timeout,
    )
    if proxy is not None:
        connection.set_tunnel(host, port, proxy.headers)
    try:
        connection.request(method, target, body, dict(headers))
        response = connection.getresponse()
        return Answer(
            status=response.status,
            content_type=response.getheader("Content-Type", "").partition(";")[0].strip().lower(),
            location=response.getheader("Location", ""),
            body=_read(response, max_bytes),
            headers=tuple(response.getheaders()),
        )
    except TimeoutError:
        raise RequestError(f"timed out: no complete answer in {timeout:g} s") from None
    except http.client.HTTPException as error:
        raise RequestError(f"the answer is not HTTP: {error or type(error).__name__}") from error
    except (OSError, ValueError) as error:
        raise RequestError(str(error) or type(error).__name__) from error
    finally:
        connection.close()


class _Proxy(Struct, frozen=True):
    address: tuple[str, int]
    headers: dict[str, str]


def _proxy_for(host: str) -> _Proxy | None:
    """The HTTP proxy that the environment names for https addresses of `host`."""
    import urllib.request  # here, because most requests ask for no proxy

    text = urllib.request.getproxies().get("https")
    if not text or urllib.request.proxy_bypass(host):
        return None
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme != "http" or not url.hostname:
        raise RequestError(f"the proxy in HTTPS_PROXY is not an http:// one: {url.scheme}://…")
    headers = {}
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(user.encode()).decode('ascii')}"
    return _Proxy((url.hostname, url.port or 80), headers)


def _tls_context(cacert: Path | None) -> ssl.SSLContext:
    context = system_context()
    if cacert is not None:
        try:
            context.load_verify_locations(cacert)
        except OSError as error:
            raise RequestError(f"--cacert {cacert}: {error}") from None
    return context


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    body = bytearray()
    while chunk := response.read1(_CHUNK):
        body += chunk
        if len(body) > max_bytes:
            raise RequestError(f"the answer is longer than {max_bytes} bytes")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(body)


class _Connection(http.client.HTTPConnection):
    """A connection that is at an end when the deadline has come, whatever the peer does."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None, deadline: float
    ) -> None:
        # HTTPConnection takes the default port for the one that the Host header leaves out.
        self.default_port = 443 if context is not None else 80
        super().__init__(host, port)
        self._context = context
        self._deadline = deadline
        self.response_class = self._response  # type: ignore[assignment]  # a function will do

    def connect(self) -> None:
        sock = self._dial()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(_remaining(self._deadline))
            beyond: str | None = self._tunnel_host  # type: ignore[attr-defined]
            if beyond is not None:
                self.sock = sock
                self._tunnel()  # type: ignore[attr-defined]
            if self._context is not None:
                sock.settimeout(_remaining(self._deadline))
                sock = self._context.wrap_socket(sock, server_hostname=beyond or self.host)
            sock.settimeout(_remaining(self._deadline))
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def _dial(self) -> socket.socket:
        failure: OSError = OSError(f"{self.host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_remaining(self._deadline))
                sock.connect(address)
            except TimeoutError:
                sock.close()
                raise
            except OSError as error:
                sock.close()
                failure = error
                continue
            return sock
        raise failure

    def _response(self, sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Deadlined(sock, self._deadline), *args, **kwargs)  # type: ignore[arg-type]


class _Deadlined:
    """What HTTPResponse takes for a socket: all it asks for is a file to read from."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._deadline), _CHUNK)


class _Reader(io.RawIOBase):
    """Reads from a socket, each time with what is left until the deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        # Keeps the socket open when the connection lets go of it after the head.
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_remaining(self._deadline))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds

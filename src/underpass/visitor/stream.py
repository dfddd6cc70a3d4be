"""A stream of bytes to an application without HTTP, in WebSocket messages (docs: access §2).

The WebSocket is the `websockets` library's: here is one end user's connection, not a server's ten
thousand, and what matters is proxies, TLS and its corner cases.

Wilfully different from the reference client: when the local side has sent all, the WebSocket is
closed in good order, and what the application had sent until then still arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from underpass.ops.trust_store import system_context
from underpass.version import VERSION
from underpass.visitor.application import Application, ConnectTo
from underpass.visitor.errors import ConnectError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.http11 import Response

__all__ = ["LOGIN_PATH", "LocalEnd", "LoginRequiredError", "StreamOptions", "open_stream", "pipe"]

log = logging.getLogger("underpass.visitor")

MAX_MESSAGE: Final = 16384
"""Octets of a message sent: connectors cut off what is beyond."""

MAX_INCOMING: Final = 16 * 1024 * 1024
"""Octets of a message taken in; connectors send 16 KiB."""

MAX_QUEUE: Final = 16
"""Messages that wait for the local side before the application has to."""

OPEN_SECONDS: Final = 30.0
"""For the connection, TLS and the WebSocket handshake together."""

CLOSE_SECONDS: Final = 5.0
"""For what is still under way when the local side has sent all."""

PING_SECONDS: Final = 30.0
"""Between pings of ours: proxies on the way forget what is quiet for a minute."""

LOGIN_PATH: Final = "/cdn-cgi/access/login"
"""Where Access sends those who have to log in."""

_OURS: Final = frozenset(
    {
        "host",
        "upgrade",
        "connection",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
        "user-agent",
    }
)
"""Fields that the handshake makes itself."""


class StreamOptions(Struct, frozen=True):
    """What a stream is asked for with.

    `headers` are (name, value) pairs beside the handshake's own. `cacert` is trusted beside the
    system's roots.
    """

    application: Application
    headers: tuple[tuple[str, str], ...] = ()
    connect_to: ConnectTo | None = None
    cacert: Path | None = None


class LoginRequiredError(ConnectError):
    """Access wants to know who comes."""


class LocalEnd(Protocol):
    """The local side of a stream."""

    async def read(self) -> bytes:
        """At most MAX_MESSAGE octets; b"" at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns when more may be given. OSError when nobody takes it any more."""
        ...


async def open_stream(options: StreamOptions, token: str = "") -> ClientConnection:
    """Connect to an application. `token` is an Access token for it.

    Raises LoginRequiredError if Access asks for one, or for another one; else ConnectError.
    """
    application = options.application
    headers = [pair for pair in options.headers if pair[0].lower() not in _OURS]
    if token:
        headers.append(("Cf-Access-Token", token))
    where: dict[str, Any] = (
        {} if options.connect_to is None else _elsewhere(options.connect_to, application)
    )
    try:
        return await connect(
            application.websocket_url,
            additional_headers=headers,
            user_agent_header=f"cloudflared/{VERSION}",
            compression=None,
            ssl=_tls_context(options),
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=None,
            max_size=MAX_INCOMING,
            max_queue=MAX_QUEUE,
            **where,
        )
    except InvalidStatus as error:
        response = error.response
        location = urlsplit(response.headers.get("Location", ""))
        if response.status_code == 302 and location.path.startswith(LOGIN_PATH):
            raise LoginRequiredError(f"{application.authority} is protected by Access") from None
        raise ConnectError(_refusal(application, response)) from None
    except ssl.SSLCertVerificationError as error:
        raise ConnectError(
            f"the certificate of {application.authority} is not to be trusted: "
            f"{error.verify_message} (for an edge of your own give its ca.pem with --cacert)"
        ) from None
    except TimeoutError:
        raise ConnectError(
            f"{application.authority} did not answer within {OPEN_SECONDS:g} s"
        ) from None
    except (OSError, InvalidHandshake, InvalidURI, EOFError) as error:
        raise ConnectError(
            f"cannot connect to {application.authority}: {error or type(error).__name__}"
        ) from error


async def pipe(stream: ClientConnection, local: LocalEnd) -> None:
    """Carry bytes both ways until one side ends. Both are still to be closed.

    Raises ConnectError when the stream breaks off, OSError when the local side does.
    """
    sending = asyncio.create_task(_send(stream, local), name="visitor-send")
    receiving = asyncio.create_task(_receive(stream, local), name="visitor-receive")
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if not receiving.done():
            # The local side has sent all, or is gone.
            if sending.exception() is None:
                closing = asyncio.create_task(stream.close(), name="visitor-close")
                await asyncio.wait({receiving}, timeout=CLOSE_SECONDS)
                await closing
            else:
                receiving.cancel()
        sending.cancel()
        results = await asyncio.gather(sending, receiving, return_exceptions=True)
    finally:
        for task in (sending, receiving):
            task.cancel()
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


async def _send(stream: ClientConnection, local: LocalEnd) -> None:
    while data := await local.read():
        with contextlib.suppress(ConnectionClosed):  # `_receive` says how
            await stream.send(data)


async def _receive(stream: ClientConnection, local: LocalEnd) -> None:
    try:
        async for message in stream:
            await local.write(message.encode() if isinstance(message, str) else message)
    except ConnectionClosed as error:
        if error.rcvd is None and error.sent is None:
            # Reference connectors end a stream without a word; there is no telling that from a
            # connection that broke, so it counts as the end it usually is.
            log.debug("the stream ended without a closing handshake")
            return
        raise ConnectError(f"the stream broke off: {error}") from None


def _elsewhere(connect_to: ConnectTo, application: Application) -> dict[str, Any]:
    return {
        "host": connect_to.host,
        "port": connect_to.port or application.port or 443,
        "server_hostname": connect_to.server_name or application.host,
        "proxy": None,
    }


def _tls_context(options: StreamOptions) -> ssl.SSLContext:
    context = system_context()
    if options.cacert is not None:
        try:
            context.load_verify_locations(options.cacert)
        except OSError as error:
            raise ConnectError(f"--cacert {options.cacert}: {error}") from None
    if options.connect_to is not None and options.connect_to.server_name is not None:
        log.warning("--connect-to with a server name: certificates are not verified")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _refusal(application: Application, response: Response) -> str:
    status = response.status_code
    cause = response.headers.get("underpass-cause", "")
    ray = response.headers.get("cf-ray", "")
    from underpass.wire.causes import CAUSES, in_words  # most streams open

    why = {
        403: "the application or its edge refuses",
        404: "nothing is served under this name",
        502: "the connector cannot reach the application",
        503: "the tunnel has no connector now",
        530: "the tunnel has no connector now",
    }.get(status, "this is no stream")
    if cause == "unknown_host":
        why = "no tunnel has this name"
    elif status == 502 and cause in CAUSES:
        why = in_words(cause)
    details = ", ".join(part for part in (f"status {status}", cause, ray and f"ray {ray}") if part)
    return f"{application.authority} opens no stream: {why} ({details})"


def parse_headers(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(name, value) pairs of `Name: value` texts; those without a colon are dropped."""
    pairs = []
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name.strip():
            pairs.append((name.strip(), value.strip()))
    return tuple(pairs)

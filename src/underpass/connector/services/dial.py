"""Connections to origins: made here, whatever they carry, and whatever goes wrong is said here.

A failure has a cause (a word for metrics and pages) and a sentence for the operator:

`dns`           the name has no address, or none was found in time
`denied`        it has addresses, and the rules allow none of them
`dial`          no address took the connection
`dial_timeout`  nobody answered in time
`tls`           TLS could not be agreed on, or the certificate is not to be trusted
`tls_timeout`   TLS was not agreed on in time
`shutdown`      whoever asked was told to stop: see `SHUTDOWN`
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from typing import Any, Final, TypeAlias, TypeVar

from msgspec import Struct

from underpass.connector.origin_request import OriginRequest
from underpass.ops.keep_alive import keep_alive

__all__ = ["SHUTDOWN", "Dialer", "OriginDialError", "Permit", "Tls", "host_and_port"]

SHUTDOWN: Final = "shutdown"
"""The cause that a service gives when it is closed while it dials (asyncio.CancelledError)."""

ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is tried beside those that have not answered (RFC 8305 §5)."""

SHORTEST_SHARE: Final = 2.0
"""Seconds an address gets at least where addresses are tried one after the other, as in Go."""

MAX_ADDRESSES: Final = 16
"""Addresses of one name that are tried; the rest of the answer is left alone."""

MAX_NAMED: Final = 3
"""Failed addresses that an error names."""

QUEUE_DELAY: Final = 0.01
"""Seconds between attempts on a unix socket whose queue of connections is full."""

NO_LIMIT: Final = 1e6
"""Seconds given to asyncio's own timeout of a handshake, which cannot be switched off."""

P = TypeVar("P", bound=asyncio.BaseProtocol)
T = TypeVar("T")

Permit: TypeAlias = Callable[[str, int], bool]
"""Whether an IP address (no name) may be connected to on a port."""

# Family and address, as sockets take them.
_Address: TypeAlias = tuple[int, tuple[Any, ...]]


class OriginDialError(Exception):
    """No connection: `cause` is a word, the text a sentence; `errno` is the system's, or 0."""

    def __init__(self, cause: str, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.cause = cause
        self.errno = number


class Tls(Struct, frozen=True):
    """TLS toward an origin; `server_name` is asked for and verified."""

    context: ssl.SSLContext
    server_name: str | None


class Dialer:
    """Connects as `settings` say: timeouts, keep-alive, and how several addresses are tried.

    Every method raises OriginDialError; `name` is what its text calls the origin. With `lookups`
    no more names than that are looked up at once, for names that strangers choose.
    """

    def __init__(self, settings: OriginRequest, *, lookups: int = 0) -> None:
        self._lookups = asyncio.Semaphore(lookups) if lookups else None
        self._connect_timeout = settings.connect_timeout or None
        self._tls_timeout = settings.tls_timeout or None
        self._keep_alive = settings.tcp_keep_alive
        self._delay = None if settings.no_happy_eyeballs else ATTEMPT_DELAY
        self._loop = asyncio.get_running_loop()

    async def open_tcp(
        self,
        name: object,
        host: str,
        port: int,
        factory: Callable[[], P],
        tls: Tls | None = None,
        permit: Permit | None = None,
    ) -> P:
        """A protocol from `factory` on a connection to `host`, a name or an address."""
        sock = await self.connect_tcp(name, host, port, permit)
        return await self.open_socket(name, sock, factory, tls)

    async def open_unix(
        self, name: object, path: str, factory: Callable[[], P], tls: Tls | None = None
    ) -> P:
        """The same on a unix socket."""
        sock = await self._in_time(name, self._connected_unix(name, path))
        return await self.open_socket(name, sock, factory, tls)

    async def connect_tcp(
        self, name: object, host: str, port: int, permit: Permit | None = None
    ) -> socket.socket:
        """A connected socket, for who has something to say before `open_socket`."""
        addresses = _literal(host, port)
        if addresses is None:
            return await self._in_time(name, self._connected_name(name, host, port, permit))
        addresses = _permitted(name, addresses, permit)
        return await self._in_time(name, self._connected(name, addresses))

    async def open_socket(
        self, name: object, sock: socket.socket, factory: Callable[[], P], tls: Tls | None = None
    ) -> P:
        """A protocol from `factory` on a connected socket, after the TLS handshake if there is one.
        The socket is the protocol's from here on, and closed if this fails."""
        create: Callable[..., Awaitable[tuple[asyncio.Transport, P]]]
        create = self._loop.create_connection
        if sys.platform != "win32" and sock.family == socket.AF_UNIX:
            create = self._loop.create_unix_connection
        try:
            if tls is None:
                transport, protocol = await create(factory, sock=sock)
            else:
                transport, protocol = await self.handshake(
                    name,
                    create(
                        factory,
                        sock=sock,
                        ssl=tls.context,
                        server_hostname=tls.server_name or "",
                        ssl_handshake_timeout=NO_LIMIT,
                    ),
                )
        except BaseException:
            sock.close()
            raise
        if transport.is_closing():
            _let_go(transport, sock)
        return protocol

    async def handshake(self, name: object, shaking: Awaitable[T]) -> T:
        """The result of a TLS handshake, in the time there is for one."""
        try:
            return await asyncio.wait_for(shaking, self._tls_timeout)
        except asyncio.TimeoutError as error:
            number = getattr(error, "errno", None)
            if number is not None:  # not ours: the system gave the connection up
                text = f"TLS with {name}: the connection broke off ({os.strerror(number)})"
                raise OriginDialError("tls", text, number) from error
            text = f"TLS with {name} was not agreed on within {self._tls_timeout:g} s"
            raise OriginDialError("tls_timeout", text) from None
        except ssl.SSLError as error:
            raise OriginDialError("tls", f"TLS with {name}: {_tls_trouble(error)}") from error
        except OSError as error:
            text = f"TLS with {name}: the connection broke off ({_words(error)})"
            raise OriginDialError("tls", text, error.errno or 0) from error
        except ValueError as error:
            raise OriginDialError("tls", f"TLS with {name}: {error}") from error  # a bad name

    async def _in_time(self, name: object, connecting: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(connecting, self._connect_timeout)
        except asyncio.TimeoutError:
            text = f"{name} did not answer within {self._connect_timeout:g} s"
            raise OriginDialError("dial_timeout", text) from None

    async def _connected_name(
        self, name: object, host: str, port: int, permit: Permit | None
    ) -> socket.socket:
        try:
            addresses = await self._resolved(host, port)
        except (OSError, ValueError) as error:  # UnicodeError: what is no name at all
            text = f"the name of {name} cannot be resolved: {_words(error)}"
            raise OriginDialError("dns", text) from error
        return await self._connected(name, _permitted(name, addresses, permit))

    async def _resolved(self, host: str, port: int) -> Sequence[_Address]:
        """The addresses of a name, in the order they are to be tried."""
        async with self._lookups or contextlib.nullcontext():
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        if not addresses:
            raise OSError("it has no addresses")
        return _alternating(addresses)[:MAX_ADDRESSES]

    async def _connected(self, name: object, addresses: Sequence[_Address]) -> socket.socket:
        errors: list[tuple[_Address, OSError]] = []
        if self._delay is None or len(addresses) == 1:
            sock = await self._one_after_the_other(addresses, errors)
        else:
            sock = await self._race(addresses, self._delay, errors)
        if sock is not None:
            return sock
        number = next((error.errno for _, error in errors if error.errno), 0)
        raise OriginDialError("dial", f"cannot connect to {name}: {_all_words(errors)}", number)

    async def _one_after_the_other(
        self, addresses: Sequence[_Address], errors: list[tuple[_Address, OSError]]
    ) -> socket.socket | None:
        timeout = self._connect_timeout
        end = None if timeout is None else self._loop.time() + timeout
        for number, address in enumerate(addresses):
            share = None
            left = len(addresses) - number
            if end is not None and left > 1:
                # A dead address must not use up the time of those behind it.
                share = max((end - self._loop.time()) / left, SHORTEST_SHARE)
            try:
                return await asyncio.wait_for(self._attempt(address), share)
            except asyncio.TimeoutError:
                errors.append((address, TimeoutError(errno.ETIMEDOUT, "no answer")))
            except OSError as error:
                errors.append((address, error))
        return None

    async def _race(
        self,
        addresses: Sequence[_Address],
        delay: float,
        errors: list[tuple[_Address, OSError]],
    ) -> socket.socket | None:
        """RFC 8305 §5: one attempt more after each delay or failure; the first to get through."""
        waiting = deque(addresses)
        running: dict[asyncio.Task[socket.socket], _Address] = {}
        winner: socket.socket | None = None
        try:
            while winner is None and (waiting or running):
                if waiting:
                    address = waiting.popleft()
                    running[self._loop.create_task(self._attempt(address))] = address
                done, _ = await asyncio.wait(
                    running,
                    timeout=delay if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for attempt in done:
                    error = attempt.exception()
                    if error is None:
                        if winner is None:
                            winner = attempt.result()
                            del running[attempt]
                        continue
                    address = running.pop(attempt)
                    if not isinstance(error, OSError):
                        raise error
                    errors.append((address, error))
        finally:
            for attempt in running:
                attempt.add_done_callback(_give_up)
                attempt.cancel()
        return winner

    async def _attempt(self, address: _Address) -> socket.socket:
        family, where = address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._keep_alive >= 0:
                keep_alive(sock, self._keep_alive)
            await self._loop.sock_connect(sock, where)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _connected_unix(self, name: object, path: str) -> socket.socket:
        try:
            sock = _unix_socket()
        except OSError as error:
            raise OriginDialError("dial", f"{name}: {error}") from error
        try:
            while not _connect_at_once(sock, path):  # noqa: ASYNC110 - nothing tells of room
                await asyncio.sleep(QUEUE_DELAY)
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError | ValueError):  # ValueError: a zero byte in the path
                raise
            number = error.errno or 0 if isinstance(error, OSError) else 0
            text = f"cannot connect to {name}: {_words(error)}"
            raise OriginDialError("dial", text, number) from error
        return sock


def _unix_socket() -> socket.socket:
    if sys.platform == "win32":
        raise OSError("unix sockets are not supported on Windows")
    else:  # noqa: RET506 - mypy leaves out what is after a raise
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        return sock


def _connect_at_once(sock: socket.socket, path: str) -> bool:
    """Whether it is connected. On a unix socket that is never under way: there is room in the
    listener's queue or, as here tells False, there is not (Linux: EAGAIN)."""
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


def host_and_port(host: str, port: int) -> str:
    """`host:port` as it is written, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _literal(host: str, port: int) -> Sequence[_Address] | None:
    """The one address that `host` is; None for a name, or with a zone, which the system reads."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return ((socket.AF_INET, (str(address), port)),)
    if address.scope_id:
        return None
    return ((socket.AF_INET6, (str(address), port, 0, 0)),)


def _permitted(
    name: object, addresses: Sequence[_Address], permit: Permit | None
) -> Sequence[_Address]:
    if permit is None:
        return addresses
    allowed = [(family, where) for family, where in addresses if permit(where[0], where[1])]
    if not allowed:
        raise OriginDialError("denied", f"originRequest.ipRules do not allow {name}")
    return allowed


def _alternating(addresses: Sequence[_Address]) -> Sequence[_Address]:
    """RFC 8305 §4: the system's order, the two families taking turns."""
    first = addresses[0][0]
    one = [address for address in addresses if address[0] == first]
    other = [address for address in addresses if address[0] != first]
    pairs = zip_longest(one, other)
    return [address for pair in pairs for address in pair if address is not None]


def _give_up(attempt: asyncio.Task[socket.socket]) -> None:
    """An attempt that was overtaken."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _let_go(transport: asyncio.Transport, sock: socket.socket) -> None:
    """uvloop forgets to, where the protocol aborts as it is connected: the descriptor is closed,
    `sock` still names it, and would close it once more when it may be somebody else's."""
    held = transport.get_extra_info("socket")
    if held is None or held.fileno() < 0:
        sock.detach()


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        # The text alone may be asyncio's, which names the address once more.
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _all_words(errors: Sequence[tuple[_Address, OSError]]) -> str:
    words = list(dict.fromkeys(_words(error) for _, error in errors))
    if len(words) == 1:
        return words[0]
    told = [f"{host_and_port(*where[:2])} {_words(error)}" for (_, where), error in errors]
    more = ["…"] if len(told) > MAX_NAMED else []
    return "; ".join(told[:MAX_NAMED] + more)


def _tls_trouble(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not to be trusted: {error.verify_message} (give its CA with "
            "originRequest.caPool, its name with originServerName, or set noTLSVerify)"
        )
    return str(error.reason or error)

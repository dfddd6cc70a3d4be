"""Sockets that listen, bound before anything is served so that a taken port is told at once, or
taken over from a service manager, which keeps them over a restart: sd_listen_fds(3)."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from underpass.edge.errors import ListenError
from underpass.edge.options import Address

BACKLOG = 4096
"""Connections that may wait to be accepted, as far as the system allows (Linux: somaxconn, 4096 by
itself). What comes beyond tries again after a second."""


def listen(address: Address, called: str = "") -> socket.socket:
    """A non-blocking TCP socket listening on `address`; `called` goes before it in errors.

    An empty host listens on every interface, IPv6 and IPv4 by one socket where the system can.
    A host name is resolved once, here, and its first address is taken.

    Raises:
        ListenError: the name does not resolve, the port is taken or not permitted.
    """
    try:
        if not address.host and socket.has_dualstack_ipv6():
            listener = socket.create_server(
                ("", address.port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
        else:
            found = socket.getaddrinfo(
                address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, sockaddr = found[0]
            listener = socket.create_server(
                (str(sockaddr[0]), int(sockaddr[1])), family=family, backlog=BACKLOG
            )
    except OSError as error:
        raise ListenError(
            f"cannot listen on {called}{address}: {_reason(error, address)}"
        ) from error
    listener.setblocking(False)
    return listener


INHERITED_NAMES: Final = ("https", "http", "tunnel", "api", "metrics")
"""What a service manager may call the sockets that it hands over; there may be several tunnels.
Those of public ports are called `tcp-PORT`, as `TcpRoute.name` has it."""

TCP_PREFIX: Final = "tcp-"

_TCP_NAME: Final = re.compile(r"tcp-[1-9][0-9]{0,4}", re.ASCII)

MAX_INHERITED: Final = 64
"""Sockets that may be handed over."""

_FIRST_INHERITED: Final = 3

Inherited: TypeAlias = Mapping[str, list[socket.socket]]
"""Listening sockets by name."""


def take_inherited(
    environment: MutableMapping[str, str] = os.environ, first: int = _FIRST_INHERITED
) -> Inherited:
    """The sockets that a service manager hands to this process; none if it hands none.

    The variables that tell of them are taken out of `environment`: they are not for children.

    Raises:
        ListenError: one is none of these names, there are two of one name, or it is no TCP
            socket that listens.
    """
    process, count, names = (
        environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES")
    )
    if process != str(os.getpid()) or not count:
        return {}
    if not (count.isascii() and count.isdecimal() and 0 < int(count[:9]) <= MAX_INHERITED):
        raise ListenError(f"LISTEN_FDS={count}: 1 to {MAX_INHERITED} sockets can be handed over")
    told = names.split(":")
    if len(told) != int(count):
        raise ListenError(
            f"{count} sockets are handed over and LISTEN_FDNAMES names {len(told)}: give each "
            f"socket unit a FileDescriptorName= of {', '.join(INHERITED_NAMES)}"
        )
    for name in told:
        if name not in INHERITED_NAMES and not _TCP_NAME.fullmatch(name):
            raise ListenError(
                f"a socket named {name!r} is handed over: its unit's FileDescriptorName= has to "
                f"be one of {', '.join(INHERITED_NAMES)}, or tcp-PORT"
            )
        if name != "tunnel" and told.count(name) > 1:
            raise ListenError(f"two sockets named {name!r} are handed over: there can be one")
    inherited: dict[str, list[socket.socket]] = {}
    for descriptor, name in enumerate(told, first):
        inherited.setdefault(name, []).append(adopt(descriptor, name))
    return inherited


def adopt(descriptor: int, name: str) -> socket.socket:
    """A socket that somebody has given to this process.

    Raises:
        ListenError: it is no TCP socket that listens.
    """
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"socket {name!r} is not there: {error.strerror}") from error
    if (
        listener.family not in (socket.AF_INET, socket.AF_INET6)
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.close()
        raise ListenError(f"socket {name!r} is no TCP socket that listens: use ListenStream=")
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True)
class KeptSocket:
    """A socket that listens: what it is for, and the address that was asked for as the options have
    it; empty for one that a service manager has given, which goes before the options."""

    name: str
    asked: str
    listener: socket.socket


class Listeners:
    """The sockets that an edge listens on, by name, whoever accepts on them.

    Those that are there already, of a service manager or of the process before this one, are taken;
    others are opened. All of them can be handed on, so whatever listens for an edge is opened here.
    """

    def __init__(self, inherited: Inherited, kept: Iterable[KeptSocket] = ()) -> None:
        self._spare = [
            KeptSocket(name, "", each) for name, sockets in inherited.items() for each in sockets
        ]
        self._spare += kept
        self.open: list[KeptSocket] = []
        """Those in use, in the order of their opening."""

    def listen(self, name: str, addresses: Iterable[Address]) -> list[socket.socket]:
        """The sockets of this name: those given, else one for each address. Raises ListenError."""
        given = [each for each in self._spare if each.name == name and not each.asked]
        if given:
            return [self._take(each) for each in given]
        return [self._listen(name, address) for address in addresses]

    def _listen(self, name: str, address: Address) -> socket.socket:
        for each in self._spare:
            if each.name == name and each.asked == str(address):
                return self._take(each)
        called = "the metrics address " if name == "metrics" else ""
        self.open.append(KeptSocket(name, str(address), listen(address, called)))
        return self.open[-1].listener

    def _take(self, kept: KeptSocket) -> socket.socket:
        self._spare.remove(kept)
        self.open.append(kept)
        return kept.listener

    def named(self, name: str) -> list[socket.socket]:
        """Those of this name that are in use."""
        return [each.listener for each in self.open if each.name == name]

    def close_one(self, listener: socket.socket) -> None:
        """Listen there no more."""
        self.open = [each for each in self.open if each.listener is not listener]
        listener.close()

    @property
    def every(self) -> list[KeptSocket]:
        """Those in use, and those that may be."""
        return [*self.open, *self._spare]

    def close_spare(self, *, but: str = "\0") -> None:
        """Close what was given and nobody wants, but for names that begin so: they may yet be."""
        for each in self._spare:
            if not each.name.startswith(but):
                each.listener.close()
        self._spare = [each for each in self._spare if each.name.startswith(but)]

    def close(self) -> None:
        """Close all; once more is harmless."""
        self.close_spare()
        for each in self.open:
            each.listener.close()


def bound_address(listener: socket.socket) -> Address:
    """Where `listener` listens, with the port the system picked."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


def _reason(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there; stop it or choose another port"
    if error.errno == errno.EACCES:
        return f"port {address.port} needs a privilege (on Linux CAP_NET_BIND_SERVICE)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return error.strerror or str(error)

"""Sockets that listen, bound before anything is served so that a taken port is told at once."""

from __future__ import annotations

import errno
import socket

from underpass.edge.errors import ListenError
from underpass.edge.options import Address

BACKLOG = 4096
"""Connections that may wait to be accepted, as far as the system allows (Linux: somaxconn, 4096 by
itself). What comes beyond tries again after a second."""


def listen(address: Address) -> socket.socket:
    """A non-blocking TCP socket listening on `address`.

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
        raise ListenError(f"cannot listen on {address}: {_reason(error, address)}") from error
    listener.setblocking(False)
    return listener


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

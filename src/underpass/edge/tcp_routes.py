"""Public ports: what an operator says of each. Values only, no effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from underpass.edge.errors import HostnameError, OptionsError
from underpass.edge.hostnames import normalize_hostname
from underpass.edge.options import Address

__all__ = ["DEFAULT_LIMITS", "MAX_ROUTES", "StreamLimits", "TcpRoute", "check_routes"]

MAX_ROUTES: Final = 256
"""Public ports of one edge: each is a socket, and a label in metrics."""

MAX_LIMIT: Final = 1_000_000
"""Connections that a limit may allow."""

MAX_SECONDS: Final = 7 * 86400.0
"""What a timeout may be at most."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one group of streams may take. Each process of the edge counts its own.

    Raises OptionsError when made of values that cannot be.
    """

    connections: int = 1024
    """At once, of all visitors together."""
    per_client: int = 64
    """At once, from one IPv4 address or one IPv6 network of 64 bits."""
    connect_seconds: float = 40.0
    """Until the connector has reached the origin: longer than connectors' own 30 s, whose word for
    what went wrong is the better one."""
    idle_seconds: float = 3600.0
    """Without a byte in either direction; 0: for ever."""

    def __post_init__(self) -> None:
        for name, number in (("connections", self.connections), ("per client", self.per_client)):
            if not 1 <= number <= MAX_LIMIT:
                raise OptionsError(f"{number} {name}: allow between 1 and {MAX_LIMIT}")
        if not 0 < self.connect_seconds <= MAX_SECONDS:
            raise OptionsError(
                f"a connect timeout of {self.connect_seconds:g} s: give more than 0 and at most "
                f"{MAX_SECONDS:g} s"
            )
        if not 0 <= self.idle_seconds <= MAX_SECONDS:
            raise OptionsError(
                f"an idle timeout of {self.idle_seconds:g} s: give at most {MAX_SECONDS:g} s, or "
                "0 for none"
            )


DEFAULT_LIMITS: Final = StreamLimits()


@dataclass(frozen=True, slots=True)
class TcpRoute:
    """A public port, and the hostname whose tunnel and ingress rule serve it.

    Raises OptionsError when made of values that cannot be.
    """

    address: Address
    """Where to listen."""
    hostname: str
    """As it has a route to a tunnel; the connector's rule for it says `ssh://`, `tcp://`, or the
    like. Need not be known to any DNS."""
    limits: StreamLimits = DEFAULT_LIMITS
    proxy_protocol: str = ""
    """v1 or v2: tell the origin the visitor's address by a PROXY header ahead of everything else.
    Not beside the connector's own `proxyProtocol`, which would tell it twice."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "hostname", normalize_hostname(self.hostname))
        except HostnameError as error:
            raise OptionsError(f"public port {self.address}: {error}") from error
        if self.proxy_protocol not in ("", "v1", "v2"):
            raise OptionsError(
                f"public port {self.address}: PROXY protocol {self.proxy_protocol!r} is none of "
                "v1 and v2"
            )

    @property
    def name(self) -> str:
        """What logs, metrics, and a service manager's socket call it: `tcp-PORT`."""
        return f"tcp-{self.address.port}"


def check_routes(routes: tuple[TcpRoute, ...]) -> None:
    """Raises OptionsError if there are too many, or two of one port.

    One port on two addresses of the machine would be two listeners with one name.
    """
    if len(routes) > MAX_ROUTES:
        raise OptionsError(f"{len(routes)} public ports: an edge has at most {MAX_ROUTES}")
    ports: set[int] = set()
    for route in routes:
        port = route.address.port
        if port and port in ports:
            raise OptionsError(f"port {port} is given to two public ports")
        ports.add(port)

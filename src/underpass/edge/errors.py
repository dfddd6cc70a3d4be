"""What can keep an edge from starting or from making a change.

    EdgeError
    ├── OptionsError         an option cannot be understood (also a ValueError)
    ├── HostnameError        a hostname cannot be served (also a ValueError)
    ├── DataDirectoryError   the data directory cannot be used
    │   └── DataDirectoryInUseError   by another edge that runs
    ├── ListenError          an address cannot be listened on
    ├── CertificateError     the certificate authority cannot be used
    ├── StoreError           the store cannot be used (its own tree: underpass.edge.store)
    ├── HostnameTaken        a hostname leads elsewhere
    ├── AccountError         an account or an API token cannot be made or found
    ├── TokenRefused         an API token that is not good
    ├── NetworkError         a network, or a virtual network, cannot be as asked (also a ValueError)
    ├── NetworkInUse         a virtual network is still needed
    ├── Unauthorized         tunnel credentials that are not right
    ├── QuickTunnelLimit     no room for another quick tunnel
    ├── ErrorPagesError      a directory of error pages cannot be used
    ├── AccessLogError       the access log cannot be written
    ├── HandoverError        no other process can take this one's place
    └── BackupError          no backup can be made, or restored

Each says what is wrong, where, and what to do, and carries no secret: the text may be printed.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of every refusal the edge's control plane makes by name."""


class OptionsError(EdgeError, ValueError):
    """An option's value cannot be understood."""


class HostnameError(EdgeError, ValueError):
    """A hostname is not one that an edge can serve."""


class DataDirectoryError(EdgeError):
    """The data directory cannot be made, is open to others, or belongs to a running edge."""


class DataDirectoryInUseError(DataDirectoryError):
    """The data directory belongs to a running edge."""


class ListenError(EdgeError):
    """An address cannot be listened on."""


class CertificateError(EdgeError):
    """The certificate authority's files are missing, unreadable, expired or no pair."""


class HandoverError(EdgeError):
    """Another process cannot take this one's place, or this one another's."""


class StoreError(EdgeError):
    """The store cannot be opened, read or changed."""


class HostnameTaken(EdgeError):  # noqa: N818 - says the state
    """A hostname belongs to another account, or leads to another tunnel."""


class AccountError(EdgeError, ValueError):
    """An account or an API token cannot be made as asked, or is not there."""


class TokenRefused(EdgeError):  # noqa: N818
    """An API token is unknown, revoked, replaced or expired."""


class NetworkError(EdgeError, ValueError):
    """A network or virtual network is not one that can be kept."""


class NetworkInUse(EdgeError):  # noqa: N818
    """A virtual network cannot be deleted: something needs it."""


class Unauthorized(EdgeError):  # noqa: N818 - the word that connectors look for in the text
    """Tunnel credentials are not right.

    The text is the same whatever part was wrong, and starts with `Unauthorized`: cloudflared
    keeps retrying at start-up only when it finds that word (docs: wire protocol §3.6).
    """

    def __init__(self) -> None:
        super().__init__("Unauthorized: no tunnel has these credentials")


class QuickTunnelLimit(EdgeError):  # noqa: N818 - a limit, not a fault
    """The edge holds as many quick tunnels as it may."""


class ErrorPagesError(EdgeError):
    """A directory of error pages, or a page in it, cannot be used."""


class AccessLogError(EdgeError):
    """The access log cannot be written."""


class BackupError(EdgeError):
    """A backup cannot be made, or is none, or would replace something."""

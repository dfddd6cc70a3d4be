"""Homes: the networks of edges that one connector serves through at once.

Without a list there is one home, which flags and environment describe, and nothing ever names it.
With `homes:` in the configuration file each has a name, and addresses, trust, credentials and links
of its own; the origins behind all of them are the same.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from underpass.ops.document import Section
from underpass.wire.credentials import Credentials

__all__ = ["MAX_HOMES", "PROXY_VARIABLES", "Home", "HomeEntry", "read_homes"]

PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
"""What in the environment names a proxy; the first that is not empty counts."""

# More is a mistake.
MAX_HOMES = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z")
_KEYS = frozenset(
    {
        "name",
        "edge",
        "cacert",
        "region",
        "tunnel",
        "token-file",
        "credentials-file",
        "protocol",
        "edge-ip-version",
        "edge-bind-address",
        "edge-proxy",
        "ha-connections",
    }
)


class Home(Struct, frozen=True, kw_only=True):
    """How to reach one network of edges, and as whom.

    `edges` are (host, port) pairs; empty means discovery by DNS. `cacert` None means the pinned
    and the system's roots. `edge_proxy` is the URL of a proxy, "" for what the environment says.
    `name` is "" when there is no other home.
    """

    name: str = ""
    credentials: Credentials | None = None
    edges: tuple[tuple[str, int], ...] = ()
    cacert: Path | None = None
    protocol: str = "http2"
    region: str = ""
    edge_ip_version: str = "auto"
    edge_bind_address: str = ""
    edge_proxy: str = ""
    ha_connections: int = 4

    def may_have_proxy(self, environment: Mapping[str, str]) -> bool:
        """Whether a proxy comes into question at all; most often none does."""
        return bool(self.edge_proxy) or any(map(environment.get, PROXY_VARIABLES))

    @property
    def most_links(self) -> int:
        """How many links it can have, as far as that is known without asking DNS."""
        return min(self.ha_connections, len(self.edges) or self.ha_connections)


class HomeEntry(Struct, frozen=True):
    """One entry of `homes:`, as written. None is what was not given.

    `error` makes an error that names the place in the file.
    """

    name: str
    edge: tuple[str, ...]
    error: Callable[[str, str], Exception]
    cacert: str | None = None
    region: str | None = None
    tunnel: uuid.UUID | None = None
    token_file: str | None = None
    credentials_file: str | None = None
    protocol: str | None = None
    edge_ip_version: str | None = None
    edge_bind_address: str | None = None
    edge_proxy: str | None = None
    ha_connections: int | None = None

    @property
    def written(self) -> tuple[object, ...]:
        """What the entry says, for comparison with another one."""
        return tuple(getattr(self, name) for name in self.__struct_fields__ if name != "error")


def read_homes(root: Section) -> tuple[HomeEntry, ...]:
    """Read the list `homes` of a configuration file. Raises ConfigError."""
    sections = tuple(root.sections("homes"))
    if len(sections) > MAX_HOMES:
        raise root.error("homes", f"more than {MAX_HOMES} homes")
    entries = tuple(_entry(section) for section in sections)
    _refuse_same_names(sections, entries)
    return entries


def _entry(section: Section) -> HomeEntry:
    section.refuse_unknown(_KEYS)
    name = section.string("name") or ""
    if not _NAME.match(name):
        raise section.error(
            "name", "a home needs a name of letters, digits, dots and hyphens, 32 at most"
        )
    if section.string("token-file") and section.string("credentials-file"):
        raise section.error("token-file", "cannot be used beside credentials-file")
    return HomeEntry(
        name,
        section.strings("edge") or (),
        section.error,
        cacert=section.string("cacert"),
        region=section.string("region"),
        tunnel=_tunnel(section),
        token_file=section.string("token-file"),
        credentials_file=section.string("credentials-file"),
        protocol=section.string("protocol"),
        edge_ip_version=section.string("edge-ip-version"),
        edge_bind_address=section.string("edge-bind-address"),
        edge_proxy=section.string("edge-proxy"),
        ha_connections=section.integer("ha-connections"),
    )


def _tunnel(section: Section) -> uuid.UUID | None:
    text = section.string("tunnel")
    if text is None:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        raise section.error("tunnel", f"{text!r} is no UUID") from None


def _refuse_same_names(sections: Sequence[Section], entries: Sequence[HomeEntry]) -> None:
    seen: set[str] = set()
    for section, entry in zip(sections, entries, strict=True):
        if entry.name in seen:
            raise section.error("name", f"two homes are named {entry.name!r}")
        seen.add(entry.name)

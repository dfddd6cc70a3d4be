"""Which proxy, if any, is between here and an edge: `--edge-proxy`, or what the environment says.

The environment's rules are the usual ones (HTTPS_PROXY, ALL_PROXY, NO_PROXY, in capitals or not).
They are for what is outside: an edge on this machine is never dialled through a proxy of theirs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from underpass.connector.discovery import EDGE_DOMAIN
from underpass.connector.homes import PROXY_VARIABLES, Home

__all__ = ["NO_PROXY_AT_ALL", "ProxyUrl", "is_exempt", "parse_proxy", "proxy_for", "proxy_of"]

NO_PROXY_AT_ALL: Final = "none"
"""The value of `--edge-proxy` that has the environment not looked at."""

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
# Entries of NO_PROXY that are looked at.
MAX_EXEMPTIONS: Final = 1024
# RFC 1929 has one byte for each length; HTTP's Basic scheme needs no more.
MAX_CREDENTIAL: Final = 255


class ProxyUrl(Struct, frozen=True):
    """A proxy. `variable` names where it was found, "" for `--edge-proxy`.

    Shown without its user and password.
    """

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = ""
    variable: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    __repr__ = __str__


def parse_proxy(text: str, variable: str = "") -> ProxyUrl:
    """Read a URL; without a scheme it is an HTTP proxy.

    Raises ValueError, whose text does not show what may be a password.
    """
    where = variable or "--edge-proxy"
    if "://" not in text:
        text = f"http://{text}"
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError(f"{where} is no URL, like http://proxy.example.com:3128") from None
    if url.scheme not in _PORTS:
        raise ValueError(f"{where}: a {url.scheme} proxy is not supported; use {', '.join(_PORTS)}")
    if not host or url.path not in ("", "/") or url.query or url.fragment or port == 0:
        raise ValueError(f"{where} is not SCHEME://[USER:PASSWORD@]HOST[:PORT]")
    user, password = unquote(url.username or ""), unquote(url.password or "")
    if len(user.encode()) > MAX_CREDENTIAL or len(password.encode()) > MAX_CREDENTIAL:
        raise ValueError(f"{where}: the user or the password is longer than {MAX_CREDENTIAL} bytes")
    if any(character < " " or character == "\x7f" for character in user + password + host):
        raise ValueError(f"{where} has control characters in it")
    return ProxyUrl(url.scheme, host, port or _PORTS[url.scheme], user, password, variable)


def proxy_for(
    given: str, environment: Mapping[str, str], names: Iterable[str], port: int
) -> ProxyUrl | None:
    """The proxy for an edge that is known by `names` (host names or addresses) at `port`.

    `given` is the value of `--edge-proxy`. Raises ValueError for one that cannot be used.
    """
    if given == NO_PROXY_AT_ALL:
        return None
    if given:
        return parse_proxy(given)
    variable = next((name for name in PROXY_VARIABLES if environment.get(name)), None)
    if variable is None:
        return None
    exempt = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if any(_is_local(name) or is_exempt(name, port, exempt) for name in names):
        return None
    return parse_proxy(environment[variable], variable)


def proxy_of(home: Home, environment: Mapping[str, str], host: str, port: int) -> ProxyUrl | None:
    """The proxy for an edge of `home` at `host`. Raises ValueError for one that cannot be used."""
    # Of an edge that was discovered, operators know the domain rather than the addresses.
    names = [host] if home.edges else [host, EDGE_DOMAIN]
    return proxy_for(home.edge_proxy, environment, names, port)


def is_exempt(host: str, port: int, rules: str) -> bool:
    """Whether NO_PROXY's `rules` let `host` be dialled directly.

    A rule is `*`, a domain (with all below it), an address, a network in CIDR form; each but `*`
    may have a port.
    """
    name = host.lower().rstrip(".")
    for text in rules.split(",", MAX_EXEMPTIONS)[:MAX_EXEMPTIONS]:
        rule = text.strip().lower()
        if rule == "*" or (rule and _matches(name, port, rule)):
            return True
    return False


def _matches(name: str, port: int, rule: str) -> bool:
    pattern, wanted = _split_port(rule)
    if wanted is not None and wanted != port:
        return False
    address = _address(name)
    if address is None:
        domain = pattern.removeprefix("*").strip(".")
        return bool(domain) and (name == domain or name.endswith(f".{domain}"))
    try:
        return address in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False


def _split_port(rule: str) -> tuple[str, int | None]:
    if rule.startswith("["):
        host, _, rest = rule[1:].partition("]")
        port = rest.removeprefix(":")
    elif rule.count(":") == 1:
        host, _, port = rule.partition(":")
    else:
        return rule, None
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    return host, int(port) if is_number else None


def _is_local(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None

"""Hostnames as routes name them and as visitors send them.

Two questions, two functions. `normalize_hostname` judges a name that somebody wants served and
says what is wrong with it (RFC 1123 §2.1 labels, underscores tolerated as browsers do, a leading
`*.` for a wildcard). `hostname_of` reads the authority of a request (RFC 9110 §7.2: host, optional
port) and gives the name to look up, or nothing when no route could ever match it.
"""

from __future__ import annotations

import re

from underpass.edge.errors import HostnameError

MAX_HOSTNAME_LENGTH = 253
"""Characters of a name without its trailing dot (RFC 1035 §2.3.4: 255 octets on the wire)."""

MAX_LABEL_LENGTH = 63
"""Characters of a label (RFC 1035 §2.3.4)."""

MAX_AUTHORITY_LENGTH = MAX_HOSTNAME_LENGTH + len(".") + len(":65535")
"""Bytes of the longest authority that can name a route; longer ones are not looked at."""

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?", re.ASCII)


def normalize_hostname(hostname: str, *, wildcard: bool = False) -> str:
    """Lower-case `hostname` without its trailing dot.

    With `wildcard`, one leading `*.` is allowed.

    Raises:
        HostnameError: the name is empty, too long, not ASCII, or has a malformed label.
    """
    shown = repr(hostname[:80])
    if not hostname.isascii():
        raise HostnameError(
            f"hostname {shown} is not ASCII: write internationalized names as xn-- labels"
        )
    name = hostname.lower().removesuffix(".")
    if not name:
        raise HostnameError("a hostname cannot be empty")
    if len(name) > MAX_HOSTNAME_LENGTH:
        raise HostnameError(
            f"hostname {shown} (cut) has {len(name)} characters; "
            f"at most {MAX_HOSTNAME_LENGTH} are allowed"
        )
    labels = name.split(".")
    if labels[0] == "*" and len(labels) > 1:
        if not wildcard:
            raise HostnameError(f"hostname {shown} is a wildcard; a plain name is needed here")
        labels = labels[1:]
    for label in labels:
        if len(label) > MAX_LABEL_LENGTH:
            raise HostnameError(
                f"hostname {shown} has a label of {len(label)} characters; "
                f"at most {MAX_LABEL_LENGTH} are allowed"
            )
        if not _LABEL.fullmatch(label):
            raise HostnameError(
                f"hostname {shown} has the malformed label {label!r}: use letters, digits, "
                "hyphens inside, and a leading '*.' only for a wildcard"
            )
    return name


def idna_hostname(hostname: str, *, wildcard: bool = False) -> str:
    """The same for a name that people write: other scripts are turned into `xn--` labels
    (IDNA 2008, with UTS 46's mapping, as browsers do).

    Raises:
        HostnameError: as normalize_hostname, or the name has letters that no name may have.
    """
    if not hostname.isascii() and len(hostname) <= MAX_HOSTNAME_LENGTH:
        import idna  # with tables of some size, and hardly ever needed

        star, rest = ("*.", hostname[2:]) if hostname.startswith("*.") else ("", hostname)
        try:
            hostname = star + idna.encode(rest, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise HostnameError(f"hostname {hostname[:80]!r} cannot be served: {error}") from error
    return normalize_hostname(hostname, wildcard=wildcard)


def covers(pattern: str, hostname: str) -> bool:
    """Whether `pattern` (normalized; a name or `*.suffix`) has `hostname` in it: the same name, or
    one below the suffix; of a wildcard, all that it stands for."""
    if pattern == hostname:
        return True
    return pattern.startswith("*.") and hostname.removeprefix("*.").endswith(pattern[1:])


def hostname_of(authority: bytes | str) -> str | None:
    """The hostname in a request's authority, lower-case, without port and trailing dot.

    IPv6 literals keep their brackets. None when the authority is empty, longer than
    MAX_AUTHORITY_LENGTH, not ASCII, or ends in something that is no port. What is left is not
    checked label by label: it is only ever a key to look up.
    """
    if not authority or len(authority) > MAX_AUTHORITY_LENGTH or not authority.isascii():
        return None
    text = authority if isinstance(authority, str) else authority.decode("ascii")
    if text[0] == "[":
        host, bracket, rest = text.partition("]")
        if not bracket:
            return None
        host += "]"
        if rest and not (rest[0] == ":" and _is_port(rest[1:])):
            return None
    else:
        host, colon, port = text.partition(":")
        if colon and not _is_port(port):
            return None
        host = host.removesuffix(".")
    return host.lower() or None


def _is_port(text: str) -> bool:
    """Whether `text` may follow the colon: empty (RFC 3986 §3.2.3), or at most five digits."""
    return not text or (text.isdecimal() and len(text) <= 5)

"""TLS contexts of the edge's listeners, with certificates that renew themselves.

Both listeners hang a callback on the server name of the ClientHello (RFC 6066 §3). It runs once a
handshake, so it is also where a certificate due for renewal is replaced: no timer, no restart.

Key exchange is left to OpenSSL's defaults, which contain P-256: that is what stock cloudflared
falls back to by HelloRetryRequest when the server lacks X25519MLKEM768 (OpenSSL before 3.5).

Ciphers: the client's order decides, as for servers that offer none but good ones. Clients with
AES instructions, Go's among them, then get AES-128-GCM in TLS 1.3, which is cheaper than
OpenSSL's own first choice, AES-256-GCM. Naming the TLS 1.3 suites outright needs
SSLContext.set_ciphersuites, which Python has from 3.15 on.
"""

from __future__ import annotations

import logging
import os
import ssl
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from underpass.edge.certificates import TUNNEL_SERVER_NAMES, CertificateAuthority, Leaf

log = logging.getLogger("underpass.edge.tls")

MAX_LEAF_CONTEXTS = 512
"""Names whose certificate is kept ready; about 25 kB each. Beyond, the longest unused goes."""

_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward-secret AEAD suites: those that RFC 9113 §9.2.2 leaves for HTTP/2 over TLS 1.2."""

PUBLIC_PROTOCOLS = ("h2", "http/1.1")
"""ALPN protocol names of the public listener, best first."""


def _none_is(_: str) -> Leaf | None:
    """There are no certificates but our own."""
    return None


def tunnel_listener_context(authority: CertificateAuthority, scratch: Path) -> ssl.SSLContext:
    """For the listener that connectors dial: TLS 1.2 and 1.3, no ALPN (connectors offer none).

    Args:
        authority: issues the certificate for TUNNEL_SERVER_NAMES.
        scratch: a private directory for files that live a moment (DataDirectory.scratch).
    """
    certificates = _Certificates(authority, scratch, ())
    context = certificates.context_for(TUNNEL_SERVER_NAMES)
    # Connectors do not resume sessions; a ticket would be two records nobody reads.
    context.num_tickets = 0
    context.sni_callback = _serving(lambda _: certificates.context_for(TUNNEL_SERVER_NAMES))
    return context


def public_listener_context(
    authority: CertificateAuthority,
    scratch: Path,
    domain: str,
    is_known: Callable[[str], bool],
    signed_elsewhere: Callable[[str], Leaf | None] = _none_is,
) -> ssl.SSLContext:
    """For the listener that visitors reach: HTTP/2 and HTTP/1.1 by ALPN.

    A name that `is_known` gets a certificate of its own, issued on first use: clients do not
    match `*.localhost`, nor any wildcard right below a top-level domain. Every other visitor, with
    or without a server name, gets the one for `domain` and `*.domain`, so that a stranger's names
    cost no signatures and an unknown host can still be told so.

    Args:
        authority: issues the certificates.
        scratch: a private directory for files that live a moment (DataDirectory.scratch).
        domain: lower-case.
        is_known: whether a lower-case hostname has a route.
        signed_elsewhere: the certificate of another authority for a lower-case hostname; it goes
            before our own.
    """
    certificates = _Certificates(authority, scratch, PUBLIC_PROTOCOLS)
    default_names: tuple[str, ...] = (domain, f"*.{domain}")

    def choose(server_name: str | None) -> ssl.SSLContext:
        if server_name is None:
            return certificates.context_for(default_names)
        name = server_name.lower().removesuffix(".")
        is_served = is_known(name)
        # Looked for under names that may be a file's, and no others.
        leaf = signed_elsewhere(name) if is_served or name == domain else None
        if leaf is not None:
            return certificates.context_of(name, leaf)
        return certificates.context_for((name,) if is_served and name != domain else default_names)

    context = certificates.context_for(default_names)
    context.sni_callback = _serving(choose)
    return context


class _StrangeNames:
    """Python writes a traceback to standard error for each server name that is not ASCII: as many
    as a stranger likes. The handshake has been refused then, which is all there is to do."""

    def __init__(self, others: Callable[[Any], object]) -> None:
        self._others = others

    def __call__(self, unraisable: Any) -> None:
        is_name = isinstance(unraisable.object, bytes)
        if not (is_name and isinstance(unraisable.exc_value, UnicodeDecodeError)):
            self._others(unraisable)

    @classmethod
    def leave_alone(cls) -> None:
        """From now on, in this process. Twice is once."""
        if not isinstance(sys.unraisablehook, cls):
            sys.unraisablehook = cls(sys.unraisablehook)


def _serving(
    choose: Callable[[str | None], ssl.SSLContext],
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], int | None]:
    """A server-name callback that hands each connection the context for the name it asked for."""
    _StrangeNames.leave_alone()

    def serve(
        connection: ssl.SSLObject, server_name: str | None, context: ssl.SSLContext
    ) -> int | None:
        try:
            connection.context = choose(server_name)
        except OSError:
            log.exception("no certificate for %r", server_name)
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None

    return serve


class _Certificates:
    """Contexts by the names on their certificate: issued on demand, renewed, the last used kept.

    Python's ssl loads certificates from files only, so each passes through a file in `scratch`,
    readable by this user alone and gone before `context_for` returns. Nothing is kept on disk: a
    certificate from an authority that is trusted anyway is as good after a restart as before.
    """

    def __init__(
        self, authority: CertificateAuthority, scratch: Path, protocols: Sequence[str]
    ) -> None:
        self._authority = authority
        self._scratch = scratch
        self._protocols = protocols
        self._served: OrderedDict[tuple[str, ...], tuple[ssl.SSLContext, Leaf]] = OrderedDict()

    def context_for(self, names: tuple[str, ...]) -> ssl.SSLContext:
        """The context to serve `names` with.

        Raises:
            OSError: the first certificate for these names could not be loaded (a full disk).
                A failed renewal is logged instead, for as long as the old certificate is valid.
        """
        served = self._served.get(names)
        if served is not None:
            context, leaf = served
            if self._authority.now < leaf.renew_after:
                self._served.move_to_end(names)
                return context
        leaf = self._authority.issue(names)
        try:
            # A new context even for a renewal: the handshake under way has copied the old one's
            # certificate, and takes another only with another context.
            context = self._new_context(leaf)
        except OSError:
            if served is None or served[1].not_after <= self._authority.now:
                raise
            log.exception("cannot renew the certificate for %s; the old one is served", names[0])
            return served[0]
        self._keep(names, context, leaf)
        return context

    def context_of(self, name: str, leaf: Leaf) -> ssl.SSLContext:
        """The context to serve a certificate of another authority with.

        Raises:
            OSError: it could not be loaded.
        """
        key = ("", name)  # no name of ours is empty
        served = self._served.get(key)
        if served is not None and served[1] is leaf:
            self._served.move_to_end(key)
            return served[0]
        context = self._new_context(leaf)
        self._keep(key, context, leaf)
        return context

    def _keep(self, key: tuple[str, ...], context: ssl.SSLContext, leaf: Leaf) -> None:
        self._served[key] = (context, leaf)
        self._served.move_to_end(key)
        if len(self._served) > MAX_LEAF_CONTEXTS:
            self._served.popitem(last=False)

    def _new_context(self, leaf: Leaf) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_ciphers(_TLS12_CIPHERS)
        if self._protocols:
            context.set_alpn_protocols(list(self._protocols))
        _load(context, leaf, self._scratch)
        return context


def _load(context: ssl.SSLContext, leaf: Leaf, scratch: Path) -> None:
    descriptor, path = tempfile.mkstemp(suffix=".pem", dir=scratch)
    try:
        with open(descriptor, "wb") as file:
            file.write(leaf.key_pem + leaf.chain_pem)
        context.load_cert_chain(path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)

"""Whose certificates are believed: of the edge, pinned roots (docs: wire protocol §1.7); of
origins, the operating system's, and what the configuration adds."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

from underpass.connector.origin_request import OriginRequest
from underpass.ops.trust_store import system_context

__all__ = ["TrustError", "certificate_trouble", "edge_context", "origin_context"]

_CLOUDFLARE_ROOTS = Path(__file__).with_name("cloudflare_roots.pem")


class TrustError(Exception):
    """A file of certificates cannot be used."""


@cache
def edge_context(cacert: Path | None) -> ssl.SSLContext:
    """TLS toward the edge: `cacert` alone if given, else Cloudflare's own roots and the system's.

    Made once: the system's roots take tens of milliseconds and a megabyte. Raises TrustError.
    """
    if cacert is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load(context, cacert, "--cacert")
    else:
        context = ssl.create_default_context()
        context.load_verify_locations(_CLOUDFLARE_ROOTS)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def origin_context(settings: OriginRequest, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """TLS toward an origin, with the protocols to offer it. Raises TrustError.

    Believed are the operating system's certificates, Cloudflare's (which its customers have on
    their origins), and `caPool`. Origins without certificates of their own share one context: the
    operating system's take tens of milliseconds and a megabyte.
    """
    if not settings.ca_pool:
        return _system_context(settings.no_tls_verify, alpn)
    context = _new_system_context(settings.no_tls_verify, alpn)
    _load(context, Path(settings.ca_pool), "originRequest.caPool")
    return context


def _new_system_context(no_verify: bool, alpn: tuple[str, ...]) -> ssl.SSLContext:
    context = system_context()
    context.load_verify_locations(_CLOUDFLARE_ROOTS)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if no_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


_system_context = cache(_new_system_context)


def certificate_trouble(error: ssl.SSLCertVerificationError, cacert: Path | None) -> str:
    """What to tell an operator whose edge was not trusted."""
    trusted = f"the certificates in {cacert}" if cacert else "Cloudflare's and the system's roots"
    return (
        f"the edge's certificate is not to be trusted: {error.verify_message} (checked against "
        f"{trusted}; for an edge of your own give its ca.pem with --cacert)"
    )


def _load(context: ssl.SSLContext, path: Path, what: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise TrustError(f"{what} {path}: there is no PEM certificate in it") from None
    except OSError as error:
        raise TrustError(f"{what} {path}: {error.strerror}") from error

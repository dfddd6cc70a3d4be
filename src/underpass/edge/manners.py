"""How the gateway deals with the requests for one hostname, or for all that say nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from underpass.core.relay import Patience
from underpass.edge.error_pages import ErrorPages
from underpass.edge.sites import HostnameTable, Site

__all__ = ["Manners", "site_table"]


@dataclass(frozen=True, slots=True)
class Manners:
    """A `Site` in the form in which it is asked for with every request."""

    patience: Patience
    max_body: int
    """Bytes of content a request may have; -1: any number."""
    redirect: bool
    hsts: bytes | None
    """The value of Strict-Transport-Security."""
    pages: ErrorPages | None
    compresses: bool
    """Responses may be coded."""

    @classmethod
    def of(cls, site: Site) -> Manners:
        """Raises ErrorPagesError."""
        allowed = site.timeouts
        return cls(
            Patience(allowed.first_byte, allowed.idle, allowed.total),
            -1 if site.max_body is None else site.max_body,
            site.redirect,
            None if site.hsts_seconds is None else b"max-age=%d" % site.hsts_seconds,
            None if site.error_pages is None else ErrorPages.load(Path(site.error_pages)),
            site.compress,
        )


def site_table(sites: Iterable[Site], common: Manners) -> HostnameTable[Manners] | None:
    """Where to look a request's host up; None when all are dealt with alike. Raises
    ErrorPagesError."""
    entries = [(site.hostname, Manners.of(site)) for site in sites]
    return HostnameTable(entries, common) if entries else None

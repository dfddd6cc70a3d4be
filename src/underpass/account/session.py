"""An account that a command works on: its certificate, and the API that the certificate is for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from underpass.account.api import Api
from underpass.account.certificate import OriginCertificate, find_certificate, read_certificate
from underpass.account.client import AccountClient

__all__ = ["FED_API_URL", "Account", "open_account"]

FED_API_URL: Final = "https://api.fed.cloudflare.com/client/v4"
"""Where certificates of the FedRAMP region belong, whatever --api-url says."""

_log = logging.getLogger(__name__)


class Account(Struct, frozen=True):
    """`path` is where the certificate was found; new credentials are put beside it."""

    client: AccountClient
    certificate: OriginCertificate
    path: Path


def open_account(
    origincert: str,
    api_url: str,
    directories: Sequence[Path],
    *,
    page_size: int = 0,
    cacert: Path | None = None,
) -> Account:
    """Find and read the certificate; nothing is asked yet. Raises AccountError."""
    path = find_certificate(origincert, directories)
    certificate = read_certificate(path)
    if certificate.is_fed:
        _log.info("Using the FedRAMP API", extra={"apiURL": FED_API_URL})
        api_url = FED_API_URL
    api = Api(api_url, certificate.api_token, cacert=cacert)
    return Account(AccountClient(api, certificate, page_size=page_size), certificate, path)

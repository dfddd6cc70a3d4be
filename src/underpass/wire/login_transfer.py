"""A login's key, as command line and edge know it (docs: API §7): a public key made for one login,
which nobody can guess, and by which the certificate is asked for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final

__all__ = ["LOGIN_PATH", "TRANSFER_PATH", "confirmation_code", "is_login_key"]

LOGIN_PATH: Final = "/login"
"""Of the page, at an edge."""

TRANSFER_PATH: Final = "/login/transfer/"
"""What is before a key where the certificate is handed over."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43}=", re.ASCII)


def is_login_key(text: str) -> bool:
    """Whether `text` is 32 bytes in URL-safe base64, spelt in the one way."""
    if _KEY.fullmatch(text) is None:
        return False
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(text)).decode("ascii") == text
    except binascii.Error:
        return False


def confirmation_code(key: str) -> str:
    """What command line and page both show, so that one sees whose login is confirmed."""
    digest = base64.b32encode(hashlib.sha256(key.encode("ascii")).digest()).decode("ascii")
    return f"{digest[:4]}-{digest[4:8]}"

# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""Content coding of responses (RFC 9110 §8.4.1): gzip, where the operator asks for it."""

LEVEL: int
SYNC_FLUSH: int
GZIP_WINDOW: int
MIN_LENGTH_DIGITS: int
MAX_ACCEPT_LENGTH: int

class Gzip:
    """One response's content on its way through the coder."""

def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether an Accept-Encoding field (RFC 9110 §12.5.3) allows gzip, by name or as one of any."""

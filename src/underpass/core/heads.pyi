# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""What makes a head acceptable: RFC 9110 §5 (names and values), RFC 9113 §8 (HTTP/2 heads)."""

from underpass.core.fields import Fields

def request_fault(fields: Fields) -> str | None:
    """What is wrong with an HTTP/2 request head (RFC 9113 §8.2, §8.3.1), or None (for tests).

    Hides a Host field that only repeats :authority, and repetitions of Content-Length.
    """

def response_fault(fields: Fields) -> str | None:
    """What is wrong with an HTTP/2 response head (RFC 9113 §8.2, §8.3.2), or None (for tests)."""

def trailers_fault(fields: Fields) -> str | None:
    """What is wrong with a trailer section (RFC 9113 §8.1), or None (for tests).

    Hides fields that frame or route a message (RFC 9110 §6.5.1).
    """

"""What can go wrong with an account. Each text says what is wrong and what to do."""

from __future__ import annotations

__all__ = ["AccountError", "ApiError", "CertificateError", "LoginError"]


class AccountError(Exception):
    """The base of the others, and what a command catches."""


class CertificateError(AccountError):
    """There is no account certificate (cert.pem), or it cannot be read or written."""


class ApiError(AccountError):
    """The API refused a call, could not be reached, or answered what cannot be understood.

    `status` is the HTTP status, None without an answer.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class LoginError(AccountError):
    """A login came to nothing."""

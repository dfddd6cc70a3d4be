"""What can go wrong on the visitor's side. Texts say what, where, and what to do."""

from __future__ import annotations

__all__ = ["AccessError", "ConnectError", "VisitorError"]


class VisitorError(Exception):
    """An operation failed."""


class AccessError(VisitorError):
    """The application's Access does not let us in, or cannot be asked."""


class ConnectError(VisitorError):
    """There is no stream to the application."""

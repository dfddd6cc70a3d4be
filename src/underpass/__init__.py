"""Underpass: tunnels for private applications, wire-compatible with cloudflared."""

from underpass.version import VERSION

__version__ = VERSION

__all__ = ["__version__"]

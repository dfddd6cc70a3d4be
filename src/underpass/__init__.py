"""Underpass: tunnels for private applications, wire-compatible with cloudflared."""

from underpass.version import VERSION as __version__

__all__ = ["__version__"]

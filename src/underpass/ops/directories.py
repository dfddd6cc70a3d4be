"""Where configuration, account certificates and credentials are looked for.

Docs: command line §2.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["config_directories"]


def config_directories(
    home: Path | None = None, *, windows: bool = os.name == "nt"
) -> tuple[Path, ...]:
    """The directories, in order. What is made new goes to the first."""
    home = home or Path.home()
    directories = [
        home / ".underpass",
        home / ".cloudflared",
        home / ".cloudflare-warp",
        home / "cloudflare-warp",
    ]
    if not windows:
        directories += [Path("/etc/cloudflared"), Path("/usr/local/etc/cloudflared")]
    return tuple(directories)

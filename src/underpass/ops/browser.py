"""Showing an address in the user's browser."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

__all__ = ["open_browser"]

_log = logging.getLogger(__name__)


def open_browser(
    url: str,
    *,
    platform: str = sys.platform,
    environment: Mapping[str, str] = os.environ,
    start: Callable[[list[str]], object] | None = None,
) -> bool:
    """Show `url` in a browser, if there is a display for one. False if there is none."""
    start = start or _start
    if platform == "win32":
        # Not through `cmd /c start`, which gives & and % in an address a meaning.
        command = ["rundll32", "url.dll,FileProtocolHandler", url]
    elif platform == "darwin":
        command = ["open", url]
    elif environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"):
        command = ["xdg-open", url]
    else:
        return False
    if shutil.which(command[0]) is None:
        return False
    try:
        start(command)
    except OSError as error:
        _log.debug("No browser can be opened", extra={"error": str(error)})
        return False
    return True


def _start(command: list[str]) -> None:
    process = subprocess.Popen(  # noqa: S603 (one of three programs, and a checked address)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Nobody minds how long the browser lives, but its end has to be taken note of.
    threading.Thread(target=process.wait, daemon=True).start()

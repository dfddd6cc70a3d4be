"""The service on macOS: a daemon of launchd, or an agent of whoever is logged in."""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from underpass.operations.service.machine import Machine

__all__ = ["Launchd"]

LABEL: Final = "underpass"


class Launchd:
    """For root (`uid` 0) a daemon that runs from the start; for others an agent."""

    name = "launchd"

    def __init__(self, uid: int, home: Path) -> None:
        if uid == 0:
            library, self._domain, agents = Path("/Library"), "system", "LaunchDaemons"
        else:
            library, self._domain, agents = home / "Library", f"gui/{uid}", "LaunchAgents"
        self._plist = str(library / agents / f"{LABEL}.plist")
        self._logs = library / "Logs"
        support = library / "Application Support" / LABEL
        self.token_file = str(support / "token")
        self.config_file = str(support / "config.yml")

    def installed(self, machine: Machine) -> str:
        return self._plist if machine.exists(self._plist) else ""

    def protect(self, machine: Machine, token_file: str) -> None:
        """A file's mode is enough."""

    def remarks(self, machine: Machine) -> Sequence[str]:
        if self._domain == "system":
            return ()
        return ("the service runs while you are logged in; with sudo it runs from the start",)

    def install(self, machine: Machine, command: Sequence[str]) -> None:
        document = {
            "Label": LABEL,
            "ProgramArguments": list(command),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 5,
            # As long as the longest grace period.
            "ExitTimeOut": 200,
            "StandardOutPath": str(self._logs / f"{LABEL}.out.log"),
            "StandardErrorPath": str(self._logs / f"{LABEL}.err.log"),
            "Umask": 0o077,
        }
        machine.write(self._plist, plistlib.dumps(document), 0o644)
        machine.do("launchctl", "bootstrap", self._domain, self._plist)

    def uninstall(self, machine: Machine) -> None:
        machine.try_to("launchctl", "bootout", f"{self._domain}/{LABEL}")
        machine.remove(self._plist)

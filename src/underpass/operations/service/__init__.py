"""Install the connector as a service of the operating system, or remove it (docs: command line §9).

The token goes into a file that only the system's administrator can read, never into a command line.
What was done is taken back when a step fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from underpass.operations.service.machine import Machine, ServiceError

__all__ = [
    "Machine",
    "Manager",
    "ServiceError",
    "ServiceRequest",
    "find_manager",
    "install",
    "uninstall",
]


class ServiceRequest(Struct, frozen=True):
    """What is to run: `program` with `settings`, and either a token or a configuration file."""

    program: tuple[str, ...]
    settings: tuple[str, ...] = ()
    token: str = ""
    config: Path | None = None

    def __repr__(self) -> str:
        return f"<ServiceRequest for {self.program}>"


class Manager(Protocol):
    """What starts services on a system, and where it wants their files."""

    name: str
    token_file: str
    config_file: str

    def installed(self, machine: Machine) -> str:
        """The file that shows that the service is installed; "" if it is not."""

    def install(self, machine: Machine, command: Sequence[str]) -> None:
        """Have `command` run from now on, and at every start. Raises ServiceError."""

    def uninstall(self, machine: Machine) -> None:
        """Stop and forget it. Raises ServiceError."""

    def protect(self, machine: Machine, token_file: str) -> None:
        """Where the mode of a file is not enough, keep others from reading the token."""

    def remarks(self, machine: Machine) -> Sequence[str]:
        """What whoever installs should know of the system."""


def find_manager(machine: Machine, platform: str = sys.platform) -> Manager:
    """The one that runs here. Raises ServiceError."""
    if platform == "linux":
        from underpass.operations.service.linux import find_init

        return find_init(machine)
    if platform == "darwin":
        from underpass.operations.service.macos import Launchd

        return Launchd(os.geteuid(), Path.home())
    if platform == "win32":
        from underpass.operations.service.windows import TaskScheduler

        return TaskScheduler()
    raise ServiceError(
        f"there is no way to install a service on {platform} yet; have the system start "
        "`underpass tunnel run --token-file FILE` as it starts other programs"
    )


def install(machine: Machine, manager: Manager, request: ServiceRequest) -> None:
    """Install and start the service. Raises ServiceError, and then nothing is left of it."""
    found = manager.installed(machine)
    if found:
        raise ServiceError(
            f"the service is installed already ({found}); `underpass service uninstall` removes it"
        )
    command = list(request.program)
    with machine:
        if request.token:
            machine.write(manager.token_file, request.token.encode("ascii"), 0o600)
            manager.protect(machine, manager.token_file)
            command += ["tunnel", *request.settings, "run", "--token-file", manager.token_file]
        else:
            assert request.config is not None
            if machine.path(manager.config_file) != request.config:
                machine.write(manager.config_file, request.config.read_bytes(), 0o600)
            command += ["tunnel", f"--config={manager.config_file}", *request.settings, "run"]
        manager.install(machine, command)


def uninstall(machine: Machine, manager: Manager) -> None:
    """Stop and remove the service and its token; a configuration file is left. Raises ServiceError
    when there is no service."""
    if not manager.installed(machine):
        machine.remove(manager.token_file)
        raise ServiceError("the service is not installed")
    manager.uninstall(machine)
    machine.remove(manager.token_file)

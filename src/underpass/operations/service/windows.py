"""The service on Windows: a task that the system starts with itself, as the account SYSTEM.

Not a service of the Service Control Manager. Such a program has to answer the manager's calls,
which from Python takes a package with a compiled part of its own (pywin32) or another program
around this one. The Task Scheduler starts any program at boot, without a login, and starts it again
when it fails, so it needs neither.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from underpass.operations.service.machine import Machine

__all__ = ["TaskScheduler"]

TASK: Final = "Underpass"

# Groups by their ids, whose names depend on the language: Administrators, and SYSTEM.
_READERS: Final = ("*S-1-5-32-544:F", "*S-1-5-18:F")


class TaskScheduler:
    """`schtasks`, with the task as a file of XML, which is left as the sign of an installation."""

    name = "Task Scheduler"
    _directory = r"C:\ProgramData\underpass"
    token_file = rf"{_directory}\token"
    config_file = rf"{_directory}\config.yml"
    task_file = rf"{_directory}\task.xml"

    def installed(self, machine: Machine) -> str:
        return self.task_file if machine.exists(self.task_file) else ""

    def protect(self, machine: Machine, token_file: str) -> None:
        grants = [word for reader in _READERS for word in ("/grant:r", reader)]
        machine.do("icacls", token_file, "/inheritance:r", *grants)

    def remarks(self, machine: Machine) -> Sequence[str]:
        return (
            "this is a task of the Task Scheduler, not a service of the Service Control Manager; "
            f"`schtasks /End /TN {TASK}` stops it without finishing requests",
        )

    def install(self, machine: Machine, command: Sequence[str]) -> None:
        machine.write(self.task_file, _task(command).encode("utf-16"), 0o644)
        machine.do("schtasks", "/Create", "/TN", TASK, "/XML", self.task_file)
        machine.on_failure("schtasks", "/Delete", "/TN", TASK, "/F")
        machine.do("schtasks", "/Run", "/TN", TASK)

    def uninstall(self, machine: Machine) -> None:
        machine.try_to("schtasks", "/End", "/TN", TASK)
        machine.do("schtasks", "/Delete", "/TN", TASK, "/F")
        machine.remove(self.task_file)


def _task(command: Sequence[str]) -> str:
    program, *arguments = command
    return f"""\
<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>Underpass tunnel connector</Description></RegistrationInfo>
  <Triggers><BootTrigger><Enabled>true</Enabled></BootTrigger></Triggers>
  <Principals>
    <Principal id="System">
      <UserId>S-1-5-18</UserId>
      <RunLevel>HighestAvailable</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure><Interval>PT1M</Interval><Count>999</Count></RestartOnFailure>
  </Settings>
  <Actions Context="System">
    <Exec>
      <Command>{escape(program)}</Command>
      <Arguments>{escape(subprocess.list2cmdline(arguments))}</Arguments>
    </Exec>
  </Actions>
</Task>
"""

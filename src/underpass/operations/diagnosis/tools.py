"""Tools of the system that a report is made with."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from underpass.operations.diagnosis.instance import MAX_ENTRY

__all__ = ["ToolError", "run_tool"]


class ToolError(Exception):
    """A tool is not there, or could not do it; the text says which and why."""


def run_tool(command: Sequence[str], seconds: float) -> str:
    """What a command says, its end if it is too much. Raises ToolError."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell; arguments of the operator's own
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(seconds, 0.1),
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is not installed") from None
    except OSError as error:
        raise ToolError(f"cannot run {command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"{command[0]} did not end within {seconds:.0f} s") from None
    text = done.stdout[-MAX_ENTRY:].decode("utf-8", "replace")
    if done.returncode:
        raise ToolError(
            f"{command[0]} failed with exit code {done.returncode}: {text[-500:].strip()}"
        )
    return text

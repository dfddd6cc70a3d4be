"""The entry point of the `underpass` command, which `python -m underpass` is too."""

from __future__ import annotations

import gc

__all__ = ["main"]


def main() -> None:
    """The console entry: exit code 0 for success, 1 for an error, 2 for a wrong command line."""
    # What a start makes, modules above all, is there to stay: to look for garbage among it is for
    # nothing. A process that runs for long enables collection again, in `event_loop.run`.
    gc.disable()
    from underpass.cli.main import underpass

    underpass.main(prog_name="underpass")


if __name__ == "__main__":
    main()

"""`underpass update`: say how to bring this program up to date."""

from __future__ import annotations

import click

from underpass.cli.flags import GoCommand
from underpass.version import VERSION

__all__ = ["update"]


@click.command(cls=GoCommand)
@click.option("--version", "wanted", default="", help="The version that is wanted.")
@click.option("--beta", is_flag=True, hidden=True)
@click.option("--force", is_flag=True, hidden=True)
@click.option("--staging", is_flag=True, hidden=True)
def update(wanted: str, **_: object) -> None:
    """Say how this program is brought up to date.

    It does not do so itself, and asks nobody whether there is a newer version. Exit code 0.
    """
    from underpass.operations.upgrade import find_installation

    installation = find_installation(wanted)
    click.echo(f"This is version {VERSION}: {installation.how}.")
    if installation.upgrade:
        click.echo(f"To bring it up to date:\n    {installation.upgrade}")
        click.echo("Then restart what runs; `systemctl restart underpass` if it is a service.")
    else:
        click.echo("Bring it up to date the way it was put there.")

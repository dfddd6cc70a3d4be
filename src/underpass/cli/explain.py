"""`underpass explain`: what a failed request's cause means, and what to do about it."""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from typing import Any

import click

from underpass.cli.flags import GoCommand
from underpass.wire.causes import CAUSES, MAX_PASTED, Cause, cause_in

__all__ = ["explain"]


@click.command(cls=GoCommand)
@click.argument("text", nargs=-1, metavar="[CAUSE|TEXT|-]")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["default", "json"]),
    default="default",
    help="How to print it.",
)
@click.pass_context
def explain(ctx: click.Context, /, text: tuple[str, ...], output: str) -> None:
    """Say what a request failed for, and what to do.

    \b
    CAUSE is a word as it stands in logs, metrics and the field `underpass-cause`; a whole field
    or log line will do, and `-` reads one from standard input. Without it all are listed.
        underpass explain dial_timeout
        underpass explain 'underpass-cause: tls'
    """
    if not text:
        _print_all(output)
        return
    given = sys.stdin.read(MAX_PASTED) if text == ("-",) else " ".join(text)
    word = cause_in(given)
    if word is None or word not in CAUSES:
        named = word or given.strip()[:80]
        near = get_close_matches(named, CAUSES, 1)
        hint = f"did you mean {near[0]}?" if near else "`underpass explain` lists all there are"
        raise click.UsageError(f"{named!r} names no cause; {hint}", ctx)
    cause = CAUSES[word]
    click.echo(_json(_members(cause)) if output == "json" else "\n".join(_lines(cause)))


def _print_all(output: str) -> None:
    if output == "json":
        click.echo(_json([_members(cause) for cause in CAUSES.values()]))
        return
    width = max(map(len, CAUSES))
    for cause in CAUSES.values():
        click.echo(f"{cause.word.ljust(width)}  {cause.hop.value.ljust(9)}  {cause.meaning}")


def _lines(cause: Cause) -> list[str]:
    where = f"Where:    {cause.hop.value}"
    if cause.at_edge is not None and cause.at_edge is not cause.hop:
        where += f" (said by an edge: {cause.at_edge.value})"
    status = (
        str(cause.status) if cause.status else "none; the response, if there was one, breaks off"
    )
    return [
        cause.word,
        f"Meaning:  {cause.meaning}",
        where,
        f"Status:   {status}",
        f"To do:    {cause.advice}",
    ]


def _members(cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause.word,
        "hop": cause.hop.value,
        "hopSaidByEdge": (cause.at_edge or cause.hop).value,
        "status": cause.status or None,
        "meaning": cause.meaning,
        "advice": cause.advice,
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2)

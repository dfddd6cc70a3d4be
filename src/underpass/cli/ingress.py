"""`underpass tunnel ingress`: check the rules, and ask which one a URL matches."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import click

from underpass.cli.flags import GoGroup, given_levels, setting_options
from underpass.cli.tunnel import fail, load
from underpass.connector.config import find_config
from underpass.connector.ingress import AMBIGUOUS, Ingress, Rule, read_ingress
from underpass.ops.directories import config_directories
from underpass.ops.document import ConfigError, parse_json

__all__ = ["ingress"]


@click.group(cls=GoGroup, params=setting_options(["config"]))
def ingress(**_: object) -> None:
    """Check ingress rules."""


@ingress.command("validate", params=setting_options(["config"]))
@click.option(
    "--json", "-j", "text", envvar="TUNNEL_INGRESS_VALIDATE_JSON", help="Check this JSON instead."
)
@click.pass_context
def validate(ctx: click.Context, /, text: str | None, **_: object) -> None:
    """Check the ingress rules of the configuration file."""
    if text is not None:
        click.echo("Validating rules from cmdline flag --json")
        try:
            found = read_ingress(parse_json(text, "--json"))
        except ConfigError as error:
            fail(f"Validation failed: {error}")
        if found is None:
            fail("Validation failed: --json has no key `ingress`")
    else:
        _load_rules(ctx, "Validating", "Validation failed: ")
    click.echo("OK")


@ingress.command("rule", params=setting_options(["config"]))
@click.argument("url")
@click.pass_context
def rule(ctx: click.Context, /, url: str, **_: object) -> None:
    """Show the rule that a request for URL matches."""
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        fail(f"{url!r} needs a scheme and a host, like https://app.example.com/")
    rules = _load_rules(ctx, "Using", "")
    host = parts.netloc.rpartition("@")[2]
    number = rules.match(host.encode("utf-8"), parts.path.encode("utf-8"))
    if number == AMBIGUOUS:
        fail(
            f"the path of {url} may be read in several ways, and different rules match them; such "
            "a request is refused with status 400"
        )
    click.echo(f"Matched rule #{number}")
    for line in _describe(rules.rules[number]):
        click.echo(f"\t{line}")


def _load_rules(ctx: click.Context, verb: str, prefix: str) -> Ingress:
    """The rules of the file. What is done with them, `verb`, is told before anything goes wrong."""
    levels = given_levels(ctx)
    given = next((Path(str(level["config"])) for level in levels if "config" in level), None)
    path = given or find_config(config_directories())
    if path is None:
        fail(f"{prefix}there is no configuration file; name one with --config")
    click.echo(f"{verb} rules from {path}")
    try:
        configuration = load(ctx)
        settings, config = configuration.settings, configuration.config
    except click.ClickException as error:
        fail(f"{prefix}{error.message}")
    if settings.is_set("url"):
        fail(f"{prefix}--url and ingress rules exclude each other; leave the URL out")
    if config.ingress is None:
        fail(f"{prefix}{path} has no key `ingress`")
    return config.ingress


def _describe(found: Rule) -> list[str]:
    lines = []
    if found.hostname:
        lines.append(f"hostname: {found.hostname}")
    if found.path is not None:
        lines.append(f"path: {found.path.text}")
    lines.append(f"service: {found.service_text}")
    return lines

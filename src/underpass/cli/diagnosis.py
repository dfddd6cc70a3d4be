"""`underpass tunnel diag`: a report on a running connector."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from underpass.cli.flags import GoCommand, given_levels, setting_options
from underpass.ops.logging import LoggingOptions, configure_logging

__all__ = ["diag"]

_log = logging.getLogger("underpass.diag")

_WITHOUT = {
    "logs": "the log",
    "metrics": "metrics",
    "system": "what the machine is and how full it is",
    "runtime": "what the processes do and hold",
    "network": "the way to the edge, and pre-checks",
}


def _without(command: Any) -> Any:
    for name, what in reversed(_WITHOUT.items()):
        command = click.option(f"--no-diag-{name}", is_flag=True, help=f"Without {what}.")(command)
    return command


@click.command(cls=GoCommand, params=setting_options(["metrics"]))
@click.option("--diag-container-id", default="", help="Container whose log to take.")
@click.option("--diag-pod-id", default="", help="Pod whose log to take.")
@_without
@click.pass_context
def diag(ctx: click.Context, /, diag_container_id: str, diag_pod_id: str, **without: Any) -> None:
    """Write a report on a running connector into a file, to be sent to whoever helps.

    Without --metrics the connector is looked for on the ports that metrics servers take.
    """
    from underpass.operations.diagnosis.instance import (
        Instance,
        InstanceError,
        find_instances,
        known_addresses,
    )
    from underpass.operations.diagnosis.report import DiagnosisOptions, write_report

    configure_logging(LoggingOptions())
    metrics = next((str(level["metrics"]) for level in given_levels(ctx) if "metrics" in level), "")
    try:
        found = [Instance.ask(metrics)] if metrics else find_instances(known_addresses())
    except InstanceError as error:
        raise click.ClickException(str(error)) from None
    if not found:
        raise click.ClickException(
            "no running connector answers on "
            f"{', '.join(known_addresses())}; give the address of its metrics server with --metrics"
        )
    if len(found) > 1:
        for each in found:
            _log.info(
                "Instance: tunnel-id=%s connector-id=%s metrics-address=%s",
                *(each.tunnel_id, each.connector_id, each.address),
            )
        raise click.ClickException(
            f"{len(found)} connectors run here; choose one with --metrics ADDRESS"
        )
    (instance,) = found
    _log.info("Selected server http://%s starting diagnostic...", instance.address)
    options = DiagnosisOptions(
        **{f"no_{name}": without[f"no_diag_{name}"] for name in _WITHOUT},
        container=diag_container_id,
        pod=diag_pod_id,
    )
    try:
        path = write_report(instance, options, Path.cwd())
    except OSError as error:
        raise click.ClickException(f"cannot write the report: {error}") from None
    _log.info("Diagnostic file written: %s", path)

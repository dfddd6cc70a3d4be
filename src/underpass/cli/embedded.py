"""A quick tunnel with nothing but this process: an edge on loopback and a connector linked to it.

The edge keeps its certificate authority in the usual data directory, so that it has to be trusted
only once. The tunnel lasts as long as the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import shlex
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import click
from msgspec.structs import replace

from underpass.connector.configuration import Configuration
from underpass.connector.options import ConnectorOptions
from underpass.connector.runner import serve_connector
from underpass.edge.errors import DataDirectoryInUseError, EdgeError, ListenError
from underpass.edge.listening import listen
from underpass.edge.options import DEFAULT_DOMAIN, DEFAULT_HTTP, DEFAULT_HTTPS, Address, EdgeOptions
from underpass.edge.server import Edge
from underpass.ops import event_loop
from underpass.ops.signals import ShutdownSignals
from underpass.wire.quick_tunnel import QuickTunnel

__all__ = ["run_embedded"]

log = logging.getLogger("underpass.cli")

PRIVATE: Final = Address("127.0.0.1", 0)
"""Only this process uses its tunnel listener and its API: any free port will do."""


def run_embedded(options: ConnectorOptions, configuration: Configuration | None = None) -> int:
    """Serve until a signal. The exit code: 0 for a graceful end, 1 for an error, 128 + N when a
    second signal N cut the end short."""
    with contextlib.ExitStack() as cleaning:
        return event_loop.run(_serve(options, configuration, cleaning))


async def _serve(
    options: ConnectorOptions, configuration: Configuration | None, cleaning: contextlib.ExitStack
) -> int:
    try:
        with ShutdownSignals() as signals:
            edge = await signals.unless_stopped(_start_edge(cleaning))
        if edge is None:
            return 0
        try:
            code = await _serve_connector(options, configuration, edge)
        finally:
            cut_short = await _stop_edge(edge)
        return code or cut_short
    except EdgeError as error:
        log.error("Cannot run an edge in this process", extra={"error": str(error)})
        return 1


async def _start_edge(cleaning: contextlib.ExitStack) -> Edge:
    """An edge with the usual data directory, or with one for this once if that is in use."""
    options = EdgeOptions(
        https=_free(DEFAULT_HTTPS), http=_free(DEFAULT_HTTP), tunnels=(PRIVATE,), api=PRIVATE
    )
    edge = Edge(options)
    try:
        await edge.start()
    except DataDirectoryInUseError as error:
        log.warning("%s", error)
        log.warning(
            "This tunnel gets an edge of its own, with a certificate authority that is gone at the "
            "end. To use the running edge instead: --quick-service http://ITS-API "
            "--edge ITS-TUNNEL-ADDRESS --cacert %s/ca.pem",
            options.data_dir,
        )
        private = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="underpass-edge-"))
        options = dataclasses.replace(options, data_dir=Path(private))
        edge = Edge(options)
        await edge.start()
    return edge


def _free(wanted: Address) -> Address:
    """`wanted`, or any free port of its host when another program listens there."""
    try:
        listen(wanted).close()
    except ListenError as error:
        log.warning("%s; taking another port this time", error)
        return Address(wanted.host, 0)
    return wanted


async def _serve_connector(
    options: ConnectorOptions, configuration: Configuration | None, edge: Edge
) -> int:
    quick = await edge.registry.create_quick_tunnel(DEFAULT_DOMAIN)
    public = f"{quick.hostname}:{edge.https.port}"
    options = replace(
        options,
        credentials=quick.credentials,
        quick_hostname=public,
        edges=tuple((address.host, address.port) for address in edge.tunnels),
        cacert=edge.ca_certificate,
        prechecks=False,
    )
    try:
        return await serve_connector(
            options, ready=lambda: _show(quick, edge), configuration=configuration
        )
    finally:
        # Its credentials end with this process, so nobody could ever link to it again.
        await edge.registry.delete_tunnel(quick.credentials.tunnel_id)


async def _stop_edge(edge: Edge) -> int:
    """Let requests under way finish. The exit code: 128 + N when a signal N cut that short."""
    with ShutdownSignals() as signals:
        # One signal has come already, if any: the next one insists.
        signals.stopping.set()
        stopping = asyncio.ensure_future(edge.stop())
        signals.on_abort = partial(_cut_short, stopping)
        await asyncio.wait({stopping})
    if not stopping.cancelled():
        stopping.result()
    return signals.exit_code


def _cut_short(stopping: asyncio.Future[None]) -> None:
    stopping.cancel()


def _show(quick: QuickTunnel, edge: Edge) -> None:
    """Say where the application is to be found, and how to trust what is found there."""
    https = f"https://{quick.hostname}:{edge.https.port}"
    http = f"http://{quick.hostname}:{edge.http.port}"
    log.info("Quick tunnel is ready", extra={"url": https})
    authority = shlex.quote(str(edge.ca_certificate))
    lines = ["Your quick tunnel is ready, on this machine. Visit it at:", "", https, http]
    width = max(map(len, lines))
    border = f"+{'-' * (width + 4)}+"
    box = [border, *(f"|  {line.ljust(width)}  |" for line in lines), border]
    text = [
        *box,
        "",
        "The https address has a certificate of this machine's own authority. To try it:",
        f"    curl --cacert {authority} {https}/",
        "In a browser, import that file as a certificate authority once, or use the http address.",
        "Ctrl-C ends the tunnel.",
        "",
    ]
    click.echo("\n".join(text), err=True)

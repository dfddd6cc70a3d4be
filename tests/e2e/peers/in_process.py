"""Edge and connector on the running loop, where their insides can be counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from underpass.connector.data_path import DataPath, build_data_path
from underpass.connector.ingress import Ingress, single_rule
from underpass.connector.options import ConnectorOptions
from underpass.connector.origin_request import OriginRequest
from underpass.connector.origins import parse_url_flag
from underpass.connector.runner import serve_connector
from underpass.connector.status import ConnectorStatus
from underpass.edge.options import EdgeOptions
from underpass.edge.server import Edge
from underpass.edge.timeouts import DEFAULT_TIMEOUTS, Timeouts
from underpass.ops import event_loop

from .patience import soon


@dataclass(frozen=True)
class Tunnel:
    """A running tunnel, both of its ends at hand."""

    edge: Edge
    data_path: DataPath
    hostname: str

    @property
    def requests_at_edge(self) -> int:
        """Exchanges of visitors that have not ended."""
        return int(self.edge.gateway.counters.active)

    @property
    def streams_on_links(self) -> int:
        """Open streams beside the control streams."""
        return sum(link.active - 1 for link in self.edge.listeners.links)

    def metric(self, name: str) -> int:
        """One of the connector's request metrics."""
        value = self.data_path.counters()[name]
        assert isinstance(value, int)
        return value


@contextlib.asynccontextmanager
async def tunnel(
    data_dir: Path,
    origin_url: str,
    *,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    idle_connections: int = 1,
    links: int = 1,
    ingress: Ingress | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncIterator[Tunnel]:
    """Begin a tunnel to `origin_url`, or with the rules of `ingress`; at the end everything is
    stopped in good order. `more` are options of the edge."""
    any_port = "127.0.0.1:0"
    options = EdgeOptions.parse(
        data_dir=data_dir,
        https=any_port,
        http=any_port,
        tunnels=(any_port,),
        api=any_port,
        timeouts=timeouts,
        **more,
    )
    edge = Edge(options)
    await edge.start()
    try:
        quick = await edge.registry.create_quick_tunnel(options.domain)
        address = edge.tunnels[0]
        connector_options = ConnectorOptions(
            ingress=ingress
            or single_rule(
                parse_url_flag(origin_url), OriginRequest(keep_alive_connections=idle_connections)
            ),
            credentials=quick.credentials,
            edges=((address.host, address.port),) * links,
            cacert=data_dir / "ca.pem",
            ha_connections=links,
            metrics=any_port,
            connector_id=uuid.uuid4(),
        )
        built: list[DataPath] = []

        async def build(options: ConnectorOptions, status: ConnectorStatus) -> DataPath:
            built.append(await build_data_path(options, status))
            return built[0]

        ready = asyncio.Event()
        connector = asyncio.create_task(
            serve_connector(connector_options, ready=ready.set, build=build)
        )
        try:
            await soon(ready.wait())
            yield Tunnel(edge, built[0], quick.hostname)
        finally:
            connector.cancel()
            await asyncio.gather(connector, return_exceptions=True)
    finally:
        await edge.stop()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a scenario on the loop that UNDERPASS_LOOP asks for, and see that it leaves no task."""

    async def checked() -> None:
        await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {left}"

    event_loop.run(checked())


def open_files() -> int:
    """This process's file descriptors."""
    return len(os.listdir("/proc/self/fd"))

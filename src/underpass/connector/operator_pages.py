"""What operators can ask a connector beside metrics and readiness: /config, /diag, /debug (docs:
observability §1). What the pages show is made by `inspection` and others, imported when asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from underpass.connector.configuration import Configuration
from underpass.connector.data_path import DataPath
from underpass.connector.in_force import InForce
from underpass.connector.options import ConnectorOptions
from underpass.connector.settings import Settings
from underpass.connector.status import ConnectorStatus
from underpass.ops.metrics_server import Page, json_page, text_page

if TYPE_CHECKING:
    from underpass.ops.process_report import Subject

__all__ = ["OperatorPages"]


class OperatorPages:
    """The pages, by their paths in `routes`."""

    def __init__(
        self,
        options: ConnectorOptions,
        status: ConnectorStatus,
        data_path: DataPath,
        in_force: InForce,
        configuration: Configuration | None,
    ) -> None:
        self._homes = options.all_homes
        self._status = status
        self._data_path = data_path
        self._in_force = in_force
        self._settings: Settings | None = None if configuration is None else configuration.settings
        self.routes: dict[bytes, Callable[[], Awaitable[Page]]] = {
            b"/config": self._config,
            b"/diag/tunnel": self._tunnel,
            b"/diag/configuration": self._configuration,
            b"/diag/system": self._system,
            b"/debug/stacks": self._stacks,
            b"/debug/memory": self._memory,
        }

    async def _config(self) -> Page:
        from underpass.connector.inspection import configuration_document

        document = configuration_document(self._in_force.ingress, self._in_force.remote_version)
        return json_page(document)

    async def _tunnel(self) -> Page:
        ids = [str(home.credentials.tunnel_id) for home in self._homes if home.credentials]
        document: dict[str, Any] = {
            "tunnelID": ids[0],
            "connectorID": str(self._status.connector_id),
        }
        if len(ids) > 1:
            names = [home.name for home in self._homes]
            document["homes"] = dict(zip(names, ids, strict=True))
        connections = self._status.connections()
        return json_page(document | ({"connections": connections} if connections else {}))

    async def _configuration(self) -> Page:
        from underpass.connector.inspection import settings_document

        return json_page(settings_document(self._settings))

    async def _system(self) -> Page:
        from underpass.ops.system_information import collect_system_information

        return json_page(await asyncio.to_thread(collect_system_information))

    async def _stacks(self) -> Page:
        return text_page(await self.report("stacks"))

    async def _memory(self) -> Page:
        return text_page(await self.report("memory"))

    async def report(self, subject: Subject) -> str:
        """What all processes of the connector do or hold."""
        from underpass.ops.process_report import report

        return report(subject) + await self._data_path.reports(subject)

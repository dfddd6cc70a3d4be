"""Connectors get the configuration that the edge keeps for their tunnel, when a link has registered
and when it has changed.

A version is pushed on every link of a connector, as cloudflared's edge does; the connector applies
the first and passes over the others. One that it cannot use is not pushed again until the next
version, and what the connector says of it is in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final
from uuid import UUID

from underpass.edge.configuration import ConfigurationNotTakenError
from underpass.edge.errors import StoreError
from underpass.edge.links import EdgeLink
from underpass.edge.registry import Registry
from underpass.wire.headers import FEATURE_ALLOW_REMOTE_CONFIG

__all__ = ["MAX_PUSHES", "ConfigurationPusher"]

MAX_PUSHES: Final = 8
"""Configurations on their way at once, of all links of a process: each is kept until answered."""

log = logging.getLogger("underpass.edge.configurations")


class ConfigurationPusher:
    """Pushes what `registry` has to the `links` that are registered."""

    def __init__(self, registry: Registry, links: Collection[EdgeLink]) -> None:
        self._registry = registry
        self._links = links
        self._pushing: dict[EdgeLink, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(MAX_PUSHES)

    def registered(self, link: EdgeLink) -> None:
        """A link takes requests from now on."""
        if link.tunnel_id in self._registry.configurations:
            self._push_soon(link)

    def changed(self, tunnel_id: UUID) -> None:
        """There is another configuration for a tunnel."""
        for link in self._links:
            if link.tunnel_id == tunnel_id and link.registration.registered:
                self._push_soon(link)

    def close(self) -> None:
        """Give up what is on its way."""
        for task in self._pushing.values():
            task.cancel()

    def _push_soon(self, link: EdgeLink) -> None:
        client = link.client_info
        if client is None or FEATURE_ALLOW_REMOTE_CONFIG not in client.features:
            log.warning(
                "connector %s takes no configuration from the edge, and keeps its own",
                link.connector_id,
            )
        elif link not in self._pushing:
            self._pushing[link] = asyncio.create_task(self._push(link), name="push-configuration")

    async def _push(self, link: EdgeLink) -> None:
        """Push until the connector has been offered the newest version."""
        offered = 0
        try:
            while not link.is_closed and self._newest(link.tunnel_id) > offered:
                async with self._room:
                    offered = await self._push_once(link)
        finally:
            # At once, so that a change from now on begins anew.
            del self._pushing[link]

    def _newest(self, tunnel_id: UUID) -> int:
        configuration = self._registry.configurations.get(tunnel_id)
        return 0 if configuration is None else configuration.version

    async def _push_once(self, link: EdgeLink) -> int:
        """Offer the configuration there is now; its version."""
        wanted = self._newest(link.tunnel_id)
        try:
            configuration = await self._registry.configuration(link.tunnel_id)
        except StoreError as error:
            log.error("cannot read the configuration of tunnel %s: %s", link.tunnel_id, error)
            return wanted
        if configuration is None:
            return wanted  # deleted in the meantime
        try:
            version = await link.push_configuration(configuration.version, configuration.document)
        except ConfigurationNotTakenError as error:
            log.warning(
                "connector %s did not take configuration %d of tunnel %s: %s",
                link.connector_id,
                configuration.version,
                link.tunnel_id,
                error,
            )
        else:
            log.info(
                "connector %s has configuration %d of tunnel %s",
                link.connector_id,
                version,
                link.tunnel_id,
            )
        return max(wanted, configuration.version)

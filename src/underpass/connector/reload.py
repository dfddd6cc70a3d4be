"""SIGHUP: the configuration file is read again, and what it says of origins put in force.

A file that cannot be used is refused with its reason, and the old one stays. Requests under way
finish as they began. What is not about origins belongs to links that are up, so it waits for a
restart, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from underpass.connector.configuration import Configuration
from underpass.connector.data_path import DataPathError
from underpass.connector.document import ConfigError
from underpass.connector.ingress import Ingress
from underpass.connector.options import ORIGINS, build_options
from underpass.connector.settings import SettingError
from underpass.connector.settings_table import SETTINGS, Group
from underpass.ops import service_manager
from underpass.ops.metrics import Snapshot

__all__ = ["Reloader"]

_APPLIED: Final = frozenset({Group.SERVICE, Group.ORIGIN, Group.COMPATIBILITY})
"""Settings that go into the rules, or nowhere."""

_log = logging.getLogger(__name__)


class Reloader:
    """Reloads one at a time, in the order asked for.

    Args:
        started_with: None when there is nothing that could be read again.
    """

    def __init__(self, started_with: Configuration | None) -> None:
        self._started_with = started_with
        self._apply: Callable[[Ingress], Awaitable[None]] | None = None
        self._version = 0
        self._asked = False
        self._working: asyncio.Task[None] | None = None

    def start(self, apply: Callable[[Ingress], Awaitable[None]]) -> None:
        """Do what is asked from now on, and what has been asked.

        `apply` puts rules in force; it raises DataPathError, and then nothing has changed.
        """
        self._apply = apply
        if self._asked:
            self.ask()

    def ask(self) -> None:
        """Reload soon. What is asked while one is under way makes for one more after it."""
        self._asked = True
        if self._apply is not None and (self._working is None or self._working.done()):
            self._working = asyncio.create_task(self._work(self._apply), name="reload")

    def close(self) -> None:
        """Give up what is under way."""
        if self._working is not None:
            self._working.cancel()

    def snapshot(self) -> Snapshot:
        """How often other rules were put in force since the start."""
        return {"cloudflared_orchestration_config_version": self._version}

    async def _work(self, apply: Callable[[Ingress], Awaitable[None]]) -> None:
        while self._asked:
            self._asked = False
            started_with = self._started_with
            if started_with is None or started_with.config.path is None:
                _log.warning("There is no configuration file to reload; the rest is read once")
                continue
            try:
                with service_manager.reloading():
                    await self._reload(started_with, apply)
            except (ConfigError, SettingError, DataPathError) as error:
                _log.error(
                    "Configuration refused, the one in force stays",
                    extra={"error": str(error), "version": self._version},
                )
            except Exception as error:  # noqa: BLE001 - a reload is no reason to stop serving
                _log.error("unexpected error while reloading", exc_info=error)

    async def _reload(
        self, started_with: Configuration, apply: Callable[[Ingress], Awaitable[None]]
    ) -> None:
        # In a thread: a file of megabytes takes its time, and requests go on.
        found = await asyncio.to_thread(started_with.read_again)
        options = build_options(found.settings, found.config)
        if found.config.ingress is None and not any(map(found.settings.is_set, ORIGINS)):
            # A file that an editor has just emptied, more likely than a wish to serve nothing.
            raise ConfigError(f"{found.config.path} has neither ingress rules nor an origin")
        for remark in found.config.remarks:
            _log.warning(remark)
        await apply(options.ingress)
        self._version += 1
        _log.info(
            "Configuration applied",
            extra={"version": self._version, "rules": len(options.ingress.rules)},
        )
        waiting = [
            name
            for name in found.settings.differing(started_with.settings)
            if SETTINGS[name].group not in _APPLIED
        ]
        if found.config.tunnel != started_with.config.tunnel:
            waiting.append("tunnel")
        if waiting:
            _log.warning("Some changes take effect after a restart only", extra={"keys": waiting})

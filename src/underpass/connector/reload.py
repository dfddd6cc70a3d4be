"""The configuration file is read again, on SIGHUP or because it has changed, and what it says of
origins put in force.

A file that cannot be used is refused with its reason, and the old one stays. Requests under way
finish as they began. What is not about origins belongs to links that are up, so it waits for a
restart, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from underpass.connector.configuration import Configuration
from underpass.connector.data_path import DataPathError
from underpass.connector.in_force import InForce
from underpass.connector.options import ORIGINS, build_options
from underpass.connector.settings import SettingError
from underpass.connector.settings_table import SETTINGS, Group
from underpass.ops.document import ConfigError
from underpass.ops.reloads import Reloads

__all__ = ["Reloader"]

_APPLIED: Final = frozenset({Group.SERVICE, Group.ORIGIN, Group.COMPATIBILITY})
"""Settings that go into the rules, or nowhere."""

_log = logging.getLogger(__name__)


class Reloader:
    """Reloads what has been asked for: see Reloads.

    Args:
        started_with: None when there is nothing that could be read again.
    """

    def __init__(self, started_with: Configuration | None, in_force: InForce) -> None:
        self._started_with = started_with
        self._in_force = in_force
        self.reloads = Reloads(self._work)

    def start(self) -> None:
        """Do what is asked from now on, and what has been asked."""
        self._watch_files()
        self.reloads.start()

    def ask(self) -> None:
        """Reload soon."""
        self.reloads.ask()

    def _watch_files(self) -> None:
        """Reload also when the file, or one that is named in it, has changed."""
        started_with = self._started_with
        if started_with is None or started_with.settings.boolean("no-config-watch"):
            return
        path = started_with.config.path
        if path is not None:
            self.reloads.watch_files(
                lambda: (path, *self._in_force.named_files), {path: started_with.config.state}
            )
            assert self.reloads.watch is not None
            self._in_force.before_change = self.reloads.watch.notice_new_files

    def close(self) -> None:
        """Give up what is under way."""
        self.reloads.close()

    async def _work(self) -> None:
        started_with = self._started_with
        if started_with is None or started_with.config.path is None:
            _log.warning("There is no configuration file to reload; the rest is read once")
            return
        async with self._in_force.turn:
            await self._reload_or_say_why(started_with)

    async def _reload_or_say_why(self, started_with: Configuration) -> None:
        try:
            if self._in_force.is_remote:
                _log.warning(
                    "The edge has sent the configuration in force, so the file is not reloaded",
                    extra={"version": self._in_force.version},
                )
                await self._in_force.put_again()
            else:
                await self._reload(started_with)
        except (ConfigError, SettingError, DataPathError) as error:
            self._in_force.refused("file")
            _log.error(
                "Configuration refused, the one in force stays",
                extra={"error": str(error), "version": self._in_force.version},
            )
        except Exception as error:  # noqa: BLE001 - a reload is no reason to stop serving
            self._in_force.refused("file")
            _log.error("unexpected error while reloading", exc_info=error)

    async def _reload(self, started_with: Configuration) -> None:
        if self.reloads.watch is not None:
            await self.reloads.watch.settle()
        # In a thread: a file of megabytes takes its time, and requests go on.
        found = await asyncio.to_thread(started_with.read_again)
        options = build_options(found.settings, found.config)
        if found.config.ingress is None and not any(map(found.settings.is_set, ORIGINS)):
            # A file that an editor has just emptied, more likely than a wish to serve nothing.
            raise ConfigError(f"{found.config.path} has neither ingress rules nor an origin")
        for remark in found.config.remarks:
            _log.warning(remark)
        await self._in_force.put(options.ingress)
        _log.info(
            "Configuration applied",
            extra={"version": self._in_force.version, "rules": len(options.ingress.rules)},
        )
        waiting = [
            name
            for name in found.settings.differing(started_with.settings)
            if SETTINGS[name].group not in _APPLIED
        ]
        if found.config.tunnel != started_with.config.tunnel:
            waiting.append("tunnel")
        old, new = started_with.config.homes, found.config.homes
        if [home.written for home in old] != [home.written for home in new]:
            waiting.append("homes")
        if waiting:
            _log.warning("Some changes take effect after a restart only", extra={"keys": waiting})

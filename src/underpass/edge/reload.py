"""The edge's configuration is read again, on SIGHUP or because its file has changed, and put in
force without a request less. What cannot be used is refused with its reason, and the old one stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from underpass.edge.errors import EdgeError
from underpass.edge.options import EdgeOptions
from underpass.edge.server import Edge
from underpass.ops.document import ConfigError, FileState
from underpass.ops.reloads import Reloads

__all__ = ["ConfiguredBy", "Reloader"]

_log = logging.getLogger("underpass.edge")

_REFUSED: Final = "Configuration refused, the one in force stays"


class ConfiguredBy:
    """Where an edge's options come from: a file, what was said beside it, and how both are read.

    Args:
        read: the options as they are now. Raises ConfigError or EdgeError.
        path, state: of the file; None when there is none.
    """

    def __init__(
        self,
        read: Callable[[], EdgeOptions],
        path: Path | None = None,
        state: FileState | None = None,
    ) -> None:
        self.read = read
        self.path = path
        self.state = state


class Reloader:
    """Reloads what has been asked for: see Reloads."""

    def __init__(self, edge: Edge, source: ConfiguredBy) -> None:
        self._edge = edge
        self._source = source
        self._reloads = Reloads(self._reload)

    def start(self) -> None:
        """Do what is asked from now on, and watch the file."""
        path = self._source.path
        if path is not None:
            self._reloads.watch_files(lambda: self._files(path), {path: self._source.state})
        self._reloads.start()

    def _files(self, path: Path) -> Iterator[Path]:
        """What is read with the file; certificates see to themselves."""
        yield path
        options = self._edge.options
        for directory in {
            options.common.error_pages,
            *(site.error_pages for site in options.sites),
        }:
            if directory is not None:
                yield from sorted(Path(directory).glob("*.html"))

    def ask(self) -> None:
        """Reload soon."""
        self._reloads.ask()

    def close(self) -> None:
        """Give up what is under way."""
        self._reloads.close()

    async def _reload(self) -> None:
        if self._source.path is None:
            _log.warning("There is no configuration file to reload")
            return
        if self._reloads.watch is not None:
            await self._reloads.watch.settle()
        try:
            # In a thread: files may be large, or far away, and requests go on.
            options = await asyncio.to_thread(self._source.read)
            waiting = await self._edge.reload(options)
        except (ConfigError, EdgeError, ValueError) as error:
            self._edge.configurations_refused += 1
            _log.error(_REFUSED, extra={"error": str(error)})
        except Exception as error:  # noqa: BLE001 - a reload is no reason to stop serving
            self._edge.configurations_refused += 1
            _log.error(_REFUSED, exc_info=error)
        else:
            _log.info("Configuration applied", extra={"hostnames": len(options.sites)})
            if waiting:
                _log.warning(
                    "Some changes take effect with the next start only",
                    extra={"settings": [name.replace("_", "-") for name in waiting]},
                )

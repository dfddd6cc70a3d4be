"""The rules in force, and the one door through which others come: from the file, or from the edge.

One change at a time. Once the edge has sent a configuration, the edge's is the one that counts, as
in cloudflared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from underpass.connector.ingress import Ingress
from underpass.ops.metrics import Snapshot
from underpass.wire.remote_config import NO_VERSION, ConfigurationReply, ConfigurationUpdate

__all__ = ["Apply", "InForce", "Origin", "Updates"]

Apply = Callable[[Ingress], Awaitable[None]]
"""Puts rules in force; raises DataPathError, and then nothing has changed."""

Updates = Callable[[ConfigurationUpdate], Awaitable[ConfigurationReply]]
"""Takes a configuration that the edge has pushed."""

Origin = Literal["file", "edge"]


class InForce:
    """Changes of the rules, and what became of them. Whoever makes one holds `turn`.

    Args:
        max_active_flows: the flag's, which wins over every configuration; None when not given.

    `before_change` is called when `named_files` has those of rules that are about to be in force.
    """

    def __init__(
        self, max_active_flows: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.max_active_flows = max_active_flows
        self.remote_version = NO_VERSION
        self.last_refusal: tuple[int, str] | None = None
        """Version and reason of what the edge has sent last of what could not be used."""
        self.before_change: Callable[[], object] = lambda: None
        self._clock = clock
        self.turn = asyncio.Lock()
        self._apply: Apply | None = None
        self._ingress: Ingress | None = None
        self._files: tuple[Path, ...] = ()
        self._coming_files: tuple[Path, ...] = ()
        self._changes = 0
        self._refused: dict[str, int] = {"file": 0, "edge": 0}
        self._succeeded_at = clock()
        self._updating: set[asyncio.Task[ConfigurationReply]] = set()

    @property
    def is_remote(self) -> bool:
        """Whether the edge has sent what is in force."""
        return self.remote_version > NO_VERSION

    @property
    def version(self) -> int:
        """The edge's number of what it has sent, else how often the file was applied."""
        return self.remote_version if self.is_remote else self._changes

    @property
    def ingress(self) -> Ingress:
        """The rules in force."""
        assert self._ingress is not None
        return self._ingress

    def start(self, apply: Apply, ingress: Ingress) -> None:
        """Be ready for changes of `ingress`."""
        self._apply = apply
        self._ingress = ingress
        self._files = _files_of(ingress)

    @property
    def named_files(self) -> tuple[Path, ...]:
        """The files named by rules that are in force or about to be, which read them then."""
        return (*self._files, *self._coming_files)

    async def put(self, ingress: Ingress) -> None:
        """Put other rules in force, by whoever holds `turn`. Raises DataPathError."""
        assert self._apply is not None
        self._coming_files = files = _files_of(ingress)
        try:
            self.before_change()
            await self._apply(ingress)
        finally:
            self._coming_files = ()
        self._ingress, self._files = ingress, files
        self._changes += 1
        self._succeeded_at = self._clock()

    async def put_again(self) -> None:
        """Have the rules in force read the files they name again. Raises DataPathError."""
        assert self._ingress is not None
        await self.put(self._ingress)

    def refused(self, origin: Origin) -> None:
        """Count a configuration that cannot be used."""
        self._refused[origin] += 1

    async def update(self, update: ConfigurationUpdate) -> ConfigurationReply:
        """Put a configuration in force that the edge has pushed, or say why not.

        It is done to its end, whether or not somebody still waits for the answer.
        """
        from underpass.connector.remote import apply_update  # most connectors are never sent any

        task = asyncio.create_task(apply_update(self, update), name="remote-configuration")
        self._updating.add(task)
        task.add_done_callback(self._updating.discard)
        return await asyncio.shield(task)

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._updating:
            task.cancel()

    def snapshot(self) -> Snapshot:
        """What became of configurations since the start."""
        return {
            "cloudflared_orchestration_config_version": self.version,
            "underpass_configuration_refused": dict(self._refused),
            "underpass_configuration_last_success_timestamp_seconds": self._succeeded_at,
        }


def _files_of(ingress: Ingress) -> tuple[Path, ...]:
    pools = dict.fromkeys(rule.origin_request.ca_pool for rule in ingress.rules)
    return tuple(Path(pool) for pool in pools if pool)

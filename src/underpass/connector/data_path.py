"""The part of a connector that moves requests, as the control plane sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from underpass.connector.in_force import Updates
from underpass.connector.ingress import Ingress
from underpass.connector.links import LinkDialer
from underpass.connector.options import ConnectorOptions
from underpass.connector.status import ConnectorStatus
from underpass.ops.metrics import Snapshot

__all__ = ["DataPath", "DataPathError", "build_data_path"]


class DataPathError(Exception):
    """The options ask for what cannot be done; the text says what."""


async def _nothing() -> None:
    """Counters that are at hand are up to date."""


def _no_updates(_: Updates) -> None:
    """Nobody pushes any."""


class DataPath(Struct, frozen=True):
    """A connector's data path, in this process or in others.

    `counters` returns the request metrics by their full names, as of the last `refresh`. `apply`
    puts other ingress rules in force: new requests meet those, the ones under way finish as they
    began; raises DataPathError, and then nothing has changed. `close` ends what is left open,
    after the last link is gone. `take_updates` says, before the first link, who takes what the edge
    pushes. `workers` are the ids of other processes that take part.
    """

    dialer: LinkDialer
    counters: Callable[[], Snapshot]
    close: Callable[[], Awaitable[None]]
    apply: Callable[[Ingress], Awaitable[None]]
    refresh: Callable[[], Awaitable[None]] = _nothing
    take_updates: Callable[[Updates], None] = _no_updates
    workers: Callable[[], Sequence[int]] = tuple


async def build_data_path(options: ConnectorOptions, status: ConnectorStatus) -> DataPath:
    """Make the data path: here, or with more than one worker in processes of their own.

    Needs a running event loop. Raises DataPathError.
    """
    if options.workers > 1:
        from underpass.connector.workers import open_workers

        return await open_workers(options)
    from underpass.connector.dispatch import ServiceNotSupportedError
    from underpass.connector.link import HttpLinkDialer
    from underpass.connector.observers import ObserverError
    from underpass.connector.trust import TrustError

    try:
        dialer = HttpLinkDialer(options, status)
    except (ServiceNotSupportedError, TrustError, ObserverError) as error:
        raise DataPathError(str(error)) from error

    async def apply(ingress: Ingress) -> None:
        try:
            plan = dialer.prepare(ingress)
        except (ServiceNotSupportedError, TrustError) as error:
            raise DataPathError(str(error)) from error
        await dialer.apply(plan)

    async def close() -> None:
        dialer.close()

    return DataPath(dialer, dialer.counters, close, apply, take_updates=dialer.take_updates)

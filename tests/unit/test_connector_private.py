"""Streams to private networks, with what `warp-routing` says in force (docs: configuration §6)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from underpass.connector.services import private
from underpass.connector.services.private import PrivateNetwork
from underpass.connector.warp_routing import WarpRouting
from underpass.wire.turns import LoopTurn


class Asked:
    """An exchange as far as a refusal needs one."""

    def __init__(self, authority: bytes) -> None:
        self.authority = authority
        self.context: Any = None
        self.failures: list[tuple[int, str]] = []

    def header(self, token: int) -> bytes | None:
        return None

    def fail(self, status: int, cause: str) -> None:
        self.failures.append((status, cause))


@contextlib.asynccontextmanager
async def silence() -> AsyncIterator[None]:
    """Destinations that never answer."""
    loop = asyncio.get_running_loop()

    async def never(*_: Any) -> None:
        await asyncio.Future()

    loop.sock_connect = never  # type: ignore[method-assign]
    yield


async def begun(network: PrivateNetwork, authority: bytes = b"10.0.0.1:22") -> Asked:
    exchange = Asked(authority)
    network.forward(exchange)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return exchange


async def ended(streams: PrivateNetwork) -> None:
    """Give up what is left, and wait for its end."""
    streams.close()
    await asyncio.gather(*under_way(), return_exceptions=True)


def under_way() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if "_serve" in repr(task.get_coro())}


def network(routing: WarpRouting, processes: int = 1) -> PrivateNetwork:
    return PrivateNetwork(LoopTurn(asyncio.get_running_loop()), routing, processes)


def run(scenario: Any) -> None:
    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario, 30))
    finally:
        loop.close()


def test_the_time_to_connect() -> None:
    async def scenario() -> None:
        async with silence():
            streams = network(WarpRouting(connect_timeout=0.01))
            exchange = await begun(streams)
            await asyncio.gather(*under_way())
            assert exchange.failures == [(502, "dial_timeout")]
            assert exchange.context == "10.0.0.1:22 did not answer within 0.01 s"

    run(scenario())


@pytest.mark.parametrize(("processes", "allowed"), [(1, 5), (2, 3), (4, 2), (5, 1), (9, 1)])
def test_workers_share_the_streams(processes: int, allowed: int) -> None:
    async def scenario() -> None:
        async with silence():
            streams = network(WarpRouting(max_active_flows=5), processes)
            begun_ones = [await begun(streams) for _ in range(allowed)]
            assert not any(each.failures for each in begun_ones)
            refused = await begun(streams)
            assert refused.failures == [(502, "flow_rate_limited")]
            assert "maxActiveFlows" in refused.context
            assert streams.active == streams.total == allowed
            await ended(streams)
            assert begun_ones[0].failures == [(502, "shutdown")]

    run(scenario())


def test_other_settings_hold_for_what_begins_after() -> None:
    async def scenario() -> None:
        async with silence():
            streams = network(WarpRouting())
            for _ in range(3):
                await begun(streams)
            streams.routing = WarpRouting(max_active_flows=2)
            assert (await begun(streams)).failures == [(502, "flow_rate_limited")]
            assert streams.active == 3
            streams.routing = WarpRouting(connect_timeout=0.01)
            exchange = await begun(streams)
            while not exchange.failures:
                await asyncio.wait(under_way(), return_when=asyncio.FIRST_COMPLETED)
            assert exchange.failures == [(502, "dial_timeout")]
            await ended(streams)

    run(scenario())


def test_no_number_is_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the bound of the program itself."""
    monkeypatch.setattr(private, "MAX_STREAMS", 20)

    async def scenario() -> None:
        async with silence():
            streams = network(WarpRouting())
            for _ in range(20):
                assert not (await begun(streams)).failures
            assert (await begun(streams)).failures == [(502, "too_many_streams")]
            await ended(streams)

    run(scenario())

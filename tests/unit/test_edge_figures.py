"""The edge's metrics: who is said to be at fault, and what strangers cannot make a label of."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any

from underpass.edge.figures import MAX_CERTIFICATES, ApiCalls, TellingWho, edge_figures
from underpass.edge.router import Router


class Counted:
    def __init__(self, **causes: int) -> None:
        self._causes = causes

    def causes(self) -> dict[str, int]:
        return self._causes


class TestFailures:
    def test_are_the_connectors_where_it_says_so_and_else_the_edges(self) -> None:
        telling = TellingWho()
        telling.note("protocol_error")
        counters: Any = Counted(protocol_error=3, no_link=2)
        assert telling.failures(counters) == {
            ("protocol_error", "origin"): 1,
            ("protocol_error", "connector"): 2,
            ("no_link", "link"): 2,
        }

    def test_words_that_nobody_knows_are_not_kept(self) -> None:
        telling = TellingWho()
        for number in range(1000):
            telling.note(f"word_{number}")
        counters: Any = Counted(other=1000)
        assert telling.failures(counters) == {("other", "connector"): 1000}


def test_methods_are_a_fixed_set() -> None:
    calls = ApiCalls()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 405})

    async def ask(method: str) -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        await calls.counting(application)({"type": "http", "method": method}, None, send)

    sent: list[Any] = []
    for method in ("GET", "GET", "PROPFIND", "X-1", "X-2"):
        asyncio.run(ask(method))
    assert calls.counts == {("GET", "405"): 2, ("other", "405"): 3}
    assert len(sent) == 5


def test_certificates_that_end_first_are_told_and_no_more_than_so_many() -> None:
    class Nothing:
        tunnel_count = quick_tunnel_count = revision = 0
        hostnames = ()

    now = datetime.now(timezone.utc)
    ends = {f"{day}.test": now + timedelta(days=day) for day in reversed(range(1000))}
    registry: Any = Nothing()
    told: Any = edge_figures(registry, Router(), ApiCalls(), ends)
    expiries = told["underpass_edge_certificate_expiry_timestamp_seconds"]
    assert set(expiries) == {(f"{day}.test",) for day in range(MAX_CERTIFICATES)}

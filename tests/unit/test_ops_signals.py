"""SIGHUP: a wish for other rules, or a terminal that is gone."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from underpass.ops.signals import ShutdownSignals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")


def hang_up(monkeypatch: pytest.MonkeyPatch, terminals: list[bool]) -> tuple[int, bool]:
    """Send SIGHUP: how often a reload was asked for, and whether it is the end."""

    async def main() -> tuple[int, bool]:
        reloads: list[None] = []
        came = asyncio.Event()

        def reload() -> None:
            reloads.append(None)
            came.set()

        with ShutdownSignals() as signals:
            signals.on_stop = came.set
            signals.reload_with(reload)
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.wait_for(came.wait(), 10)
            return len(reloads), signals.stopping.is_set()

    monkeypatch.setattr(os, "isatty", lambda _: terminals.pop(0) if terminals else False)
    return asyncio.run(main())


@pytest.mark.parametrize("terminals", [[False, False], [True, True]], ids=["none", "a terminal"])
def test_it_asks_for_a_reload(terminals: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    assert hang_up(monkeypatch, terminals) == (1, False)


def test_a_terminal_that_was_closed_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hang_up(monkeypatch, [True, False]) == (0, True)


def test_afterwards_it_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGHUP)
    hang_up(monkeypatch, [])
    assert signal.getsignal(signal.SIGHUP) == before

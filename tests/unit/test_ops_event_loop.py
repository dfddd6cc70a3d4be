"""The event loop a process runs on."""

from __future__ import annotations

import asyncio
import gc

import pytest

from underpass.ops import event_loop


async def which() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_uvloop_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvloop")
    monkeypatch.delenv("UNDERPASS_LOOP", raising=False)
    assert event_loop.run(which()) == "uvloop"


def test_plain_asyncio_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERPASS_LOOP", "asyncio")
    assert event_loop.run(which()) == "asyncio"


def test_what_is_left_is_cancelled_and_errors_pass_through() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("linger")

    async def main() -> None:
        task = asyncio.create_task(linger())
        await asyncio.sleep(0)
        assert not task.done()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        event_loop.run(main())
    assert ended == ["linger"]


def test_garbage_is_collected_while_a_loop_runs_but_not_among_what_was_there_before() -> None:
    before: list[object] = [[]]

    async def look() -> tuple[bool, bool]:
        return gc.isenabled(), any(known is before for known in gc.get_objects())

    gc.disable()
    try:
        assert event_loop.run(look()) == (True, False)
    finally:
        gc.unfreeze()
        gc.enable()

"""What a process tells of itself."""

from __future__ import annotations

import asyncio

import pytest

from underpass.ops import process_report as module
from underpass.ops.process_report import report


def test_stacks_show_threads_and_tasks() -> None:
    async def waits_for_nothing() -> None:
        await asyncio.Event().wait()

    async def main() -> str:
        task = asyncio.create_task(waits_for_nothing(), name="the-waiting-one")
        await asyncio.sleep(0)
        text = report("stacks")
        task.cancel()
        return text

    text = asyncio.run(main())
    assert "thread MainThread:" in text
    assert "the-waiting-one" in text
    assert "await asyncio.Event().wait()" in text


def test_tasks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TASKS", 2)

    async def main() -> str:
        others = [asyncio.create_task(asyncio.sleep(60)) for _ in range(4)]
        text = report("stacks")
        for other in others:
            other.cancel()
        return text

    assert "and 3 more tasks" in asyncio.run(main())


def test_memory_counts_objects_by_type() -> None:
    class Peculiar:
        pass

    kept = [Peculiar() for _ in range(50_000)]

    async def main() -> str:
        return report("memory")

    lines = asyncio.run(main()).splitlines()
    (line,) = (line for line in lines if line.endswith("Peculiar"))
    assert int(line.split()[0]) == len(kept)

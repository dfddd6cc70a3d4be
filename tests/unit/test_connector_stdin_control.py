"""Commands on standard input."""

from __future__ import annotations

import asyncio
import io
import logging

import pytest

from underpass.connector.stdin_control import StdinControl


def run(text: str, count: int = 4) -> list[tuple[int, float]]:
    """What was reconnected for a whole input."""
    asked: list[tuple[int, float]] = []

    async def main() -> None:
        read = asyncio.Event()
        control = StdinControl(
            lambda *given: asked.append(given), count, io.StringIO(text + "end\n")
        )
        plain = control.obey

        def obey(line: str) -> None:
            if line == "end":
                read.set()
            else:
                plain(line)

        control.obey = obey  # type: ignore[method-assign]
        control.start()
        await asyncio.wait_for(read.wait(), 20)

    asyncio.run(main())
    return asked


@pytest.fixture(autouse=True)
def visible(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("underpass"), "propagate", True)
    caplog.set_level(logging.INFO, "underpass")


def test_reconnect_chooses_one_of_the_connections() -> None:
    asked = run("reconnect\n" * 64)
    assert {index for index, _ in asked} <= set(range(4))
    assert [delay for _, delay in asked] == [0.0] * 64


def test_reconnect_may_wait() -> None:
    assert run("reconnect 1m30s\n\n", 1) == [(0, 90.0)]


@pytest.mark.parametrize("delay", ["soon", "-1s", "2h"])
def test_a_delay_that_makes_no_sense_is_told(delay: str, caplog: pytest.LogCaptureFixture) -> None:
    assert run(f"reconnect {delay}\n") == []
    assert caplog.records[-1].levelno == logging.ERROR


def test_other_words_are_answered_with_help(caplog: pytest.LogCaptureFixture) -> None:
    assert run("sing a song\nhelp\n") == []
    first, *helps = [record.message for record in caplog.records]
    assert first == "Unknown command"
    assert all("reconnect [delay]" in text for text in helps)
    assert len(helps) == 2

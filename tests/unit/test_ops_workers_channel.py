"""Messages between processes: framing, calls, notices, and what is too much."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from underpass.ops.workers import channel as channel_module
from underpass.ops.workers.channel import (
    CallFailedError,
    Channel,
    ChannelClosedError,
    ChannelError,
    Frames,
    frame,
)
from underpass.ops.workers.process import connect


class Double(Struct, frozen=True, tag=True):
    number: int


class Wait(Struct, frozen=True, tag=True):
    pass


class Said(Struct, array_like=True, frozen=True, tag=True):
    text: str


class Side:
    """One end, which notes what happens to it."""

    requests = Double | Wait
    notices = Said

    def __init__(self) -> None:
        self.channel = Channel(self)
        self.said: list[str] = []
        self.heard = asyncio.Event()
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.was_closed = asyncio.Event()
        self.was_drained = asyncio.Event()

    async def answer(self, request: Any) -> Any:
        if isinstance(request, Double):
            if request.number < 0:
                raise ValueError("not below nothing")
            return 2 * request.number
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def notice(self, notice: Any) -> None:
        self.said.append(notice.text)
        self.heard.set()

    def drained(self) -> None:
        self.was_drained.set()

    def closed(self) -> None:
        self.was_closed.set()


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Side, Side]]:
    one, two = Side(), Side()
    for side, end in zip((one, two), socket.socketpair(), strict=True):
        end.setblocking(False)
        await connect(side.channel, end)
    try:
        yield one, two
    finally:
        one.channel.close()
        two.channel.close()
        await asyncio.wait_for(asyncio.gather(one.was_closed.wait(), two.was_closed.wait()), 10)


def run(scenario: Callable[[Side, Side], Awaitable[None]]) -> None:
    async def main() -> None:
        async with pair() as (one, two):
            await asyncio.wait_for(scenario(one, two), 20)

    asyncio.run(main())


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_come_out_however_the_stream_was_cut(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(frame, messages))
    frames, found, start = Frames(), [], 0
    while start < len(stream):
        size = data.draw(st.integers(1, len(stream) - start))
        found += frames.feed(stream[start : start + size])
        start += size
    assert found == messages


def test_a_message_can_be_as_large_as_the_bound_and_no_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_module, "MAX_MESSAGE", 100)
    assert list(Frames().feed(frame(b"x" * 100))) == [b"x" * 100]
    with pytest.raises(ChannelError, match="101 bytes is larger than 100"):
        frame(b"x" * 101)
    # Said by the length alone: nothing of it is waited for.
    with pytest.raises(ChannelError, match="101 bytes is larger than 100"):
        list(Frames().feed((101).to_bytes(4, "big")))


def test_calls_are_answered_in_both_directions() -> None:
    async def scenario(one: Side, two: Side) -> None:
        calls = [one.channel.call(Double(n), int) for n in range(10)]
        calls += [two.channel.call(Double(n), int) for n in range(10)]
        assert await asyncio.gather(*calls) == [2 * n for n in range(10)] * 2

    run(scenario)


def test_notices_come_in_their_order() -> None:
    async def scenario(one: Side, two: Side) -> None:
        for number in range(100):
            one.channel.tell(Said(str(number)))
        await one.channel.call(Double(0), int)
        assert two.said == [str(number) for number in range(100)]

    run(scenario)


def test_a_call_that_fails_over_there_fails_here(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(one: Side, two: Side) -> None:
        with pytest.raises(CallFailedError, match="not below nothing"):
            await one.channel.call(Double(-1), int)
        assert await one.channel.call(Double(4), int) == 8

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "unexpected error while answering another process" in caplog.text


def test_an_answer_that_is_too_large_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_MESSAGE", 4096)

    async def scenario(one: Side, two: Side) -> None:
        async def answer(request: Any) -> bytes:
            return bytes(4096 if request == Double(1) else 4000)

        monkeypatch.setattr(two, "answer", answer)
        with pytest.raises(CallFailedError, match="is larger than 4096"):
            await one.channel.call(Double(1), bytes)
        assert await one.channel.call(Double(2), bytes) == bytes(4000)

    run(scenario)


def test_a_cancelled_call_is_cancelled_over_there() -> None:
    async def scenario(one: Side, two: Side) -> None:
        call = asyncio.ensure_future(one.channel.call(Wait(), int))
        await two.asked.wait()
        call.cancel()
        await two.cancelled.wait()
        # Cancelled before it was begun there: nothing is said of it, and nothing is left.
        call = asyncio.ensure_future(one.channel.call(Wait(), int))
        await asyncio.sleep(0)
        call.cancel()
        assert await one.channel.call(Double(1), int) == 2

    run(scenario)


def test_calls_fail_when_the_channel_closes() -> None:
    async def scenario(one: Side, two: Side) -> None:
        call = asyncio.ensure_future(one.channel.call(Wait(), int))
        await two.asked.wait()
        two.channel.close()
        with pytest.raises(ChannelClosedError):
            await call
        assert one.channel.is_closed
        await two.cancelled.wait()
        with pytest.raises(ChannelClosedError):
            await one.channel.call(Double(1), int)
        one.channel.tell(Said("into the void"))

    run(scenario)


def test_calls_at_a_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(one: Side, two: Side) -> None:
        monkeypatch.setattr(channel_module, "MAX_CALLS", 3)
        calls = [asyncio.ensure_future(one.channel.call(Wait(), int)) for _ in range(3)]
        await two.asked.wait()
        with pytest.raises(ChannelError, match="3 calls are waiting"):
            await one.channel.call(Double(1), int)
        calls.pop().cancel()
        await two.cancelled.wait()
        assert await one.channel.call(Double(1), int) == 2
        for call in calls:
            call.cancel()

    run(scenario)


def test_more_calls_than_the_bound_close_the_channel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(one: Side, two: Side) -> None:
        calls = [asyncio.ensure_future(one.channel.call(Wait(), int)) for _ in range(4)]
        await asyncio.sleep(0)  # sent, by one who takes the bound for a higher one
        monkeypatch.setattr(channel_module, "MAX_CALLS", 3)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, ChannelClosedError) for outcome in outcomes)
        await two.was_closed.wait()

    run(scenario)
    assert "more than 3 calls at a time" in str(vars(caplog.records[-1])["error"])


@pytest.mark.parametrize("message", [b"", b"\xc1", b"\x93\xa6nonsense", b"\x92\xa6notice\xa1x"])
def test_a_message_without_sense_closes_the_channel(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        side = Side()
        await connect(side.channel, ours)
        with theirs:
            theirs.sendall(frame(message))
            await asyncio.wait_for(side.was_closed.wait(), 10)

    asyncio.run(main())
    assert "a channel between processes is broken" in caplog.text

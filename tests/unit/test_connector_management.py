"""Streamed logs: who is handed which records, and one client's session, with its bounds."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from underpass.connector.management import session as session_module
from underpass.connector.management import streams as streams_module
from underpass.connector.management.session import MAX_QUEUED, MAX_UNSENT, LogSession
from underpass.connector.management.streams import LogListener, LogStreams
from underpass.connector.services.websocket import Message, WebSocketClient
from underpass.wire.log_streaming import LogEvent, LogFilters, LogLevel

ROOT = logging.getLogger("underpass")
LOG = logging.getLogger("underpass.test")


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """The program's log, at level info."""
    before = list(ROOT.handlers), ROOT.level
    ROOT.handlers, ROOT.level = [], logging.INFO
    ROOT.setLevel(logging.INFO)
    yield
    ROOT.handlers = before[0]
    ROOT.setLevel(before[1])


class Listener:
    """Takes notes."""

    def __init__(self, actor: str = "me", filters: LogFilters | None = None) -> None:
        self.actor = actor
        self.filters = filters or LogFilters()
        self.logs: list[dict[str, Any]] = []
        self.ended = False

    def take(self, message: bytes) -> None:
        self.logs += json.loads(message)["logs"]

    def preempted(self) -> None:
        self.ended = True

    @property
    def messages(self) -> list[str]:
        return [log.get("message", "") for log in self.logs]


class TestStreams:
    def test_every_level_is_streamed_and_none_below_the_wanted_one(self) -> None:
        async def main() -> None:
            streams = LogStreams()
            everything = Listener()
            assert await streams.begin(everything)
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.CRITICAL):
                LOG.log(level, "at %d", level)
            assert [log.get("level", "debug") for log in everything.logs] == [
                "debug",
                "info",
                "warn",
                "error",
            ]
            some = Listener(filters=LogFilters(LogLevel.warn))
            assert await streams.begin(some)
            LOG.info("not wanted")
            LOG.warning("wanted")
            assert some.messages == ["wanted"]

        asyncio.run(main())

    def test_while_nobody_listens_no_record_is_made(self) -> None:
        async def main() -> None:
            levels: list[int] = []
            handlers = list(ROOT.handlers)  # there may be those of pytest
            streams = LogStreams(levels.append)
            assert not LOG.isEnabledFor(logging.DEBUG)
            listener = Listener()
            await streams.begin(listener)
            assert LOG.isEnabledFor(logging.DEBUG)
            streams.end(listener)
            assert not LOG.isEnabledFor(logging.DEBUG)
            assert ROOT.handlers == handlers
            assert levels == [logging.DEBUG, logging.INFO]
            streams.end(listener)  # harmless

        asyncio.run(main())

    def test_a_session_that_wants_less_does_not_silence_the_log(self) -> None:
        async def main() -> None:
            streams = LogStreams()
            listener = Listener(filters=LogFilters(LogLevel.error))
            await streams.begin(listener)
            assert LOG.isEnabledFor(logging.INFO)
            assert not LOG.isEnabledFor(logging.DEBUG)

        asyncio.run(main())

    def test_a_record_with_an_error_is_one(self) -> None:
        async def main() -> None:
            listener = Listener(filters=LogFilters(LogLevel.error))
            await LogStreams().begin(listener)
            LOG.info("it failed", extra={"error": "because"})
            (entry,) = listener.logs
            assert (entry["level"], entry["fields"]) == ("error", {"error": "because"})

        asyncio.run(main())

    def test_events_are_told_apart(self) -> None:
        async def main() -> None:
            listener = Listener(filters=LogFilters(events=(LogEvent.http, LogEvent.tcp)))
            await LogStreams().begin(listener)
            for event in (0, 1, 2, 3, 99, "x", None):
                LOG.info("about %s", event, extra={"event": event})
            LOG.info("about nothing")
            assert listener.messages == ["about 1", "about 2"]
            assert [entry["event"] for entry in listener.logs] == ["http", "tcp"]
            assert "fields" not in listener.logs[0]

        asyncio.run(main())

    def test_secrets_are_masked(self) -> None:
        async def main() -> None:
            listener = Listener()
            await LogStreams().begin(listener)
            LOG.info("with eyJhbGciOiJFUzI1NiJ9abcdef", extra={"token": "hush"})
            (entry,) = listener.logs
            assert entry["message"] == "with *****"
            assert entry["fields"] == {"token": "*****"}

        asyncio.run(main())

    @pytest.mark.parametrize(("sampling", "kept"), [(0.5, 2), (1.0, 4), (0.0, 4)])
    def test_sampling(self, sampling: float, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
        chances = iter([0.1, 0.6, 0.49, 0.5])
        monkeypatch.setattr(streams_module.random, "random", lambda: next(chances))

        async def main() -> None:
            listener = Listener(filters=LogFilters(sampling=sampling))
            await LogStreams().begin(listener)
            for _ in range(4):
                LOG.info("said")
            assert len(listener.logs) == kept

        asyncio.run(main())

    def test_the_same_actor_takes_over_and_another_one_is_refused(self) -> None:
        async def main() -> None:
            streams = LogStreams()
            first, second, other = Listener(), Listener(), Listener("another")
            assert await streams.begin(first)
            assert await streams.begin(second)
            assert (first.ended, second.ended) == (True, False)
            assert not await streams.begin(other)
            first.logs.clear()
            LOG.info("said")
            assert (first.messages, second.messages[-1:], other.messages) == ([], ["said"], [])
            streams.end(first)  # it listens no longer, so this ends nobody
            LOG.info("again")
            assert second.messages[-1] == "again"

        asyncio.run(main())

    def test_records_of_other_threads_come_by_way_of_the_loop(self) -> None:
        async def main() -> None:
            listener = Listener()
            taken: list[int] = []
            came = asyncio.Event()
            plain = listener.take

            def take(message: bytes) -> None:
                taken.append(threading.get_ident())
                plain(message)
                came.set()

            listener.take = take  # type: ignore[method-assign]
            await LogStreams().begin(listener)
            await asyncio.to_thread(LOG.info, "from elsewhere")
            await asyncio.wait_for(came.wait(), 20)
            assert taken == [threading.get_ident()]
            assert listener.messages == ["from elsewhere"]

        asyncio.run(main())


class Source:
    """A log that the test writes."""

    def __init__(self, accepts: bool = True) -> None:
        self.accepts = accepts
        self.listener: LogListener | None = None
        self.ends = 0
        self.begun = asyncio.Event()

    async def begin(self, listener: LogListener) -> bool:
        self.listener = listener if self.accepts else None
        self.begun.set()
        return self.accepts

    def end(self, listener: LogListener) -> None:
        self.listener = None
        self.ends += 1


class Side:
    """A stream to a client; what it takes in is the test's decision."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.unreleased = 0
        self.is_ended = False
        self._changed = asyncio.Event()
        self.on_data: Callable[[bytes], object] = lambda _: None
        self.on_released: Callable[[], object] = lambda: None
        self.on_end: Callable[[], object] = lambda: None
        self.on_abandoned: Callable[[int], object] = lambda _: None

    def write(self, data: bytes) -> None:
        self.sent += data
        self._changed.set()

    def end(self) -> None:
        self.is_ended = True
        self._changed.set()

    async def until(self, look: Callable[[], bool]) -> None:
        """Wait for what is sent or for the end to make something true."""
        while not look():
            self._changed.clear()
            await self._changed.wait()


class Client:
    """A client of a session, without anything between them."""

    def __init__(self, accepts: bool = True) -> None:
        self.source = Source(accepts)
        self.side = Side()
        self.gone: list[LogSession] = []
        self.session = LogSession(
            self.side,  # type: ignore[arg-type]
            "me",
            self.source,
            self.gone.append,
        )
        self.received: list[bytes] = []
        self.socket = WebSocketClient(self.side.on_data, lambda m: self.received.append(m.data))

    def say(self, text: bytes, *, is_text: bool = True) -> None:
        self.socket.send(Message(is_text, text))

    def hear(self) -> None:
        data = bytes(self.side.sent)
        self.side.sent.clear()
        self.socket.feed(data)

    async def start(self) -> None:
        self.source.begun.clear()
        self.say(b'{"type":"start_streaming"}')
        await self.source.begun.wait()
        await asyncio.sleep(0)

    @property
    def closed_with(self) -> tuple[int | None, str]:
        self.hear()
        assert self.side.is_ended
        assert self.gone == [self.session]
        return self.socket.close_code, self.socket.close_reason


def scenario(body: Callable[[Client], Awaitable[None]], accepts: bool = True) -> None:
    async def main() -> None:
        client = Client(accepts)
        try:
            await asyncio.wait_for(body(client), 20)
        finally:
            client.session.stop()

    asyncio.run(main())


class TestSession:
    def test_records_are_messages(self) -> None:
        async def body(client: Client) -> None:
            await client.start()
            assert client.source.listener is client.session
            client.session.take(b"one")
            client.hear()
            assert client.received == [b"one"]

        scenario(body)

    def test_a_slow_client_gets_the_first_records_and_the_rest_are_dropped(self) -> None:
        async def body(client: Client) -> None:
            await client.start()
            client.side.unreleased = MAX_UNSENT + 1
            for number in range(MAX_QUEUED + 5):
                client.session.take(b"%d" % number)
            assert client.session.dropped == 5
            assert not client.side.sent
            client.side.unreleased = 0
            client.side.on_released()
            client.session.take(b"later")
            client.hear()
            assert client.received == [*(b"%d" % n for n in range(MAX_QUEUED)), b"later"]

        scenario(body)

    def test_stop_keeps_the_socket(self) -> None:
        async def body(client: Client) -> None:
            await client.start()
            client.say(b'{"type":"stop_streaming"}')
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert client.source.listener is None
            assert not client.side.is_ended
            await client.start()
            assert client.source.listener is client.session

        scenario(body)

    @pytest.mark.parametrize(
        ("message", "is_text", "code", "reason"),
        [
            (b"nonsense", True, 1003, "a message is not a JSON object"),
            (b'{"type":"x"}', True, 1003, "invalid client message type was provided: x"),
            (b'{"type":"start_streaming"}', False, 1003, "invalid message type was provided"),
            (
                b'{"type":"start_streaming","filters":{"level":"loud"}}',
                True,
                4001,
                "expected start streaming as first event",
            ),
        ],
    )
    def test_what_makes_no_sense_ends_it(
        self, message: bytes, is_text: bool, code: int, reason: str
    ) -> None:
        async def body(client: Client) -> None:
            client.say(message, is_text=is_text)
            assert client.closed_with == (code, reason)

        scenario(body)

    def test_a_message_can_only_be_so_long(self) -> None:
        async def body(client: Client) -> None:
            client.say(b" " * (session_module.MAX_CLIENT_MESSAGE + 1))
            assert client.closed_with[0] == 1009

        scenario(body)

    def test_one_too_many_is_told_so(self) -> None:
        async def body(client: Client) -> None:
            await client.start()
            await asyncio.sleep(0)
            assert client.closed_with == (4002, "limit exceeded for streaming sessions")

        scenario(body, accepts=False)

    def test_preemption_is_a_friendly_end(self) -> None:
        async def body(client: Client) -> None:
            await client.start()
            client.session.preempted()
            assert client.closed_with == (1000, "another session of the same actor has begun")

        scenario(body)

    def test_commands_that_wait_are_bounded(self) -> None:
        async def body(client: Client) -> None:
            for _ in range(session_module.MAX_COMMANDS + 1):
                client.say(b'{"type":"stop_streaming"}')
            assert client.closed_with[0] == 1008

        scenario(body)

    def test_who_does_not_stream_is_not_kept_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_module, "IDLE_SECONDS", 0.01)

        async def body(client: Client) -> None:
            await client.side.until(lambda: client.side.is_ended)
            assert client.closed_with == (4003, "session was idle for too long")

        scenario(body)

    def test_streaming_is_not_idling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session_module, "PING_SECONDS", 0.01)

        async def body(client: Client) -> None:
            await client.start()
            assert client.session._idle is None
            await client.side.until(lambda: client.side.sent.count(b"\x89\x00") == 3)  # pings

        scenario(body)

    def test_a_client_that_leaves_is_forgotten(self) -> None:
        async def body(client: Client) -> None:
            await client.start()
            client.side.on_abandoned(8)
            assert client.gone == [client.session]
            assert client.source.listener is None
            client.session.take(b"too late")
            assert b"too late" not in client.side.sent

        scenario(body)

    def test_a_client_that_leaves_while_it_is_asked_for_is_let_go(self) -> None:
        async def body(client: Client) -> None:
            client.say(b'{"type":"start_streaming"}')
            client.side.on_abandoned(8)
            for _ in range(3):
                await asyncio.sleep(0)
            assert client.source.listener is None

        scenario(body)

"""What is said on the WebSocket of `/logs`, and the token that opens it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rig.management import management_token

from underpass.wire.log_streaming import (
    MAX_TOKEN,
    Command,
    InvalidCommandError,
    InvalidFiltersError,
    LogEvent,
    LogFilters,
    LogLevel,
    ManagementTokenError,
    StreamedLog,
    decode_logs,
    encode_log,
    encode_start,
    parse_management_token,
    read_command,
)


def start(**filters: Any) -> bytes:
    return json.dumps({"type": "start_streaming", "filters": filters}).encode()


class TestCommands:
    def test_a_start_without_filters_wants_everything(self) -> None:
        for message in (
            b'{"type":"start_streaming"}',
            start(),
            b'{"type":"start_streaming","x":1}',
        ):
            assert read_command(message) == (Command.START, LogFilters())

    def test_filters_are_read(self) -> None:
        _, filters = read_command(start(events=["http", "tcp", "http"], level="warn", sampling=0.5))
        assert filters == LogFilters(LogLevel.warn, (LogEvent.http, LogEvent.tcp), 0.5)

    @pytest.mark.parametrize(("given", "kept"), [(-3, 0.0), (7, 1.0), (0.25, 0.25)])
    def test_sampling_is_clamped(self, given: float, kept: float) -> None:
        _, filters = read_command(start(sampling=given))
        assert filters is not None
        assert filters.sampling == kept

    def test_stop(self) -> None:
        assert read_command(b'{"type":"stop_streaming"}') == (Command.STOP, None)

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (b"", "not a JSON object"),
            (b"[]", "not a JSON object"),
            (b"\xff", "not a JSON object"),
            (b"[" * 100_000, "not a JSON object"),
            (b"{}", "invalid message type"),
            (b'{"type":"logs"}', "invalid client message type was provided: logs"),
        ],
    )
    def test_what_is_no_command(self, message: bytes, reason: str) -> None:
        with pytest.raises(InvalidCommandError, match=reason):
            read_command(message)

    @pytest.mark.parametrize(
        "filters", [{"level": "loud"}, {"events": ["dns"]}, {"events": "http"}, {"sampling": "all"}]
    )
    def test_filters_that_make_no_sense(self, filters: dict[str, Any]) -> None:
        with pytest.raises(InvalidFiltersError):
            read_command(start(**filters))

    def test_what_a_client_asks_for_is_understood(self) -> None:
        for filters in (LogFilters(), LogFilters(LogLevel.error, (LogEvent.udp,), 0.1)):
            assert read_command(encode_start(filters)) == (Command.START, filters)
        # As cloudflared's own `tail` says it.
        assert json.loads(encode_start(LogFilters())) == {
            "type": "start_streaming",
            "filters": {"level": "debug", "sampling": 1.0},
        }


class TestLogs:
    def test_what_is_the_default_is_left_out(self) -> None:
        log = StreamedLog("2026-01-02T03:04:05Z", LogLevel.debug, LogEvent.cloudflared, "", {})
        assert encode_log(log) == b'{"type":"logs","logs":[{"time":"2026-01-02T03:04:05Z"}]}'
        assert decode_logs(encode_log(log)) == [log]

    def test_a_whole_record(self) -> None:
        log = StreamedLog("t", LogLevel.error, LogEvent.http, "said", {"error": "x", "n": 1})
        message = encode_log(log)
        assert json.loads(message)["logs"] == [
            {
                "time": "t",
                "level": "error",
                "message": "said",
                "event": "http",
                "fields": {"error": "x", "n": 1},
            }
        ]
        assert decode_logs(message) == [log]

    def test_a_message_about_something_else_has_no_records(self) -> None:
        assert decode_logs(b'{"type":"news","logs":[{}]}') == ()

    @pytest.mark.parametrize(
        "message",
        [b"", b"{}", b'{"type":"logs","logs":[{"level":"loud"}]}', b'{"type":"logs","logs":3}'],
    )
    def test_what_is_no_message(self, message: bytes) -> None:
        with pytest.raises(ValueError, match="message"):
            decode_logs(message)


class TestToken:
    def test_claims_are_read(self) -> None:
        claims = parse_management_token(management_token("me"))
        assert (claims.actor_id, claims.account_tag, claims.is_fed) == ("me", "account", False)
        assert parse_management_token(management_token(iss="fed-tunnelstore")).is_fed

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "a.b",
            "a.b.c.d",
            "!.!.!",
            management_token(alg="HS256"),
            management_token(alg="none"),
            management_token(""),
            management_token(tun={"id": "", "account_tag": "a"}),
            management_token(tun={"id": "x"}),
            management_token(actor=None),
            management_token().rpartition(".")[0] + ".",
            management_token("a" * MAX_TOKEN),
        ],
    )
    def test_what_is_no_token(self, token: str) -> None:
        with pytest.raises(ManagementTokenError):
            parse_management_token(token)

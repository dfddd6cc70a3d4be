"""Log lines: both formats, levels, files, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from underpass.ops import logging as logging_module
from underpass.ops.logging import (
    MAX_TEXT,
    ConsoleFormatter,
    JsonFormatter,
    LoggingError,
    LoggingOptions,
    configure_logging,
)

WHEN = 1767323045.9  # 2026-01-02T03:04:05.9Z


def record(message: str, level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelno": level, **fields})
    made.created = WHEN
    return made


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the logger as it was found."""
    root = logging.getLogger("underpass")
    state = (list(root.handlers), root.level, root.propagate)
    yield
    for handler in set(root.handlers) - set(state[0]):
        handler.close()
    root.handlers, root.level, root.propagate = state


class TestConsole:
    def test_time_level_message_and_sorted_fields(self) -> None:
        line = ConsoleFormatter().format(record("Registered", location="lis01", connIndex=0))
        assert line == "2026-01-02T03:04:05Z INF Registered connIndex=0 location=lis01"

    @pytest.mark.parametrize(
        ("level", "name"),
        [
            (logging.DEBUG, "DBG"),
            (logging.INFO, "INF"),
            (logging.WARNING, "WRN"),
            (logging.ERROR, "ERR"),
            (logging.CRITICAL, "FTL"),
        ],
    )
    def test_levels(self, level: int, name: str) -> None:
        assert f" {name} x" in ConsoleFormatter().format(record("x", level))

    def test_the_error_comes_first_and_values_are_quoted_when_needed(self) -> None:
        line = ConsoleFormatter().format(record("x", error=OSError("it broke"), a="b=c", z=True))
        assert line.endswith(' x error="it broke" a="b=c" z=true')

    def test_an_empty_message_leaves_no_gap(self) -> None:
        line = ConsoleFormatter().format(record("", error="e"))
        assert line == "2026-01-02T03:04:05Z INF error=e"

    def test_bytes_from_the_network_break_no_line_and_colour_nothing(self) -> None:
        hostile = "a\r\nb\x1b[31m\u2028\ud800"
        line = ConsoleFormatter().format(record(hostile, path=hostile))
        assert line.isprintable()
        line.encode("utf-8")

    def test_a_terminal_gets_colours(self) -> None:
        assert "\x1b[" in ConsoleFormatter(colour=True).format(record("x", a=1))

    def test_an_exception_under_way_is_the_error(self) -> None:
        error = ValueError("wrong")
        made = record("x", exc_info=(ValueError, error, None))
        assert ConsoleFormatter().format(made).endswith("error=wrong")


class TestJson:
    def test_one_object_with_the_fields_as_they_are(self) -> None:
        line = JsonFormatter().format(record("Done", connIndex=3, error=OSError("bad"), more=[1]))
        assert json.loads(line) == {
            "level": "info",
            "time": "2026-01-02T03:04:05Z",
            "message": "Done",
            "error": "bad",
            "connIndex": 3,
            "more": [1],
        }
        assert list(json.loads(line))[:3] == ["level", "time", "message"]

    def test_a_field_cannot_replace_the_level(self) -> None:
        made = record("x")
        made.__dict__["level"] = "debug"
        assert json.loads(JsonFormatter().format(made))["level"] == "info"

    def test_a_line_is_one_line(self) -> None:
        assert "\n" not in JsonFormatter().format(record("a\nb", c="d\ne"))


class TestSecrets:
    @pytest.mark.parametrize("formatter", [ConsoleFormatter(), JsonFormatter()])
    @pytest.mark.parametrize(
        "fields",
        [
            {"token": "hunter22"},
            {"tunnel_secret": "hunter22"},
            {"TunnelSecret": "hunter22"},
            {"headers": {"Authorization": "hunter22", "Cf-Access-Token": "hunter22"}},
            {"error": "bad token eyJhIjoiaHVudGVyMjIiLCJzIjoiaHVudGVyMjIi0="},
        ],
    )
    def test_they_are_masked(self, formatter: logging.Formatter, fields: dict[str, Any]) -> None:
        line = formatter.format(record("x", **fields))
        assert "hunter22" not in line
        assert "aHVudGVyMjIi" not in line
        assert "*****" in line

    def test_a_long_value_is_cut(self) -> None:
        line = JsonFormatter().format(record("m" * 10**6, path="p" * 10**6))
        assert len(line) < 3 * MAX_TEXT


class TestConfiguration:
    def test_the_level_decides_what_is_written(self) -> None:
        stream = io.StringIO()
        configure_logging(LoggingOptions(level="warn"), stream)
        logging.getLogger("underpass.x").info("quiet")
        logging.getLogger("underpass.x").warning("loud")
        assert "quiet" not in stream.getvalue()
        assert "WRN loud" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()

    def test_an_unknown_level_is_read_as_info_with_a_remark(self) -> None:
        stream = io.StringIO()
        configure_logging(LoggingOptions(level="chatty"), stream)
        assert "ERR Unknown log level, using info loglevel=chatty" in stream.getvalue()

    def test_an_unknown_format_is_refused(self) -> None:
        with pytest.raises(LoggingError, match="'xml' is not default or json"):
            configure_logging(LoggingOptions(format="xml"))

    def test_configuring_again_replaces(self) -> None:
        streams = io.StringIO(), io.StringIO()
        for stream in streams:
            configure_logging(LoggingOptions(format="json"), stream)
        logging.getLogger("underpass").info("once")
        assert streams[0].getvalue() == ""
        assert json.loads(streams[1].getvalue())["message"] == "once"

    def test_a_log_file_is_appended_json_and_the_terminal_stays_on(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "log"
        for message in ("one", "two"):
            stream = io.StringIO()
            configure_logging(LoggingOptions(logfile=str(path)), stream)
            logging.getLogger("underpass").info(message)
            assert message in stream.getvalue()
        lines = path.read_text().splitlines()
        assert [json.loads(line)["message"] for line in lines] == ["one", "two"]

    def test_a_log_directory_has_rotated_files(self, tmp_path: Path) -> None:
        configure_logging(LoggingOptions(directory=str(tmp_path)), io.StringIO())
        logging.getLogger("underpass").info("here")
        assert "here" in (tmp_path / "underpass.log").read_text()

    def test_full_files_are_named_after_the_time_and_the_newest_five_are_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging_module, "ROTATE_AT", 1024)
        (tmp_path / "underpass-of-somebody.log").write_text("kept")
        configure_logging(LoggingOptions(directory=str(tmp_path)), io.StringIO())
        for number in range(8):
            logging.getLogger("underpass").info("%d %s", number, "x" * 1000)
        current, *others = sorted(tmp_path.iterdir(), key=lambda path: path.name != "underpass.log")
        assert current.read_text().count("\n") == 1
        former = sorted(path for path in others if "somebody" not in path.name)
        assert len(former) == 5
        assert len(others) == 6
        numbers = [json.loads(path.read_text())["message"][0] for path in former]
        assert numbers == ["2", "3", "4", "5", "6"]
        assert all(re.fullmatch(r"underpass-\d{4}-\d\d-\d\dT[\d.-]+\.log", p.name) for p in former)

    def test_a_level_lowered_for_somebody_else_changes_nothing_here(self, tmp_path: Path) -> None:
        stream = io.StringIO()
        configure_logging(LoggingOptions(logfile=str(tmp_path / "log"), level="warn"), stream)
        logging.getLogger("underpass").setLevel(logging.DEBUG)
        logging.getLogger("underpass.x").debug("quiet")
        logging.getLogger("underpass.x").warning("loud")
        assert "loud" in stream.getvalue()
        assert "quiet" not in stream.getvalue() + (tmp_path / "log").read_text()

    def test_both_is_remarked_on(self, tmp_path: Path) -> None:
        stream = io.StringIO()
        options = LoggingOptions(logfile=str(tmp_path / "a"), directory=str(tmp_path))
        configure_logging(options, stream)
        assert "the file is used" in stream.getvalue()
        assert not (tmp_path / "underpass.log").exists()

    def test_a_file_that_cannot_be_opened_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(LoggingError, match="cannot write the log file"):
            configure_logging(LoggingOptions(logfile=str(tmp_path)), io.StringIO())

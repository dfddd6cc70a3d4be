"""Log lines for people and for machines, in cloudflared's two formats (docs: command line §11).

    2026-01-02T03:04:05Z INF Registered tunnel connection connIndex=0 location=lis01
    {"level":"info","time":"2026-01-02T03:04:05Z","message":"Registered tunnel connection",...}

Underneath is the standard library: modules log with `logging.getLogger(__name__)` and give fields
with `extra={...}`. Fields that look secret are masked, and so is every token-shaped word, because a
line once written cannot be taken back. Bytes from the network cannot break a line or colour it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from msgspec import Struct

__all__ = [
    "ConsoleFormatter",
    "JsonFormatter",
    "LoggingError",
    "LoggingOptions",
    "configure_logging",
    "record_fields",
]

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
# Characters of one field or message; a hostile peer's header ends in a log line now and then.
MAX_TEXT = 8192
# Bytes and number of rotated files in --log-directory.
ROTATE_AT = 1024 * 1024
ROTATE_KEEP = 5

_NAMES = {
    logging.DEBUG: ("debug", "DBG", "33"),
    logging.INFO: ("info", "INF", "32"),
    logging.WARNING: ("warn", "WRN", "31"),
    logging.ERROR: ("error", "ERR", "1;31"),
    logging.CRITICAL: ("fatal", "FTL", "1;31"),
}
_NOT_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_FIELD = re.compile(
    r"(?i)(?:^|[-_])(?:token|secret|password|authorization|cookie)|tunnelsecret"
)
# Base64 of a JSON object: tunnel tokens and JSON Web Tokens. API tokens of an edge.
_SECRET_WORD = re.compile(r"eyJ[A-Za-z0-9_\-+/=.]{16,}|up_[0-9a-f]{12}_[0-9a-f]{16,}")
_MASK = "*****"
_QUOTED = re.compile(r'[^\x21-\x7e]|["\\=]')


class LoggingError(ValueError):
    """The log cannot be set up as asked."""


class LoggingOptions(Struct, frozen=True):
    """`format` is `default` or `json`; `logfile` wins over `directory`; "" means none."""

    level: str = "info"
    format: str = "default"
    logfile: str = ""
    directory: str = ""


def configure_logging(options: LoggingOptions, stream: TextIO | None = None) -> None:
    """Send the `underpass` logs to `stream`, standard error by default, and to files asked for.

    An unknown level is remarked on and read as info. Raises LoggingError for an unknown format or
    a file that cannot be opened. May be called again: it replaces what was configured.
    """
    stream = stream or sys.stderr
    if options.format not in ("default", "json"):
        raise LoggingError(f"--output {options.format!r} is not default or json")
    handlers: list[logging.Handler] = [logging.StreamHandler(stream)]
    handlers[0].setFormatter(
        JsonFormatter() if options.format == "json" else ConsoleFormatter(colour=_is_tty(stream))
    )
    if options.logfile or options.directory:
        handlers.append(_file_handler(options))
        handlers[1].setFormatter(JsonFormatter())
    root = logging.getLogger("underpass")
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.propagate = False
    level = LEVELS.get(options.level)
    root.setLevel(logging.INFO if level is None else level)
    if level is None:
        root.error("Unknown log level, using info", extra={"loglevel": options.level})
    if options.logfile and options.directory:
        root.error("Both --logfile and --log-directory are given; the file is used")


def _file_handler(options: LoggingOptions) -> logging.Handler:
    path = Path(options.logfile or Path(options.directory) / "underpass.log").expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if options.logfile:
            return logging.FileHandler(path, encoding="utf-8")
        from logging.handlers import RotatingFileHandler

        return RotatingFileHandler(
            path, maxBytes=ROTATE_AT, backupCount=ROTATE_KEEP, encoding="utf-8"
        )
    except OSError as error:
        raise LoggingError(f"cannot write the log file {path}: {error.strerror}") from None


class ConsoleFormatter(logging.Formatter):
    """`TIME LVL message key=value`: `error` first, the other fields sorted."""

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        _, level, colour = _NAMES[_level(record)]
        stamp = _timestamp(record.created)
        if self._colour:
            stamp, level = f"\x1b[90m{stamp}\x1b[0m", f"\x1b[{colour}m{level}\x1b[0m"
        parts = [stamp, level, _one_line(_clean(record.getMessage()))]
        for name, value in _fields(record):
            text = _console_value(value)
            parts.append(f"\x1b[36m{name}=\x1b[0m{text}" if self._colour else f"{name}={text}")
        return " ".join(part for part in parts if part)


class JsonFormatter(logging.Formatter):
    """One object a line: level, time, message, then the fields as the console has them."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": _NAMES[_level(record)][0],
            "time": _timestamp(record.created),
            "message": _clean(record.getMessage()),
        }
        for name, value in _fields(record):
            line.setdefault(name, value)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=_plain)


def record_fields(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The message and the fields of a record, bounded, without secrets, as plain values."""
    return _clean(record.getMessage()), dict(_fields(record))


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    fields = {name: value for name, value in vars(record).items() if name not in _NOT_FIELDS}
    error = fields.pop("error", None)
    if error is None and record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
    if error is not None:
        yield "error", _clean(str(error) or type(error).__name__)
    for name in sorted(fields):
        value = fields[name]
        if _SECRET_FIELD.search(name) and value:
            yield name, _MASK
        else:
            yield name, _clean(value) if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> Any:
    """Numbers, booleans and nothing as they are, mappings and lists by their parts, else text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {
            str(key): _MASK if _SECRET_FIELD.search(str(key)) else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _clean(str(value))


def _clean(text: str) -> str:
    """Bounded, without secrets, and encodable."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + "..."
    if "eyJ" in text:
        text = _SECRET_WORD.sub(_MASK, text)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _console_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    text = "" if value is None else str(value)
    return json.dumps(text) if _QUOTED.search(text) else text


def _one_line(text: str) -> str:
    """Control characters, line ends included, as escapes: a terminal obeys none of them."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _level(record: logging.LogRecord) -> int:
    for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO):
        if record.levelno >= level:
            return level
    return logging.DEBUG


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _is_tty(stream: TextIO) -> bool:
    with contextlib.suppress(ValueError, AttributeError):  # a closed or makeshift stream is none
        return stream.isatty()
    return False

"""Access logs of connector and edge: lines about requests, as JSON or in the combined format.

Each has a structure of its own for what it knows of a request; here is what a line is written with.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final, Protocol

import msgspec

from underpass.ops.access_log_options import AccessLogOptions
from underpass.ops.line_writer import LineWriter

__all__ = ["CLIENT_CLOSED", "MAX_TEXT", "AccessLine", "AccessLogFile", "clock", "seconds", "text"]

MAX_TEXT: Final = 2048
"""Characters of a path, a host or a user agent that are logged."""

CLIENT_CLOSED: Final = 499
"""The status, in the combined format, of a request whose visitor left before it was answered, as
nginx has it. JSON has none then."""

_log = logging.getLogger(__name__)


class AccessLine(Protocol):
    """What the combined format says of a request."""

    time: str
    client: str
    method: str
    path: str
    status: int | None
    responseBytes: int  # noqa: N815 - as the log spells its fields
    referer: str
    userAgent: str  # noqa: N815
    cause: str

    @property
    def protocol(self) -> str:
        """Such as HTTP/2.0."""
        ...


class AccessLogFile:
    """Where lines go. Raises ValueError, with the reason in words, if it cannot be opened."""

    def __init__(self, options: AccessLogOptions) -> None:
        self._query = options.query
        self._render = _json if options.format == "json" else _combined
        try:
            self._writer = LineWriter(options.target)
        except OSError as error:
            raise ValueError(
                f"cannot write the access log {options.target}: {error.strerror or error}"
            ) from None

    def write(self, line: AccessLine) -> None:
        """One request has ended."""
        self._writer.write(self._render(line))

    def flush(self) -> None:
        """Once a second."""
        self._writer.flush()
        lost, error = self._writer.take_losses()
        if lost:
            _log.warning(
                "Lines of the access log were lost",
                extra={"count": lost, "error": str(error) if error else "they could not be kept"},
            )

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def shown(self, path: bytes | None) -> bytes | None:
        """A path, or a whole address, with as much of its query as is wanted."""
        if path is None or b"?" not in path or self._query == "keep":
            return path
        before, _, query = path.partition(b"?")
        if self._query == "omit":
            return before
        return before + b"?" + b"&".join(map(_masked, query[:MAX_TEXT].split(b"&")))


def _masked(pair: bytes) -> bytes:
    """A parameter of a query without its value."""
    name, equals, _ = pair.partition(b"=")
    return name + b"=*" if equals else name


def text(value: bytes | None) -> str:
    """As text, bounded; what is not ASCII as escapes, because a terminal may obey it."""
    if value is None:
        return ""
    if len(value) <= MAX_TEXT and value.isascii():
        return value.decode()
    return value[:MAX_TEXT].decode("ascii", "backslashreplace")


def seconds(value: float) -> float:
    """Seconds to the microsecond."""
    return int(value * 1e6) / 1e6


class _Clock:
    """RFC 3339 with milliseconds. Each second is put into words once."""

    def __init__(self) -> None:
        self._second = -1.0
        self._words = ""

    def text(self) -> str:
        """The time now."""
        now = time.time()
        past = now - self._second
        if not 0 <= past < 1:
            self._second = now // 1
            self._words = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(now))
            past = now - self._second
        return self._words + _MILLISECONDS[int(past * 1000)]


_MILLISECONDS: Final = tuple(f"{number:03d}Z" for number in range(1000))
clock: Final = _Clock().text
"""The time now."""
_encoder = msgspec.json.Encoder()


def _json(line: Any) -> bytes:
    return _encoder.encode(line) + b"\n"


_MONTHS: Final = ("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec").split()  # noqa: SIM905


def _combined(line: AccessLine) -> bytes:
    """The format that log analysers know from Apache and nginx."""
    year, month, day, clock = line.time[:4], line.time[5:7], line.time[8:10], line.time[11:19]
    stamp = f"{day}/{_MONTHS[int(month) - 1]}/{year}:{clock} +0000"
    status = line.status or (CLIENT_CLOSED if line.cause == "reset_by_client" else 0)
    client, method, path, referer, user_agent = (
        _quoted(value) or "-"
        for value in (line.client, line.method, line.path, line.referer, line.userAgent)
    )
    return (
        f'{client} - - [{stamp}] "{method} {path} {line.protocol}" {status:03d} '
        f'{line.responseBytes} "{referer}" "{user_agent}"\n'
    ).encode("ascii")


def _quoted(value: str) -> str:
    """For inside quotation marks: those, and all that is not printable, as Apache escapes them."""
    if value.isprintable() and '"' not in value and "\\" not in value:
        return value
    return "".join(
        char if " " <= char <= "~" and char not in '"\\' else f"\\x{ord(char):02x}"
        for char in value
    )

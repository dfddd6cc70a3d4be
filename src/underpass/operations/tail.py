"""Follow a connector's log through its tunnel (docs: observability §4, command line §7)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

import httptools
from msgspec import Struct

from underpass.connector.services.handshake import accept_key
from underpass.connector.services.websocket import CloseCode, Message, WebSocketClient
from underpass.ops.logging import one_line
from underpass.version import VERSION
from underpass.wire.log_streaming import (
    LogFilters,
    StreamedLog,
    decode_logs,
    encode_start,
    log_document,
)

__all__ = ["TailError", "TailOptions", "follow", "format_default", "format_json"]

CONNECT_SECONDS: Final = 15.0
"""For the connection, TLS and the answer to the handshake."""

SILENCE_SECONDS: Final = 60.0
"""Without a byte, the pings of every fifteen seconds included, nobody is there any more."""

CLOSE_SECONDS: Final = 1.0
"""For the other end to say goodbye too."""

MAX_ANSWER: Final = 64 * 1024
"""Bytes of an answer that is no WebSocket."""

NO_CONNECTOR: Final = 530
"""The status of an edge that has no connector to ask."""

_CHUNK: Final = 64 * 1024

_log = logging.getLogger("underpass.tail")


class TailError(Exception):
    """The log cannot be followed, or not any longer; the text says why."""


class TailOptions(Struct, frozen=True):
    """Where to ask for which records. `host` is the management host, with a port or without."""

    host: str
    token: str
    filters: LogFilters
    connector_id: str = ""
    trace: str = ""

    @property
    def server_name(self) -> str:
        return _split(self.host)[0]

    @property
    def port(self) -> int:
        return _split(self.host)[1]

    @property
    def target(self) -> str:
        query = {"access_token": self.token}
        if self.connector_id:
            query["connector_id"] = self.connector_id
        return "/logs?" + urlencode(query)


async def follow(
    options: TailOptions,
    show: Callable[[StreamedLog], None],
    stopping: asyncio.Event,
    context: ssl.SSLContext,
) -> None:
    """Show records until the other end closes cleanly or `stopping` is set. Raises TailError."""
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(
                options.server_name, options.port, ssl=context, server_hostname=options.server_name
            ),
            CONNECT_SECONDS,
        )
    except asyncio.TimeoutError:
        raise TailError(f"{options.host} did not answer in time") from None
    except OSError as error:
        raise TailError(f"cannot connect to {options.host}: {error}") from error
    try:
        await _Conversation(options, show, reader, writer).run(stopping)
    finally:
        writer.transport.abort()


class _Conversation:
    def __init__(
        self,
        options: TailOptions,
        show: Callable[[StreamedLog], None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._options = options
        self._show = show
        self._reader = reader
        self._writer = writer
        self._socket = WebSocketClient(writer.write, self._take)

    async def run(self, stopping: asyncio.Event) -> None:
        try:
            first = await asyncio.wait_for(self._shake_hands(), CONNECT_SECONDS)
        except asyncio.TimeoutError:
            raise TailError(f"{self._options.host} did not answer in time") from None
        except OSError as error:
            raise TailError(f"the connection to {self._options.host} broke: {error}") from error
        self._socket.send(Message(True, encode_start(self._options.filters)))
        _log.debug("connected", extra={"connector-id": self._options.connector_id})
        reading = asyncio.create_task(self._read(first))
        asked = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({reading, asked}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
                return
            _log.debug("closing management connection")
            self._socket.close(CloseCode.NORMAL)
            await asyncio.wait({reading}, timeout=CLOSE_SECONDS)
        finally:
            reading.cancel()
            asked.cancel()
            await asyncio.gather(reading, asked, return_exceptions=True)

    async def _shake_hands(self) -> bytes:
        """Ask for the WebSocket; what has come of it already is returned."""
        key = base64.b64encode(os.urandom(16))
        fields = {
            "Host": self._options.host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key.decode("ascii"),
            "Sec-WebSocket-Version": "13",
            "User-Agent": f"underpass/{VERSION}",
        }
        if self._options.trace:
            fields["cf-trace-id"] = self._options.trace
        lines = [f"GET {self._options.target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        answer = await _read_answer(self._reader)
        if answer.status != 101:
            raise TailError(_refusal(answer.status, answer.body))
        fields = answer.fields
        if fields.get("sec-websocket-accept", "").encode() != accept_key(key):
            raise TailError("the answer to the WebSocket handshake is not one to this handshake")
        if fields.get("sec-websocket-extensions"):
            raise TailError("the other end wants WebSocket extensions that were not offered")
        return answer.rest

    async def _read(self, data: bytes) -> None:
        while True:
            self._socket.feed(data)
            if self._socket.closed:
                code, reason = self._socket.close_code, self._socket.close_reason
                if code not in (None, CloseCode.NORMAL):
                    raise TailError(f"received remote closure: ({code}) {one_line(reason)}")
                if code is None:
                    raise TailError("the other end closed without a reason, or broke the protocol")
                return
            try:
                data = await asyncio.wait_for(self._reader.read(_CHUNK), SILENCE_SECONDS)
            except asyncio.TimeoutError:
                raise TailError("there has been no sign of life from the other end") from None
            except OSError as error:
                raise TailError(f"the connection broke: {error}") from error
            if not data:
                raise TailError("the connection ended without a goodbye")

    def _take(self, message: Message) -> None:
        try:
            logs = decode_logs(message.data)
        except ValueError as error:
            _log.error("unable to read event from server", extra={"error": str(error)})
            return
        for each in logs:
            self._show(each)


class _Answer:
    """Receives what httptools parses of the answer to the handshake."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        self.body = b""
        self.rest = b""
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_complete = True


async def _read_answer(reader: asyncio.StreamReader) -> _Answer:
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    received = 0
    while not answer.is_complete:
        data = await reader.read(_CHUNK)
        received += len(data)
        if not data and parser.get_status_code():
            break  # content without a length ends with the connection
        if not data or received > MAX_ANSWER:
            raise TailError("the other end does not answer as a web server does")
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            answer.rest = data[upgrade.args[0] :]
            break
        except httptools.HttpParserError as error:
            raise TailError(f"the answer to the handshake is not HTTP: {error}") from None
    answer.status = parser.get_status_code()
    return answer


def _refusal(status: int, body: bytes) -> str:
    """Why there is no WebSocket, as far as the answer says."""
    if status == NO_CONNECTOR:
        return "no connector is there to be asked, or it is too old to stream its log"
    errors: Any = None
    with contextlib.suppress(ValueError, AttributeError):
        errors = json.loads(body).get("errors")
    if not isinstance(errors, list) or not errors:
        return f"the log cannot be streamed: the answer's status is {status}"
    told = "; ".join(
        f"({error.get('code')}) {error.get('message')}"
        for error in errors
        if isinstance(error, dict)
    )
    return f"management request failed validation: {one_line(told)}"


def format_default(log: StreamedLog) -> str:
    """`TIME LEVEL EVENT MESSAGE FIELDS`, with nothing in it that a terminal would obey."""
    fields = json.dumps(dict(log.fields), separators=(",", ":")) if log.fields else "null"
    text = f"{log.time} {log.level.name} {log.event.name} {log.message}"
    return f"{one_line(text)} {fields}"


def format_json(log: StreamedLog) -> str:
    """The record's JSON object, in one line of ASCII."""
    return json.dumps(log_document(log), separators=(",", ":"))


def _split(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        return host.strip("[]"), 443
    return name.strip("[]"), int(port)

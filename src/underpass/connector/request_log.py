"""Requests and their answers in the log, at level debug, as cloudflared writes them (docs:
observability §8): `GET http://localhost:8080/ HTTP/2.0` and `200 OK`, with their context as fields.
The address is the service's, where cloudflared over HTTP/2 always says localhost:8080.

Only imported at that level. Fields that look secret are masked by the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from underpass.connector.observers import chained
from underpass.connector.routes import PRIVATE_NETWORK, RouteInfo
from underpass.core.fields import Fields
from underpass.core.tunnel import Kind, OriginExchange

__all__ = ["observe_requests"]

_log = logging.getLogger("underpass.connector.requests")

MAX_FIELDS: Final = 128
"""Header fields of one request that are shown."""

_HTTP_EVENT: Final = 1
_STREAM_EVENT: Final = 2


def observe_requests(exchange: OriginExchange) -> None:
    """Log a request, and its answer when that comes."""
    context = _context(exchange)
    fields = exchange.request or ()
    headers = _headers(fields)
    host, path = _text(exchange.authority), _text(exchange.path)
    if exchange.kind == Kind.STREAM:
        _log.debug("tcp proxy stream started", extra={**context, "destAddr": host})
    else:
        service = context.get("originService", "")
        base = service if service.startswith(("http://", "https://")) else f"http://{host}"
        _log.debug(
            "%s %s HTTP/2.0",
            _text(exchange.method),
            base.rstrip("/") + path,
            extra={
                **context,
                "host": host,
                "path": path.partition("?")[0],
                "headers": headers,
                "content-length": _number(headers.get("Content-Length", [""])[0], 0),
            },
        )
    exchange.on_answer = chained(
        exchange.on_answer, lambda _, status, head: _answered(context, status, head)
    )
    if exchange.kind == Kind.STREAM:
        exchange.on_over = chained(exchange.on_over, lambda ended: _stream_over(context, ended))


def _answered(context: dict[str, Any], status: int, head: Fields) -> None:
    length = _number(_text(dict(head).get(b"content-length", b"")), -1)
    message = f"{status} {_phrase(status)}".rstrip()
    _log.debug("%s", message, extra={**context, "content-length": length})


def _number(text: str, unknown: int) -> int:
    return int(text) if text.isascii() and text.isdecimal() else unknown


def _stream_over(context: dict[str, Any], exchange: OriginExchange) -> None:
    if exchange.cause is None:
        _log.debug("tcp proxy stream finished successfully", extra=context)


def _context(exchange: OriginExchange) -> dict[str, Any]:
    context: dict[str, Any] = {
        "connIndex": exchange.acceptor.conn_index,
        "event": _STREAM_EVENT if exchange.kind == Kind.STREAM else _HTTP_EVENT,
    }
    if exchange.route is not None:
        info: RouteInfo = exchange.route.info
        context["originService"] = info.service
        if info is not PRIVATE_NETWORK:
            context["ingressRule"] = info.rule
    return context


def _headers(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """As Go has them: each name once, in its own spelling, with all its values."""
    headers: dict[str, list[str]] = {}
    for name, value in list(fields)[:MAX_FIELDS]:
        if not name.startswith(b":"):
            spelling = "-".join(part.capitalize() for part in _text(name).split("-"))
            headers.setdefault(spelling, []).append(_text(value))
    return headers


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")

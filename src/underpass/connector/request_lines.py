"""A line for each request, at level debug (docs: observability §8). Imported once it is wanted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from underpass.connector.ingress import Rule
from underpass.core.fields import Token
from underpass.core.tunnel import OriginExchange

__all__ = ["logged"]

EVENT: Final = 1
"""The numeric `event` field of what is about an HTTP request."""

_INTERNAL: Final = (b":", b"cf-cloudflared-")

_log = logging.getLogger(__name__)


def logged(
    forward: Callable[[OriginExchange], None], number: int, rule: Rule
) -> Callable[[OriginExchange], None]:
    """`forward`, with a line for each request before it; `number` is the rule's, from 0."""
    service = str(rule.service)

    def log_and_forward(exchange: OriginExchange) -> None:
        _log_request(exchange, service, number)
        forward(exchange)

    return log_and_forward


def _log_request(exchange: OriginExchange, service: str, number: int) -> None:
    headers: dict[str, list[str]] = {}
    for name, value in exchange.request or ():
        if not name.startswith(_INTERNAL):
            headers.setdefault(_text(name), []).append(_text(value))
    host, path = _text(exchange.authority), _text(exchange.path)
    fields: dict[str, Any] = {
        "event": EVENT,
        "host": host,
        "path": path.partition("?")[0],
        "headers": headers,
        "originService": service,
        "ingressRule": number,
    }
    length = exchange.header(Token.T_CONTENT_LENGTH)
    if length is not None:
        fields["content-length"] = int(length)
    url = f"{_text(exchange.scheme)}://{host}{path}"
    _log.debug("%s %s HTTP/1.1", _text(exchange.method), url, extra=fields)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")

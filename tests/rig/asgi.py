"""An ASGI application asked without a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote


@dataclass(frozen=True)
class Answer:
    """What it said. Header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        """Of an answer that has to be a success."""
        assert self.status == 200, self.body
        assert self.json["success"] is True
        assert self.json["errors"] == []
        return self.json["result"]

    @property
    def reason(self) -> str:
        """Of an answer that has to be a refusal."""
        assert 400 <= self.status < 600, self.body
        envelope = self.json
        assert envelope["success"] is False
        assert envelope["result"] is None
        (error,) = envelope["errors"]
        return str(error["message"])


async def ask(
    application: Any,
    method: str,
    target: str,
    body: Any = None,
    *,
    token: str = "",
    headers: Sequence[tuple[str, str]] = (),
    source: str = "192.0.2.1",
) -> Answer:
    """One request. `body` is JSON unless it is bytes."""
    path, _, query = target.partition("?")
    content = (
        body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    )
    fields = [*headers]
    if token:
        fields.append(("authorization", f"Bearer {token}"))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in fields],
        "client": (source, 40000),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    start, *rest = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], found, b"".join(message.get("body", b"") for message in rest))

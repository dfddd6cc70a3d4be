"""Push a configuration down a link, and hear what the connector made of it.

Docs: wire protocol §2.9. The connector applies a version only if it is newer than the one it has,
so pushing the same one on every link of a connector is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from underpass.core.fields import Fields
from underpass.core.relay import Counters, PythonSide
from underpass.core.tunnel import EdgeExchange
from underpass.wire.headers import PROXY_CONNECTION_UPGRADE, UPGRADE_CONFIGURATION
from underpass.wire.remote_config import (
    MAX_UPDATE_BYTES,
    ConfigurationReply,
    ConfigurationUpdate,
    ConfigurationUpdateError,
    decode_reply,
    encode_update,
)

__all__ = ["PUSH_SECONDS", "ConfigurationNotTakenError", "push_configuration"]

PUSH_SECONDS: Final = 30.0
"""For a connector to apply a configuration and say so."""

MAX_REPLY: Final = 64 * 1024
"""Bytes of a reply: a version and a reason."""

_OK: Final = 200


class ConfigurationNotTakenError(Exception):
    """A connector did not put a configuration in force; the text says why. `version` is the one it
    has, None when it did not tell."""

    def __init__(self, why: str, version: int | None = None) -> None:
        super().__init__(why)
        self.version = version


async def push_configuration(
    forward: Callable[[EdgeExchange], bool],
    update: ConfigurationUpdate,
    timeout: float = PUSH_SECONDS,
) -> int:
    """Send `update` by a stream that `forward` opens; return the version in force at the connector.

    That may be a newer one. Raises ConfigurationNotTakenError.
    """
    body = encode_update(update)
    if len(body) > MAX_UPDATE_BYTES:
        raise ConfigurationNotTakenError(
            f"the configuration has {len(body)} bytes, more than {MAX_UPDATE_BYTES}"
        )
    push = _Push(body)
    try:
        reply = await asyncio.wait_for(push.send(forward), timeout)
    except asyncio.TimeoutError:
        push.give_up()
        raise ConfigurationNotTakenError(f"no answer within {timeout:g} s") from None
    except ConfigurationUpdateError as error:
        raise ConfigurationNotTakenError(str(error)) from error
    if reply.error is not None:
        raise ConfigurationNotTakenError(reply.error, reply.last_applied_version)
    return reply.last_applied_version


class _Push:
    """One update on its stream."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._status = 0
        self._answer = bytearray()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._side = PythonSide()

    async def send(self, forward: Callable[[EdgeExchange], bool]) -> ConfigurationReply:
        side = self._side
        side.on_head, side.on_data = self._head, self._data
        side.on_end, side.on_abandoned = self._finished, self._abandoned
        head = Fields(
            [
                (b":method", b"PUT"),
                (b":scheme", b"https"),
                (b":authority", b"configuration.underpass"),
                (b":path", b"/"),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(self._body)),
                (PROXY_CONNECTION_UPGRADE, UPGRADE_CONFIGURATION),
            ]
        )
        exchange = EdgeExchange(Counters())
        side.request(exchange, head)
        if not forward(exchange):
            raise ConfigurationNotTakenError("the link takes no new streams")
        side.write(self._body)
        side.end()
        await self._done
        if self._status != _OK:
            raise ConfigurationNotTakenError(f"the connector answered with status {self._status}")
        return decode_reply(bytes(self._answer))

    def give_up(self) -> None:
        self._side.reset()

    def _head(self, status: int, fields: Fields) -> None:
        self._status = status

    def _data(self, data: bytes) -> None:
        self._answer += data
        if len(self._answer) > MAX_REPLY:
            self._fail(f"the connector's answer has more than {MAX_REPLY} bytes")
            self._side.reset()

    def _finished(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _abandoned(self, code: int) -> None:
        self._fail(f"the link has ended, or the connector broke off (error code {code})")

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(ConfigurationNotTakenError(why))

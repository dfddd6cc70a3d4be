"""Configuration as it crosses a link: pushed by the edge, reported by the connector.

Only the envelopes. What a configuration means, and whether it is valid, is decided where it is
used. Docs: wire protocol §2.9, §6.1 and §6.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct

MAX_UPDATE_BYTES: Final = 8 << 20
"""Largest configuration update taken in: as much as a configuration file may have, which is tens of
thousands of ingress rules."""

NO_VERSION: Final = -1
"""The version in force before any update has been applied."""

_Int32 = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]


class ConfigurationUpdateError(ValueError):
    """The body of a configuration update, or of the reply to one, can't be understood."""


class ConfigurationUpdate(Struct, frozen=True):
    """A configuration pushed by the edge; `config` is a JSON value, not looked into yet."""

    version: int
    config: bytes


class ConfigurationReply(Struct, frozen=True):
    """The connector's answer: the version now in force, and why the update was not applied."""

    last_applied_version: int
    error: str | None = None


class _Update(Struct, frozen=True):
    version: _Int32
    config: msgspec.Raw


class _Reply(Struct, frozen=True, rename="camel"):
    last_applied_version: _Int32
    # cloudflared sends an object without the text where it means an error.
    err: Any = None


def encode_update(update: ConfigurationUpdate) -> bytes:
    """`update` as a request body."""
    return msgspec.json.encode(_Update(update.version, msgspec.Raw(update.config)))


def decode_update(body: bytes) -> ConfigurationUpdate:
    """The update in a request body. Raises ConfigurationUpdateError."""
    if len(body) > MAX_UPDATE_BYTES:
        raise ConfigurationUpdateError(
            f"the configuration update has {len(body)} bytes, more than {MAX_UPDATE_BYTES}"
        )
    try:
        update = msgspec.json.decode(body, type=_Update)
    except (ValueError, RecursionError) as error:
        raise ConfigurationUpdateError(f"the configuration update: {error}") from error
    return ConfigurationUpdate(update.version, bytes(update.config))


def encode_reply(reply: ConfigurationReply) -> bytes:
    """`reply` as a response body."""
    return msgspec.json.encode(_Reply(reply.last_applied_version, reply.error))


def decode_reply(body: bytes) -> ConfigurationReply:
    """The reply in a response body. Raises ConfigurationUpdateError."""
    if len(body) > MAX_UPDATE_BYTES:
        raise ConfigurationUpdateError(
            f"the reply has {len(body)} bytes, more than {MAX_UPDATE_BYTES}"
        )
    try:
        reply = msgspec.json.decode(body, type=_Reply)
    except (ValueError, RecursionError) as error:
        raise ConfigurationUpdateError(f"the reply to a configuration update: {error}") from error
    if reply.err is None or isinstance(reply.err, str):
        return ConfigurationReply(reply.last_applied_version, reply.err)
    return ConfigurationReply(reply.last_applied_version, "the connector gave no reason")


class LocalRule(Struct, frozen=True):
    """An ingress rule of the connector's own configuration.

    `service` is its string form (``http://…``, ``http_status:404``); `origin_request` has the
    options that differ from their defaults, durations in seconds.
    """

    service: str
    hostname: str = ""
    path: str = ""
    origin_request: Mapping[str, Any] = msgspec.field(default_factory=dict)


def local_configuration(
    rules: Sequence[LocalRule],
    *,
    warp_routing: Mapping[str, Any],
    flags: Mapping[str, str],
) -> bytes:
    """The document by which a connector reports the configuration of its own.

    `warp_routing` has the options that differ from their defaults; `flags` the command-line flags
    that were set.
    """
    document: dict[str, Any] = {}
    if flags:
        document["__configuration_flags"] = dict(sorted(flags.items()))
    document["ingress"] = [_rule(rule) for rule in rules]
    document["warp-routing"] = dict(warp_routing)
    return msgspec.json.encode(document)


def _rule(rule: LocalRule) -> dict[str, Any]:
    texts = {"hostname": rule.hostname, "path": rule.path, "service": rule.service}
    present: dict[str, Any] = {key: text for key, text in texts.items() if text}
    return present | {"originRequest": dict(rule.origin_request)}

"""The API's description of itself, OpenAPI 3.1, made from the table of its endpoints."""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from typing import Any, Final, get_args

import msgspec

from underpass.edge.api.endpoint import Endpoint
from underpass.edge.api.envelope import Failure, ResultInfo
from underpass.edge.api.requests import MAX_BODY_BYTES
from underpass.edge.management_token import RESOURCES
from underpass.version import VERSION
from underpass.wire.quick_tunnel import QUICK_TUNNEL_PATH

__all__ = ["openapi_document"]

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"

_UUID: Final[Schema] = {"type": "string", "format": "uuid"}
_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_PATH_PARTS: Final[dict[str, Schema]] = {
    "account_id": _ID,
    "zone_id": _ID,
    "tunnel_id": _UUID,
    "connection_id": _UUID,
    "route_id": _UUID,
    "network_id": _UUID,
    "resource": {"type": "string", "enum": list(RESOURCES)},
    "ip": {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]},
    "hostname": {"type": "string", "minLength": 1, "maxLength": 253},
}

_REASONS: Final = {
    "400": "The request is malformed, or asks for what cannot be.",
    "401": "There is no API token, or a wrong one.",
    "403": "The token does not allow it.",
    "404": "What it is about does not exist.",
    "408": "The request's body took too long.",
    "409": "It meets something that exists.",
    "413": "The request's body is too large.",
    "429": "Too many of these; `retry-after` says when to come back.",
    "503": "The edge cannot make changes now.",
}


def openapi_document(endpoints: Sequence[Endpoint]) -> bytes:
    """The document, JSON."""
    paths: dict[str, Schema] = {}
    components: dict[str, Schema] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    paths[QUICK_TUNNEL_PATH] = {"post": _quick_tunnel(components)}
    paths["/healthz"] = {
        "get": {
            "summary": "Is the edge there",
            "operationId": "health",
            "security": [],
            "responses": {"200": _answer({"type": "object"}, None)},
        }
    }
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Underpass edge: control API",
                "version": VERSION,
                "description": "Manages tunnels, and what leads to them. Every answer is the same "
                "envelope; success is status 200 and nothing else.",
            },
            "security": [{"token": []}],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "From `underpass edge token create`.",
                    }
                },
            },
        }
    )


def _operation(endpoint: Endpoint, components: dict[str, Schema]) -> Schema:
    names = re.findall(r"{(\w+)}", endpoint.path)
    parameters: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARTS[name]}
        for name in names
    ]
    paged = False
    if endpoint.query is not None:
        _, own = msgspec.json.schema_components([endpoint.query], ref_template=_REF)
        properties = own[endpoint.query.__name__]["properties"]
        paged = "page" in properties
        parameters += [
            {"name": name, "in": "query", "schema": schema} for name, schema in properties.items()
        ]
    operation: Schema = {
        "summary": endpoint.summary[0].upper() + endpoint.summary[1:],
        "operationId": endpoint.summary.replace("'s", "").replace(" ", "_"),
        "description": f"Needs a token with the scope `{endpoint.scope}`."
        if endpoint.scope != "read"
        else "Any token will do.",
        "parameters": parameters,
        "responses": {
            "200": _answer(
                _schema(endpoint.result, components),
                _schema(ResultInfo, components) if paged else None,
            ),
            **_failures(components),
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(endpoint.body, components)}},
        }
    return operation


def _quick_tunnel(components: dict[str, Schema]) -> Schema:
    text = {"type": "string"}
    return {
        "summary": "Create a quick tunnel",
        "operationId": "create_quick_tunnel",
        "description": f"For anybody who reaches the API. A body of up to {MAX_BODY_BYTES} bytes "
        "is passed over.",
        "security": [],
        "responses": {
            "200": _answer(
                {
                    "type": "object",
                    "required": ["id", "name", "hostname", "account_tag", "secret"],
                    "properties": {
                        "id": _UUID,
                        **dict.fromkeys(("name", "hostname", "account_tag", "secret"), text),
                    },
                },
                None,
                envelope=["success", "result", "errors"],
            ),
            **_failures(components),
        },
    }


def _answer(
    result: Schema,
    info: Schema | None,
    envelope: Sequence[str] = ("success", "errors", "messages", "result"),
) -> Schema:
    properties: Schema = {
        "success": {"const": True},
        "errors": {"type": "array", "maxItems": 0},
        "messages": {"type": "array", "items": {"type": "string"}},
        "result": result,
    }
    required = [*envelope]
    if info is not None:
        properties["result_info"] = info
        required.append("result_info")
    schema = {"type": "object", "required": required, "properties": properties}
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _failures(components: dict[str, Schema]) -> dict[str, Schema]:
    content = {"application/json": {"schema": _schema(Failure, components)}}
    return {
        status: {"description": reason, "content": content} for status, reason in _REASONS.items()
    }


def _schema(kind: Any, components: dict[str, Schema]) -> Schema:
    """The schema of a type; what it refers to goes into `components`."""
    members = get_args(kind) if isinstance(kind, types.UnionType) else ()
    if len(members) > 1:
        # msgspec wants to tell the members of a union from each other. Readers can.
        return {"anyOf": [_schema(member, components) for member in members]}
    (schema,), found = msgspec.json.schema_components([kind], ref_template=_REF)
    components.update(found)
    return schema

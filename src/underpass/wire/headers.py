"""Names and fixed values that both ends of a link have to agree on.

Header names are lower-case bytes, as HTTP/2 carries them; what is handed to TLS or to the
registration is text. Docs: wire protocol §1.7, §2.2 to §2.10, §3.8.
"""

from __future__ import annotations

from typing import Final

# Edge to connector: what kind of stream this is.

PROXY_CONNECTION_UPGRADE: Final = b"cf-cloudflared-proxy-connection-upgrade"
"""Marks a stream that is no plain HTTP request; the value is one of the next three."""
UPGRADE_CONTROL_STREAM: Final = b"control-stream"
UPGRADE_WEBSOCKET: Final = b"websocket"
UPGRADE_CONFIGURATION: Final = b"update-configuration"

PROXY_SRC: Final = b"cf-cloudflared-proxy-src"
"""Marks a TCP stream if not empty; `:authority` is the destination."""

EDGE_ACCEPTS: Final = b"cf-int-underpass-accepts"
"""On the control stream: what this edge stands beyond the protocol. Ours; connectors pass over what
they do not know on that stream."""
ACCEPTS_HINTS: Final = b"early-hints"
"""Interim responses with status 103, the origin's headers serialized in them as in others."""

# Edge to connector: about the request.

CF_RAY: Final = b"cf-ray"
"""The request's id: logged, and forwarded to the origin."""
CF_TRACE_ID: Final = b"cf-trace-id"
"""Asks for tracing, in Jaeger's form; never forwarded."""
ACCESS_JWT_ASSERTION: Final = b"cf-access-jwt-assertion"
"""The token by which the edge vouches for the visitor."""
ACCESS_JUMP_DESTINATION: Final = b"cf-access-jump-destination"
"""Where a bastion connects to."""

# Connector to origin.

WARP_TAG_PREFIX: Final = b"cf-warp-tag-"
"""Begins the name of a header that carries a tag of the connector."""
WARP_TAG_ID: Final = b"cf-warp-tag-id"
"""The connector's id; on every request."""

# Connector to edge: about the response.

RESPONSE_HEADERS: Final = b"cf-cloudflared-response-headers"
"""The origin's headers in serialized form; present even if there are none."""
RESPONSE_META: Final = b"cf-cloudflared-response-meta"
"""Who made the response; the value is exactly one of the next three."""
RESPONSE_META_ORIGIN: Final = b'{"src":"origin"}'
RESPONSE_META_CONNECTOR: Final = b'{"src":"cloudflared"}'
RESPONSE_META_FLOW_RATE_LIMITED: Final = b'{"src":"cloudflared","flow_rate_limited":true}'
TRACING: Final = b"cf-int-cloudflared-tracing"
"""Spans of a traced request, base64 of an OTLP protobuf; not serialized."""

CAUSE: Final = b"cf-cloudflared-cause"
"""Why a connector answers for an origin, in one word of `wire.causes`. Ours: cloudflared sends
none, and edges that do not know it pass over it, as over all that is not serialized."""

# Edge to visitor.

UNDERPASS_CAUSE: Final = b"underpass-cause"
UNDERPASS_HOP: Final = b"underpass-hop"
"""Why there is no answer of an application, and where; an application's own are removed."""

# Reserved.

REQUEST_HEADERS: Final = b"cf-cloudflared-request-headers"
"""Reserved: nothing sends or reads it, request headers travel as they are."""

CONTROL_HEADER_PREFIXES: Final = (b":", b"cf-int-", b"cf-cloudflared-", b"cf-proxy-")
"""What lower-case names begin with that an origin can't send to the visitor through a link."""

# TLS.

EDGE_SERVER_NAME_HTTP2: Final = "h2.cftunnel.com"
EDGE_SERVER_NAME_QUIC: Final = "quic.cftunnel.com"
EDGE_SERVER_NAME_PROBE: Final = "probe.cftunnel.com"
"""Server name of connectivity checks before the start."""
ALPN_QUIC: Final = "argotunnel"
"""The only ALPN protocol of QUIC links. HTTP/2 links offer none."""

# Features that a connector names when it registers.

FEATURE_ALLOW_REMOTE_CONFIG: Final = "allow_remote_config"
FEATURE_SERIALIZED_HEADERS: Final = "serialized_headers"
FEATURE_DATAGRAM_V2: Final = "support_datagram_v2"
FEATURE_QUIC_EOF: Final = "support_quic_eof"
FEATURE_MANAGEMENT_LOGS: Final = "management_logs"
FEATURE_DATAGRAM_V3: Final = "support_datagram_v3_2"
"""Makes the edge use datagram v3 instead of v2."""
FEATURE_POST_QUANTUM: Final = "postquantum"
FEATURE_REQUEST_TRAILERS: Final = "underpass_request_trailers"
"""The link survives a request's trailers. Ours: cloudflared throws them away, and where they come
after it has reset the stream, its HTTP/2 server ends the whole connection."""
FEATURE_REPLACES_LINKS: Final = "underpass_replaces_links"
"""Told that a link is to end (GOAWAY that names no last stream), the connector has another one
before it gives this one up, and takes requests meanwhile. Ours: cloudflared's server takes none
from then on, and dials again when the connection has ended."""
FEATURES_DEPRECATED: Final = frozenset({"support_datagram_v3", "support_datagram_v3_1"})
"""Never sent, even when asked for: they mean drafts of datagram v3."""

"""What a visitor gets when there is no application to answer: a page, or JSON when asked for it.

HTML for people: self-contained, nothing loaded from anywhere, light and dark. JSON for programs,
with the members of RFC 9457 and the two facts that find the request in a log. Everything but host
and ray is put together once.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from enum import Enum
from typing import Final

from underpass.edge.error_pages import ErrorPages
from underpass.edge.hostnames import MAX_AUTHORITY_LENGTH
from underpass.wire.causes import Hop
from underpass.wire.headers import UNDERPASS_CAUSE, UNDERPASS_HOP

RETRY_AFTER_SECONDS: Final = 10
"""Suggested while a tunnel has no link: connectors come back within seconds of a restart."""

MAX_ACCEPT_LENGTH: Final = 1024
"""Bytes of an Accept field that are looked at; browsers send some 150."""

MAX_RAY_LENGTH: Final = 64
"""Characters of a ray shown; ours have 16."""


class PageKind(Enum):
    """Why there is no answer from an application."""

    BAD_REQUEST = "bad-request"
    FORBIDDEN = "forbidden"
    UNKNOWN_HOST = "unknown-host"
    PAYLOAD_TOO_LARGE = "payload-too-large"
    MISDIRECTED = "misdirected"
    HEADER_TOO_LARGE = "header-too-large"
    NOT_SUPPORTED = "not-supported"
    LOOP = "loop"
    ORIGIN_UNREACHABLE = "origin-unreachable"
    NO_LINK = "no-link"
    GATEWAY_TIMEOUT = "gateway-timeout"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why, in one word that `underpass explain` knows, and where on the way."""

    cause: str
    hop: Hop

    def __str__(self) -> str:
        return f"{self.cause}, {WHERE[self.hop]}"

    @property
    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """As fields of a response. Those of an application with these names are taken away."""
        return (
            (UNDERPASS_CAUSE, self.cause.encode("ascii")),
            (UNDERPASS_HOP, self.hop.value.encode("ascii")),
        )


WHERE: Final = {
    Hop.VISITOR: "at the visitor's end",
    Hop.EDGE: "at the edge",
    Hop.LINK: "between edge and connector",
    Hop.CONNECTOR: "at the connector",
    Hop.ORIGIN: "at the application",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A whole response. Header names are lower-case; content-length is among them."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Text:
    status: int
    title: str
    detail: str
    advice: str


_TEXTS: Final = {
    PageKind.BAD_REQUEST: _Text(
        400,
        "This request cannot be understood",
        "What was sent is not a well-formed HTTP request.",
        "If you typed an address, check it. If a program sent this, it has a fault.",
    ),
    PageKind.FORBIDDEN: _Text(
        403,
        "You may not come in here",
        "The application is protected, and the request does not show that you may use it.",
        "Log in where the application asks for it, or ask its owner to let you in.",
    ),
    PageKind.UNKNOWN_HOST: _Text(
        404,
        "Nothing is served under this name",
        "No tunnel has a route for this hostname.",
        "Check the spelling. A quick tunnel's name is gone some time after the tunnel was stopped.",
    ),
    PageKind.PAYLOAD_TOO_LARGE: _Text(
        413,
        "This upload is too large",
        "The request has a larger body than may be sent here.",
        "Send less at once, or ask the owner of the application to raise the limit.",
    ),
    PageKind.MISDIRECTED: _Text(
        421,
        "This came by the wrong connection",
        "The application under this name ends TLS itself, and this was sent to somebody else.",
        "Open the address again, with https.",
    ),
    PageKind.HEADER_TOO_LARGE: _Text(
        431,
        "This request's headers are too large",
        "The address and headers of the request, cookies included, exceed the limit.",
        "Deleting this site's cookies often helps.",
    ),
    PageKind.NOT_SUPPORTED: _Text(
        501,
        "This cannot be had here",
        "The request asks for a kind of connection that this edge does not carry.",
        "If a program sent this, see which protocol it wants: WebSockets are carried.",
    ),
    PageKind.LOOP: _Text(
        508,
        "This request goes round in circles",
        "It has come through here several times already, and was not carried on again.",
        "If the application is yours: it sends requests to an address that leads back to it.",
    ),
    PageKind.ORIGIN_UNREACHABLE: _Text(
        502,
        "The application does not answer properly",
        "The tunnel is up, but the application behind it refused, broke off or answered wrongly.",
        "If it is yours: is it running, at the address the connector was given? Its log says more.",
    ),
    PageKind.NO_LINK: _Text(
        503,
        "The tunnel is not connected",
        "This hostname belongs to a tunnel, but no connector holds a connection for it now.",
        "If it is yours: start the connector, or see in its log why it cannot connect.",
    ),
    PageKind.GATEWAY_TIMEOUT: _Text(
        504,
        "The application took too long",
        "The tunnel is up, but the application behind it did not answer in time.",
        "Try again later. If it is yours: its log may say what it waits for.",
    ),
}

_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{margin:0;min-height:100vh;display:grid;place-items:center;"
    "font:16px/1.6 system-ui,sans-serif;background:#f6f6f4;color:#1c1c1a}"
    "main{max-width:34rem;padding:2rem}"
    "p{margin:.5rem 0}h1{font-size:1.5rem;line-height:1.25;margin:.25rem 0 1rem}"
    ".status{color:#66665f;font-variant-numeric:tabular-nums}"
    "footer{margin-top:2rem;padding-top:1rem;border-top:1px solid #d8d8d2;"
    "color:#66665f;font-size:.85rem;overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#191917;color:#eeeeea}"
    ".status,footer{color:#a3a39b}footer{border-color:#3b3b37}}"
)

_HTML_TYPE: Final = b"text/html; charset=utf-8"
_JSON_TYPE: Final = b"application/json"


@dataclass(frozen=True, slots=True)
class _Template:
    """A page with pieces around host, ray and cause, for HTML; members for JSON."""

    status: int
    html_pieces: tuple[bytes, bytes, bytes, bytes]
    members: dict[str, str | int]
    extra_headers: tuple[tuple[bytes, bytes], ...]


def _template(kind: PageKind, text: _Text) -> _Template:
    before = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{text.status} {html.escape(text.title)}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<p class="status">{text.status}</p>\n<h1>{html.escape(text.title)}</h1>\n'
        f"<p>{html.escape(text.detail)}</p>\n<p>{html.escape(text.advice)}</p>\n"
        "<footer>Host: "
    )
    retry = ((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),) if kind is PageKind.NO_LINK else ()
    return _Template(
        status=text.status,
        html_pieces=(
            before.encode(),
            b"<br>\nRequest: ",
            b"<br>\nCause: ",
            b"<br>\nUnderpass edge</footer>\n</main>\n</body>\n</html>\n",
        ),
        members={
            "type": f"urn:underpass:error:{kind.value}",
            "title": text.title,
            "status": text.status,
            "detail": text.detail,
        },
        extra_headers=(
            *retry,
            (b"cache-control", b"no-store"),
            (b"vary", b"accept"),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
        ),
    )


_TEMPLATES: Final = {kind: _template(kind, text) for kind, text in _TEXTS.items()}


def status_of(kind: PageKind) -> int:
    """The HTTP status of a kind."""
    return _TEMPLATES[kind].status


def render(
    kind: PageKind,
    host: bytes | str,
    ray: str,
    accept: bytes | str | None = None,
    failure: Failure | None = None,
    own: ErrorPages | None = None,
) -> Page:
    """The page to answer with.

    Args:
        host: the request's authority, shown to the visitor, escaped and cut.
        ray: names the request in the log.
        accept: the request's Accept field, if it had one.
        failure: what went wrong, if there is a word for it.
        own: the operator's pages, which go before ours for who wants HTML.
    """
    template = _TEMPLATES[kind]
    extra = template.extra_headers
    shown_host = _printable(host)[:MAX_AUTHORITY_LENGTH]
    shown_ray = _printable(ray)[:MAX_RAY_LENGTH]
    if prefers_json(accept):
        content_type = _JSON_TYPE
        members = {**template.members, "host": shown_host, "ray": shown_ray}
        if failure is not None:
            members |= {"cause": failure.cause, "hop": failure.hop.value}
        body = json.dumps(members).encode() + b"\n"
    else:
        content_type = _HTML_TYPE
        written = None if own is None else _own_page(own, kind, shown_host, shown_ray, failure)
        if written is not None:
            # What an operator's page may load is the operator's to say.
            extra = tuple(field for field in extra if field[0] != b"content-security-policy")
            body = written
        else:
            before, request, cause, after = template.html_pieces
            body = b"".join(
                (
                    before,
                    html.escape(shown_host).encode(),
                    request,
                    html.escape(shown_ray).encode(),
                    b"" if failure is None else cause + html.escape(str(failure)).encode(),
                    after,
                )
            )
    headers = (
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        *extra,
        *(() if failure is None else failure.fields),
    )
    return Page(template.status, headers, body)


def _own_page(
    own: ErrorPages, kind: PageKind, host: str, ray: str, failure: Failure | None
) -> bytes | None:
    text = _TEXTS[kind]
    values = {
        "status": str(text.status),
        "title": text.title,
        "detail": text.detail,
        "advice": text.advice,
        "host": host,
        "ray": ray,
        "cause": "" if failure is None else failure.cause,
        "hop": "" if failure is None else failure.hop.value,
    }
    return own.body(text.status, values)


def prefers_json(accept: bytes | str | None) -> bool:
    """Whether an Accept field (RFC 9110 §12.5.1) ranks JSON above HTML.

    A wildcard alone, or no field, is taken for HTML: that is what a person's tools send.
    """
    if not accept:
        return False
    text = accept if isinstance(accept, str) else accept.decode("latin-1")
    # Ranked by quality, then by how exactly the type is named.
    best_json = best_html = (0.0, 0)
    for item in text[:MAX_ACCEPT_LENGTH].lower().split(","):
        media_range, _, parameters = item.partition(";")
        media_range = media_range.strip()
        rank = _quality(parameters)
        if media_range in ("application/json", "application/problem+json"):
            best_json = max(best_json, (rank, 2))
        elif media_range in ("text/html", "application/xhtml+xml"):
            best_html = max(best_html, (rank, 2))
        elif media_range == "application/*":
            best_json = max(best_json, (rank, 1))
        elif media_range == "text/*":
            best_html = max(best_html, (rank, 1))
    return best_json[0] > 0.0 and best_json > best_html


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            # Not a number fails both comparisons.
            return quality if 0.0 <= quality <= 1.0 else 0.0
    return 1.0


def _printable(text: bytes | str) -> str:
    """Text from the network with everything but printable ASCII escaped."""
    if isinstance(text, bytes):
        text = text[: 2 * MAX_AUTHORITY_LENGTH].decode("latin-1")
    text = text[: 2 * MAX_AUTHORITY_LENGTH]
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if " " <= character <= "~" else f"\\x{ord(character):02x}" for character in text
    )

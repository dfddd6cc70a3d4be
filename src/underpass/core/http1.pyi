# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""HTTP/1.1 heads (RFC 9112 §2 to §6).

The codecs (`http1server`, `http1client`) call the compiled face. What Python sees is for tests, and
the words a refused head is told apart by.
"""

from typing import Literal, TypedDict, type_check_only

from typing_extensions import Buffer

from underpass.core.fields import Fields

UNSUPPORTED_VERSION: str
"""The fault of a head that is not HTTP/1.0 or HTTP/1.1: 505 answers it."""
UNSUPPORTED_METHOD: str
"""The fault of a request whose method is a token nobody knows: 501."""
UNSUPPORTED_CODING: str
"""The fault of a Transfer-Encoding other than `chunked`: 501."""

@type_check_only
class _HeadFacts(TypedDict):
    status: int
    minor: int
    keep_alive: bool
    framing: Literal["none", "length", "chunks", "close"]
    length: int
    upgrade: bool
    expects_continue: bool

class HeadTarget:
    """What the parser calls while it reads one head."""

    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_message_complete(self) -> None: ...

class HeadReader:
    """Reads the heads of one direction of a connection, one after another.

    `request` says which direction; `max_head` is the most octets a head may have, its empty line
    included.
    """

    def __init__(self, request: bool, max_head: int) -> None: ...

def read_head(
    data: Buffer, request: bool, max_head: int = 65536
) -> tuple[list[tuple[bytes, bytes]], _HeadFacts, int] | None:
    """(fields, facts, octets left over) of the first head in `data`; None if it is not complete.

    A request's fields begin with its pseudo fields (RFC 9113 §8.3), a response's with `:status`;
    those that belong to the connection are left out (RFC 9110 §7.6.1). Facts: `minor` of the
    version, `framing` and `length` (octets, -1 if not announced) of the content by RFC 9112 §6.3.

    Raises ValueError with the fault, OverflowError for a head over `max_head` octets or 1,000
    fields.
    """

def write_request(fields: Fields, before: bytes | None = None) -> bytes:
    """A request head in HTTP/1.1, without framing fields. ValueError without a `:method`.

    before: scheme and authority, for a target in absolute form.
    """

def write_response(fields: Fields, status: int, upgrade: bool = False) -> bytes:
    """A response head in HTTP/1.1; the connection's own fields only if `upgrade`."""

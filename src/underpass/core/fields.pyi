# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""An ordered list of (name, value) byte pairs in one flat arena (RFC 9110 §5)."""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import TypeVar, overload

_T = TypeVar("_T")

class Token(IntEnum):
    """Well-known field names; T_OTHER is every other name."""

    T_OTHER = 0
    T_METHOD = 1
    T_SCHEME = 2
    T_AUTHORITY = 3
    T_PATH = 4
    T_STATUS = 5
    T_PROTOCOL = 6
    T_HOST = 7
    T_CONNECTION = 8
    T_PROXY_CONNECTION = 9
    T_KEEP_ALIVE = 10
    T_TRANSFER_ENCODING = 11
    T_UPGRADE = 12
    T_TE = 13
    T_TRAILER = 14
    T_HTTP2_SETTINGS = 15
    T_EXPECT = 16
    T_CONTENT_LENGTH = 17
    T_COOKIE = 18
    T_CONTENT_TYPE = 19
    T_CONTENT_ENCODING = 20
    T_DATE = 21
    T_USER_AGENT = 22
    T_ACCEPT = 23
    T_ACCEPT_ENCODING = 24
    T_ACCEPT_LANGUAGE = 25
    T_AUTHORIZATION = 26
    T_PROXY_AUTHORIZATION = 27
    T_SET_COOKIE = 28
    T_LOCATION = 29
    T_ETAG = 30
    T_LAST_MODIFIED = 31
    T_IF_MODIFIED_SINCE = 32
    T_IF_NONE_MATCH = 33
    T_RANGE = 34
    T_CACHE_CONTROL = 35
    T_SERVER = 36
    T_VARY = 37
    T_REFERER = 38
    T_ORIGIN = 39
    T_SEC_WEBSOCKET_KEY = 40
    T_SEC_WEBSOCKET_ACCEPT = 41
    T_SEC_WEBSOCKET_VERSION = 42
    T_SEC_WEBSOCKET_PROTOCOL = 43
    T_SEC_WEBSOCKET_EXTENSIONS = 44
    T_LINK_UPGRADE = 45
    T_LINK_PROXY_SOURCE = 46
    T_LINK_RESPONSE_HEADERS = 47
    T_LINK_RESPONSE_META = 48
    T_CF_TRACE_ID = 49
    T_CF_RAY = 50
    T_CF_CONNECTING_IP = 51
    T_CF_WARP_TAG_ID = 52
    T_CF_ACCESS_JUMP_DESTINATION = 53
    T_CF_ACCESS_JWT_ASSERTION = 54
    T_CF_VISITOR = 55
    T_CDN_LOOP = 56
    T_X_FORWARDED_FOR = 57
    T_X_FORWARDED_PROTO = 58
    T_X_FORWARDED_HOST = 59
    T_FORWARDED = 60
    T_UNDERPASS_CAUSE = 61
    T_UNDERPASS_HOP = 62
    TOKEN_COUNT = 63

class Fields:
    """An ordered list of fields.

    Names keep the case they were added in; look-ups ignore case.
    """

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]] = ()) -> None: ...
    def append(self, name: bytes, value: bytes) -> None:
        """Add a field at the end. MemoryError past the arena's limit (4 MiB)."""
    @overload
    def get(self, name: bytes) -> bytes | None: ...
    @overload
    def get(self, name: bytes, default: _T) -> bytes | _T: ...
    def get_all(self, name: bytes) -> list[bytes]:
        """The values of all fields of that name, in order."""
    def remove(self, name: bytes) -> None:
        """Remove every field of that name."""
    def clear(self) -> None:
        """Forget every field."""
    def __iter__(self) -> Iterator[tuple[bytes, bytes]]: ...
    def __len__(self) -> int: ...

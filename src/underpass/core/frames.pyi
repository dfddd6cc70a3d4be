# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""HTTP/2 frames (RFC 9113 §4, §6): an in-place reader that streams DATA, and the writers."""

from enum import IntEnum

from typing_extensions import Buffer

class ErrorCode(IntEnum):
    """RFC 9113 §7: why a stream or a connection is given up."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13

class Setting(IntEnum):
    """RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1: identifiers in a SETTINGS frame."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9

class FrameReader:
    """Cuts a byte stream into frames. A broken stream stays broken.

    `max_frame_size` is what we advertise, in bytes: ValueError outside 16,384 to 16,777,215 (RFC
    9113 §6.5.2). No more than one payload of that size is ever held, and none of DATA.
    """

    def __init__(self, max_frame_size: int = 16384) -> None: ...
    def feed(self, data: Buffer) -> list[tuple[object, ...]]:
        """Read a contiguous buffer and return its events (for tests).

        `("frame", type, flags, stream, payload)`, `("data_head", flags, stream, length)`,
        `("data", stream, content, last)`, `("broken", error_code)`. Padding of DATA is left out of
        the content and counts in the length.
        """

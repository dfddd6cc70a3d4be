# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""Header compression for HTTP/2 (RFC 7541)."""

from collections.abc import Iterable
from typing import final

from underpass.core.fields import Fields

class CompressionError(ValueError):
    """A header block is malformed; the connection's tables are lost with it (COMPRESSION_ERROR)."""

class HeaderListTooLarge(ValueError):  # noqa: N818
    """A section is over `max_list_size` or has too many fields; the tables are still in step."""

@final
class Decoder:
    """Decodes header blocks of one direction of a connection.

    After a CompressionError, or any other exception, the object must not be used again.
    """

    max_table_size: int
    """Our SETTINGS_HEADER_TABLE_SIZE, octets; at most 65,536."""
    max_list_size: int
    """Octets a section may take, 32 for each field included; at most 1,048,576."""

    def __init__(self, max_table_size: int = 4096, max_list_size: int = 65536) -> None: ...
    def decode_block(self, block: bytes) -> Fields:
        """Decode one whole header block into new Fields.

        Raises CompressionError or HeaderListTooLarge.
        """
    def table_entries(self) -> list[tuple[bytes, bytes]]:
        """The dynamic table, newest entry first, as pairs of bytes."""
    @property
    def table_size(self) -> int:
        """Octets in the dynamic table, counted as RFC 7541 §4.1 does."""

@final
class Encoder:
    """Encodes header blocks of one direction of a connection."""

    max_table_size: int
    """Octets the dynamic table may take: the peer's setting, but at most 4,096."""

    def __init__(self) -> None: ...
    def encode_block(self, fields: Fields | Iterable[tuple[bytes, bytes]]) -> bytes:
        """Encode one header block: Fields, or pairs of bytes."""
    def table_entries(self) -> list[tuple[bytes, bytes]]:
        """The dynamic table, newest entry first, as pairs of bytes."""
    @property
    def table_size(self) -> int:
        """Octets in the dynamic table, counted as RFC 7541 §4.1 does."""

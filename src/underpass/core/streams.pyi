# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""A small open-addressing hash table from stream identifiers to streams."""

class StreamTable:
    """Stream identifier -> anything. Compiled callers use it without Python integers.

    Identifiers are 1 to 2^32-1; where they stand in the table depends on a secret of the process.
    """

    @property
    def count(self) -> int:
        """How many streams are in the table."""
    @property
    def longest_search(self) -> int:
        """The most slots a look-up of a key that is present looks at (for tests)."""
    def __getitem__(self, key: int) -> object: ...
    def __setitem__(self, key: int, value: object) -> None:
        """Add a stream. ValueError for identifier 0 or one that is in the table."""
    def __delitem__(self, key: int) -> None: ...
    def __contains__(self, key: int) -> bool: ...
    def __len__(self) -> int: ...
    def all(self) -> list[object]:
        """Every value, in no order."""

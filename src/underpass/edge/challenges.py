"""Proofs for an ACME authority that it fetches over HTTP (RFC 8555 §8.3).

They are files, so that every worker has them: which one the authority comes to is the system's
choice.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from underpass.edge.certificates import write_private

__all__ = ["PREFIX", "Challenges"]

PREFIX: Final = b"/.well-known/acme-challenge/"

MAX_PROOF: Final = 4096
"""Octets; real ones have 87."""

# RFC 8555 §8.3: base64url without padding.
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{1,256}\Z")


class Challenges:
    """Proofs in a directory, by their tokens."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def publish(self, token: str, proof: str) -> None:
        """Answer with `proof` from now on. Raises OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        write_private(self._path(token.encode("ascii")), proof.encode("ascii"))

    def remove(self, token: str) -> None:
        """Answer no more."""
        with suppress(FileNotFoundError):
            self._path(token.encode("ascii")).unlink()

    def find(self, path: bytes) -> bytes | None:
        """The proof that a request for `path` is after; None if it is not ours to answer."""
        if not path.startswith(PREFIX):
            return None
        token = path[len(PREFIX) :]
        if not _TOKEN.match(token):
            return None
        try:
            with self._path(token).open("rb") as file:
                return file.read(MAX_PROOF)
        except OSError:
            # Nobody's: an application may ask for certificates itself.
            return None

    def _path(self, token: bytes) -> Path:
        if not _TOKEN.match(token):
            raise ValueError(f"not a token: {token[:80]!r}")
        return self._directory / token.decode("ascii")

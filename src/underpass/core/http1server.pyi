# ruff: noqa: PYI021 (docstrings here are what editors show for compiled modules)
"""HTTP/1.1 toward a visitor (RFC 9112): persistent connections, requests one at a time."""

from typing import final

from underpass.core.endpoint import Endpoint, Turn
from underpass.core.relay import Acceptor, Side

@final
class Http1Response(Side):
    """One response on a visitor's connection."""

class Http1Server(Endpoint):
    """One connection from a visitor. `acceptor` makes an exchange of each request.

    Pipelined input waits, 16,384 octets and one read at most; so does the next request while more
    than 65,536 octets of answers are unsent. Request content is held back once 262,144 octets are
    unreleased. After an early answer 1,048,576 octets of content are thrown away before the
    connection is closed (RFC 9112 §9.6).
    """

    def __init__(
        self, turn: Turn, acceptor: Acceptor, scheme: bytes = b"http", max_head: int = 32768
    ) -> None:
        """`scheme` is b"http" or b"https"; `max_head` bounds a request head, octets."""
    @property
    def scheme(self) -> bytes: ...
    @property
    def active(self) -> int:
        """1 while a request is being answered, else 0."""
    def sweep(self, head_timeout: float, idle_timeout: float) -> None:
        """Time out what waits too long, in seconds by `Turn.tick`.

        head_timeout: for a request head that has begun (408), and for the rest of a request already
        answered. idle_timeout: for the next request, and for the next content of one nothing has
        answered yet (408).
        """
    def shut_down(self) -> None:
        """Close as soon as no request is being answered."""
    def announce_end(self) -> None:
        """Close after the next response that can still say so; an idle connection stays for it.

        Ask again while there is a response under way whose head is out: it has promised another
        request an answer.
        """
    def error_response(self, status: int) -> bytes:
        """Hook: the whole response for a request that could not be read.

        `status` is 400, 408, 431, 501 or 505. It must say `Connection: close`.
        """
    def disconnected(self, reason: Exception | None) -> None:
        """Hook, once at the end: `reason` is None after a clean end or a close of ours."""

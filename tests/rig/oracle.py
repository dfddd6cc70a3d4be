"""HTTP/1.1 as `h11` reads and writes it: the judge of what ours does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import h11

__all__ = ["Message", "pieces_of", "read_requests", "read_response", "write"]

Pairs = Iterable[tuple[bytes, bytes]]

LARGE = 1 << 24


@dataclass
class Message:
    """A request or response as it was read."""

    start: tuple[bytes, ...]
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False

    def get(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


def _pairs(headers: Pairs) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in headers]


def read_requests(data: bytes, *, end: bool = False) -> tuple[list[Message], bool]:
    """(the requests in `data`, whether what follows them was refused). `end`: and then no more."""
    connection = h11.Connection(h11.SERVER, LARGE)
    connection.receive_data(data)
    if end:
        connection.receive_data(b"")
    found: list[Message] = []
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return found, True
        if isinstance(event, h11.Request):
            start = (bytes(event.method), bytes(event.target), bytes(event.http_version))
            found.append(Message(start, _pairs(event.headers)))
        elif isinstance(event, h11.Data):
            found[-1].body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found[-1].trailers = _pairs(event.headers)
            found[-1].ended = True
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return found, False
            connection.start_next_cycle()
        else:
            return found, False


def read_response(
    data: bytes, method: bytes = b"GET", *, end: bool = False, alone: bool = True
) -> Message | None:
    """The response in `data` to a request of `method`; None if it is refused.

    `end`: the connection is closed after `data`. `alone`: AssertionError if something follows it.
    """
    connection = h11.Connection(h11.CLIENT, LARGE)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if end:
        connection.receive_data(b"")
    found: Message | None = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Response):
            found = Message((b"%d" % event.status_code,), _pairs(event.headers))
        elif isinstance(event, h11.Data):
            assert found is not None
            found.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert found is not None
            found.trailers = _pairs(event.headers)
            found.ended = True
            assert not alone or connection.trailing_data[0] == b"", "bytes after the response"
            return found
        elif isinstance(event, h11.InformationalResponse):
            continue
        else:
            return found


def write(
    connection: h11.Connection,
    head: h11.Request | h11.Response,
    pieces: Iterable[bytes],
    trailers: Pairs = (),
) -> bytes:
    """A message as h11 serializes it."""
    out = connection.send(head) or b""
    for piece in pieces:
        out += connection.send(h11.Data(data=piece)) or b""
    return out + (connection.send(h11.EndOfMessage(headers=list(trailers))) or b"")


def pieces_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at offsets, taken modulo its length."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places) if a < b]

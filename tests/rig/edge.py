"""An edge made with the `h2` package, before the connector's end of a link."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

from rig.peer import connect
from rig.transport import ManualLoop
from underpass.core.h2 import H2Connection
from underpass.core.headerblock import parse_block
from underpass.core.tunnel import OriginAcceptor

__all__ = ["Edge", "Reply"]

Pairs = Iterable[tuple[bytes, bytes]]


@dataclass
class Reply:
    """What the edge got back on one stream."""

    interim: list[int] = field(default_factory=list)
    status: int | None = None
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    def get(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)

    @property
    def user_fields(self) -> list[tuple[bytes, bytes]] | None:
        """The origin's fields, or None if no origin answered."""
        block = self.get(b"cf-cloudflared-response-headers")
        return None if block is None else parse_block(block)


class Edge:
    """Sends requests down a link and keeps what comes back, stream by stream."""

    def __init__(self, loop: ManualLoop, acceptor: OriginAcceptor) -> None:
        self.loop = loop
        self.replies: dict[int, Reply] = {}
        self.transport = connect(loop, H2Connection(loop.turn, acceptor))
        # What an edge may send is more than h2 would let through; it judges what comes back.
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.initiate_connection()
        self.run()

    def request(self, fields: Pairs, *, end: bool) -> int:
        """Open a stream; returns its number."""
        stream: int = self._h2.get_next_available_stream_id()
        self.replies[stream] = Reply()
        self._h2.send_headers(stream, list(fields), end_stream=end)
        self.run()
        return stream

    def data(self, stream: int, content: bytes, *, end: bool = False) -> None:
        """Content, as far as the stream still takes it."""
        if self.replies[stream].reset is None:
            self._h2.send_data(stream, content, end_stream=end)
            self.run()

    def trailers(self, stream: int, fields: Pairs) -> None:
        self._h2.send_headers(stream, list(fields), end_stream=True)
        self.run()

    def run(self) -> None:
        """Pass everything on, both ways, until all is quiet."""
        while True:
            self.transport.feed(self._h2.data_to_send())
            self.loop.run()
            received = self.transport.take()
            if not received:
                return
            for event in self._h2.receive_data(received):
                self._note(event)

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.InformationalResponseReceived):
            self.replies[event.stream_id].interim.append(int(dict(event.headers)[b":status"]))
        elif isinstance(event, h2.events.ResponseReceived):
            reply = self.replies[event.stream_id]
            assert reply.status is None, "two response heads"
            reply.status = int(dict(event.headers)[b":status"])
            reply.fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            self.replies[event.stream_id].body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.replies[event.stream_id].trailers = [
                (bytes(name), bytes(value)) for name, value in event.headers
            ]
        elif isinstance(event, h2.events.StreamEnded):
            self.replies[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.replies[event.stream_id].reset = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise AssertionError(f"the connector gave the link up: {event}")

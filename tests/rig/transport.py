"""A loop that is turned by hand and transports that keep what they are given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from underpass.core.endpoint import Endpoint, Turn

__all__ = ["FakeTransport", "ManualLoop", "connect"]


class ManualLoop:
    """`call_soon` and `time`, and nothing happens before `run`.

    Errors that no codec expected are collected in `errors`, or raised if `raises` is set.
    """

    def __init__(self, *, raises: bool = True, private_buffers: bool = False) -> None:
        self.now = 1000.0
        self.errors: list[Exception] = []
        self._due: deque[Callable[[], object]] = deque()
        self.turn = Turn(
            self.call_soon,
            self.time,
            None if raises else lambda _endpoint, error: self.errors.append(error),
            private_buffers,
        )

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._due.append(callback)

    def time(self) -> float:
        return self.now

    @property
    def idle(self) -> bool:
        """True if nothing is due."""
        return not self._due

    def run_once(self) -> None:
        """One turn: what is due now, but not what it makes due."""
        for _ in range(len(self._due)):
            self._due.popleft()()

    def run(self, turns: int = 100_000) -> None:
        """Turn until nothing is due. AssertionError if that never happens."""
        for _ in range(turns):
            if not self._due:
                return
            self.run_once()
        raise AssertionError("the loop never comes to rest")


class FakeTransport:
    """Keeps what is written. `close` and `abort` bring `connection_lost` in the next turn."""

    def __init__(self, loop: ManualLoop, endpoint: Endpoint, *, tls: bool = False) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._tls = tls
        self.writes: list[bytes] = []
        self.reading = True
        self.closed = False
        self.aborted = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return object() if name == "sslcontext" and self._tls else default

    def write(self, data: bytes) -> None:
        assert not self.closed, "written to after close"
        self.writes.append(data)

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self.aborted = True
        self._end(None)

    def _end(self, reason: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(lambda: self._endpoint.connection_lost(reason))

    def lose(self, reason: Exception | None = None) -> None:
        """The connection breaks, or the other end closes it."""
        assert not self.closed
        self.closed = True
        self._endpoint.connection_lost(reason)

    def collect(self) -> bytes:
        """What was written since the last call."""
        data = b"".join(self.writes)
        self.writes.clear()
        return data


def connect(loop: ManualLoop, endpoint: Endpoint, *, tls: bool = False) -> FakeTransport:
    """A transport for `endpoint`, already made."""
    transport = FakeTransport(loop, endpoint, tls=tls)
    endpoint.connection_made(transport)  # type: ignore[arg-type]
    return transport

"""Looks at how a connection begins before anybody serves it.

A listener has a door only if a setting needs one: for the others the event loop's own server
accepts, and hands over what it has accepted without a look.

What is looked at stays where it is (MSG_PEEK): whoever serves the connection reads it as if nobody
had. Only a PROXY header is taken away. Nothing waits here for longer than `seconds`, and no more
than MAX_WAITING connections do; nothing of what they have sent is kept, but by the system.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from underpass.edge.client_hello import MAX_BEGINNING, ClientHello, HelloError
from underpass.edge.trusted_hops import NO_HOPS, TrustedHops
from underpass.wire.proxy_protocol import MAX_HEADER, ProxyHeader, ProxyHeaderError

__all__ = ["MAX_WAITING", "Arrival", "FrontDoor"]

log = logging.getLogger("underpass.edge.door")

MAX_WAITING: Final = 4096
"""Connections whose beginning has not come. One more, and the one that has waited longest goes: a
visitor's first words come in a round trip."""

_ACCEPTED_AT_ONCE: Final = 64
"""Then others have their turn."""

_PAUSE: Final = 1.0
"""Seconds without accepting, when the system has no more descriptors."""

_LOOK_AGAIN: Final = 0.05
"""Seconds until the next look, where the system does not tell when so much has come."""

_MOMENT: Final = 2.0
"""Seconds: in these a visitor says something, or has nothing to say."""

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(slots=True)
class Arrival:
    """A connection whose beginning has come. The socket is for whoever gets this."""

    sock: socket.socket
    address: str
    """The visitor's, as the socket or a trusted hop says."""
    hello: ClientHello | None
    """None where it was not to be read, and for what is none."""
    began: int
    """What `begin` said when it came."""
    seconds: float
    """What is left of the time that it may take to begin."""


class _Waiting:
    """A connection whose beginning has not come."""

    __slots__ = (
        "address",
        "began",
        "deadline",
        "is_watched",
        "needed",
        "sock",
        "timer",
        "wants_proxy",
    )

    def __init__(self, sock: socket.socket, address: str, began: int, deadline: float) -> None:
        self.sock = sock
        self.address = address
        self.began = began
        self.deadline = deadline
        self.wants_proxy = False
        self.needed = 1
        """The system calls when so many bytes are there."""
        self.is_watched = False
        self.timer: asyncio.TimerHandle | None = None


class FrontDoor:
    """Accepts on a listener, and tells of each connection when its beginning has come.

    Args:
        listener: is the door's from here on.
        arrived: gets each connection, from within the loop.
        seconds: how long a beginning may take.
        trusted: a connection from there begins with a PROXY header, or is closed. One from
            elsewhere has none: what looks like it is left to who serves it, who takes it for
            nothing that it knows.
        reads_hello: whether a TLS hello is waited for. Without it, a connection from nobody who is
            trusted arrives at once.
        begin: called as each is accepted; what it says is in the arrival.
    """

    def __init__(
        self,
        listener: socket.socket,
        arrived: Callable[[Arrival], None],
        *,
        seconds: float,
        trusted: TrustedHops = NO_HOPS,
        reads_hello: bool = False,
        begin: Callable[[], int] = lambda: 0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._arrived = arrived
        self._seconds = seconds
        self._trusted = trusted
        self._reads_hello = reads_hello
        self._begin = begin
        # In the order they came: the first is the first whose time is over.
        self._waiting: dict[_Waiting, None] = {}
        self._resuming: asyncio.TimerHandle | None = None
        self._is_open = True
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    @property
    def waiting(self) -> int:
        """Connections whose beginning has not come."""
        return len(self._waiting)

    @property
    def is_expecting(self) -> bool:
        """Whether somebody has come a moment ago who has not said anything yet."""
        latest = next(reversed(self._waiting), None)
        return latest is not None and latest.deadline - self._seconds > self._loop.time() - _MOMENT

    def look(self) -> None:
        """Once a tick: give up what takes too long."""
        now = self._loop.time()
        for waiting in tuple(self._waiting):
            if waiting.deadline > now:
                break
            self._give_up(waiting)

    def close(self) -> None:
        """Accept no more. What waits may go on."""
        if not self._is_open:
            return
        self._is_open = False
        if self._resuming is None:
            self._loop.remove_reader(self._listener)
        else:
            self._resuming.cancel()
        self._listener.close()

    def abort(self) -> None:
        """Give up what waits, too."""
        self.close()
        for waiting in tuple(self._waiting):
            self._give_up(waiting)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                continue  # it has gone before it came
            self._take(sock, peer)
            if not self._is_open:
                return

    def _pause(self, error: OSError) -> None:
        log.error("cannot accept a connection", extra={"error": error.strerror or str(error)})
        self._loop.remove_reader(self._listener)
        self._resuming = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._listener, self._accept)

    def _take(self, sock: socket.socket, peer: Any) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # it has gone
            sock.close()
            return
        address = str(peer[0])
        waiting = _Waiting(sock, address, self._begin(), self._loop.time() + self._seconds)
        waiting.wants_proxy = bool(self._trusted) and self._trusted.trusts(address)
        if len(self._waiting) >= MAX_WAITING:
            self._give_up(next(iter(self._waiting)))
        self._waiting[waiting] = None
        self._examine(waiting)

    def _examine(self, waiting: _Waiting) -> None:
        """Look at what has come, and decide what can be decided."""
        try:
            if waiting.wants_proxy and not self._has_read_proxy(waiting):
                return
            if not self._reads_hello:
                self._arrive(waiting, None)
                return
            seen = waiting.sock.recv(MAX_BEGINNING, socket.MSG_PEEK)
            hello = ClientHello.read(seen)
        except (BlockingIOError, InterruptedError):
            self._wait(waiting, 1)
        except HelloError:
            # TLS has the words to refuse it with.
            self._arrive(waiting, None)
        except ProxyHeaderError as error:
            log.warning(
                "a trusted hop sends no PROXY header that can be read",
                extra={"peer": waiting.address, "error": str(error)},
            )
            self._give_up(waiting)
        except OSError:
            self._give_up(waiting)
        else:
            if isinstance(hello, ClientHello):
                self._arrive(waiting, hello)
            elif seen:
                self._wait_for_more(waiting, hello, len(seen))
            else:
                self._give_up(waiting)

    def _has_read_proxy(self, waiting: _Waiting) -> bool:
        """Whether the PROXY header has come. If so it is taken away."""
        seen = waiting.sock.recv(MAX_HEADER, socket.MSG_PEEK)
        if not seen:
            # Left without a word: so do those who look whether somebody listens.
            self._give_up(waiting)
            return False
        header = ProxyHeader.read(seen)
        if isinstance(header, int):
            self._wait_for_more(waiting, header, len(seen))
            return False
        waiting.sock.recv(header.length)
        waiting.wants_proxy = False
        _call_at(waiting, 1)
        if header.source is not None:
            waiting.address = str(header.source)
        return True

    def _wait(self, waiting: _Waiting, needed: int) -> None:
        """Look again when so many bytes are there."""
        if _call_at(waiting, needed):
            if not waiting.is_watched:
                waiting.is_watched = True
                self._loop.add_reader(waiting.sock, self._examine, waiting)
        else:
            self._watch_not(waiting)
            waiting.timer = self._loop.call_later(_LOOK_AGAIN, self._examine, waiting)

    def _wait_for_more(self, waiting: _Waiting, needed: int, seen: int) -> None:
        """The same, of what there are some already."""
        if waiting.is_watched and seen < waiting.needed:
            # The system has called, and not because of what was waited for: there will be no more.
            self._give_up(waiting)
        else:
            self._wait(waiting, needed)

    def _watch_not(self, waiting: _Waiting) -> None:
        if waiting.is_watched:
            waiting.is_watched = False
            self._loop.remove_reader(waiting.sock)
        if waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None

    def _arrive(self, waiting: _Waiting, hello: ClientHello | None) -> None:
        self._watch_not(waiting)
        del self._waiting[waiting]
        _call_at(waiting, 1)
        left = max(waiting.deadline - self._loop.time(), 0.0)
        self._arrived(Arrival(waiting.sock, waiting.address, hello, waiting.began, left))

    def _give_up(self, waiting: _Waiting) -> None:
        self._watch_not(waiting)
        del self._waiting[waiting]
        waiting.sock.close()


def _call_at(waiting: _Waiting, needed: int) -> bool:
    """Have the system call when so many bytes are there; whether it does that."""
    if waiting.needed != needed:
        option = getattr(socket, "SO_RCVLOWAT", None)
        if option is None:
            return False
        try:
            waiting.sock.setsockopt(socket.SOL_SOCKET, option, needed)
        except OSError:  # Windows knows its name, and nothing more
            return False
        waiting.needed = needed
    return True

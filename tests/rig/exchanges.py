"""What stands at the far end of a server-role codec in a test: an application in Python."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from underpass.core.fields import Fields
from underpass.core.relay import Acceptor, Counters, Exchange, PythonSide

__all__ = ["Application", "Call", "Client", "alive"]


class Call:
    """One request as the application got it, and the means to answer."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.head = list(exchange.request)
        self.body = b""
        self.ended = False
        self.abandoned: int | None = None
        self.side = PythonSide()

    def join(self) -> None:
        """Take the request's content, and answer through `side`."""
        self.side = self.exchange.open_python_side()
        self.side.on_data = self._on_data
        self.side.on_end = self._on_end
        self.side.on_abandoned = self._on_abandoned
        self.exchange.deliver_waiting()

    def _on_data(self, data: bytes) -> None:
        self.body += data

    def _on_end(self) -> None:
        self.ended = True

    def _on_abandoned(self, code: int) -> None:
        self.abandoned = code

    def get(self, name: bytes) -> bytes | None:
        """The value of the request's first field of that name."""
        return next((value for key, value in self.head if key.lower() == name), None)


class Application:
    """Collects what a codec hands over: `calls`, in order. `on_call` may answer at once."""

    def __init__(self, on_call: Callable[[Call], None] | None = None) -> None:
        self.calls: list[Call] = []
        self.counters = Counters()
        self.on_call = on_call
        self.acceptor = Acceptor(self._accept, self.counters)

    def _accept(self, exchange: Exchange) -> None:
        call = Call(exchange)
        self.calls.append(call)
        if self.on_call is None:
            call.join()
        else:
            self.on_call(call)

    @property
    def last(self) -> Call:
        return self.calls[-1]


class Client:
    """The inbound side of an exchange that goes to a client-role codec: a visitor in Python."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.status: int | None = None
        self.head: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.ended = False
        self.abandoned: int | None = None
        self.side = PythonSide()
        self.side.on_head = self._on_head
        self.side.on_data = self._on_data
        self.side.on_end = self._on_end
        self.side.on_abandoned = self._on_abandoned

    def _on_head(self, status: int, fields: Fields) -> None:
        assert self.status is None, "two response heads"
        self.status = status
        self.head = list(fields)

    def _on_data(self, data: bytes) -> None:
        assert not self.ended, "content after the end"
        self.body += data

    def _on_end(self) -> None:
        assert not self.ended, "ended twice"
        self.ended = True

    def _on_abandoned(self, code: int) -> None:
        self.abandoned = code

    def get(self, name: bytes) -> bytes | None:
        """The value of the response's first field of that name."""
        return next((value for key, value in self.head if key.lower() == name), None)


def alive(*types: type[Any]) -> int:
    """How many objects of these types exist, without the help of the cycle collector."""
    return sum(isinstance(item, types) for item in gc.get_objects())

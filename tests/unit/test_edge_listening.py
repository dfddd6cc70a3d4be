"""Listening sockets: bound at once, refused with a reason."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from underpass.edge.errors import ListenError
from underpass.edge.listening import (
    Inherited,
    KeptSocket,
    Listeners,
    bound_address,
    listen,
    take_inherited,
)
from underpass.edge.options import Address

if TYPE_CHECKING:
    from typing_extensions import Self


def test_port_zero_is_picked_by_the_system() -> None:
    with listen(Address("127.0.0.1", 0)) as listener:
        bound = bound_address(listener)
        assert bound.host == "127.0.0.1"
        assert bound.port > 0
        assert not listener.getblocking()
        with socket.create_connection((bound.host, bound.port)):
            pass


def test_every_interface() -> None:
    with listen(Address("", 0)) as listener:
        port = bound_address(listener).port
        with socket.create_connection(("127.0.0.1", port)):
            pass


def test_a_taken_port_is_told() -> None:
    with listen(Address("127.0.0.1", 0)) as listener:
        taken = bound_address(listener)
        with pytest.raises(ListenError, match=f"cannot listen on {taken}: another program"):
            listen(taken)


def test_a_strange_address_is_told() -> None:
    with pytest.raises(ListenError, match="this machine has no such address"):
        listen(Address("192.0.2.1", 0))


def test_a_name_that_does_not_resolve_is_told() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on nowhere\.invalid:1"):
        listen(Address("nowhere.invalid", 1))


class Handed:
    """Sockets as a service manager hands them over, but anywhere; closed at the end."""

    def __init__(self, names: str, *sockets: socket.socket) -> None:
        # Descriptors next to each other, which nothing else has: far up.
        self.first = 700
        for number, handed in enumerate(sockets, self.first):
            os.dup2(handed.fileno(), number)
            handed.close()
        self.environment = {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": names,
            "OTHER": "stays",
        }
        self.last = self.first + len(sockets)

    def take(self) -> Inherited:
        return take_inherited(self.environment, self.first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(self.first, self.last):
            with contextlib.suppress(OSError):
                os.close(number)


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.skipif(sys.platform == "win32", reason="sockets are no descriptors there")
class TestInherited:
    def test_sockets_are_found_by_name(self) -> None:
        with Handed("https:tunnel:tunnel", *(listening() for _ in range(3))) as handed:
            taken = handed.take()
            assert {name: len(each) for name, each in taken.items()} == {"https": 1, "tunnel": 2}
            for listener in (*taken["https"], *taken["tunnel"]):
                assert not listener.getblocking()
                assert not listener.get_inheritable()
                socket.create_connection(listener.getsockname()).close()
                listener.close()
            assert handed.environment == {"OTHER": "stays"}

    def test_those_of_another_process_are_left_alone(self) -> None:
        environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "https"}
        assert take_inherited(environment) == {}
        assert environment == {}
        assert take_inherited({}) == {}

    @pytest.mark.parametrize(
        ("names", "make", "message"),
        [
            ("unknown", listening, "'unknown' is handed over: .*FileDescriptorName="),
            ("https:http", listening, "1 sockets are handed over and LISTEN_FDNAMES names 2"),
            ("http", socket.socket, "'http' is no TCP socket that listens"),
            (
                "http",
                lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                "'http' is no TCP socket",
            ),
        ],
    )
    def test_what_cannot_be_used_is_told(
        self, names: str, make: Callable[[], socket.socket], message: str
    ) -> None:
        with Handed(names, make()) as handed, pytest.raises(ListenError, match=message):
            handed.take()

    def test_one_name_twice(self) -> None:
        with (
            Handed("api:api", listening(), listening()) as handed,
            pytest.raises(ListenError, match="two sockets named 'api'"),
        ):
            handed.take()

    @pytest.mark.parametrize("count", ["0", "-1", "x", "65", "9" * 30])
    def test_numbers_that_cannot_be(self, count: str) -> None:
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
        with pytest.raises(ListenError, match="1 to 64 sockets"):
            take_inherited(environment)


class TestListeners:
    def test_what_a_service_manager_gives_goes_before_the_options(self) -> None:
        given = listen(Address("127.0.0.1", 0))
        listeners = Listeners({"http": [given]})
        assert listeners.listen("http", [Address("192.0.2.1", 1)]) == [given]
        assert listeners.open == [KeptSocket("http", "", given)]
        listeners.close()
        assert given.fileno() == -1

    def test_what_was_open_for_an_address_stays_for_that_address(self) -> None:
        wanted = [Address("127.0.0.1", 0), Address("127.0.0.1", 0), Address("localhost", 0)]
        before = Listeners({})
        opened = before.listen("tunnel", wanted)
        after = Listeners({}, before.open)
        assert after.listen("tunnel", [wanted[2], wanted[0]]) == [opened[2], opened[0]]
        # One more than there were.
        (new,) = after.listen("tunnel", [Address("127.0.0.1", 0)])
        assert new is opened[1]
        (other,) = after.listen("tunnel", [Address("127.0.0.1", 0)])
        assert other not in opened
        assert after.named("tunnel") == [opened[2], opened[0], new, other]
        after.close()

    def test_what_nobody_wants_is_closed(self) -> None:
        before = Listeners({})
        (http,) = before.listen("http", [Address("127.0.0.1", 0)])
        (api,) = before.listen("api", [Address("127.0.0.1", 0)])
        after = Listeners({}, before.open)
        assert after.listen("api", [Address("127.0.0.1", 0)]) == [api]
        after.close_spare()
        assert http.fileno() == -1
        assert api.fileno() != -1
        after.close()

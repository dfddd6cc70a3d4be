"""Listening sockets: bound at once, refused with a reason."""

from __future__ import annotations

import socket

import pytest

from underpass.edge.errors import ListenError
from underpass.edge.listening import bound_address, listen
from underpass.edge.options import Address


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

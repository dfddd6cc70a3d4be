"""Sockets on their way to another process, here to the other end of the pair."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("there are no workers on Windows", allow_module_level=True)

from underpass.ops.workers.descriptors import BATCH, DescriptorSender, receive_sockets


def test_they_arrive_by_name_and_are_the_same() -> None:
    sender = DescriptorSender()
    with contextlib.closing(sender), socket.create_server(("127.0.0.1", 0)) as one:
        sender.send({"tcp-1": one})
        received = receive_sockets(sender.theirs)
        with received["tcp-1"] as copy:
            assert copy.getsockname() == one.getsockname()
            assert copy.fileno() != one.fileno()
            assert not copy.getblocking()
            assert not copy.get_inheritable()


def test_nothing_has_come_or_nothing_more() -> None:
    with contextlib.closing(DescriptorSender()) as sender:
        assert receive_sockets(sender.theirs) == {}
        sender.send({})
        assert receive_sockets(sender.theirs) == {}


def test_as_many_as_an_edge_may_have() -> None:
    """More than one message holds, and more than wait in the system's queue of messages."""
    with contextlib.closing(DescriptorSender()) as sender, contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        names = [f"tcp-{number}" for number in range(4 * BATCH)]
        sender.send(dict.fromkeys(names, listener))
        received = receive_sockets(sender.theirs)
        for copy in received.values():
            stack.enter_context(copy)
        assert list(received) == names


def test_a_worker_that_is_gone() -> None:
    with contextlib.closing(DescriptorSender()) as sender:
        sender.theirs.close()
        with socket.create_server(("127.0.0.1", 0)) as one, pytest.raises(OSError, match="refused"):
            sender.send({"tcp-1": one})

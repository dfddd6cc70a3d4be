"""Replacing a running edge by a new process of the program, without a failed request.

The old process starts the new one and stays its source of everything until that one serves: it gives
it the listening sockets and the lock of the data directory (`messages.Estate`), the links it has and
the way to them. The new one accepts visitors and connectors beside the old one from its first moment
on, and sends what it has no links for to the old one. Only then does the old one let go: first of the
API and all changes, then of its listeners; it has its links moved (`edge.moving`), answers what it has
taken, and ends.
"""

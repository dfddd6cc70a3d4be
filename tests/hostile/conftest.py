"""Peers that misbehave, over real sockets, against real processes."""

from peers.fixtures import curl, data_dir, edge, origin, scene

__all__ = ["curl", "data_dir", "edge", "origin", "scene"]

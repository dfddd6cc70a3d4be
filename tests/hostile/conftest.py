"""Peers that misbehave, over real sockets, against real processes."""

from peers.fixtures import curl, data_dir, edge, no_process_is_left, origin, scene

__all__ = ["curl", "data_dir", "edge", "no_process_is_left", "origin", "scene"]

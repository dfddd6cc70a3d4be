"""Process-level tests: real sockets, real peers."""

from peers.fixtures import curl, data_dir, edge, origin, scene

__all__ = ["curl", "data_dir", "edge", "origin", "scene"]

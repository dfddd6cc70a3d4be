"""Runs every workload under callgrind, which counts the instructions of each by itself.

    valgrind --tool=callgrind --instr-atstart=no ... python -m bench.guard.counted LIBRARY

LIBRARY has the client requests of `bench.guard.counting`. Everything random is made the same each
time: rays and hash tables' secrets come from `os.urandom`, and garbage is not collected meanwhile.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from itertools import repeat


def same_bytes(size: int) -> bytes:
    """Takes the place of `os.urandom`."""
    return bytes(at * 151 + 89 & 0xFF for at in range(size))


def main(library: str) -> None:
    os.urandom = same_bytes
    # What the workloads import asks for randomness, so it comes after.
    from bench.workloads import WORKLOADS

    requests = ctypes.CDLL(library)
    works = {name: workload.make() for name, workload in WORKLOADS.items()}
    gc.collect()
    gc.freeze()
    gc.disable()
    requests.start()
    for name, work in works.items():
        for _ in repeat(None, 100):
            work()
        requests.zero()
        for _ in repeat(None, WORKLOADS[name].repetitions):
            work()
        requests.dump(name.encode())


if __name__ == "__main__":
    main(sys.argv[1])

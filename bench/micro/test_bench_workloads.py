"""The hot path timed, workload by workload: no sockets, no event loop, transports that forget.

    pytest bench/micro --benchmark-columns=min,median,ops

The same workloads are counted, rather than timed, by `ci/bench-guard`.
"""

from __future__ import annotations

from typing import Any

import pytest
from bench.workloads import WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload(benchmark: Any, name: str) -> None:
    benchmark(WORKLOADS[name].make())

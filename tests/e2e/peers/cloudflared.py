"""A stock cloudflared, where UNDERPASS_CLOUDFLARED names one."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from .processes import EdgeProcess, Process

__all__ = ["Cloudflared", "binary"]


@pytest.fixture(scope="module")
def binary() -> str:
    path = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not path:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return path


class Cloudflared(Process):
    """A stock connector, told to use HTTP/2 and nothing of the outside world."""

    def __init__(
        self,
        binary: str,
        edge: EdgeProcess,
        arguments: Sequence[str],
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            [
                binary,
                *("tunnel", "--output=json", "--no-autoupdate", "--no-prechecks"),
                *("--protocol=http2", "--metrics=127.0.0.1:0", f"--cacert={edge.ca}"),
                # A single address would make it retry without any pause; four give four links.
                *(f"--edge={edge.tunnels[0]}" for _ in range(4)),
                *arguments,
            ],
            environment,
        )

    def ready(self, links: int = 1) -> Cloudflared:
        for number in range(1, links + 1):
            self.wait_for("Registered tunnel connection", count=number)
        return self

"""Management tokens as an edge would have issued them; nobody checks the signature here."""

from __future__ import annotations

import base64
import json
from typing import Any

__all__ = ["management_token"]


def management_token(actor: str = "somebody", **changes: Any) -> str:
    """A token of `actor`; `changes` replace claims, and `alg` the algorithm."""
    header = {"alg": changes.pop("alg", "ES256"), "typ": "JWT"}
    claims = {
        "tun": {"id": "6ff42ae2-765d-4adf-8112-31c55c1551ef", "account_tag": "account"},
        "actor": {"id": actor, "support": False},
    }
    return f"{_part(header)}.{_part(claims | changes)}.{_part('signature')}"


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

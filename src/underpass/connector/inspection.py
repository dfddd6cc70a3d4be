"""What a running connector shows of itself to operators (docs: observability §1): /config, /diag
and /debug of the metrics server. Imported when the first of them is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from underpass.connector.ingress import Ingress
from underpass.connector.local_configuration import (
    origin_request_document,
    warp_routing_document,
)
from underpass.connector.settings import Settings
from underpass.connector.settings_table import SETTINGS

__all__ = ["configuration_document", "settings_document"]

_PATHS = ("logfile", "log-directory")


def configuration_document(ingress: Ingress, version: int) -> dict[str, Any]:
    """The rules in force, every setting written out; durations in seconds."""
    return {
        "version": version,
        "config": {
            "ingress": [
                {
                    "hostname": rule.hostname,
                    "path": rule.path.text if rule.path is not None else None,
                    "service": rule.service_text,
                    "Handlers": None,
                    "originRequest": origin_request_document(rule.origin_request),
                }
                for rule in ingress.rules
            ],
            "warp-routing": warp_routing_document(ingress),
            "originRequest": origin_request_document(ingress.defaults),
        },
    }


def settings_document(settings: Settings | None) -> dict[str, str]:
    """The settings that were given, as text, without secrets; paths of logs made absolute."""
    shown = {} if settings is None else settings.shown()
    document = {name: text for name, text in shown.items() if not SETTINGS[name].secret}
    for name in _PATHS:
        if document.get(name):
            document[name] = str(Path(document[name]).expanduser().absolute())
    getuid = getattr(os, "getuid", None)
    document["uid"] = str(getuid()) if getuid is not None else "-1"
    return document

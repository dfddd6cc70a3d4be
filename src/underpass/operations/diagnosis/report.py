"""The steps of a report, and its file."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from underpass.operations.diagnosis import network
from underpass.operations.diagnosis.instance import MAX_ENTRY, Instance, InstanceError
from underpass.operations.diagnosis.logs import LogPlace, collect_logs
from underpass.operations.diagnosis.tools import ToolError
from underpass.ops.logging import mask_secrets

__all__ = ["DiagnosisOptions", "write_report"]

TOTAL_SECONDS: Final = 45.0
"""For the whole report; steps that find no time left fail."""


_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s\"]+@")

_log = logging.getLogger("underpass.diag")


class DiagnosisOptions(Struct, frozen=True):
    """What is left out, and where the connector's log is if it runs in a container."""

    no_logs: bool = False
    no_metrics: bool = False
    no_system: bool = False
    no_runtime: bool = False
    no_network: bool = False
    container: str = ""
    pod: str = ""


class _Step(Struct, frozen=True):
    """A step of the report: `collect` gives the entry, a text unless it is a profile."""

    name: str
    entry: str
    collect: Callable[[], str | bytes]
    left_out: bool = False


class _Report:
    def __init__(self, instance: Instance, options: DiagnosisOptions) -> None:
        self._instance = instance
        self._options = options
        self._deadline = time.monotonic() + TOTAL_SECONDS
        self._traces: dict[str, network.Trace] | None = None

    @property
    def _left(self) -> float:
        """Seconds. Raises ToolError if there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ToolError(f"the report has taken {TOTAL_SECONDS:.0f} s")
        return left

    def steps(self) -> list[_Step]:
        options = self._options
        runtime = self._runtime_steps() if not options.no_runtime else []
        return [
            _Step("tunnel state", "tunnelstate.json", lambda: _pretty(self._instance.state)),
            _Step(
                "system information",
                "systeminformation.json",
                lambda: self._json("/diag/system"),
                options.no_system,
            ),
            *runtime,
            _Step("metrics", "metrics.txt", lambda: self._page("/metrics"), options.no_metrics),
            _Step("log information", "cloudflared_logs.txt", self._logs, options.no_logs),
            _Step(
                "raw network information", "raw-network.txt", self._raw_network, options.no_network
            ),
            _Step("network information", "network.json", self._network, options.no_network),
            _Step(
                "cli configuration",
                "cli-configuration.json",
                lambda: self._json("/diag/configuration"),
            ),
            _Step("configuration", "configuration.json", lambda: self._json("/config")),
            _Step("connectivity pre-checks", "prechecks.json", self._prechecks, options.no_network),
        ]

    def _runtime_steps(self) -> list[_Step]:
        if self._is_underpass:
            return [
                _Step("stacks", "stacks.txt", lambda: self._page("/debug/stacks")),
                _Step("memory", "memory.txt", lambda: self._page("/debug/memory")),
            ]
        return [
            _Step(
                "goroutine profile",
                "goroutine.pprof",
                lambda: self._instance.get("/debug/pprof/goroutine", self._left),
            ),
            _Step(
                "heap profile",
                "heap.pprof",
                lambda: self._instance.get("/debug/pprof/heap", self._left),
            ),
        ]

    @property
    def _is_underpass(self) -> bool:
        """Whether the connector is one of this program, or a cloudflared."""
        try:
            return b'"underpass"' in self._instance.get("/metrics", self._left)
        except (InstanceError, ToolError):
            return True

    def _page(self, path: str) -> str:
        return self._instance.get(path, self._left).decode("utf-8", "replace")

    def _json(self, path: str) -> str:
        try:
            return _pretty(json.loads(self._page(path)))
        except ValueError:
            raise ToolError(f"{path} is not JSON") from None

    @property
    def _flags(self) -> dict[str, str]:
        flags = json.loads(self._json("/diag/configuration"))
        return flags if isinstance(flags, dict) else {}

    def _logs(self) -> str:
        service = "underpass" if self._is_underpass else "cloudflared"
        options = self._options
        flags = {} if options.container or options.pod else self._flags
        return collect_logs(LogPlace(flags, service, options.container, options.pod))

    def _ways(self) -> dict[str, network.Trace]:
        if self._traces is None:
            given = self._flags.get("edge", "").strip("[]").split()
            hosts = [
                edge.rpartition(":")[0].strip("[]")
                for edge in dict.fromkeys(given)
                if not edge.startswith("-")
            ]
            left = self._left
            self._traces = network.trace_all(hosts or network.CLOUDFLARE, left)
        return self._traces

    def _raw_network(self) -> str:
        ways = self._ways()
        self._complain(ways)
        return "".join(f"{name}\n{way.raw or 'no content'}\n" for name, way in ways.items())

    def _network(self) -> str:
        ways = self._ways()
        self._complain(ways)
        return _pretty({name: way.hops for name, way in ways.items()})

    @staticmethod
    def _complain(ways: dict[str, network.Trace]) -> None:
        if not any(way.raw for way in ways.values()):
            raise ToolError(next(way.error for way in ways.values()))

    def _prechecks(self) -> str:
        from underpass.connector import prechecks  # brings an event loop

        try:
            return _pretty(prechecks.diagnose(self._flags, self._left))
        except (ValueError, TimeoutError) as error:
            raise ToolError(str(error) or "they took too long") from None


def write_report(instance: Instance, options: DiagnosisOptions, directory: Path) -> Path:
    """Collect everything and write the archive, which only its owner can read. Raises OSError."""
    results: dict[str, dict[str, str]] = {}
    stamp = datetime.now().astimezone().isoformat(timespec="seconds").replace(":", "-")
    path = directory / f"underpass-diag-{stamp}.zip"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for step in _Report(instance, options).steps():
                if not step.left_out:
                    content, results[step.name] = _result(step)
                    if content:
                        archive.writestr(step.entry, content)
            archive.writestr("task-result.json", _pretty(results))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _result(step: _Step) -> tuple[str | bytes, dict[str, str]]:
    _log.info("Collecting %s...", step.name)
    try:
        content = step.collect()
    except (InstanceError, ToolError) as error:
        _log.error("Job: %s finished with error.", step.name, extra={"error": str(error)})
        return "", {"result": "failure", "error": str(error)}
    _log.info("Collected %s.", step.name)
    if isinstance(content, str):
        content = _CREDENTIALS.sub("*****@", mask_secrets(content))[:MAX_ENTRY]
    return content, {"result": "success"}


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"

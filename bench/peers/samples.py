"""What a run measures, as it is written to a file and read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Reading:
    """Figures of one load. `at` is its place on the growth curve called `curve`.

    Units are in the names of the metrics: `cpu_us` and its kin are per request (or message).
    """

    load: str
    metrics: dict[str, float]
    curve: str = ""
    at: float = 0


@dataclass(frozen=True)
class Sample:
    """A reading of one peer in one round; or, with `error`, why there is none."""

    peer: str
    round: int
    load: str
    metrics: dict[str, float] = field(default_factory=dict)
    curve: str = ""
    at: float = 0
    retried: bool = False
    error: str = ""


@dataclass(frozen=True)
class Document:
    """A whole run."""

    about: dict[str, object]
    samples: Sequence[Sample]

    def write(self, path: Path) -> None:
        content = {"about": self.about, "samples": [dataclasses.asdict(s) for s in self.samples]}
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Document:
        content = json.loads(path.read_text())
        return cls(content["about"], [Sample(**sample) for sample in content["samples"]])

    def values(self, peer: str, load: str, metric: str) -> dict[int, float]:
        """By round. Rounds in which the load failed are not there."""
        return {
            sample.round: sample.metrics[metric]
            for sample in self.samples
            if (sample.peer, sample.load) == (peer, load) and metric in sample.metrics
        }

    def peers(self) -> list[str]:
        return list(dict.fromkeys(sample.peer for sample in self.samples))

    def loads(self) -> list[str]:
        return list(dict.fromkeys(sample.load for sample in self.samples))

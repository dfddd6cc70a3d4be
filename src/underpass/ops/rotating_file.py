"""A log file that makes way for the next one under a name that stays: `underpass-TIME.log`."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path

__all__ = ["TimestampedFileHandler"]

_YEAR_AND_MONTH = "[0-9][0-9][0-9][0-9]-[0-9][0-9]"


class TimestampedFileHandler(RotatingFileHandler):
    """Renames a full file after the time (UTC) and keeps the newest `backupCount` of those."""

    def doRollover(self) -> None:  # noqa: N802 - the library's name
        if self.stream:
            self.stream.close()
            self.stream = None
        path = Path(self.baseFilename)
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        stamp = now.partition("+")[0].replace(":", "-")
        path.rename(path.with_name(f"{path.stem}-{stamp}{path.suffix}"))
        former = sorted(path.parent.glob(f"{path.stem}-{_YEAR_AND_MONTH}-*{path.suffix}"))
        for old in former[: -self.backupCount]:
            os.unlink(old)
        self.stream = self._open()

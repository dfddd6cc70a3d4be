"""Everything a connector was told, and how to hear it again."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from underpass.connector.config import Config
from underpass.connector.settings import Settings

__all__ = ["Configuration"]


class Configuration(Struct, frozen=True):
    """What a connector is started with.

    `read_again` gathers flags, environment and file anew, in any thread. Raises ConfigError or
    SettingError.
    """

    settings: Settings
    config: Config
    read_again: Callable[[], Configuration]

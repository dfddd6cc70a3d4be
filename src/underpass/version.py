"""The version, in one place: package metadata, `underpass version` and registration read it."""

VERSION = "0.1.0"

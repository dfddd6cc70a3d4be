"""Which hostname's settings a request is subject to."""

from __future__ import annotations

import pytest

from underpass.edge import sites
from underpass.edge.sites import HostnameTable

TABLE = {
    "app.example.com": "app",
    "*.example.com": "all",
    "*.deep.example.com": "deep",
    "single": "single",
}


@pytest.fixture
def table() -> HostnameTable[str]:
    return HostnameTable(TABLE.items(), "none")


@pytest.mark.parametrize(
    ("authority", "entry"),
    [
        (b"app.example.com", "app"),
        (b"APP.Example.com:8443", "app"),
        (b"app.example.com.", "app"),
        (b"other.example.com", "all"),
        (b"a.b.example.com", "all"),
        (b"a.deep.example.com", "deep"),
        (b"deep.example.com", "all"),
        (b"example.com", "none"),
        (b"single", "single"),
        (b"x.single", "none"),
        (b"", "none"),
        (b"*.example.com", "all"),
        (b"app.example.com:http", "none"),
        (b"app.example.com" + b"x" * 1000, "none"),
        (b"\xff\xfe", "none"),
        (b"[::1]:443", "none"),
    ],
)
def test_exact_before_wildcard_and_long_before_short(
    table: HostnameTable[str], authority: bytes, entry: str
) -> None:
    assert [table.find(authority) for _ in range(2)] == [entry, entry]


def test_spellings_are_remembered_within_bounds(
    table: HostnameTable[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "MAX_CACHED", 8)
    for number in range(100):
        assert table.find(b"%d.example.com" % number) == "all"
        assert table.find(b"%d.example.org" % number) == "none"
        assert len(table._cache) <= 8
    assert not [key for key in table._cache if key.endswith(b"org")], "strangers take no room"

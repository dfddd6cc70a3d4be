"""What the API answers, as models: times, addresses, networks, and what is missing."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest

from underpass.account.models import (
    NO_ID,
    Connector,
    IpRoute,
    Tunnel,
    convert,
    parse_address,
    parse_network,
)
from underpass.account.moment import NEVER, Moment

ID = "11111111-2222-4333-8444-555555555555"


class TestMoment:
    @pytest.mark.parametrize(
        ("text", "precise", "whole", "spoken"),
        [
            (
                "2026-01-02T03:04:05Z",
                "2026-01-02T03:04:05Z",
                "2026-01-02T03:04:05Z",
                "2026-01-02 03:04:05 +0000 UTC",
            ),
            (
                "2026-01-02t03:04:05.120000z",
                "2026-01-02T03:04:05.12Z",
                "2026-01-02T03:04:05Z",
                "2026-01-02 03:04:05.12 +0000 UTC",
            ),
            (
                "2026-01-02T03:04:05.123456789+02:30",
                "2026-01-02T03:04:05.123456789+02:30",
                "2026-01-02T03:04:05+02:30",
                "2026-01-02 03:04:05.123456789 +0230 +0230",
            ),
            (
                "2026-01-02T03:04:05.000-00:00",
                "2026-01-02T03:04:05Z",
                "2026-01-02T03:04:05Z",
                "2026-01-02 03:04:05 +0000 UTC",
            ),
        ],
    )
    def test_is_written_as_go_does(self, text: str, precise: str, whole: str, spoken: str) -> None:
        moment = Moment.parse(text)
        assert (str(moment), moment.whole, moment.spoken) == (precise, whole, spoken)

    @pytest.mark.parametrize(
        "text",
        [
            *("", "now", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02 03:04:05Z"),
            *("2026-13-02T03:04:05Z", "2026-02-30T03:04:05Z", "2026-01-02T24:04:05Z"),
            *("2026-01-02T03:04:60Z", "2026-01-02T03:04:05+24:00", "2026-01-02T03:04:05.Z"),
            "\uff12026-01-02T03:04:05Z",
        ],
    )
    def test_nothing_else_is_a_time(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a time"):
            Moment.parse(text)

    def test_order(self) -> None:
        texts = [
            "0001-01-01T00:00:00Z",
            "2026-01-02T03:04:05+02:00",
            "2026-01-02T01:04:05.1Z",
            "2026-01-02T01:04:05.12Z",
            "2026-01-01T23:04:06.5-02:00",
        ]
        moments = [Moment.parse(text) for text in texts]
        assert sorted(set(moments), key=lambda moment: moment.order) == moments

    def test_never_is_no_time(self) -> None:
        assert not NEVER
        assert not Moment.parse("0001-01-01T00:00:00.000Z")
        assert Moment.parse("2026-01-02T03:04:05Z")


def test_null_and_nothing_are_the_same() -> None:
    empty = convert({}, Tunnel)
    nulls = dict.fromkeys(("id", "name", "created_at", "deleted_at", "connections"))
    assert convert(nulls, Tunnel) == empty
    assert (empty.id, empty.deleted_at, empty.connections) == (NO_ID, NEVER, None)
    assert convert({"connections": []}, Tunnel).connections == []


def test_a_connector() -> None:
    connection = {"colo_name": "LIS01", "id": ID, "origin_ip": "2001:DB8:0::1", "client_id": ID}
    row = {"id": ID, "run_at": "2026-01-02T03:04:05Z", "conns": [connection], "more": {"a": 1}}
    connector = convert(row, Connector)
    assert connector.connections is not None
    assert connector.connections[0].origin_ip == "2001:db8::1"
    assert connector.connections[0].id == uuid.UUID(ID)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"id": "x"}, Tunnel),
        ({"id": 1}, Tunnel),
        ({"name": ["x"]}, Tunnel),
        ({"created_at": "yesterday"}, Tunnel),
        ({"created_at": 1}, Tunnel),
        ({"connections": {}}, Tunnel),
        ({"connections": [{"origin_ip": "1.2.3"}]}, Tunnel),
        ({"connections": [None]}, Tunnel),
        ({"connections": [{"is_pending_reconnect": "no"}]}, Tunnel),
        ({}, IpRoute),
        ({"network": "10.0.0.0"}, IpRoute),
        ([], Tunnel),
        ("text", Tunnel),
    ],
)
def test_what_is_malformed_is_refused(row: Any, kind: type[Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        convert(row, kind)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::1/32", "2001:db8::/32"),
        ("192.0.2.1/32", "192.0.2.1/32"),
    ],
)
def test_host_bits_of_a_network_are_dropped(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "/8", "10/8"),
        *("fe80::%eth0/64", "010.0.0.0/8", "10.0.0.0/\uff18", "example.com/8", "::/129"),
    ],
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="is not a network like"):
        parse_network(text)


def test_addresses() -> None:
    assert str(parse_address("::ffff:192.0.2.1")) == "192.0.2.1"
    assert str(parse_address("2001:DB8::1")) == "2001:db8::1"
    for text in ("", "10.0.0", "10.0.0.1/32", "fe80::1%eth0", "localhost"):
        with pytest.raises(ValueError, match="is not an IP address"):
            parse_address(text)

"""What the control plane knows and tells: readiness, metrics, log lines."""

from __future__ import annotations

import logging
import uuid

import pytest

from underpass.connector.edges import EdgeSlot
from underpass.connector.homes import Home
from underpass.connector.links import (
    DialError,
    DialErrorKind,
    LinkConnected,
    LinkConnecting,
    LinkDisconnected,
    LinkEvent,
    LinkFailed,
    LinkReconnecting,
    LinkUnregistered,
)
from underpass.connector.report import LinkReport
from underpass.connector.status import MAX_LOCATIONS, ConnectorStatus
from underpass.wire.registration import ConnectionDetails, RegistrationRefused

SLOT = EdgeSlot("192.0.2.1", 7844, 0)
ID = uuid.UUID(int=5)


def connected(conn_index: int = 0, location: str = "loc01") -> LinkConnected:
    return LinkConnected(conn_index, SLOT, ConnectionDetails(ID, location, False))


class TestStatus:
    def test_ready_counts_registered_links_only(self) -> None:
        status = ConnectorStatus(ID)
        assert status.readiness().ready_connections == 0
        status.observe(connected(0))
        status.observe(connected(1))
        assert status.readiness().ready_connections == 2
        status.observe(LinkUnregistered(0, SLOT, None))
        status.observe(LinkDisconnected(0, SLOT, None, expected=True))
        assert status.readiness().ready_connections == 1
        status.observe(LinkDisconnected(1, SLOT, OSError(), expected=False))
        assert status.readiness().ready_connections == 0
        assert status.readiness().connector_id == str(ID)

    def test_registrations_are_counted_by_outcome(self) -> None:
        status = ConnectorStatus(ID)
        status.observe(connected())
        status.observe(LinkFailed(0, SLOT, RegistrationRefused("EDUPCONN")))
        status.observe(LinkFailed(0, SLOT, RegistrationRefused("broken")))
        status.observe(LinkFailed(0, SLOT, DialError(DialErrorKind.CONNECT, "refused")))
        snapshot = status.snapshot()
        assert snapshot["cloudflared_tunnel_tunnel_register_success"] == {"registerConnection": 1}
        assert snapshot["cloudflared_tunnel_tunnel_register_fail"] == {
            ("dup_edge_conn", "registerConnection"): 1,
            ("server_error", "registerConnection"): 1,
        }

    def test_a_former_location_is_kept_as_zero(self) -> None:
        status = ConnectorStatus(ID)
        status.observe(connected(0, "one"))
        status.observe(connected(0, "two"))
        assert status.snapshot()["cloudflared_tunnel_server_locations"] == {
            ("0", "one"): 0,
            ("0", "two"): 1,
        }

    def test_an_edge_that_keeps_moving_does_not_grow_the_table(self) -> None:
        status = ConnectorStatus(ID)
        for number in range(3 * MAX_LOCATIONS):
            status.observe(connected(0, f"loc{number}"))
        locations = status.snapshot()["cloudflared_tunnel_server_locations"]
        assert isinstance(locations, dict)
        assert len(locations) == MAX_LOCATIONS
        assert locations["0", f"loc{3 * MAX_LOCATIONS - 1}"] == 1

    def test_a_quick_tunnel_tells_its_hostname(self) -> None:
        snapshot = ConnectorStatus(ID, "x.localhost").snapshot()
        assert snapshot["cloudflared_tunnel_user_hostnames_counts"] == {"https://x.localhost": 1}


class TestReport:
    @pytest.mark.parametrize(
        ("event", "level", "message", "fields"),
        [
            (LinkConnecting(0, SLOT), "DEBUG", "Registering tunnel connection", {}),
            (
                connected(2),
                "INFO",
                "Registered tunnel connection",
                {"connection": str(ID), "location": "loc01", "connIndex": 2, "protocol": "http2"},
            ),
            (
                LinkFailed(0, SLOT, RegistrationRefused("no")),
                "ERROR",
                "Register tunnel error from server side",
                {"error": "no"},
            ),
            (
                LinkFailed(0, SLOT, DialError(DialErrorKind.TLS, "bad certificate")),
                "ERROR",
                "Unable to establish connection with the edge",
                {"error": "bad certificate", "step": "tls"},
            ),
            (LinkUnregistered(0, SLOT, None), "INFO", "Unregistered tunnel connection", {}),
            (
                LinkUnregistered(0, SLOT, TimeoutError()),
                "INFO",
                "Unregistered tunnel connection",
                {"error": "TimeoutError"},
            ),
            (LinkDisconnected(0, SLOT, None, expected=True), "DEBUG", "Connection closed", {}),
            (
                LinkDisconnected(0, SLOT, None, expected=False),
                "INFO",
                "Lost connection with the edge",
                {},
            ),
            (
                LinkDisconnected(0, SLOT, OSError("reset"), expected=False),
                "ERROR",
                "Lost connection with the edge",
                {"error": "reset"},
            ),
            (LinkReconnecting(0, SLOT, 8.0), "INFO", "Retrying connection in up to 8s", {}),
        ],
    )
    def test_every_event_has_its_line(
        self,
        event: LinkEvent,
        level: str,
        message: str,
        fields: dict[str, object],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        logger = logging.getLogger("underpass.connector.report")
        logger.addHandler(caplog.handler)
        logger.setLevel(logging.DEBUG)
        try:
            LinkReport([Home()], lambda: 0).observe(event)
        finally:
            logger.removeHandler(caplog.handler)
            logger.setLevel(logging.NOTSET)
        record = caplog.records[0]
        assert (record.levelname, record.getMessage()) == (level, message)
        expected = {"ip": "192.0.2.1", "event": 0, "connIndex": event.conn_index, **fields}
        assert {name: getattr(record, name, None) for name in expected} == expected

    def test_trouble_is_a_warning_while_another_link_is_up(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = logging.getLogger("underpass.connector.report")
        logger.addHandler(caplog.handler)
        try:
            LinkReport([Home()], lambda: 3).observe(LinkDisconnected(0, SLOT, OSError("x"), False))
        finally:
            logger.removeHandler(caplog.handler)
        assert caplog.records[0].levelname == "WARNING"

"""Origins with TLS: verified by default, and a clear word when they are not to be trusted."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from peers.curl import Answer, Curl
from peers.origin import Origin
from peers.processes import ConnectorProcess, EdgeProcess, QuickTunnelProcess, running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority, path


def secure_origin(authority: tuple[trustme.CA, Path], *names: str) -> Origin:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert(*names).configure_cert(context)
    return Origin(context)


@contextmanager
def published(edge: EdgeProcess, *arguments: str) -> Iterator[tuple[Curl, ConnectorProcess]]:
    connector = QuickTunnelProcess(edge, *arguments)
    with running(connector):
        connector.ready()
        yield Curl(edge, connector.hostname), connector


def assert_refused(answer: Answer, connector: ConnectorProcess, *words: str) -> None:
    """502 for the visitor, the reason in the log."""
    assert answer.status == 502
    assert answer.header("underpass-cause") == "tls"
    error = str(connector.wait_for("Unable to reach the origin service", status=502)["error"])
    for word in words:
        assert word in error


def test_a_trusted_origin(edge: EdgeProcess, authority: tuple[trustme.CA, Path]) -> None:
    with (
        secure_origin(authority, "127.0.0.1") as origin,
        published(edge, f"--url={origin.url}", f"--origin-ca-pool={authority[1]}") as (curl, _),
    ):
        assert curl("/hello").body == b"hello\n"
        assert curl("/sink", "-d", "content").json["size"] == 7
        assert [a.status for a in curl.several(["/hello"] * 3)] == [200] * 3
        # The handshake was paid for once.
        assert origin.connections == 1


def test_the_name_on_the_certificate_can_be_told(
    edge: EdgeProcess, authority: tuple[trustme.CA, Path]
) -> None:
    with (
        secure_origin(authority, "app.internal") as origin,
        published(
            edge,
            f"--url={origin.url}",
            f"--origin-ca-pool={authority[1]}",
            "--origin-server-name=app.internal",
        ) as (curl, _),
    ):
        assert curl("/hello").body == b"hello\n"


def test_a_wrong_name(edge: EdgeProcess, authority: tuple[trustme.CA, Path]) -> None:
    with (
        secure_origin(authority, "someone-else.internal") as origin,
        published(edge, f"--url={origin.url}", f"--origin-ca-pool={authority[1]}") as (
            curl,
            connector,
        ),
    ):
        assert_refused(curl("/hello"), connector, "127.0.0.1", "mismatch", "originServerName")


def test_an_unknown_authority(edge: EdgeProcess, authority: tuple[trustme.CA, Path]) -> None:
    with (
        secure_origin(authority, "127.0.0.1") as origin,
        published(edge, f"--url={origin.url}") as (curl, connector),
    ):
        assert_refused(curl("/hello"), connector, "not to be trusted", "caPool")


def test_verification_can_be_waived(edge: EdgeProcess, authority: tuple[trustme.CA, Path]) -> None:
    with (
        secure_origin(authority, "someone-else.internal") as origin,
        published(edge, f"--url={origin.url}", "--no-tls-verify") as (curl, _),
    ):
        assert curl("/hello").body == b"hello\n"


def test_an_origin_without_tls_where_tls_was_told(edge: EdgeProcess) -> None:
    with (
        Origin() as origin,
        published(edge, f"--url=https://127.0.0.1:{origin.port}") as (curl, connector),
    ):
        assert_refused(curl("/hello"), connector, "TLS with")


def test_an_origin_with_tls_where_none_was_told(
    edge: EdgeProcess, authority: tuple[trustme.CA, Path]
) -> None:
    with (
        secure_origin(authority, "127.0.0.1") as origin,
        published(edge, f"--url=http://127.0.0.1:{origin.port}") as (curl, connector),
    ):
        answer = curl("/hello")
        assert answer.status == 502
        connector.wait_for("Unable to reach the origin service", status=502)

"""TLS contexts: handshakes in memory, with peers like those that will come."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from underpass.edge import tls
from underpass.edge.certificates import (
    LEAF_LIFETIME,
    LEAF_RENEWAL,
    TUNNEL_SERVER_NAMES,
    CertificateAuthority,
)
from underpass.edge.data_directory import DataDirectory
from underpass.edge.tls import public_listener_context, tunnel_listener_context


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(timezone.utc)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    opened = DataDirectory.open(tmp_path / "edge")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(directory: DataDirectory, clock: Clock) -> CertificateAuthority:
    return CertificateAuthority.open(directory, clock=clock)


def client_context(authority: CertificateAuthority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.certificate_pem.decode())


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> ssl.SSLObject:
    """The client's end after a handshake in memory; raises what the client's end raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, server_hostname=name)
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = {client_end, server_end}
    server_failure: ssl.SSLError | None = None
    for _ in range(10):
        for end in (client_end, server_end):
            if end not in waiting:
                continue
            try:
                end.do_handshake()
                waiting.discard(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                if end is client_end:
                    raise
                server_failure = error
                waiting.discard(end)
        if not waiting:
            break
    if server_failure is not None:
        raise server_failure
    assert not waiting
    return client_end


def serial(connection: ssl.SSLObject) -> str:
    certificate = connection.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def names(connection: ssl.SSLObject) -> list[str]:
    certificate = connection.getpeercert()
    assert certificate is not None
    return [str(value) for _, value in certificate["subjectAltName"]]


class TestTunnelListener:
    @pytest.mark.parametrize("name", TUNNEL_SERVER_NAMES)
    def test_a_connector_that_does_only_p256_and_no_alpn(
        self, authority: CertificateAuthority, directory: DataDirectory, name: str
    ) -> None:
        client = client_context(authority)
        client.set_ecdh_curve("prime256v1")
        server = tunnel_listener_context(authority, directory.scratch)
        connection = handshake(server, client, name)
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() is None
        assert names(connection) == list(TUNNEL_SERVER_NAMES)

    def test_a_client_that_offers_alpn_is_served_without(
        self, authority: CertificateAuthority, directory: DataDirectory
    ) -> None:
        client = client_context(authority)
        client.set_alpn_protocols(["h2"])
        server = tunnel_listener_context(authority, directory.scratch)
        assert handshake(server, client, "h2.cftunnel.com").selected_alpn_protocol() is None

    def test_tls_1_2_gets_what_http2_allows(
        self, authority: CertificateAuthority, directory: DataDirectory
    ) -> None:
        client = client_context(authority)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        server = tunnel_listener_context(authority, directory.scratch)
        cipher = handshake(server, client, "h2.cftunnel.com").cipher()
        assert cipher is not None
        assert cipher[0].startswith("ECDHE-ECDSA-")
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]

    def test_the_client_chooses_the_cipher(
        self, authority: CertificateAuthority, directory: DataDirectory
    ) -> None:
        """So that Go clients, which put AES-128-GCM first, get it."""
        server = tunnel_listener_context(authority, directory.scratch)
        for wanted in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            client = client_context(authority)
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            client.set_ciphers(f"{wanted}:ECDHE-ECDSA-AES256-GCM-SHA384")
            cipher = handshake(server, client, "h2.cftunnel.com").cipher()
            assert cipher is not None
            assert cipher[0] == wanted

    def test_a_blacklisted_cipher_is_refused(
        self, authority: CertificateAuthority, directory: DataDirectory
    ) -> None:
        client = client_context(authority)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
        server = tunnel_listener_context(authority, directory.scratch)
        with pytest.raises(ssl.SSLError):
            handshake(server, client, "h2.cftunnel.com")

    def test_the_certificate_is_renewed_while_listening(
        self, authority: CertificateAuthority, directory: DataDirectory, clock: Clock
    ) -> None:
        server = tunnel_listener_context(authority, directory.scratch)
        client = client_context(authority)
        first = serial(handshake(server, client, "h2.cftunnel.com"))
        clock.now += LEAF_LIFETIME - LEAF_RENEWAL - timedelta(seconds=1)
        assert serial(handshake(server, client, "h2.cftunnel.com")) == first
        clock.now += timedelta(seconds=1)
        # The client keeps real time and would find the new certificate not valid yet.
        client.verify_flags |= ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME
        assert serial(handshake(server, client, "h2.cftunnel.com")) != first

    def test_a_failed_renewal_serves_the_old_certificate_while_it_is_valid(
        self,
        authority: CertificateAuthority,
        directory: DataDirectory,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server = tunnel_listener_context(authority, directory.scratch)
        client = client_context(authority)
        first = serial(handshake(server, client, "h2.cftunnel.com"))
        directory.scratch.rmdir()
        clock.now += LEAF_LIFETIME - timedelta(seconds=1)
        assert serial(handshake(server, client, "h2.cftunnel.com")) == first
        assert "cannot renew the certificate for h2.cftunnel.com" in caplog.text
        clock.now += timedelta(seconds=1)
        with pytest.raises(ssl.SSLError, match=r"(?i)internal error"):
            handshake(server, client, "h2.cftunnel.com")
        assert "no certificate for 'h2.cftunnel.com'" in caplog.text


class TestPublicListener:
    @pytest.fixture
    def known(self) -> set[str]:
        return {"brave-otter.localhost", "app.example.com"}

    @pytest.fixture
    def server(
        self, authority: CertificateAuthority, directory: DataDirectory, known: set[str]
    ) -> ssl.SSLContext:
        return public_listener_context(
            authority, directory.scratch, "localhost", known.__contains__
        )

    @pytest.mark.parametrize(
        ("offered", "selected"),
        [
            (["h2", "http/1.1"], "h2"),
            (["http/1.1", "h2"], "h2"),
            (["http/1.1"], "http/1.1"),
            (["spdy/1"], None),
            ([], None),
        ],
    )
    def test_alpn(
        self,
        server: ssl.SSLContext,
        authority: CertificateAuthority,
        offered: list[str],
        selected: str | None,
    ) -> None:
        client = client_context(authority)
        if offered:
            client.set_alpn_protocols(offered)
        for name in ("brave-otter.localhost", "localhost"):
            assert handshake(server, client, name).selected_alpn_protocol() == selected

    @pytest.mark.parametrize("name", ["brave-otter.localhost", "app.example.com"])
    def test_a_known_name_gets_a_certificate_of_its_own(
        self, server: ssl.SSLContext, authority: CertificateAuthority, name: str
    ) -> None:
        client = client_context(authority)
        connection = handshake(server, client, name)
        assert names(connection) == [name]
        again = handshake(server, client, name.upper())
        assert serial(again) == serial(connection), "issued once"

    def test_a_stranger_gets_the_default_and_costs_no_signature(
        self, server: ssl.SSLContext, authority: CertificateAuthority
    ) -> None:
        client = client_context(authority)
        client.check_hostname = False
        default = serial(handshake(server, client, "localhost"))
        for name in (None, "stranger.localhost", "a_.b-.strange", "x" * 63 + ".y" * 60):
            connection = handshake(server, client, name)
            assert names(connection) == ["localhost", "*.localhost"]
            assert serial(connection) == default

    def test_a_name_that_becomes_known_is_served(
        self, server: ssl.SSLContext, authority: CertificateAuthority, known: set[str]
    ) -> None:
        client = client_context(authority)
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(server, client, "new.example.com")
        known.add("new.example.com")
        assert names(handshake(server, client, "new.example.com")) == ["new.example.com"]

    def test_certificates_kept_are_bounded(
        self,
        authority: CertificateAuthority,
        directory: DataDirectory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tls, "MAX_LEAF_CONTEXTS", 3)
        certificates = tls._Certificates(authority, directory.scratch, ())
        first = certificates.context_for(("a",))
        second = certificates.context_for(("b",))
        certificates.context_for(("c",))
        assert certificates.context_for(("a",)) is first, "used, so it stays"
        certificates.context_for(("d",))
        assert len(certificates._served) == 3
        assert certificates.context_for(("a",)) is first
        assert certificates.context_for(("b",)) is not second

    def test_no_key_is_left_on_disk(
        self, server: ssl.SSLContext, authority: CertificateAuthority, directory: DataDirectory
    ) -> None:
        handshake(server, client_context(authority), "brave-otter.localhost")
        assert list(directory.scratch.iterdir()) == []

    def test_a_client_that_trusts_another_authority_refuses(self, server: ssl.SSLContext) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(server, ssl.create_default_context(), "brave-otter.localhost")

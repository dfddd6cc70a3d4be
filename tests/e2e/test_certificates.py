"""Certificates of other authorities: an operator's files, and Pebble's by ACME."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import PATIENCE, eventually
from peers.pebble import Pebble
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running
from peers.servers import free_port

from underpass.edge.tls_alpn import TlsAlpnProofs

NAME = "app.public-site.dev"
OTHER = "other.public-site.dev"


def served(edge: EdgeProcess, name: str) -> x509.Certificate:
    """The certificate that a visitor is shown who asks for `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", edge.https_port)) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        der = secure.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def issuer(certificate: x509.Certificate) -> str:
    return certificate.issuer.rfc4514_string()


def write(path: Path, leaf: trustme.LeafCert) -> None:
    """As a careful program replaces a file."""
    new = path.with_suffix(".new")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(new))
    new.replace(path)


class TestGivenFiles:
    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_they_are_served_and_read_again(self, tmp_path: Path, workers: str) -> None:
        new_tunnel(tmp_path / "data", NAME, OTHER)
        authority = trustme.CA()
        path = tmp_path / "site.pem"
        write(path, authority.issue_cert("*.public-site.dev"))
        edge = EdgeProcess(
            tmp_path / "data", more=[f"--certificate={path}", f"--workers={workers}"]
        )
        with running(edge):
            first = served(edge, NAME)
            assert "trustme" in issuer(first)
            # Nobody's name: it is told so with a certificate of the edge's own.
            assert "Underpass" in issuer(served(edge, "elsewhere.public-site.dev"))
            write(path, authority.issue_cert(NAME))
            eventually(
                lambda: served(edge, NAME).serial_number != first.serial_number,
                "the new certificate is served",
            )
            assert "trustme" in issuer(served(edge, NAME))
            # The new one is not for this name.
            eventually(
                lambda: "Underpass" in issuer(served(edge, OTHER)), "every worker has looked"
            )
            path.write_text("nonsense")
            eventually(
                lambda: (
                    served(edge, NAME)
                    and edge.has_logged("a changed certificate cannot be used, the old one stays")
                ),
                "it is looked at",
            )
            assert "trustme" in issuer(served(edge, NAME))

    def test_chain_and_key_may_be_two_files(self, tmp_path: Path) -> None:
        new_tunnel(tmp_path / "data", NAME)
        leaf = trustme.CA().issue_cert(NAME)
        leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        for blob in leaf.cert_chain_pems:
            blob.write_to_path(str(tmp_path / "chain.pem"), append=True)
        edge = EdgeProcess(
            tmp_path / "data",
            more=[f"--certificate={tmp_path / 'chain.pem'},{tmp_path / 'key.pem'}"],
        )
        with running(edge):
            assert "trustme" in issuer(served(edge, NAME))

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_file_that_cannot_be_used_is_told_at_the_start(
        self, tmp_path: Path, workers: str
    ) -> None:
        (tmp_path / "bad.pem").write_text("nonsense")
        for path, why in ((tmp_path / "bad.pem", "are not a PEM"), (tmp_path / "none.pem", "no")):
            with pytest.raises(AssertionError, match=why):
                EdgeProcess(
                    tmp_path / "data", more=[f"--certificate={path}", f"--workers={workers}"]
                )


@contextmanager
def certified(
    tmp_path: Path, *more: str, dns: bool = False, names: tuple[str, ...] = (NAME,)
) -> Iterator[tuple[EdgeProcess, Pebble]]:
    """An edge on a port that the authority looks for proofs at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    credentials = new_tunnel(tmp_path / "data", *names)
    with Pebble(tmp_path, port).serving() as pebble, Origin() as origin:
        arguments = pebble.arguments + (pebble.dns_arguments if dns else [])
        edge = EdgeProcess(tmp_path / "data", http=f"127.0.0.1:{port}", more=[*arguments, *more])
        connector = ConnectorProcess(
            [
                *edge.edge_arguments,
                *("run", f"--token={credentials.to_token()}"),
                f"--url={origin.url}",
            ]
        )
        with running(connector, edge):
            connector.ready()
            yield edge, pebble


class TestAcme:
    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_a_name_is_proved_by_http_and_served(self, tmp_path: Path, workers: str) -> None:
        with certified(tmp_path, f"--workers={workers}") as (edge, _):
            edge.wait_for("obtained a certificate", name_wanted=NAME)
            eventually(lambda: "Pebble" in issuer(served(edge, NAME)), "it is served")
            # The application behind is what visitors see.
            assert Curl(edge, NAME)("/hello", "-k").body == b"hello\n"
            stored = tmp_path / "data" / "certificates" / f"{NAME}.pem"
            assert stored.stat().st_mode & 0o777 == 0o600
            assert not list((tmp_path / "data" / "challenges").iterdir())

    def test_a_restart_asks_for_nothing_that_is_there(self, tmp_path: Path) -> None:
        with certified(tmp_path) as (edge, pebble):
            edge.wait_for("obtained a certificate")
            serial = eventually(
                lambda: (found := served(edge, NAME)) and "Pebble" in issuer(found) and found,
                "it is served",
            ).serial_number
            edge.stop()
            again = EdgeProcess(tmp_path / "data", http=edge.http, more=pebble.arguments)
            with running(again):
                assert served(again, NAME).serial_number == serial
                assert not again.has_logged("asking for a certificate")

    def test_wildcards_are_proved_by_dns(self, tmp_path: Path) -> None:
        wildcard = "*.apps.public-site.dev"
        with certified(tmp_path, dns=True, names=(NAME, wildcard)) as (edge, _):
            edge.wait_for("obtained a certificate", name_wanted=wildcard)
            edge.wait_for("obtained a certificate", name_wanted=NAME)
            eventually(
                lambda: "Pebble" in issuer(served(edge, "any.apps.public-site.dev")),
                "the wildcard's certificate is served",
            )

    def test_a_name_that_leads_elsewhere(self, tmp_path: Path) -> None:
        """The authority asks somebody else, who has no proof: our own certificate goes on."""
        with certified(tmp_path, names=(NAME, "local.test")) as (edge, pebble), Origin() as other:
            edge.wait_for("obtained a certificate")
            # Another edge, which the authority does not find.
            new_tunnel(tmp_path / "elsewhere", OTHER)
            assert other.port
            elsewhere = EdgeProcess(tmp_path / "elsewhere", more=pebble.arguments)
            with running(elsewhere):
                line = elsewhere.wait_for("cannot obtain a certificate", name_wanted=OTHER)
                assert "could not see that" in str(line["error"])
                assert 200 < line["retry_in_seconds"] < 400
                assert "Underpass" in issuer(served(elsewhere, OTHER))
            # Names that no authority vouches for were not asked about.
            assert "local.test" not in edge.log

    def test_an_authority_that_is_away_keeps_nobody_from_serving(self, tmp_path: Path) -> None:
        new_tunnel(tmp_path / "data", NAME)
        edge = EdgeProcess(
            tmp_path / "data", more=["--acme", "--acme-directory=https://127.0.0.1:1/dir"]
        )
        with running(edge):
            line = edge.wait_for("cannot obtain a certificate")
            assert "cannot be asked" in str(line["error"])
            assert "Underpass" in issuer(served(edge, NAME))


IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


class TestTlsAlpn:
    """Proofs in handshakes: port 80 need not be reached."""

    @contextmanager
    def edge(
        self, tmp_path: Path, *names: str, workers: int = 1, more: str = ""
    ) -> Iterator[EdgeProcess]:
        """One that Pebble finds by TLS alone."""
        new_tunnel(tmp_path / "data", *names)
        port = free_port()
        with Pebble(tmp_path, tls_port=port).serving() as pebble:
            acme = {**pebble.settings, "challenge": "tls-alpn-01"}
            (tmp_path / "edge.yml").write_text(f"acme: {json.dumps(acme)}\n{more}")
            edge = EdgeProcess(
                tmp_path / "data",
                https=f"127.0.0.1:{port}",
                more=[f"--config={tmp_path / 'edge.yml'}", f"--workers={workers}"],
            )
            with running(edge):
                yield edge

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_name_is_proved(self, tmp_path: Path, workers: int) -> None:
        with self.edge(tmp_path, NAME, OTHER, workers=workers) as edge:
            for name in (NAME, OTHER):
                edge.wait_for("obtained a certificate", name_wanted=name)
                eventually(lambda: "Pebble" in issuer(served(edge, name)), "it is served")  # noqa: B023
            assert not list((tmp_path / "data" / "challenges").iterdir())

    def test_the_management_hostname_is_proved_too(self, tmp_path: Path) -> None:
        manage = "manage.public-site.dev"
        more = f"management-hostname: {manage}\npassthrough: [{OTHER}]\n"
        with self.edge(tmp_path, NAME, OTHER, more=more) as edge:
            edge.wait_for("obtained a certificate", name_wanted=manage)
            eventually(lambda: "Pebble" in issuer(served(edge, manage)), "it is served")
            # It is asked about last; by then so were all but what is passed through.
            edge.wait_for("obtained a certificate", name_wanted=NAME)
            assert OTHER not in edge.log

    def test_a_proof_is_shown_to_those_who_come_for_it(self, tmp_path: Path) -> None:
        """And to nobody else; nobody is refused."""
        with self.edge(tmp_path, NAME) as edge:
            edge.wait_for("obtained a certificate", name_wanted=NAME)
            proofs = TlsAlpnProofs(tmp_path / "data" / "challenges")
            proofs.publish(NAME, "token.thumbprint")
            chosen, proof = shown(edge, NAME, "acme-tls/1")
            assert chosen == "acme-tls/1"
            extension = proof.extensions.get_extension_for_oid(IDENTIFIER)
            assert extension.critical
            assert isinstance(extension.value, x509.UnrecognizedExtension)
            digest = hashlib.sha256(b"token.thumbprint").digest()
            assert extension.value.value == b"\x04\x20" + digest
            names = proof.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            assert names.value.get_values_for_type(x509.DNSName) == [NAME]
            for offered, expected in (
                (("acme-tls/1", "h2"), "h2"),
                (("h2", "acme-tls/1"), "h2"),
                (("http/1.1",), "http/1.1"),
                ((), None),
            ):
                chosen, certificate = shown(edge, NAME, *offered)
                assert (chosen, IDENTIFIER in oids(certificate)) == (expected, False)
            # Names that nothing is pending for.
            for name in (OTHER, "challenges", f"{NAME}.pem"):
                chosen, certificate = shown(edge, name, "acme-tls/1")
                assert (chosen, IDENTIFIER in oids(certificate)) == (None, False)
            proofs.remove(NAME)
            chosen, certificate = shown(edge, NAME, "acme-tls/1")
            assert (chosen, IDENTIFIER in oids(certificate)) == (None, False)

    def test_an_authority_that_comes_to_somebody_else(self, tmp_path: Path) -> None:
        new_tunnel(tmp_path / "data", NAME)
        with Pebble(tmp_path).serving() as pebble:
            acme = {**pebble.settings, "challenge": "tls-alpn-01"}
            (tmp_path / "edge.yml").write_text(f"acme: {json.dumps(acme)}\n")
            edge = EdgeProcess(tmp_path / "data", more=[f"--config={tmp_path / 'edge.yml'}"])
            with running(edge):
                line = edge.wait_for("cannot obtain a certificate", name_wanted=NAME)
                assert "its --https listener reached on port 443" in str(line["error"])
                assert not list((tmp_path / "data" / "challenges").iterdir())


def shown(edge: EdgeProcess, name: str, *protocols: str) -> tuple[str | None, x509.Certificate]:
    """What a client is shown who offers these protocols, and which is agreed on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    with (
        socket.create_connection(("127.0.0.1", edge.https_port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        der = secure.getpeercert(binary_form=True)
        chosen = secure.selected_alpn_protocol()
        if chosen == "acme-tls/1":
            assert secure.recv(1) == b"", "it is closed after the handshake"
    assert der is not None
    return chosen, x509.load_der_x509_certificate(der)


def oids(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return {extension.oid for extension in certificate.extensions}


class TestRedirect:
    def test_visitors_without_tls_are_sent_to_where_it_is(self, tmp_path: Path) -> None:
        new_tunnel(tmp_path / "data", NAME)
        edge = EdgeProcess(tmp_path / "data", more=["--redirect"])
        with running(edge):
            answer = Curl(edge, NAME)("/some/path?q=%2F", scheme="http")
            assert answer.status == 308
            assert answer.header("location") == (
                f"https://{NAME}:{edge.https_port}/some/path?q=%2F"
            )
            # A name that nobody serves has no certificate to go on with.
            assert Curl(edge, "nobody.public-site.dev")("/", scheme="http").status == 404


def test_an_applications_own_challenges_reach_it(tmp_path: Path) -> None:
    credentials = new_tunnel(tmp_path / "data", NAME)
    edge = EdgeProcess(tmp_path / "data")
    with Origin() as origin:
        connector = ConnectorProcess(
            [
                *edge.edge_arguments,
                *("run", f"--token={credentials.to_token()}", f"--url={origin.url}"),
            ]
        )
        with running(connector, edge):
            connector.ready()
            curl = Curl(edge, NAME)
            for path in ("/.well-known/acme-challenge/token", "/.well-known/acme-challenge/../x"):
                assert curl(path, "--path-as-is", scheme="http").status == 404
                assert len(origin.requests(path)) == 1
    assert os.listdir(tmp_path / "data" / "certificates") == []

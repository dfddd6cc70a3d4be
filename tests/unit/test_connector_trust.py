"""Whose certificates are believed."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from underpass.connector.origin_request import OriginRequest
from underpass.connector.trust import TrustError, edge_context, origin_context

PEM = Path(ssl.__file__)  # a file, and no certificate


def test_an_edge_with_cacert_is_verified_against_that_alone(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    assert len(edge_context(authority).get_ca_certs()) == 1


def test_cloudflares_roots_are_believed_by_default() -> None:
    subjects = [str(certificate["subject"]) for certificate in edge_context(None).get_ca_certs()]
    assert any("CloudFlare" in subject for subject in subjects)


def test_origins_share_the_systems_certificates() -> None:
    first = origin_context(OriginRequest())
    assert first is origin_context(OriginRequest(origin_server_name="app.example"))
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname


def test_an_origin_that_is_not_verified_does_not_share_with_one_that_is() -> None:
    unverified = origin_context(OriginRequest(no_tls_verify=True))
    assert unverified.verify_mode is ssl.CERT_NONE
    assert origin_context(OriginRequest()).verify_mode is ssl.CERT_REQUIRED


def test_an_origins_own_certificates_are_believed_for_no_other(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    shared = len(origin_context(OriginRequest()).get_ca_certs())
    own = origin_context(OriginRequest(ca_pool=str(authority)))
    assert len(own.get_ca_certs()) == shared + 1
    assert len(origin_context(OriginRequest()).get_ca_certs()) == shared


def test_a_file_without_certificates_is_refused() -> None:
    with pytest.raises(TrustError, match="no PEM certificate"):
        origin_context(OriginRequest(ca_pool=str(PEM)))
    with pytest.raises(TrustError, match="no PEM certificate"):
        edge_context(PEM)

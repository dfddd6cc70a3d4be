"""cert.pem: read, found, written."""

from __future__ import annotations

import base64
import os
import stat
import sys
from pathlib import Path

import pytest

from underpass.account.certificate import (
    MAX_CERTIFICATE_BYTES,
    OriginCertificate,
    find_certificate,
    read_certificate,
    write_certificate,
)
from underpass.account.errors import CertificateError
from underpass.wire.secret import Secret

CERTIFICATE = OriginCertificate("zone", "account", Secret(b"hunter22-token"))


def block(kind: str, payload: bytes) -> bytes:
    text = base64.b64encode(payload).decode()
    return f"-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n".encode()


def token(document: str) -> bytes:
    return block("ARGO TUNNEL TOKEN", document.encode())


def test_what_is_written_is_cloudflareds() -> None:
    text = CERTIFICATE.to_pem().decode()
    first, *lines, last = text.splitlines()
    assert (first, last) == ("-----BEGIN ARGO TUNNEL TOKEN-----", "-----END ARGO TUNNEL TOKEN-----")
    assert all(len(line) <= 64 for line in lines)
    payload = base64.b64decode("".join(lines))
    assert payload == b'{"zoneID":"zone","accountID":"account","apiToken":"hunter22-token"}'
    assert OriginCertificate.from_pem(text.encode()) == CERTIFICATE


def test_an_old_one_has_a_key_and_a_certificate_too() -> None:
    text = (
        b"comment\n"
        + block("PRIVATE KEY", b"key")
        + block("CERTIFICATE", b"certificate")
        + token('{"ZoneID":"zone","ACCOUNTID":"account","apitoken":"hunter22-token","more":[1]}')
    )
    assert OriginCertificate.from_pem(text) == CERTIFICATE
    assert OriginCertificate.from_pem(text.replace(b"\n", b"\r\n")) == CERTIFICATE


def test_the_endpoint_is_lower_case() -> None:
    document = '{"zoneID":"z","accountID":"a","apiToken":"t","endpoint":"FED"}'
    certificate = OriginCertificate.from_pem(token(document))
    assert (certificate.endpoint, certificate.is_fed) == ("fed", True)
    assert OriginCertificate.from_pem(certificate.to_pem()) == certificate
    assert not CERTIFICATE.is_fed


GOOD = '{"zoneID":"z","accountID":"a","apiToken":"hunter22"}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "no API token"),
        (b"\xff\xfe", "no API token"),
        (block("CERTIFICATE", b"x"), "no API token"),
        (block("RSA PRIVATE KEY", b"x") + token(GOOD), "something else"),
        (token(GOOD) + token(GOOD), "several API tokens"),
        (
            b"-----BEGIN ARGO TUNNEL TOKEN-----\nhunter22!\n-----END ARGO TUNNEL TOKEN-----",
            "base64",
        ),
        (b"-----BEGIN ARGO TUNNEL TOKEN-----\nhunter22", "no API token"),
        (token("hunter22"), "damaged"),
        (token("[]"), "damaged"),
        (token("[" * 30_000), "damaged"),
        (token('{"accountID":"a","apiToken":"hunter22"}'), "zoneID is missing"),
        (token('{"zoneID":"z","apiToken":"hunter22"}'), "accountID is missing"),
        (token('{"zoneID":"z","accountID":"a"}'), "apiToken is missing"),
        (token('{"zoneID":"","accountID":"a","apiToken":"hunter22"}'), "zoneID is missing"),
        (token('{"zoneID":1,"accountID":"a","apiToken":"hunter22"}'), "zoneID .* is not a string"),
        (token('{"zoneID":"z","accountID":"a","apiToken":"hunter22\\r\\nX: y"}'), "damaged"),
        (token('{"zoneID":"z","accountID":"a","apiToken":"hunter22 é"}'), "damaged"),
        (b"x" * (MAX_CERTIFICATE_BYTES + 1), "far too long"),
    ],
)
def test_what_is_no_certificate_is_refused_and_not_quoted(text: bytes, reason: str) -> None:
    with pytest.raises(CertificateError, match=reason) as caught:
        OriginCertificate.from_pem(text)
    assert "hunter22" not in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert "hunter22" not in repr(CERTIFICATE)


class TestFiles:
    def test_the_first_directory_that_has_one(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        with pytest.raises(CertificateError, match=f"no cert.pem in any of {one}, {two}; run"):
            find_certificate("", [one, two])
        for directory in (two, one):
            directory.mkdir()
            (directory / "cert.pem").touch()
            assert find_certificate("", [one, two]) == directory / "cert.pem"

    def test_the_one_that_was_given(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cert.pem").touch()
        assert find_certificate(str(tmp_path / "cert.pem"), []) == tmp_path / "cert.pem"
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert find_certificate("~/cert.pem", []) == tmp_path / "cert.pem"
        with pytest.raises(CertificateError, match=r"no account certificate .*absent"):
            find_certificate(str(tmp_path / "absent"), [tmp_path])

    def test_reading(self, tmp_path: Path) -> None:
        path = tmp_path / "cert.pem"
        path.write_bytes(CERTIFICATE.to_pem())
        assert read_certificate(path) == CERTIFICATE
        with pytest.raises(CertificateError, match="cannot read"):
            read_certificate(tmp_path)

    @pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
    def test_only_the_owner_can_read_what_is_written(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "cert.pem"
        before = os.umask(0)
        try:
            write_certificate(path, CERTIFICATE)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert read_certificate(path) == CERTIFICATE
        assert list(path.parent.iterdir()) == [path]

    def test_an_empty_file_is_replaced_and_no_other(self, tmp_path: Path) -> None:
        path = tmp_path / "cert.pem"
        path.touch()
        write_certificate(path, CERTIFICATE)
        with pytest.raises(CertificateError, match="exists already"):
            write_certificate(path, OriginCertificate("z", "a", Secret(b"other")))
        assert read_certificate(path) == CERTIFICATE

    def test_a_place_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CertificateError, match="cannot write the account certificate"):
            write_certificate(tmp_path / "file" / "cert.pem", CERTIFICATE)

    def test_nothing_is_left_of_an_attempt_that_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(CertificateError, match="No space left"):
            write_certificate(tmp_path / "cert.pem", CERTIFICATE)
        assert list(tmp_path.iterdir()) == []
